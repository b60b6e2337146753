//! The helper itself: host root, one thread, its own mount namespace, in the control groups of the sandbox to be. It orders the steps and undoes them on failure.

use std::{
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use super::{
    ENTRY, Launch, Outcome,
    cell::{READY, receive},
    first::Inherited,
    founder, ids, mounts,
    raw::{self, During, Fork, Step, StepError},
    volumes,
};
use crate::net::{self, Router};

/// Runs the helper when this process was started as one. To be called before anything else in `main`, while the process
/// has one thread. Returns the exit code, or `None` when this is an ordinary start.
#[must_use]
pub fn entry() -> Option<u8> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ENTRY {
        return None;
    }
    let (Ok(mut socket), Some(workplace)) = (take_stdin(), arguments.next()) else { return Some(1) };
    let groups = arguments.map(PathBuf::from).collect::<Vec<_>>();
    // Who asked may be gone; the sandbox runs on, and its record is settled by whoever comes next.
    let _ = socket.write_all(&match prepare(Path::new(&workplace), &groups) {
        Ok(()) => vec![READY],
        Err(StepError(problem)) => problem.into_bytes(),
    });
    if let Ok(Some(order)) = receive(&socket) {
        let outcome =
            serve(order).map_or_else(|StepError(problem)| Outcome::Failed(problem), Outcome::Started);
        let line = serde_json::to_string(&outcome).unwrap_or_default() + "\n";
        let _ = socket.write_all(line.as_bytes());
    }
    Some(0)
}

/// All that can be done before the order comes.
fn prepare(workplace: &Path, groups: &[PathBuf]) -> Step {
    for group in groups {
        enter(group).during(format_args!("enter {}", group.display()))?;
    }
    raw::unshare(libc::CLONE_NEWNS).during("make a mount namespace")?;
    mounts::make_private().during("make mounts private")?;
    mounts::enter_workplace(workplace)
}

fn serve(mut order: File) -> Step<i32> {
    let launch = read(&mut order).during("read the order")?;
    match &launch.through {
        Some(through) => crate::oci::helper::serve(&launch, through),
        None => start(&launch),
    }
}

fn start(launch: &Launch) -> Step<i32> {
    let inherited = Inherited {
        listener: listen(&launch.socket).during("bind the agent's socket")?,
        config: config_file(launch).during("write the agent's configuration")?,
        log: log_file(&launch.log).during("open the log")?,
        agent: mounts::agent(&launch.agent)?,
    };
    let mut founded = Founded::fork(launch, inherited)?;
    let started = founded.carry_through(launch);
    if started.is_err() {
        founded.abandon();
        let _ = fs::remove_file(&launch.socket);
    }
    started
}

/// At once: a reader that is parsed from byte by byte costs a system call for each.
fn read(order: &mut File) -> io::Result<Launch> {
    let mut bytes = Vec::new();
    order.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Takes the socket to the server off descriptor 0, so that no later program inherits it.
fn take_stdin() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(UnixStream::from(socket))
}

/// Binds by way of the directory's descriptor, because an address has room for 108 bytes only and a data directory's path
/// may be longer. The working directory stays where the layers are.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("the socket's path has no directory"));
    };
    let directory = File::open(directory)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    match fs::remove_file(&short) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(UnixListener::bind(short)?.into())
}

