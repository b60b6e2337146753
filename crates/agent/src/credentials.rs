//! Lets one thread reach files as a user does, so that the kernel's own rules decide. Other threads keep theirs.

use std::io;
use std::sync::OnceLock;

use crate::users::Account;

/// Runs work with the file system identity of a user.
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
    set_ids(account.uid, account.gid)?;
    let result = work();
    drop(restore);
    Ok(result)
}

struct Restore(&'static [u32]);

impl Drop for Restore {
    fn drop(&mut self) {
        // Going back to what the process is allowed to be cannot fail.
        let _ = set_ids(0, effective_gid());
        let _ = set_groups(self.0);
    }
}

fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn effective_gid() -> u32 {
    rustix::process::getegid().as_raw()
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

/// The calls tell only what was set before, so each is asked again.
fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    let set = |call: libc::c_long, id: u32| {
        // SAFETY: numbers only; these calls change the calling thread alone.
        unsafe {
            libc::syscall(call, id);
            libc::syscall(call, u32::MAX) == libc::c_long::from(id)
        }
    };
    if set(libc::SYS_setfsgid, gid) && set(libc::SYS_setfsuid, uid) {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}
