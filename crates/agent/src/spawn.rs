//! Starts a process from a plan: fork, a few system calls in the child, exec. Knows nothing of tables, output or
//! time; whoever calls reaps.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::pipe::PipeFlags;

use crate::descriptor::watched;
use crate::{oom_score, plan::Plan};

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("command not found: {0}")]
    NotFound(String),
    #[error("cannot run {0}: {1}")]
    Exec(String, io::Error),
    #[error("cwd '{0}' does not exist")]
    MissingDirectory(String),
    #[error("cannot enter cwd '{0}': {1}")]
    Directory(String, io::Error),
    #[error("the command line and environment are too long")]
    TooLong,
    #[error("cannot start a process: the sandbox has reached its limit of processes")]
    ProcessLimit,
    #[error("cannot become user {0}: {1}")]
    Credentials(u32, io::Error),
    #[error("cannot start a process ({0}): {1}")]
    System(&'static str, io::Error),
}

/// The standard streams of a new process, as the child sees them.
pub struct ChildStreams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Standard input is a terminal and becomes the controlling one.
    pub terminal: bool,
}

/// A process that was forked; whether it could execute its program is not known yet.
pub struct Forked {
    pub pid: i32,
    report: OwnedFd,
}

/// A step of the child that failed, as it travels through the pipe.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Session = 1,
    Streams,
    Credentials,
    Directory,
    Exec,
}

/// Everything the child touches, prepared so that it needs no memory of its own.
struct Child<'a> {
    plan: &'a Plan,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    streams: [RawFd; 3],
    terminal: bool,
    report: RawFd,
}

/// Forks. The streams are closed on this side.
pub fn fork(plan: &Plan, streams: ChildStreams) -> Result<Forked, SpawnError> {
    let (report, child_report) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| system("pipe", error.into()))?;
    let child = Child {
        plan,
        argv: pointers(&plan.argv),
        envp: pointers(&plan.envp),
        streams: [streams.stdin.as_raw_fd(), streams.stdout.as_raw_fd(), streams.stderr.as_raw_fd()],
        terminal: streams.terminal,
        report: child_report.as_raw_fd(),
    };
    // SAFETY: the child calls only async-signal-safe functions on memory prepared above, and never returns.
    match unsafe { libc::fork() } {
        0 => child.run(),
        -1 => Err(fork_error(io::Error::last_os_error())),
        pid => Ok(Forked { pid, report }),
    }
}

impl Forked {
    /// Waits until the program runs, or says why it does not.
    pub async fn started(self, plan: &Plan) -> Result<(), SpawnError> {
        let mut message = [0; 5];
        let length = self.read_report(&mut message).await.map_err(|error| system("report", error))?;
        if length < message.len() {
            return Ok(());
        }
        let [step, errno @ ..] = message;
        Err(explain(step, io::Error::from_raw_os_error(c_int::from_ne_bytes(errno)), plan))
    }

