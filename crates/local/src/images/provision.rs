//! Makes an image from Debian packages: the machine's own sources, mmdebstrap or debootstrap (or what is in another image
//! already), a tar stream into a layer. Knows nothing of registries. The build runs in its own namespaces and dies with this process.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Image, Inner,
    apt::{self, Key, Source, Sources},
    blocking,
    config::{Platform, manifest_digest},
    error::ImageError,
    flight::CancelOnDrop,
    index::Record,
    layers::{Layer, Scratch},
    progress::{Hub, PullEvent},
    pull::keep,
    recipe::Recipe,
    unpack::UnpackError,
};

const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The programs that can build, best first; each is also the name of its package.
const TOOLS: &[&str] = &["mmdebstrap", "debootstrap"];
const LAST_WORDS: usize = 20;

/// Builds a recipe and keeps the image under its name. The image that it adds to must be here.
pub(super) async fn provision(inner: Arc<Inner>, hub: Arc<Hub>, recipe: Recipe) -> Result<Image, ImageError> {
    let cancel = CancelOnDrop::default();
    let (store, events, stop, plan) =
        (Arc::clone(&inner), Arc::clone(&hub), Arc::clone(&cancel.0), recipe.clone());
    let (record, _pins) = blocking(move || {
        let mut layers = below(&store, &plan)?;
        let diff_ids = |layers: &[Layer]| layers.iter().map(|it| it.diff_id.clone()).collect::<Vec<_>>();
        let parents = store.layers.pin(&diff_ids(&layers));
        layers.push(build(&store, &events, &plan, &layers, &stop)?);
        let pins = store.layers.pin(&diff_ids(&layers));
        drop(parents);
        Ok((record(&plan, layers)?, pins))
    })
    .await?;
    keep(&inner, &hub, recipe.name, record).await
}

/// The layers of the image that a recipe adds to, lowest first; none where it begins with nothing.
fn below(inner: &Inner, recipe: &Recipe) -> Result<Vec<Layer>, ImageError> {
    let Some(parent) = &recipe.from else { return Ok(Vec::new()) };
    let found = inner.index.by_name(parent);
    let found = found.ok_or_else(|| ImageError::NotPresent { reference: parent.clone() })?;
    Ok(found.layers.clone())
}

/// The image's configuration as any registry would have it; its digest becomes the image's.
fn record(recipe: &Recipe, layers: Vec<Layer>) -> Result<Record, ImageError> {
    let (platform, created_at) = (Platform::host(), jiff::Timestamp::now());
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let config = serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": created_at,
        "config": recipe.config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    Ok(Record {
        digest: manifest_digest(config.to_string().as_bytes(), &diff_ids)?,
        platform: platform.to_string(),
        config: recipe.image_config(),
        layers,
        created_at,
        stored_at: created_at,
    })
}

fn build(
    inner: &Inner,
    hub: &Arc<Hub>,
    recipe: &Recipe,
    below: &[Layer],
    cancel: &Arc<AtomicBool>,
) -> Result<Layer, ImageError> {
    let tool = tool(recipe)?;
    let sources = apt::of_machine(Path::new("/"))
        .map_err(|reason| ImageError::NoPackageSource { recipe: recipe.name.clone(), reason })?;
    let scratch = inner.layers.scratch()?;
    write_build_files(&scratch, recipe, &sources)?;
    let lowers: Vec<String> =
        below.iter().rev().map(|layer| inner.layers.path(&layer.diff_id).display().to_string()).collect();
    write(&scratch.path().join("lowers"), lowers.join(":").as_bytes(), 0o600)?;
    hub.send(PullEvent::Line(format!("building {} from {} with {tool}", recipe.name, sources.suite)));
    let reach = &inner.config.reach;
    let mut output = BuildOutput::start(&scratch, tool, &sources.suite, recipe, reach, cancel, hub)?;
    let made = inner.layers.install(&mut output, None, inner.config.limits, cancel);
    let (status, last_words) = output.end();
    match made {
        Ok(layer) => Ok(layer),
        // The build's own failure is the cause of whatever the reader met, unless it was us who stopped it.
        Err(_) if status.is_some_and(|status| !status.success()) => Err(ImageError::BuildFailed {
            recipe: recipe.name.clone(),
            status: status.map(|status| status.to_string()).unwrap_or_default(),
            output: last_words,
        }),
        Err(error) => Err(error.of(&recipe.name, "of packages", &inner.root)),
    }
}

