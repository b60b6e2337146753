//! A user's volumes in the new root. Their files have the ids that are inside a sandbox; an idmapped mount shows them in
//! the range of this one. Where a volume goes is looked up inside the new root, where no link leads out, before anything
//! of the sandbox runs. It must not know whose they are.

use rustix::{
    fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, openat, openat2},
    process::chroot,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use super::{
    Launch, files,
    mounts::ROOT,
    raw::{self, During, Step, cstring},
};

/// What is shown of a volume: beside it, an ext4 has a directory of its own.
const FILES: &str = "files";
/// More of a list of users or groups than this is not read.
const LIST_LIMIT: u64 = 1 << 20;

/// A volume to be mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Where, inside.
    pub path: String,
    /// The directory, or the file with a filesystem in it.
    pub from: PathBuf,
    /// Whether it is a file.
    pub is_file: bool,
    /// Whether it is empty, to be filled with what the image has there.
    pub fresh: bool,
    /// Whose the top of a fresh one is: a name or `uid`, each with `:group` or without. One whom the image does not know
    /// counts as root.
    pub user: String,
}

/// Mounts the volumes on the root in the workplace, by the ids of `userns`.
pub fn mount(launch: &Launch, userns: Option<BorrowedFd<'_>>) -> Step {
    for (index, volume) in launch.volumes.iter().enumerate() {
        attach(volume, index, userns).during(format_args!("mount the volume at {}", volume.path))?;
    }
    Ok(())
}

fn attach(volume: &Attached, index: usize, userns: Option<BorrowedFd<'_>>) -> Step {
    let tree = raw::clone_mount(&cstring(&files_of(volume, index)?)?).during("clone its mount")?;
    // As on the root, setuid programs have their effect, where the template lets them.
    let (nodev, nosuid) = (libc::MOUNT_ATTR_NODEV, libc::MOUNT_ATTR_NOSUID);
    raw::change_attributes(tree.as_fd(), nodev, nosuid, userns).during("map its ids")?;
    if volume.fresh || place(&volume.path).is_err() {
        let settled = raw::apart(|| {
            enter(userns)?;
            settle(volume, tree.as_fd())
        });
        settled.during("make its place and fill it with what the image has there")?;
    }
    let place = place(&volume.path).during("find its place")?;
    raw::attach_to(tree.as_fd(), place.as_fd()).during("attach it")
}

/// Where its files are, outside.
fn files_of(volume: &Attached, index: usize) -> Step<PathBuf> {
    let root = if volume.is_file {
        let root = PathBuf::from(format!("volume{index}"));
        files::mount_at(&volume.from, &root)?;
        root
    } else {
        volume.from.clone()
    };
    let files = root.join(FILES);
    if volume.fresh {
        fs::create_dir(&files).during("make the top of it")?;
    }
    Ok(files)
}

/// The directory of that name in the new root. Links are followed as they would be inside.
fn place(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(ROOT, flags, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&root, path, flags, Mode::empty(), inside)?)
}

/// Goes on as root of the sandbox in its new root: what is made there is the sandbox's, and nothing else can be reached.
fn enter(userns: Option<BorrowedFd<'_>>) -> io::Result<()> {
    chroot(ROOT)?;
    std::env::set_current_dir("/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    userns.map_or(Ok(()), raw::become_root_of)
}

fn settle(volume: &Attached, tree: BorrowedFd<'_>) -> io::Result<()> {
    fs::create_dir_all(&volume.path)?;
    if !volume.fresh {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let image = rustix::fs::open(&volume.path, flags, Mode::empty())?;
    let top = openat(tree, ".", flags, Mode::empty())?;
    atoll_tree::contents(image.as_fd(), top.as_fd())?;
    let (uid, gid) = owner(&volume.user, &read_list("/etc/passwd"), &read_list("/etc/group"));
    fchown(&top, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(fchmod(&top, Mode::from_raw_mode(fstat(&image)?.st_mode & 0o7777))?)
}

/// A list of the image's, which may be anything: what is no file is empty.
fn read_list(path: &str) -> String {
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.ok().filter(|file| file.metadata().is_ok_and(|found| found.is_file()));
    let mut text = Vec::new();
    // What can be read of it counts.
    let _ = file.map(|file| file.take(LIST_LIMIT).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Ids of a user as images name them.
fn owner(user: &str, passwd: &str, group: &str) -> (u32, u32) {
    let (name, named_group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let listed = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (known, id) = (fields.next()?, fields.nth(1)?);
        let wanted = known == name || id == name;
        wanted.then(|| Some((id.parse().ok()?, fields.next()?.parse().ok()?)))?
    });
    let (uid, gid) = listed.or_else(|| Some((name.parse().ok()?, 0))).unwrap_or((0, 0));
    (uid, named_group.and_then(|name| group_id(name, group)).unwrap_or(gid))
}

fn group_id(name: &str, group: &str) -> Option<u32> {
    let listed = group.lines().find(|line| line.split(':').next() == Some(name));
    listed.and_then(|line| line.split(':').nth(2)).unwrap_or(name).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_found_as_images_name_them() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nuser:x:1000:1001::/home/user:/bin/sh\n";
        let group = "root:x:0:\nstaff:x:50:user\n";
        for (user, ids) in [
            ("user", (1000, 1001)),
            ("1000", (1000, 1001)),
            ("user:staff", (1000, 50)),
            ("user:7", (1000, 7)),
            ("1234", (1234, 0)),
            ("1234:5", (1234, 5)),
            ("root", (0, 0)),
            ("nobody-here", (0, 0)),
            ("", (0, 0)),
        ] {
            assert_eq!(owner(user, passwd, group), ids, "{user:?}");
        }
    }
}