    async fn read_report(self, message: &mut [u8; 5]) -> io::Result<usize> {
        let report = watched(self.report)?;
        loop {
            let mut ready = report.readable().await?;
            if let Ok(read) = ready.try_io(|report| Ok(rustix::io::read(report.as_fd(), &mut message[..])?)) {
                return read;
            }
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

fn system(what: &'static str, error: io::Error) -> SpawnError {
    SpawnError::System(what, error)
}

fn fork_error(error: io::Error) -> SpawnError {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => SpawnError::ProcessLimit,
        _ => system("fork", error),
    }
}

fn explain(step: u8, error: io::Error, plan: &Plan) -> SpawnError {
    let program = || plan.argv.first().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let cwd = || plan.cwd.to_string_lossy().into_owned();
    let errno = error.raw_os_error();
    match step {
        step if step == Step::Directory as u8 => match errno {
            Some(libc::ENOENT) => SpawnError::MissingDirectory(cwd()),
            _ => SpawnError::Directory(cwd(), error),
        },
        step if step == Step::Exec as u8 => match errno {
            Some(libc::ENOENT | libc::ENOTDIR) => SpawnError::NotFound(program()),
            Some(libc::E2BIG) => SpawnError::TooLong,
            Some(libc::EAGAIN) => SpawnError::ProcessLimit,
            _ => SpawnError::Exec(program(), error),
        },
        step if step == Step::Credentials as u8 => SpawnError::Credentials(plan.uid, error),
        step if step == Step::Session as u8 => system("session", error),
        _ => system("streams", error),
    }
}

impl Child<'_> {
    /// The child's whole life before exec.
    fn run(&self) -> ! {
        let (step, errno) = match self.prepare() {
            Ok(()) => (Step::Exec, self.exec()),
            Err(failure) => failure,
        };
        let [a, b, c, d] = errno.to_ne_bytes();
        let message = [step as u8, a, b, c, d];
        // SAFETY: writes from a local array; `_exit` ends the process without touching the parent's memory.
        unsafe {
            libc::write(self.report, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        }
    }

    fn prepare(&self) -> Result<(), (Step, c_int)> {
        reset_signals();
        // SAFETY: plain system calls on numbers; all pointers are to memory prepared before the fork.
        unsafe {
            check(Step::Session, libc::setsid())?;
            self.connect_streams()?;
            libc::umask(0o022);
            oom_score::expose_command();
            self.become_user()?;
            if self.plan.no_new_privileges {
                check(Step::Credentials, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            }
            check(Step::Directory, libc::chdir(self.plan.cwd.as_ptr()))?;
        }
        Ok(())
    }

    /// # Safety
    /// Only between fork and exec.
    unsafe fn connect_streams(&self) -> Result<(), (Step, c_int)> {
        for (target, source) in self.streams.iter().enumerate() {
            let target = c_int::try_from(target).unwrap_or(0);
            // SAFETY: the descriptors are open: the parent holds them until after the fork.
            check(Step::Streams, unsafe { libc::dup2(*source, target) })?;
        }
        if self.terminal {
            // SAFETY: descriptor 0 is the terminal now.
            check(Step::Session, unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        // Every descriptor of the agent is close-on-exec already; this is the second wall, so its failure is no error.
        // SAFETY: marks descriptors, touches no memory.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    }

    /// # Safety
    /// Only between fork and exec. Raw calls: the C library's would try to tell threads that do not exist here.
    unsafe fn become_user(&self) -> Result<(), (Step, c_int)> {
        let plan = self.plan;
        // SAFETY: numbers only; the kernel reads `groups.len()` entries of a slice that long.
        unsafe {
            if libc::geteuid() == 0 {
                let groups = libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr());
                check_long(Step::Credentials, groups)?;
            } else if libc::geteuid() == plan.uid {
                return Ok(());
            }
            check_long(Step::Credentials, libc::syscall(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid))?;
            check_long(Step::Credentials, libc::syscall(libc::SYS_setresuid, plan.uid, plan.uid, plan.uid))
        }
    }

    /// Tries every candidate; what is no permission comes before what is not there, as in a shell.
    fn exec(&self) -> c_int {
        let mut worst = libc::ENOENT;
        for file in &self.plan.candidates {
            // SAFETY: both arrays end with a null pointer and outlive the call.
            unsafe { libc::execve(file.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => worst = libc::EACCES,
                other => return other,
            }
        }
        worst
    }
}

/// All signals to their defaults, none blocked.
fn reset_signals() {
    // The kernel's own structure, all zero: SIG_DFL, no flags, nothing masked. Raw, because the C library keeps two
    // signals to itself.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads a structure of that size; what cannot be changed answers with an error, which is fine.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8);
        }
    }
    // SAFETY: the set is initialised by sigemptyset before it is used.
    unsafe {
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

fn errno() -> c_int {
    // SAFETY: the location of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

fn check(step: Step, result: c_int) -> Result<(), (Step, c_int)> {
    check_long(step, result.into())
}

fn check_long(step: Step, result: libc::c_long) -> Result<(), (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(()) }
}
