//! Network namespaces: making, pinning, entering and leaving them. Knows nothing of what is inside.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

const NSFS_MAGIC: u64 = 0x6e73_6673;

/// The network namespace of a process (`/proc/PID/ns/net`).
pub fn of_process(pid: u32) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from)
}

pub(super) fn current() -> io::Result<OwnedFd> {
    File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
}

/// Runs `work` in `netns` on a thread of its own, so that the calling thread can never be left in the wrong one.
pub(super) fn run_in<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    throwaway(|| {
        enter(netns)?;
        work()
    })
}

/// Runs `work` in `netns` on the calling thread and comes back: for a single-threaded launcher, which must stay
/// one (a new user namespace needs that).
pub(super) fn visit<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> io::Result<T> {
    let home = current()?;
    enter(netns)?;
    let result = work();
    enter(home.as_fd())?;
    Ok(result)
}

/// Runs `work` in a new namespace that ends with it.
pub(super) fn run_in_new<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    throwaway(|| {
        unshare()?;
        work()
    })
}

/// Opens the namespace pinned at `path`; `None` when none is (a file that a crash left unmounted counts as none).
pub(super) fn open_pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let kind = rustix::fs::fstatfs(&file)?.f_type;
    Ok((u64::try_from(kind) == Ok(NSFS_MAGIC)).then(|| file.into()))
}

/// Makes a namespace and pins it at `path` by a bind mount.
pub(super) fn create_pinned(path: &Path) -> io::Result<OwnedFd> {
    File::create(path)?;
    throwaway(|| {
        unshare()?;
        rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?;
        Ok(())
    })?;
    // A private mount: a copy of it carried away by somebody's new mount namespace must not outlive ours.
    rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE)?;
    open_pinned(path)?.ok_or_else(|| io::Error::other("the pinned namespace is not there"))
}

/// Takes the pin away, however often it was mounted over; nothing to do is success.
pub(super) fn unpin(path: &Path) -> io::Result<()> {
    while open_pinned(path)?.is_some() {
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
    }
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

pub(super) fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(Into::into)
}

fn unshare() -> io::Result<()> {
    // SAFETY: only CLONE_NEWNET is asked for; it changes no descriptor table, memory or filesystem state.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}

fn throwaway<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}
