//! A real Kubernetes cluster for a story: the one that KUBECONFIG names, or one of its own that `tests/cluster/up` starts.
//! The operator runs from the built binary on this machine. It must not know what a story is about.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::{Skip, binary, cli::Cli, http::Http};

/// How long the cluster may take to come to what a story waits for.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster and what is known of it.
#[derive(Debug)]
pub struct Cluster {
    env: BTreeMap<String, String>,
    /// The name of one that was started here and is taken down again.
    own: Option<String>,
    work: tempfile::TempDir,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let line: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    ensure!(output.status.success(), "{line:?}: {}{complaint}", said(&output));
    Ok(said(&output))
}

impl Cluster {
    /// Starts one of that name, unless KUBECONFIG names another.
    ///
    /// # Errors
    /// [`Skip`] where no cluster can be had.
    pub fn start(name: &str) -> Result<Self> {
        let work = tempfile::tempdir()?;
        if std::env::var_os("KUBECONFIG").is_some() {
            return Ok(Self { env: std::env::vars().collect(), own: None, work });
        }
        let programs = ["/usr/local/go/bin/go", "/usr/bin/go"];
        if !programs.iter().any(|it| Path::new(it).exists())
            && run(Command::new("go").arg("version")).is_err()
        {
            bail!(Skip("Go is needed to build Kubernetes, and there is none; or set KUBECONFIG".into()));
        }
        let tool = |program: &str| root().join("tests/cluster").join(program);
        run(Command::new(tool("up")).args(["--name", name]))?;
        let text = run(Command::new("bash").args(["-c", &format!(". /run/{name}/env && env -0")]))?;
        let env = text.split('\0').filter_map(|line| line.split_once('='));
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { env, own: Some(name.to_owned()), work })
    }

    /// What the cluster's environment says; a case that needs what is not there is skipped.
    ///
    /// # Errors
    /// [`Skip`] when it says nothing.
    pub fn var(&self, name: &str) -> Result<&str> {
        let value = self.env.get(name).map(String::as_str);
        value.ok_or_else(|| Skip(format!("{name} is not set; see tests/cluster/README.md")).into())
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(&self.env);
        command
    }

    /// Runs kubectl.
    ///
    /// # Errors
    /// With what it complained about.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.command("kubectl").args(arguments))
    }

    /// Runs kubectl, which must fail; gives its complaint.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn kubectl_fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command("kubectl").args(arguments).stdin(Stdio::null()).output()?;
        ensure!(!output.status.success(), "kubectl {arguments:?} went through: {}", said(&output));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Applies objects, given as JSON.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn apply(&self, object: &Value) -> Result<String> {
        let path = self.written(&object.to_string())?;
        self.kubectl(&["apply", "-f", &path.to_string_lossy()])
    }

    /// As [`Cluster::apply`], for what must be refused.
    ///
    /// # Errors
    /// When it is taken.
    pub fn apply_fails(&self, object: &Value) -> Result<String> {
        let path = self.written(&object.to_string())?;
        self.kubectl_fails(&["apply", "-f", &path.to_string_lossy()])
    }

    /// Runs kubectl as somebody else, with an object given as JSON; gives whether that was let through, and what was said.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn kubectl_as(&self, user: &str, arguments: &[&str], object: &Value) -> Result<(bool, String)> {
        let path = self.written(&object.to_string())?;
        let mut command = self.command("kubectl");
        command.args(arguments).args(["--as", user, "-f"]).arg(path);
        let output = command.stdin(Stdio::null()).output()?;
        Ok((output.status.success(), said(&output) + &String::from_utf8_lossy(&output.stderr)))
    }

    fn written(&self, text: &str) -> Result<PathBuf> {
        let (mut file, path) = tempfile::NamedTempFile::new_in(self.work.path())?.keep()?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }

    /// One object, as JSON.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["-n", namespace, "get", kind, name, "-o", "json"])?)?)
    }

    /// All objects of a kind, as JSON.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn list(&self, namespace: &str, kind: &str) -> Result<Vec<Value>> {
        let list: Value =
            serde_json::from_str(&self.kubectl(&["-n", namespace, "get", kind, "-o", "json"])?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Looks until `found` finds something.
    ///
    /// # Errors
    /// What was seen last, when that takes too long.
    pub async fn until<T>(&self, what: &str, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = found();
            match last {
                Ok(Some(it)) => return Ok(it),
                last if Instant::now() > deadline => {
                    last.with_context(|| format!("waited for {what}"))?;
                    bail!("waited in vain for {what}");
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Waits until a sandbox is in a phase; gives the object.
    ///
    /// # Errors
    /// With the phase it is in, when it does not come.
    pub async fn phase(&self, namespace: &str, name: &str, phase: &str) -> Result<Value> {
        let mut seen = Value::Null;
        let what = format!("sandbox {name} to be {phase}");
        let waited = self.until(&what, || {
            seen = self.get(namespace, "sandbox", name)?;
            Ok((seen["status"]["phase"] == phase).then(|| seen.clone()))
        });
        let waited = waited.await;
        waited.with_context(|| format!("its status is {}", seen["status"]))
    }

    /// Runs a shell line in a sandbox's container.
    ///
    /// # Errors
    /// When it fails.
    pub fn inside(&self, namespace: &str, pod: &str, line: &str) -> Result<String> {
        self.kubectl(&["-n", namespace, "exec", pod, "-c", "sandbox", "--", "/bin/sh", "-c", line])
    }

    /// Pushes the image by which agents get into pods; gives its reference.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn push_agent(&self) -> Result<String> {
        let image = self.work.path().join("agent-image");
        std::fs::create_dir_all(image.join("agent"))?;
        run(Command::new(binary()?).arg("install-agent").arg(image.join("agent")))?;
        self.push("atoll-agent:test", &image)
    }

    /// Pushes the image of [`Self::push_agent`] with the program that installs agents in it, as init containers need it.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn push_installer(&self) -> Result<String> {
        let (image, binary) = (self.work.path().join("installer-image"), binary()?);
        let program = image.join("usr/local/bin/atoll");
        std::fs::create_dir_all(image.join("usr/local/bin"))?;
        std::fs::create_dir_all(image.join("tmp"))?;
        // With what tells debuggers about it, it is ten times as large.
        run(Command::new("strip").arg("-o").arg(&program).arg(&binary))?;
        let needs = run(Command::new("ldd").arg(&binary))?;
        for library in needs.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = image.join(library.trim_start_matches('/'));
            std::fs::create_dir_all(copy.parent().context("no directory")?)?;
            std::fs::copy(library, copy)?;
        }
        self.push("atoll-installer:test", &image)
    }

    /// Copies an image between registries without TLS, with what else skopeo is to be told.
    ///
    /// # Errors
    /// [`Skip`] where there is no skopeo; else what it says.
    pub fn copy_image(&self, from: &str, to: &str, more: &[&str]) -> Result<()> {
        if run(Command::new("skopeo").arg("--version")).is_err() {
            bail!(Skip("skopeo is not installed".into()));
        }
        let mut command = self.command("skopeo");
        command.args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ]);
        let of = |reference: &str| format!("docker://{reference}");
        run(command.args(more).args([of(from), of(to)])).map(drop)
    }

    fn push(&self, name: &str, root_of_image: &Path) -> Result<String> {
        let registry = self.var("ATOLL_CLUSTER_REGISTRY")?;
        let tool = root().join("tests/cluster/image");
        run(self.command(tool).args(["--name", self.var("ATOLL_CLUSTER")?, name]).arg(root_of_image))?;
        Ok(format!("{registry}/{name}"))
    }

    /// One of the objects that `deploy/manifests` installs, as it is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn manifest(&self, kind: &str, name: &str) -> Result<String> {
        let all = std::fs::read_to_string(root().join("deploy/manifests/atoll.yaml"))?;
        let (kind, name) = (format!("kind: {kind}"), format!("  name: {name}"));
        let is = |text: &&str| [&kind, &name].iter().all(|line| text.lines().any(|it| it == line.as_str()));
        let found = all.split("\n---").find(is);
        found.map(str::to_owned).with_context(|| format!("no {kind}, {name} in deploy/manifests/atoll.yaml"))
    }

    /// Applies objects, given as YAML.
    ///
    /// # Errors
    /// With what the API server said.
    pub fn apply_text(&self, text: &str) -> Result<String> {
        let path = self.written(text)?;
        self.kubectl(&["apply", "-f", &path.to_string_lossy()])
    }

    /// Pushes the image that stories run, under the name that it has on one machine.
    ///
    /// # Errors
    /// When it cannot be made, or the registry does not take it.
    pub fn push_base(&self) -> Result<()> {
        let tool = root().join("tests/cluster/base");
        let name = self.var("ATOLL_CLUSTER")?;
        run(self.command(tool).env("ATOLL_BIN", binary()?).args(["--name", name])).map(drop)
    }

    /// What whoever speaks to it needs in its environment.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Installs the definitions of our objects, and makes the platform's namespace and a tenant's.
    ///
    /// # Errors
    /// When the cluster does not take them.
    pub fn prepare(&self, tenants: &[&str]) -> Result<()> {
        let definitions = run(Command::new(binary()?).arg("crd"))?;
        let path = self.written(&definitions)?;
        self.kubectl(&["apply", "--server-side", "-f", &path.to_string_lossy()])?;
        self.namespace("atoll-system", &[])?;
        tenants.iter().try_for_each(|tenant| {
            self.namespace(&format!("tenant-{tenant}"), &[("atoll.dev/tenant", tenant)])
        })
    }

    /// Makes a namespace with labels.
    ///
    /// # Errors
    /// When the cluster does not take it.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let metadata = serde_json::json!({ "name": name, "labels": labels });
        self.apply(&serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }))
            .map(drop)
    }

    /// The key that requests to agents are signed with, in a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn agent_key(&self) -> Result<PathBuf> {
        let key = self.work.path().join("agent.key");
        if !key.exists() {
            std::fs::write(&key, [7; 32])?;
        }
        Ok(key)
    }

    /// Starts an operator on this machine.
    ///
    /// # Errors
    /// When the binary was not built.
    pub fn operator(&self, agent_image: &str, identity: &str, more: &[&str]) -> Result<Operator> {
        let key = self.agent_key()?;
        let log = self.work.path().join(format!("{identity}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = self.command(binary()?);
        command.args([
            "operator",
            "--metrics",
            "127.0.0.1:0",
            "--log-format",
            "human",
            "--identity",
            identity,
        ]);
        command.args(["--agent-image", agent_image, "--agent-key"]).arg(&key);
        if let (Ok(registry), Ok(host)) = (self.var("ATOLL_CLUSTER_REGISTRY"), self.var("ATOLL_CLUSTER_HOST"))
        {
            command.args(["--registry-insecure", registry, "--platform-cidr", host]);
            command.args(["--default-registry", registry]);
        }
        let child = command.args(more).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Operator { child, log })
    }

    /// Does something to the cluster itself: `node stop node1`, `control pause etcd` (`tests/cluster/README.md`).
    ///
    /// # Errors
    /// [`Skip`] where the cluster is not one of our own.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let Some(name) = &self.own else { bail!(Skip("only done to a cluster of the story's own".into())) };
        let path = root().join("tests/cluster").join(program);
        run(self.command(path).args(["--name", name]).args(arguments))
    }

    /// Starts a server for sandboxes of this cluster, with the key of its operators.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn serve(&self, domain: &str) -> Result<Served> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (url, data) = (format!("http://127.0.0.1:{port}"), self.work.path().join("server"));
        let log = File::create(self.work.path().join("server.log"))?;
        let mut command = self.command(binary()?);
        command.args(["serve", "--driver", "kubernetes", "--no-auth", "--domain", domain]);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--data"]).arg(data);
        command.arg("--agent-key").arg(self.agent_key()?);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let served = Served { child, port, cli: Cli::new(&url, None)? };
        let http = Http::new(&url, None)?;
        let begun = Instant::now();
        while !http.get("/readyz").await.is_ok_and(|answer| answer.status == 200) {
            let said = || std::fs::read_to_string(self.work.path().join("server.log")).unwrap_or_default();
            ensure!(begun.elapsed() < PATIENCE, "the server does not come up: {}", said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(served)
    }

    /// Takes the cluster down, when it was started here.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn down(&mut self) -> Result<()> {
        let Some(name) = self.own.take() else { return Ok(()) };
        run(Command::new(root().join("tests/cluster/down")).args(["--name", &name])).map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("the cluster was not taken down: {error:#}");
        }
    }
}

/// An operator on this machine.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it on the spot.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What it logged.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.kill();
    }
}

/// A server on this machine for sandboxes of a cluster.
#[derive(Debug)]
pub struct Served {
    child: Child,
    /// Where it listens, on loopback.
    pub port: u16,
    /// The command line, speaking to it.
    pub cli: Cli,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
