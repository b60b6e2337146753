//! Copies what is in one directory into another, empty one, with owners, modes, times and links: how a new volume begins
//! with what an image has at its place, from outside a sandbox and from inside. Nobody else may change either meanwhile. It must
//! not know what is copied.

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat,
        mkdirat, mknodat, openat, readlinkat, statat, symlinkat, utimensat,
    },
    io::Errno,
    process::geteuid,
};
use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies everything in `from`. Devices and sockets are left out: nobody inside could make the ones, and the others lead
/// nowhere without their program. Who is not root leaves out what they may not read, and owns what they copied.
///
/// # Errors
/// As the first step that fails. What was copied before stays.
pub fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name)?;
        }
    }
    Ok(())
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let found = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    match kind {
        FileType::Directory => {
            let Some(source) = readable(openat(from, name, DIRECTORY, Mode::empty()))? else { return Ok(()) };
            mkdirat(to, name, Mode::RWXU)?;
            contents(source.as_fd(), openat(to, name, DIRECTORY, Mode::empty())?.as_fd())?;
        }
        FileType::RegularFile => {
            let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            let Some(source) = readable(openat(from, name, flags, Mode::empty()))? else { return Ok(()) };
            file(source, to, name)?;
        }
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
        FileType::Fifo => mknodat(to, name, FileType::Fifo, Mode::RWXU, 0)?,
        _ => return Ok(()),
    }
    keep(to, name, &found, kind)
}

/// What was opened, unless whoever asked may not read it.
fn readable(opened: rustix::io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Err(Errno::ACCESS) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

fn file(source: OwnedFd, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let made = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let target: OwnedFd = openat(to, name, made, Mode::RUSR | Mode::WUSR)?;
    io::copy(&mut File::from(source), &mut File::from(target)).map(drop)
}

/// The owner goes first: a change of it takes setuid away.
fn keep(to: BorrowedFd<'_>, name: &CStr, found: &Stat, kind: FileType) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    match chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::PERM) if !geteuid().is_root() => {}
        changed => changed?,
    }
    if kind != FileType::Symlink {
        chmodat(to, name, Mode::from_raw_mode(found.st_mode & 0o7777), AtFlags::empty())?;
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps {
        last_access: time(found.st_atime, found.st_atime_nsec),
        last_modification: time(found.st_mtime, found.st_mtime_nsec),
    };
    Ok(utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    };

    #[test]
    fn files_links_and_folders_keep_what_they_are() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| from.path().join(name);
        fs::create_dir_all(at("deep/er")).unwrap();
        fs::write(at("deep/er/file"), "content").unwrap();
        fs::set_permissions(at("deep/er/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(at("deep"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        mknodat(File::open(from.path()).unwrap(), "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let (source, target) = (File::open(from.path()).unwrap(), File::open(to.path()).unwrap());
        contents(source.as_fd(), target.as_fd()).unwrap();
        let file = fs::metadata(to.path().join("deep/er/file")).unwrap();
        let original = fs::metadata(at("deep/er/file")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.mtime_nsec()), (0o4751, original.mtime_nsec()));
        assert_eq!(fs::read(to.path().join("deep/er/file")).unwrap(), b"content");
        assert_eq!(fs::metadata(to.path().join("deep")).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(to.path().join("link")).unwrap().as_os_str(), "/etc/passwd");
        assert!(fs::metadata(to.path().join("fifo")).unwrap().file_type().is_fifo());
        assert!(!to.path().join("socket").exists());
        assert!(contents(source.as_fd(), target.as_fd()).is_err(), "nothing is overwritten");
    }
}
