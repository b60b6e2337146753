//! The helper itself: host root, one thread, its own mount namespace. It orders the steps and undoes them on failure.

use std::{
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use super::{
    ENTRY, Launch, Outcome, UIDS_PER_SANDBOX,
    first::Inherited,
    founder, mounts,
    raw::{self, During, Fork, Step, StepError},
};
use crate::net::{self, Router};

/// Runs the helper when this process was started as one. To be called before anything else in `main`, while the process
/// has one thread. Returns the exit code, or `None` when this is an ordinary start.
#[must_use]
pub fn entry() -> Option<u8> {
    let mut arguments = std::env::args_os();
    if arguments.nth(1)? != ENTRY {
        return None;
    }
    let outcome = match serve() {
        Ok(pid) => Outcome::Started(pid),
        Err(StepError(problem)) => Outcome::Failed(problem),
    };
    let text = serde_json::to_string(&outcome).unwrap_or_default();
    // Who asked may be gone; the sandbox runs on, and its record is settled by whoever comes next.
    let _ = io::stdout().write_all(text.as_bytes());
    Some(0)
}

fn serve() -> Step<i32> {
    let mut order = take_stdin().during("take over the order")?;
    let launch = read(&mut order).during("read the order")?;
    raw::unshare(libc::CLONE_NEWNS).during("make a mount namespace")?;
    mounts::make_private().during("make mounts private")?;
    let inherited = Inherited {
        listener: listen(&launch.socket).during("bind the agent's socket")?,
        config: config_file(&launch).during("write the agent's configuration")?,
        log: log_file(&launch.log).during("open the log")?,
        agent: mounts::agent(&launch.agent)?,
    };
    mounts::enter_workplace(&launch.mount_point)?;
    let mut founded = Founded::fork(&launch, inherited)?;
    let started = founded.carry_through(&launch);
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

/// Moves the order off descriptor 0, so that no later program inherits the file and its lock.
fn take_stdin() -> io::Result<File> {
    let order = io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(File::from(order))
}

/// Binds below a directory descriptor, because a socket's path may have only 108 bytes and a data directory's more.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("the socket's path has no directory"));
    };
    std::env::set_current_dir(directory)?;
    match fs::remove_file(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(UnixListener::bind(name)?.into())
}

fn config_file(launch: &Launch) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("atoll-agent-config", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    serde_json::to_writer(&mut file, &launch.config)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

fn log_file(path: &Path) -> io::Result<OwnedFd> {
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
        map_ids(self.founder, launch.uid_base).during("map user ids")?;
        for group in &launch.cgroups {
            enter(group, self.founder).during(format_args!("enter {}", group.display()))?;
        }
        let path = format!("/proc/{}/ns/user", self.founder);
        let userns = File::open(path).during("open the user namespace")?;
        mounts::overlay(launch, userns.as_fd())?;
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

fn map_ids(pid: i32, base: u32) -> io::Result<()> {
    let map = format!("0 {base} {UIDS_PER_SANDBOX}");
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)
}

fn enter(group: &Path, pid: i32) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

fn connect(launch: &Launch, first: i32) -> Step {
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
