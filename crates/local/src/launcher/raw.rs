//! The few system calls that no library wraps in the form in which the launcher needs them, and its small error type.
//! It must not decide anything.

use std::{
    ffi::{CStr, CString},
    fmt, io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// A step that failed, with what was tried.
#[derive(Debug)]
pub struct StepError(pub String);

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Result of a step.
pub type Step<T = ()> = Result<T, StepError>;

/// Says what was tried when it fails.
pub trait During<T> {
    /// Adds `what` to the failure.
    fn during(self, what: impl fmt::Display) -> Step<T>;
}

impl<T, E: fmt::Display> During<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Step<T> {
        self.map_err(|error| StepError(format!("{what}: {error}")))
    }
}

/// Turns a C return value into a result.
pub fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// A path as the kernel takes it.
pub fn cstring(path: &Path) -> Step<CString> {
    CString::new(path.as_os_str().as_bytes()).during(path.display())
}

/// The two sides of a fork.
pub enum Fork {
    /// In the new process.
    Child,
    /// In the old one, with the child's pid.
    Parent(i32),
}

/// Forks this single-threaded process.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the helper has one thread and holds no lock, so the child may go on as the parent could.
    match check(libc::c_long::from(unsafe { libc::fork() }))? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Does something in a process of its own, for what cannot be taken back: a root, a uid.
pub fn apart(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match fork()? {
        Fork::Child => exit(work().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO))),
        Fork::Parent(child) => {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the status.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            match (waited == child && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status)) {
                Some(0) => Ok(()),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(io::Error::other("the process that did it was killed")),
            }
        }
    }
}

/// Leaves at once, without running anything of the process it was forked from.
pub fn exit(code: i32) -> ! {
    // SAFETY: takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Waits for a child of ours; `true` when it exited with 0.
pub fn wait_ok(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the status.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    waited == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

/// Kills a process and its pid namespace with it.
pub fn kill(pid: i32) {
    // SAFETY: takes no memory. The pid is of a child whose end nobody has waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Makes new namespaces for this process (for pids: for its children).
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no memory.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// Becomes `id` as user and group, real, effective and saved, with no supplementary groups. The calls are made directly:
/// the C library's would look for threads.
pub fn become_id(id: u32) -> io::Result<()> {
    // SAFETY: none of the three calls takes memory but setgroups, which gets none.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        check(libc::syscall(libc::SYS_setresgid, id, id, id))?;
        check(libc::syscall(libc::SYS_setresuid, id, id, id)).map(drop)
    }
}

/// `mount(2)`.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong, data: &CStr) -> io::Result<()> {
    let data = data.as_ptr().cast();
    // SAFETY: all strings end with NUL and outlive the call.
    check(libc::c_long::from(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data)
    }))
    .map(drop)
}

/// A detached copy of the mount at `path`, not of what is mounted below it.
pub fn clone_mount(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: `path` ends with NUL; the result is a new descriptor of ours.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Adds attributes to a detached mount; `userns` maps its ids.
pub fn set_attributes(
    tree: BorrowedFd<'_>,
    attributes: u64,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    change_attributes(tree, attributes, 0, userns)
}

/// Adds attributes to a detached mount and takes others away; `userns` maps its ids.
pub fn change_attributes(
    tree: BorrowedFd<'_>,
    attributes: u64,
    cleared: u64,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let idmap = if userns.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 };
    let attr = libc::mount_attr {
        attr_set: attributes | idmap,
        attr_clr: cleared,
        propagation: 0,
        userns_fd: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: `attr` is a valid mount_attr of the size given, the path is empty as the flag asks.
    unsafe {
        let (fd, empty) = (tree.as_raw_fd(), c"".as_ptr());
        check(libc::syscall(libc::SYS_mount_setattr, fd, empty, libc::AT_EMPTY_PATH, &raw const attr, size))
            .map(drop)
    }
}

/// Attaches a detached mount.
pub fn attach(tree: BorrowedFd<'_>, target: &CStr) -> io::Result<()> {
    move_mount(tree, libc::AT_FDCWD, target, libc::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Attaches a detached mount to the very directory that is open.
pub fn attach_to(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, target.as_raw_fd(), c"", flags)
}

fn move_mount(
    tree: BorrowedFd<'_>,
    directory: libc::c_int,
    target: &CStr,
    flags: libc::c_uint,
) -> io::Result<()> {
    // SAFETY: both paths end with NUL.
    unsafe {
        let (fd, empty) = (tree.as_raw_fd(), c"".as_ptr());
        check(libc::syscall(libc::SYS_move_mount, fd, empty, directory, target.as_ptr(), flags)).map(drop)
    }
}

/// Joins the user namespace as its root, with every capability in it and none outside. To be done in a process of its own.
pub fn become_root_of(userns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no memory.
    check(libc::c_long::from(unsafe { libc::setns(userns.as_raw_fd(), libc::CLONE_NEWUSER) }))?;
    become_id(0)
}

/// Makes the current directory the root; the old root is stacked on it until [`leave_here`].
pub fn pivot_here() -> io::Result<()> {
    // SAFETY: both paths end with NUL.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// Takes off the mount that is the current directory, with all below it.
pub fn leave_here() -> io::Result<()> {
    // SAFETY: the path ends with NUL.
    check(libc::c_long::from(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })).map(drop)
}
