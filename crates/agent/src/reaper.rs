//! Signals to the agent itself: the one place where children are waited for, and where being told to stop is heard.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use rustix::process::{Pid, WaitOptions};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::descriptor::watched;
use crate::table::Table;

const SIGNALS: [i32; 4] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// What was heard.
pub enum Heard {
    /// Children may have ended.
    Children,
    /// The sandbox shall stop.
    Stop,
}

/// The descriptor the agent's signals arrive at.
pub struct Signals(AsyncFd<OwnedFd>);

/// Blocks the signals that are read from a descriptor; before any thread is made.
pub fn block() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; signalfd returns a new descriptor that we own.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

impl Signals {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(watched(fd)?))
    }

    pub async fn next(&self) -> io::Result<Heard> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), &mut info[..])?));
            let Ok(read) = read else { continue };
            read?;
            let [a, b, c, d, ..] = info;
            let number = u32::from_ne_bytes([a, b, c, d]);
            let children = number == libc::SIGCHLD.unsigned_abs();
            return Ok(if children { Heard::Children } else { Heard::Stop });
        }
    }
}

enum Child {
    Ended(Pid),
    AllRunning,
    None,
}

/// Waits for every child that has ended.
pub fn reap(table: &Arc<Table>, progress: &watch::Sender<()>) {
    while let Child::Ended(pid) = next_child() {
        reap_one(table, pid);
    }
    progress.send_replace(());
}

/// Whether anything is left in the sandbox: whoever lives has an ancestor that is the agent's child.
pub fn has_children() -> bool {
    !matches!(next_child(), Child::None)
}

/// Looks before it waits, so that what belongs to the child is dealt with while the kernel still keeps its number.
fn reap_one(table: &Arc<Table>, pid: Pid) {
    let number = pid.as_raw_nonzero().get();
    table.before_reap(number);
    if let Ok(Some((_, status))) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
        table.reaped(number, status.exit_status(), status.terminating_signal());
    }
}

fn next_child() -> Child {
    // SAFETY: the structure is plain numbers, for which zero is valid, and the kernel fills it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` lives through the call, and its child fields are zero or set by it.
    let (result, pid) = unsafe { (libc::waitid(libc::P_ALL, 0, &raw mut info, options), info.si_pid()) };
    match Pid::from_raw(pid) {
        _ if result != 0 => Child::None,
        Some(pid) => Child::Ended(pid),
        None => Child::AllRunning,
    }
}
