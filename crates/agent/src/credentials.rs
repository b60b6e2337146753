//! Lets one thread reach files as a user does, so that the kernel's own rules decide. Other threads keep theirs. It changes
//! the effective ids, because gVisor has none for the file system alone; real and saved ones stay, and lead back.

use std::io;
use std::sync::OnceLock;

use crate::users::Account;

/// Runs work with the effective identity of a user.
pub fn with<T>(account: &Account, work: impl FnOnce() -> T) -> io::Result<T> {
    let own = effective_uid();
    if own == account.uid {
        return Ok(work());
    }
    if own != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // Before the first change: what is restored afterwards.
    let original = original_groups();
    let restore = Restore(original);
    set_groups(&account.groups)?;
    set_id(libc::SYS_setresgid, account.gid)?;
    set_id(libc::SYS_setresuid, account.uid)?;
    let result = work();
    drop(restore);
    Ok(result)
}

struct Restore(&'static [u32]);

impl Drop for Restore {
    fn drop(&mut self) {
        // Going back to what the process is allowed to be cannot fail.
        let _ = set_id(libc::SYS_setresuid, 0);
        let _ = set_id(libc::SYS_setresgid, rustix::process::getgid().as_raw());
        let _ = set_groups(self.0);
    }
}

fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn original_groups() -> &'static [u32] {
    static GROUPS: OnceLock<Vec<u32>> = OnceLock::new();
    GROUPS.get_or_init(|| {
        let groups = rustix::process::getgroups().unwrap_or_default();
        groups.into_iter().map(rustix::process::Gid::as_raw).collect()
    })
}

/// Raw, because the C library's call would change every thread.
fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads `groups.len()` entries of a slice that long.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The effective one of three; raw for the same reason.
fn set_id(call: libc::c_long, id: u32) -> io::Result<()> {
    const KEEP: u32 = u32::MAX;
    // SAFETY: numbers only; these calls change the calling thread alone.
    let result = unsafe { libc::syscall(call, KEEP, id, KEEP) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
