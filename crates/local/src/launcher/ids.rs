//! Which ids inside are which outside: the maps of user namespaces, of sandboxes and of mounts. It must not know what is
//! mounted.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::OwnedFd,
};

use super::{
    UIDS_PER_SANDBOX,
    raw::{self, Fork},
};

/// The map of a sandbox whose ids begin at `base`.
pub fn range(base: u32) -> String {
    format!("0 {base} {UIDS_PER_SANDBOX}")
}

/// The map of a mount on which files that have ids from `stored` on the disk show them from `shown`; `None` where the two
/// are the same. Root is on it as well, with an id of its own: as whom else would overlayfs make what marks a deleted file?
/// (Linux refuses to write for somebody who has no id on a mount.) Which one that is follows from the files' range alone, so
/// that it is the same whoever has them next.
pub fn shift(stored: u32, shown: u32) -> Option<String> {
    let root_stored = if stored == 0 { UIDS_PER_SANDBOX } else { 0 };
    // Where the sandbox's root is root, what overlayfs made is whose nobody is.
    let root_shown = if shown == 0 { UIDS_PER_SANDBOX } else { 0 };
    (stored != shown).then(|| format!("{stored} {shown} {UIDS_PER_SANDBOX}\n{root_stored} {root_shown} 1"))
}

/// Gives a user namespace that `pid` has made its map.
///
/// # Errors
/// When the kernel refuses.
pub fn set(pid: i32, map: &str) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), map)?;
    fs::write(format!("/proc/{pid}/gid_map"), map)
}

/// A user namespace with that map, made as `maker`: what the kernel counts for its maker is then counted for the sandbox.
/// It lives as long as its descriptor.
///
/// # Errors
/// When the kernel refuses.
pub fn user_namespace(maker: u32, map: &str) -> io::Result<OwnedFd> {
    let ((mut made, making), (going, go)) = (io::pipe()?, io::pipe()?);
    match raw::fork()? {
        Fork::Child => {
            drop((made, go));
            let founded = raw::become_id(maker).and_then(|()| raw::unshare(libc::CLONE_NEWUSER));
            drop(making);
            // Ends when the other side closes.
            let _ = (&going).read(&mut [0]);
            raw::exit(i32::from(founded.is_err()))
        }
        Fork::Parent(child) => {
            drop((making, going));
            let opened = made.read(&mut [0]).and_then(|_| {
                set(child, map)?;
                File::open(format!("/proc/{child}/ns/user"))
            });
            drop(go);
            if raw::wait_ok(child) {
                opened.map(OwnedFd::from)
            } else {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_an_id_of_its_own_on_every_mount() {
        assert_eq!(shift(300_000, 300_000), None);
        assert_eq!(shift(300_000, 400_000).unwrap(), "300000 400000 65536\n0 0 1");
        assert_eq!(shift(0, 400_000).unwrap(), "0 400000 65536\n65536 0 1");
        assert_eq!(shift(300_000, 0).unwrap(), "300000 0 65536\n0 65536 1");
    }
}