/// What builds a recipe: one of the tools, or for one that adds to an image, what is in that image.
fn tool(recipe: &Recipe) -> Result<&'static str, ImageError> {
    let missing = |tool: &str, package: &str| ImageError::ToolMissing {
        recipe: recipe.name.clone(),
        tool: tool.to_owned(),
        package: package.to_owned(),
    };
    for helper in ["unshare", "setpriv"] {
        if !is_installed(helper) {
            return Err(missing(helper, "util-linux"));
        }
    }
    if recipe.from.is_some() {
        return Ok("overlay");
    }
    TOOLS.iter().copied().find(|tool| is_installed(tool)).ok_or_else(|| missing(TOOLS[0], TOOLS[0]))
}

fn is_installed(program: &str) -> bool {
    SEARCH_PATH.split(':').any(|directory| {
        fs::metadata(Path::new(directory).join(program))
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// The files that `build.sh` works with.
fn write_build_files(scratch: &Scratch, recipe: &Recipe, sources: &Sources) -> Result<(), ImageError> {
    let keyrings = scratch.path().join("keyrings");
    fs::create_dir(&keyrings).map_err(|e| ImageError::io("create", &keyrings, e))?;
    let (mut build, mut image) = (String::new(), String::new());
    let mut first_key = String::new();
    for (number, source) in sources.sources.iter().enumerate() {
        let (here, inside) = key_files(source, &keyrings, number)?;
        if first_key.is_empty() {
            first_key = here.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
        }
        build += &format!("{}\n", source.line(here.as_deref()));
        image += &format!("{}\n", source.without_credentials().line(inside.as_deref()));
    }
    let mirror = sources.sources.first().map(|source| source.uri.clone()).unwrap_or_default();
    let files = [
        ("build.sh", include_str!("build.sh").to_owned()),
        ("sources.list", build),
        ("image.list", image),
        ("apt.conf", apt_settings()),
        ("dpkg.cfg", trim(&recipe.trim)),
        ("recipe.sh", recipe.script.clone()),
        ("mirror", mirror),
        ("keyring", first_key),
        ("name", recipe.name.clone()),
    ];
    for (name, content) in files {
        // Sources can hold passwords; the script is run.
        write(
            &scratch.path().join(name),
            content.as_bytes(),
            if name == "build.sh" { 0o700 } else { 0o600 },
        )?;
    }
    write_own_files(&scratch.path().join("files"), recipe)
}

/// The files that come with the recipe, each at its place below a directory.
fn write_own_files(below: &Path, recipe: &Recipe) -> Result<(), ImageError> {
    for (place, name) in &recipe.files {
        let path = below.join(place.trim_start_matches('/'));
        let directory = path.parent().unwrap_or(below);
        fs::create_dir_all(directory).map_err(|e| ImageError::io("create", directory, e))?;
        let content = recipe.contents.get(name).copied().unwrap_or_default();
        write(&path, content.as_bytes(), if content.starts_with("#!") { 0o755 } else { 0o644 })?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), ImageError> {
    fs::write(path, content).map_err(|e| ImageError::io("write", path, e))?;
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).map_err(|e| ImageError::io("set the mode of", path, e))
}

/// A source's key: the file to use here, and where it is inside of the image. Keys of the distribution itself come
/// with its keyring package; others are copied.
fn key_files(
    source: &Source,
    keyrings: &Path,
    number: usize,
) -> Result<(Option<PathBuf>, Option<PathBuf>), ImageError> {
    let inside = |name: &str| Path::new("/etc/apt/keyrings").join(name);
    match &source.key {
        Key::Default => Ok((None, None)),
        Key::File(path) if path.starts_with("/usr/share/keyrings") => {
            Ok((Some(path.clone()), Some(path.clone())))
        }
        Key::File(path) => {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("gpg");
            let name = format!("source-{number}.{extension}");
            let copy = keyrings.join(&name);
            fs::copy(path, &copy).map_err(|e| ImageError::io("copy", path, e))?;
            Ok((Some(copy), Some(inside(&name))))
        }
        Key::Inline(text) => {
            let name = format!("source-{number}.asc");
            let copy = keyrings.join(&name);
            fs::write(&copy, text).map_err(|e| ImageError::io("write", &copy, e))?;
            Ok((Some(copy), Some(inside(&name))))
        }
    }
}

/// How apt reaches its sources on this machine: proxies, certificates, address family, clock checks. For the build only.
fn apt_settings() -> String {
    let wanted =
        ["Acquire::http::", "Acquire::https::", "Acquire::ForceIPv", "Acquire::Check-", "Acquire::Retries"];
    let dump = Command::new("apt-config").arg("dump").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = dump.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines = text.lines().filter(|line| wanted.iter().any(|start| line.starts_with(start)));
    lines.map(|line| format!("{line}\n")).collect()
}

fn trim(paths: &[String]) -> String {
    let line = |path: &String| match path.strip_prefix('!') {
        Some(kept) => format!("path-include={kept}\n"),
        None => format!("path-exclude={path}\n"),
    };
    paths.iter().map(line).collect()
}

/// The running build, read as the archive it writes. Its end counts as the archive's end only if it succeeded.
struct BuildOutput {
    child: Child,
    stdout: ChildStdout,
    status: Option<ExitStatus>,
    listener: Option<thread::JoinHandle<()>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    cancel: Arc<AtomicBool>,
}

impl BuildOutput {
    fn start(
        scratch: &Scratch,
        tool: &str,
        suite: &str,
        recipe: &Recipe,
        reach: &BTreeMap<String, String>,
        cancel: &Arc<AtomicBool>,
        hub: &Arc<Hub>,
    ) -> Result<Self, ImageError> {
        let mut command = Command::new("setpriv");
        // The build dies with this thread, which lives as long as the build; and all of it with its first process.
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.arg(scratch.path().join("build.sh")).args([
            tool,
            suite,
            &recipe.packages.join(","),
            &recipe.optional.join(","),
        ]);
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(reach);
        let mut child = command.spawn().map_err(|e| ImageError::io("start", "setpriv", e))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(ImageError::io("read from", "setpriv", io::ErrorKind::BrokenPipe.into()));
        };
        let last_words = Arc::default();
        let listener = Some(listen(stderr, Arc::clone(hub), Arc::clone(&last_words)));
        Ok(Self { child, stdout, status: None, listener, last_words, cancel: Arc::clone(cancel) })
    }

    /// Waits until there is something to read, or nobody wants it any more.
    fn wait_readable(&self) -> io::Result<()> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Ok(()); // whoever reads from us asks the same and stops
            }
            let mut waited = [PollFd::new(&self.stdout, PollFlags::IN)];
            match poll(&mut waited, Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                other => return other.map(|_| ()).map_err(Into::into),
            }
        }
    }

    /// How the build ended, where it ended by itself, and its last words.
    fn end(mut self) -> (Option<ExitStatus>, String) {
        let status = self.status.or_else(|| self.child.try_wait().ok().flatten());
        self.stop();
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        (status, words.iter().cloned().collect::<Vec<_>>().join("\n"))
    }

    fn stop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Read for BuildOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait_readable()?;
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other(UnpackError::Cancelled));
        }
        match self.stdout.read(buffer)? {
            0 => {
                let status = self.child.wait()?;
                self.status = Some(status);
                if status.success() {
                    Ok(0)
                } else {
                    Err(io::Error::other(format!("the build ended with {status}")))
                }
            }
            read => Ok(read),
        }
    }
}

impl Drop for BuildOutput {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Passes on what the build says, line by line, and remembers the last of it.
fn listen(
    stderr: ChildStderr,
    hub: Arc<Hub>,
    last_words: Arc<Mutex<VecDeque<String>>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
            words.push_back(line.clone());
            if words.len() > LAST_WORDS {
                words.pop_front();
            }
            drop(words);
            hub.send(PullEvent::Line(line));
        }
    })
}