fn config_file(launch: &Launch) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("atoll-agent-config", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(&serde_json::to_vec(&launch.config)?)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// The log, made when there is none.
pub fn log_file(path: &Path) -> io::Result<OwnedFd> {
    let options = &mut File::options();
    Ok(options.read(true).write(true).create(true).truncate(false).open(path)?.into())
}

/// The founder and, once it has forked, the sandbox's first process.
struct Founded {
    founder: i32,
    first: Option<i32>,
    reports: PipeReader,
    go: PipeWriter,
}

impl Founded {
    fn fork(launch: &Launch, inherited: Inherited) -> Step<Self> {
        let (reports, report) = io::pipe().during("make a pipe")?;
        let (going, go) = io::pipe().during("make a pipe")?;
        match raw::fork().during("fork the founder")? {
            Fork::Parent(founder) => Ok(Self { founder, first: None, reports, go }),
            Fork::Child => {
                drop((reports, go));
                founder::run(launch, inherited, report, going)
            }
        }
    }

    /// The conversation of the module's picture. Every wait ends when the other side dies, because the pipe does.
    fn carry_through(&mut self, launch: &Launch) -> Step<i32> {
        self.expect(Report::UserNamespace)?;
        ids::set(self.founder, &ids::range(launch.uid_base)).during("map user ids")?;
        let path = format!("/proc/{}/ns/user", self.founder);
        let userns = File::open(path).during("open the user namespace")?;
        mounts::overlay(launch, Some(userns.as_fd()))?;
        volumes::mount(launch, Some(userns.as_fd()))?;
        self.tell_to_go()?;
        let Report::First(first) = self.next_report()? else { return Err(out_of_turn()) };
        self.first = Some(first);
        if !raw::wait_ok(self.founder) {
            return Err(StepError("the founder failed after its fork".into()));
        }
        connect(launch, first)?;
        self.tell_to_go()?;
        self.expect(Report::Executed)?;
        Ok(first)
    }

    fn tell_to_go(&mut self) -> Step {
        self.go.write_all(b"g").during("let the sandbox go on")
    }

    fn expect(&mut self, wanted: Report) -> Step {
        if self.next_report()? == wanted { Ok(()) } else { Err(out_of_turn()) }
    }

    fn next_report(&mut self) -> Step<Report> {
        Report::read(&mut self.reports).during("hear from the sandbox")?
    }

    /// The founder is killed when it still waits; the first process takes its namespaces with it.
    fn abandon(&mut self) {
        match self.first {
            Some(first) => raw::kill(first),
            None => {
                raw::kill(self.founder);
                raw::wait_ok(self.founder);
            }
        }
    }
}

fn out_of_turn() -> StepError {
    StepError("the sandbox reported out of turn".into())
}

/// What founder and first process say to the helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The founder has made the user namespace and waits for its mapping.
    UserNamespace,
    /// The founder has made everything else, and forked the first process.
    First(i32),
    /// The first process runs the agent: the pipe was closed by exec.
    Executed,
}

impl Report {
    /// Writes it for [`Report::read`].
    pub fn write(&self, to: &mut PipeWriter) -> io::Result<()> {
        match self {
            Self::UserNamespace => to.write_all(b"U"),
            Self::First(pid) => {
                let mut bytes = [b'P', 0, 0, 0, 0];
                bytes[1..].copy_from_slice(&pid.to_ne_bytes());
                to.write_all(&bytes)
            }
            Self::Executed => Ok(()),
        }
    }

    /// Says why there will be no further report.
    pub fn fail(problem: &StepError, to: &mut PipeWriter) {
        let _ = to.write_all(format!("E{problem}").as_bytes());
    }

    fn read(from: &mut PipeReader) -> io::Result<Step<Self>> {
        let mut tag = [0];
        if from.read(&mut tag)? == 0 {
            return Ok(Ok(Self::Executed));
        }
        match &tag {
            b"U" => Ok(Ok(Self::UserNamespace)),
            b"P" => {
                let mut pid = [0; 4];
                from.read_exact(&mut pid)?;
                Ok(Ok(Self::First(i32::from_ne_bytes(pid))))
            }
            _ => {
                let mut problem = String::new();
                from.read_to_string(&mut problem)?;
                Ok(Err(StepError(problem)))
            }
        }
    }
}

/// Process 0 is whoever writes.
fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// Gives the network namespace of a process the sandbox's network.
pub fn connect(launch: &Launch, first: i32) -> Step {
    let path = format!("/proc/{first}/ns/net");
    let netns = File::open(path).during("open the network namespace")?;
    match &launch.network {
        None => net::attach_none(netns.as_fd()).during("bring loopback up"),
        Some(routed) => {
            let router = Router::open(&routed.plan).during("open the router")?;
            router.attach(routed.slot, netns.as_fd()).during("attach the network")
        }
    }
}
