//! A real server: the built binary, serving a directory of its own on a free port. It is killed by its pid, and what it
//! leaves on the host can be asked for.

use anyhow::{Context, Result, bail, ensure};
use atoll_client::Client;
use atoll_proto::api::{CreateSandbox, ExecRequest, ExecResponse, Sandbox, TemplateSpec, Volume};
use futures::TryStreamExt;
use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Skip,
    cli::Cli,
    host,
    http::Http,
    on_cluster::{self, OnCluster},
    place::Place,
};

/// Longest wait for a server to be ready or to end. A guard, not a measure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The image that stories run, made from Debian packages once and kept.
pub const IMAGE: &str = "base";

/// Disk of sandboxes that take theirs at once.
const SMALL_DISK: &str = "64Mi";

/// What differs from an ordinary server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Without the base image, and in a directory on whatever file system the machine has.
    pub bare: bool,
    /// Without the base image and btrfs, in a directory that no block device holds.
    pub in_memory: bool,
    /// Without btrfs, on whatever file system the machine has. Sandboxes then take their whole disk at once, so they get
    /// small ones.
    pub without_btrfs: bool,
    /// With records on whatever file system the machine has, as where a server made its own disk.
    pub as_installed: bool,
    /// On a cluster, whatever ATOLL_TEST_DRIVER says.
    pub on_cluster: bool,
    /// More arguments of `atoll serve`.
    pub args: Vec<String>,
    /// More variables of its environment.
    pub env: Vec<(&'static str, &'static str)>,
    /// The address; a free port of loopback when absent.
    pub listen: Option<SocketAddr>,
    /// Images that must be there besides the base image, where it is.
    pub images: Vec<String>,
}

impl Options {
    /// A server without btrfs.
    #[must_use]
    pub fn without_btrfs() -> Self {
        let args = ["--storage", "ext4"].map(str::to_owned).to_vec();
        Self { without_btrfs: true, args, ..Self::default() }
    }

    /// The cluster for such a server.
    fn cluster(&self) -> Result<Arc<OnCluster>> {
        if self.without_btrfs || self.in_memory || self.as_installed {
            return Err(Skip("a cluster has no disk of ours".into()).into());
        }
        OnCluster::open()
    }
}

/// A server and its directory.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    place: Place,
    listen: SocketAddr,
    args: Vec<String>,
    env: Vec<(&'static str, &'static str)>,
    /// Disk of sandboxes that name none.
    disk: Option<&'static str>,
    before: host::Snapshot,
    /// Where its sandboxes are, when it is not this machine.
    ground: Option<Arc<OnCluster>>,
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Server {
    /// Starts a server with a directory of its own and waits until it can serve and has the base image.
    ///
    /// # Errors
    /// It ended, or was not ready in time: with the end of its log.
    pub async fn start(options: Options) -> Result<Self> {
        let ground =
            if options.on_cluster || on_cluster::is_asked()? { Some(options.cluster()?) } else { None };
        if options.without_btrfs && !options.in_memory && !Place::keeps_images()? {
            Box::pin(Self::start(Options::default())).await?.close().await?;
        }
        let place = match &options {
            Options { bare: true, .. } => Place::bare()?,
            _ if ground.is_some() => Place::bare()?,
            Options { in_memory: true, .. } => Place::in_memory()?,
            Options { without_btrfs: true, .. } => Place::with_copied_images()?,
            Options { as_installed: true, .. } => Place::as_installed()?,
            _ => Place::with_images()?,
        };
        let before = host::Snapshot::take()?;
        let listen = options.listen.map_or_else(free_address, Ok)?;
        let disk = options.without_btrfs.then_some(SMALL_DISK);
        let more = ground.as_ref().map(|ground| ground.arguments()).transpose()?.unwrap_or_default();
        let args = options.args.iter().cloned().chain(more).collect();
        let env = options.env.clone();
        let mut server = Self { child: None, place, listen, args, env, disk, before, ground };
        server.launch().await?;
        if !options.bare && !options.in_memory && server.ground.is_none() {
            server.provision(&options.images).await?;
        }
        Ok(server)
    }

    /// Makes the base image, and those named, when the directory lacks them, and keeps them for the next.
    async fn provision(&mut self, names: &[String]) -> Result<()> {
        let images = self.client()?.images().await?;
        let is_there = |name: &str| images.iter().any(|image| image.reference == name);
        let all = std::iter::once(IMAGE).chain(names.iter().map(String::as_str));
        let missing: Vec<_> = all.filter(|name| !is_there(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for name in missing {
            println!("making the image {name} once; it is kept in {}", crate::cache().display());
            let done = self.cli()?.run(&["images", "pull", name]).await?;
            ensure!(done.code == 0, "could not make the image {name}: {}", done.stderr);
        }
        self.stop().await?;
        self.place.keep_images()?;
        self.launch().await
    }

    /// Starts the process again, on the same directory and address, and waits until it can serve.
    ///
    /// # Errors
    /// As for [`Server::start`].
    pub async fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        let begun = Instant::now();
        loop {
            if self.is_ready().await {
                return Ok(());
            }
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || begun.elapsed() > PATIENCE {
                bail!("the server is not ready ({ended:?}): {}", self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn is_ready(&self) -> bool {
        // What it certifies itself with may not be there yet.
        let asked = async || self.speaking(None)?.get("/readyz").await;
        asked().await.is_ok_and(|answer| answer.status == 200)
    }

    /// Starts the process without waiting for it.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(crate::binary()?);
        command.arg("serve").arg("--data").arg(self.data());
        command.args(["--listen", &self.listen.to_string()]).args(&self.args);
        command.envs(self.ground.iter().flat_map(|ground| ground.cluster().env()));
        command.envs(self.env.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// The cluster below it, where stories run on one.
    #[must_use]
    pub fn cluster(&self) -> Option<&crate::Cluster> {
        self.ground.as_ref().map(|ground| ground.cluster())
    }

    /// For a case of one machine alone.
    ///
    /// # Errors
    /// [`Skip`] with that reason, where stories run on a cluster.
    pub fn needs_one_machine(&self, because: &str) -> Result<()> {
        self.ground.as_ref().map_or(Ok(()), |_| Err(Skip(format!("on a cluster {because}")).into()))
    }

    /// Its directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.place.path()
    }

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.authority_file().is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.listen)
    }

    /// The file of what certifies it, where it speaks TLS.
    #[must_use]
    pub fn authority_file(&self) -> Option<PathBuf> {
        let after = |flag: &str| {
            let at = self.args.iter().position(|argument| argument == flag)?;
            Some(self.args.get(at + 1).map_or("", String::as_str))
        };
        let domain = || after("--domain").unwrap_or("atoll.localhost");
        let made = || after("--tls-dev").map(|_| self.data().join("tls-dev").join(domain()).join("ca.pem"));
        after("--tls-cert").map(PathBuf::from).or_else(made)
    }

    /// What certifies it, PEM.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn authority(&self) -> Result<Option<Vec<u8>>> {
        let read = |path: PathBuf| std::fs::read(&path).with_context(|| path.display().to_string());
        self.authority_file().map(read).transpose()
    }

    fn speaking(&self, key: Option<&str>) -> Result<Http> {
        Http::trusting(&self.url(), key, self.authority()?.as_deref())
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The process of the operator below it, where there is one.
    #[must_use]
    pub fn operator(&self) -> Option<u32> {
        self.ground.as_ref().map(|ground| ground.operator())
    }

    /// The admin key; none when it asks nobody for one.
    ///
    /// # Errors
    /// It is not there.
    pub fn key(&self) -> Result<Option<String>> {
        if self.args.iter().any(|argument| argument == "--no-auth") {
            return Ok(None);
        }
        let path = self.data().join("admin.key");
        let key = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Some(key.trim().to_owned()))
    }

    /// The name of a running sandbox's control group.
    ///
    /// # Errors
    /// It has none.
    pub fn group(&self, id: &str) -> Result<String> {
        let record = std::fs::read_to_string(self.data().join("sandboxes").join(id).join("record.json"))?;
        let record: serde_json::Value = serde_json::from_str(&record)?;
        record["group"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("sandbox {id} has no control group"))
    }

    /// The host's pids of a running sandbox's processes.
    ///
    /// # Errors
    /// It has none.
    pub fn processes(&self, id: &str) -> Result<Vec<u32>> {
        Ok(host::processes_in_group(&self.group(id)?))
    }

    /// Speaks to it through the SDK, as admin.
    ///
    /// # Errors
    /// The key is not there.
    pub fn client(&self) -> Result<Client> {
        let config =
            atoll_client::Config { url: self.url(), api_key: self.key()?, ca_pem: self.authority()? };
        Ok(Client::new(config)?)
    }

    /// Speaks to it in plain HTTP, as admin.
    ///
    /// # Errors
    /// The key is not there.
    pub fn http(&self) -> Result<Http> {
        self.speaking(self.key()?.as_deref())
    }

    /// Speaks to it through the command line, as admin.
    ///
    /// # Errors
    /// The key or the binary is not there.
    pub fn cli(&self) -> Result<Cli> {
        Ok(Cli::new(&self.url(), self.key()?.as_deref())?.trusting(self.authority_file()))
    }

    /// The body of a request for a sandbox of the base image.
    #[must_use]
    pub fn ask(&self) -> serde_json::Value {
        match (self.disk, &self.ground) {
            (Some(disk), _) => serde_json::json!({"image": IMAGE, "disk": disk}),
            (None, Some(_)) => serde_json::json!({"image": IMAGE, "requests": on_cluster::little()}),
            (None, None) => serde_json::json!({"image": IMAGE}),
        }
    }

    /// Makes a sandbox of the base image.
    ///
    /// # Errors
    /// It was refused.
    pub async fn create(&self) -> Result<Sandbox> {
        self.create_with(CreateSandbox::default()).await
    }

    /// Makes a sandbox as asked, of the base image unless another or a template is named.
    ///
    /// # Errors
    /// It was refused.
    pub async fn create_with(&self, mut ask: CreateSandbox) -> Result<Sandbox> {
        if ask.image.is_none() && ask.template.is_none() {
            ask.image = Some(IMAGE.into());
        }
        ask.disk = ask.disk.or_else(|| self.disk.map(str::to_owned));
        if self.ground.is_some() && ask.template.is_none() && ask.requests.is_none() {
            ask.requests = on_cluster::little();
        }
        Ok(self.client()?.sandboxes().create(&ask).await?)
    }

    /// Makes a sandbox of the base image whose home outlives its processes: on a cluster, on a volume.
    ///
    /// # Errors
    /// It was refused.
    pub async fn create_keeping(&self) -> Result<Sandbox> {
        if self.ground.is_none() {
            return self.create().await;
        }
        let home = Volume { path: "/home/user".into(), size: Some("64Mi".into()) };
        let template = TemplateSpec {
            image: IMAGE.into(),
            volumes: [("home".to_owned(), home)].into(),
            requests: on_cluster::little(),
            ..TemplateSpec::default()
        };
        self.client()?.put_template("keeping", &template).await?;
        let (template, owner) = (Some("keeping".to_owned()), Some(crate::unique("keeper")));
        self.create_with(CreateSandbox { template, owner, ..CreateSandbox::default() }).await
    }

    /// Runs a command in a sandbox, to its end.
    ///
    /// # Errors
    /// It could not be run; an exit code other than 0 is no error.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<ExecResponse> {
        let command = command.iter().map(|&part| part.to_owned()).collect();
        let request = ExecRequest { command, ..ExecRequest::default() };
        Ok(self.client()?.sandbox(id).exec(&request).await?)
    }

    /// Runs a line of shell as root in a sandbox, to its end.
    ///
    /// # Errors
    /// It could not be run; an exit code other than 0 is no error.
    pub async fn root_shell(&self, id: &str, line: &str) -> Result<ExecResponse> {
        let command = ["sh", "-c", line].map(str::to_owned).to_vec();
        let request = ExecRequest { command, user: Some("root".into()), ..ExecRequest::default() };
        Ok(self.client()?.sandbox(id).exec(&request).await?)
    }

    /// Runs a command that must succeed and returns what it wrote, without the white space at its end.
    ///
    /// # Errors
    /// It could not be run or failed.
    pub async fn output(&self, id: &str, command: &[&str]) -> Result<String> {
        let done = self.exec(id, command).await?;
        ensure!(done.exit.exit_code == 0, "{command:?} exits {}: {}", done.exit.exit_code, done.stderr);
        Ok(done.stdout.trim_end().to_owned())
    }

    /// Takes a sandbox down and waits until it is gone.
    ///
    /// # Errors
    /// It was refused or takes too long.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let sandbox = self.client()?.sandbox(id);
        match sandbox.delete().await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        }
        wait_until("the sandbox is gone", async || {
            Ok(sandbox.get().await.is_err_and(|error| error.is_not_found()))
        })
        .await
    }

    /// All sandboxes.
    ///
    /// # Errors
    /// The list was refused.
    pub async fn list(&self) -> Result<Vec<Sandbox>> {
        Ok(self.client()?.sandboxes().list(atoll_client::ListSandboxes::default()).try_collect().await?)
    }

    /// Takes all sandboxes down.
    ///
    /// # Errors
    /// One was refused or takes too long.
    pub async fn clear(&self) -> Result<()> {
        let ids: Vec<_> = self.list().await?.into_iter().map(|sandbox| sandbox.id).collect();
        futures::future::try_join_all(ids.iter().map(|id| self.delete(id))).await.map(drop)
    }

    /// Kills the process at once, as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the server does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends the process in peace. Sandboxes run on.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub async fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the server does not run")?;
        host::signal(child.id(), rustix::process::Signal::TERM)?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("the server did not end after SIGTERM: {}", self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Takes everything down: sandboxes, process, and what the directory holds of the host. What is then left on the host
    /// that was not there before is an error.
    ///
    /// # Errors
    /// Something could not be taken down or was left behind.
    pub async fn close(mut self) -> Result<()> {
        if self.child.is_none() {
            self.launch().await?;
        }
        self.clear().await?;
        self.stop().await?;
        if let Some(ground) = &self.ground {
            return ground.is_empty().await;
        }
        let marks = host::marks(self.data());
        self.destroy()?;
        let before = self.before.clone();
        wait_until("nothing is left on the host", async || {
            let left = host::Snapshot::take()?.since(&before, &marks);
            ensure!(left.is_empty(), "left on the host: {left:#?}");
            Ok(true)
        })
        .await
    }

    /// Takes everything of the directory off the host when no server runs: mounts, network, control groups, disk.
    ///
    /// # Errors
    /// The command failed.
    pub fn destroy(&self) -> Result<()> {
        let mut command = Command::new(crate::binary()?);
        command.args(["destroy", "--force", "--data"]).arg(self.data()).stdin(Stdio::null());
        let output = command.output()?;
        ensure!(output.status.success(), "atoll destroy: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The end of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4000)..]).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.data().join("server.log")
    }
}

impl Drop for Server {
    /// After a failure: nothing that runs or is mounted may stay. After [`Server::close`] there is nothing to do.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // What fails here is seen by whoever looks at the host next; there is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
            let _ = match &self.ground {
                Some(ground) => ground.sweep(),
                None => self.destroy(),
            };
        }
    }
}

/// Asks again and again until it is so. An error counts as "not yet" and is told when time is up.
///
/// # Errors
/// It is not so after a minute.
pub async fn wait_until(what: &str, is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    wait_until_within(PATIENCE, what, is_so).await
}

/// As [`wait_until`], with another patience.
///
/// # Errors
/// It is not so after that time.
pub async fn wait_until_within(
    patience: Duration,
    what: &str,
    mut is_so: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let outcome = is_so().await;
        if matches!(outcome, Ok(true)) {
            return Ok(());
        }
        if begun.elapsed() > patience {
            return outcome.and_then(|_| bail!("after {} s it is not so: {what}", patience.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
