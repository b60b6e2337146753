//! Makes the files of a layer, by calls relative to open directories and without following any link.
//! Knows nothing of tar's format or of where the layer lies.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    Limits, UnpackError,
    tarball::{Entry, Kind, TarReader},
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// Unpacks entries below one directory.
pub(super) struct Unpacker {
    root: OwnedFd,
    limits: Limits,
    entries: u64,
    /// Times of directories, set last because making files inside changes them.
    times: Vec<(Vec<u8>, (i64, i64))>,
    /// The directory of the last entry: the next one is mostly in the same.
    last_parent: Option<(Vec<u8>, OwnedFd)>,
}

/// A path within the layer: the directory's part, and the name in it; the root has no name.
struct Place {
    parent: Vec<u8>,
    name: Vec<u8>,
}

impl Unpacker {
    pub(super) fn new(root: OwnedFd, limits: Limits) -> Self {
        Self { root, limits, entries: 0, times: Vec::new(), last_parent: None }
    }

    /// Makes one entry.
    pub(super) fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::TooLarge { limit: format!("{} entries", self.limits.entries) });
        }
        let place = place(&entry.path).map_err(|reason| UnpackError::refused(&entry.path, reason))?;
        if place.name.is_empty() {
            return self.root_itself(entry);
        }
        let parent = self.parent(&place, &entry.path)?;
        let made = if place.name.starts_with(WHITEOUT) {
            self.whiteout(parent.as_fd(), &place, entry)
        } else {
            self.make(parent.as_fd(), &place, entry, data)
        };
        self.last_parent = Some((place.parent, parent));
        made
    }

    /// Sets what must be set last.
    pub(super) fn finish(mut self) -> Result<(), UnpackError> {
        while let Some((path, mtime)) = self.times.pop() {
            match self.open(&path) {
                Ok(directory) => fs::futimens(&directory, &stamps(mtime))
                    .map_err(|e| UnpackError::write(&path, "set the time of the directory", e))?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {} // replaced by a later entry
                Err(error) => return Err(UnpackError::write(&path, "open the directory", error)),
            }
        }
        Ok(())
    }

    fn root_itself(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(UnpackError::refused(&entry.path, "the layer's root can only be a directory"));
        }
        self.times.push((Vec::new(), entry.mtime));
        dress(self.root.as_fd(), entry)
    }

    /// A directory within the layer; no component may be a link.
    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { b"." } else { path };
        fs::openat2(&self.root, OsStr::from_bytes(path), flags, Mode::empty(), resolve)
    }

    /// The directory that an entry goes into; made when no entry made it.
    fn parent(&mut self, place: &Place, entry: &[u8]) -> Result<OwnedFd, UnpackError> {
        if let Some((path, open)) = self.last_parent.take()
            && path == place.parent
        {
            return Ok(open);
        }
        match self.open(&place.parent) {
            Err(Errno::NOENT) => self.make_parents(&place.parent, entry),
            Err(Errno::LOOP) => Err(UnpackError::refused(entry, "its path leads through a symbolic link")),
            Err(Errno::NOTDIR) => {
                Err(UnpackError::refused(entry, "its path leads through something that is no directory"))
            }
            opened => opened.map_err(|e| UnpackError::write(entry, "open its directory", e)),
        }
    }

    fn make_parents(&mut self, path: &[u8], entry: &[u8]) -> Result<OwnedFd, UnpackError> {
        for end in path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()])
        {
            let upper = path[..end].iter().rposition(|b| *b == b'/').unwrap_or(0);
            let name = path[upper..end].strip_prefix(b"/").unwrap_or(&path[upper..end]);
            let directory = self.open(&path[..upper]).map_err(|e| through(entry, e))?;
            match fs::mkdirat(&directory, OsStr::from_bytes(name), Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    self.entries += 1;
                    let made = self.open(&path[..end]).map_err(|e| through(entry, e))?;
                    fs::fchmod(&made, Mode::from_raw_mode(0o755))
                        .map_err(|e| UnpackError::write(entry, "set the mode of its directory", e))?;
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(UnpackError::write(entry, "make its directory", error)),
            }
        }
        self.open(path).map_err(|e| through(entry, e))
    }

    fn make<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        place: &Place,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        match entry.kind {
            Kind::Directory => self.directory(parent, place, entry),
            Kind::File => self.file(parent, place, entry, data),
            Kind::Symlink => symlink(parent, place, entry),
            Kind::Hardlink => self.hardlink(parent, place, entry),
            Kind::Fifo => fifo(parent, place, entry),
            Kind::CharDevice | Kind::BlockDevice => Err(UnpackError::refused(
                &entry.path,
                "it is a device; a sandbox has its own, small set of devices",
            )),
            Kind::Other(byte) => {
                let reason = format!("its type `{}` is not known", byte.escape_ascii());
                Err(UnpackError::refused(&entry.path, reason))
            }
        }
    }

    /// A directory that is there already gets the later entry's owner, mode and time.
    fn directory(&mut self, parent: BorrowedFd<'_>, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        let name = OsStr::from_bytes(&place.name);
        let fail = |e| UnpackError::write(&entry.path, "make the directory", e);
        let mut hides_lower = false;
        match fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    hides_lower = FileType::from_raw_mode(there.st_mode) == FileType::CharacterDevice;
                    fs::unlinkat(parent, name, AtFlags::empty()).map_err(fail)?;
                    fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(fail)?;
                }
            }
            Err(error) => return Err(fail(error)),
        }
        let made = open_in(parent, name).map_err(fail)?;
        if hides_lower {
            set_opaque(made.as_fd(), &entry.path)?;
        }
        self.times.push((join(place), entry.mtime));
        dress(made.as_fd(), entry)
    }

    fn file<R: Read>(
        &self,
        parent: BorrowedFd<'_>,
        place: &Place,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let size = entry.sparse.as_ref().map_or(data.remaining(), |sparse| sparse.size);
        if size > self.limits.bytes {
            return Err(UnpackError::TooLarge { limit: format!("{} bytes", self.limits.bytes) });
        }
        clear(parent, place, &entry.path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(parent, OsStr::from_bytes(&place.name), flags, Mode::from_raw_mode(0o600))
            .map_err(|e| UnpackError::write(&entry.path, "make the file", e))?;
        let file = std::fs::File::from(file);
        match &entry.sparse {
            None => write_parts(&file, &[(0, size)], &entry.path, data)?,
            Some(sparse) => {
                write_parts(&file, &sparse.parts, &entry.path, data)?;
                file.set_len(size)
                    .map_err(|e| UnpackError::write(&entry.path, "set the size of the file", e))?;
            }
        }
        dress(file.as_fd(), entry)?;
        fs::futimens(&file, &stamps(entry.mtime))
            .map_err(|e| UnpackError::write(&entry.path, "set the time", e))
    }

    /// A second name for a file that an earlier entry of the same layer made.
    fn hardlink(&self, parent: BorrowedFd<'_>, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        let refuse = |reason: &str| UnpackError::refused(&entry.path, reason);
        if entry.link.starts_with(b"/") {
            return Err(refuse("a hard link with an absolute target"));
        }
        let target =
            self::place(&entry.link).map_err(|reason| refuse(&format!("its link's target: {reason}")))?;
        if target.name.is_empty() || (target.parent == place.parent && target.name == place.name) {
            return Err(refuse("a hard link to itself or to the root"));
        }
        let directory = self.open(&target.parent).map_err(|e| match e {
            Errno::NOENT => refuse("a hard link to a file that is not in this layer"),
            error => through(&entry.path, error),
        })?;
        let name = OsStr::from_bytes(&target.name);
        match fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|s| FileType::from_raw_mode(s.st_mode))
        {
            Ok(FileType::RegularFile | FileType::Symlink | FileType::Fifo) => {}
            Ok(_) => return Err(refuse("a hard link to something that is no file")),
            Err(_) => return Err(refuse("a hard link to a file that is not in this layer")),
        }
        clear(parent, place, &entry.path)?;
        fs::linkat(&directory, name, parent, OsStr::from_bytes(&place.name), AtFlags::empty())
            .map_err(|e| UnpackError::write(&entry.path, "make the hard link", e))
    }

    /// Markers of what a layer takes away from those below it, turned into overlayfs's own.
    fn whiteout(&self, parent: BorrowedFd<'_>, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        if place.name == OPAQUE {
            return set_opaque(parent, &entry.path);
        }
        let hidden = &place.name[WHITEOUT.len()..];
        if hidden.starts_with(WHITEOUT) {
            return Ok(()); // housekeeping of a file system that is no more
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(UnpackError::refused(&entry.path, "it marks nothing as removed"));
        }
        let name = OsStr::from_bytes(hidden);
        match fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), fs::makedev(0, 0)) {
            Err(Errno::EXIST) => match open_in(parent, name) {
                // The layer makes it anew: what is below must not show through.
                Ok(directory) => set_opaque(directory.as_fd(), &entry.path),
                Err(_) => Ok(()),
            },
            made => made.map_err(|e| UnpackError::write(&entry.path, "mark it as removed", e)),
        }
    }
}

/// Splits and checks a path: relative to the layer's root, whatever it starts with, and never out of it.
fn place(path: &[u8]) -> Result<Place, &'static str> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its path contains `..`"),
            _ if part.len() > MAX_NAME => return Err("a name in its path is longer than 255 bytes"),
            _ if part.contains(&0) => return Err("its path contains a zero byte"),
            _ => parts.push(part),
        }
    }
    let name = parts.pop().unwrap_or_default().to_vec();
    let parent = parts.join(&b'/');
    if parent.len() + 1 + name.len() > MAX_PATH {
        return Err("its path is longer than 4095 bytes");
    }
    Ok(Place { parent, name })
}

fn join(place: &Place) -> Vec<u8> {
    if place.parent.is_empty() { place.name.clone() } else { [&place.parent[..], &place.name].join(&b'/') }
}

fn open_in(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// Removes what an earlier entry of the same name made; a directory only when it is empty.
fn clear(parent: BorrowedFd<'_>, place: &Place, entry: &[u8]) -> Result<(), UnpackError> {
    let name = OsStr::from_bytes(&place.name);
    let removed = match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY) => {
            Err(UnpackError::refused(entry, "it replaces a directory that has files in it"))
        }
        Err(error) => Err(UnpackError::write(entry, "replace an earlier entry", error)),
    }
}

fn write_parts<R: Read>(
    file: &std::fs::File,
    parts: &[(u64, u64)],
    entry: &[u8],
    data: &mut TarReader<R>,
) -> Result<(), UnpackError> {
    let mut buffer = vec![0; 128 << 10];
    for (offset, length) in parts {
        let mut done = 0;
        while done < *length {
            let room = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            let read = data.read(&mut buffer[..room])?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            file.write_all_at(&buffer[..read], offset + done)
                .map_err(|e| UnpackError::write(entry, "write the file", e))?;
            done += read as u64;
        }
    }
    Ok(())
}

fn symlink(parent: BorrowedFd<'_>, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
    if entry.link.is_empty() || entry.link.len() > MAX_PATH || entry.link.contains(&0) {
        return Err(UnpackError::refused(&entry.path, "a symbolic link whose target is empty or too long"));
    }
    clear(parent, place, &entry.path)?;
    fs::symlinkat(OsStr::from_bytes(&entry.link), parent, OsStr::from_bytes(&place.name))
        .map_err(|e| UnpackError::write(&entry.path, "make the symbolic link", e))?;
    dress_by_name(parent, place, entry)
}

fn fifo(parent: BorrowedFd<'_>, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
    clear(parent, place, &entry.path)?;
    let name = OsStr::from_bytes(&place.name);
    let fail = |e| UnpackError::write(&entry.path, "make the named pipe", e);
    fs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(fail)?;
    dress_by_name(parent, place, entry)?;
    // Just made here, in a directory that nobody else sees: it cannot be a link.
    fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).map_err(fail)
}

/// Owner and time of what cannot be opened.
fn dress_by_name(parent: BorrowedFd<'_>, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
    let name = OsStr::from_bytes(&place.name);
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| UnpackError::write(&entry.path, "set the owner", e))?;
    fs::utimensat(parent, name, &stamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| UnpackError::write(&entry.path, "set the time", e))
}

/// Owner, then mode, then attributes: a change of owner takes set-uid bits and capabilities away.
fn dress(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
    fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
        .map_err(|e| UnpackError::write(&entry.path, "set the owner", e))?;
    fs::fchmod(file, Mode::from_raw_mode(entry.mode))
        .map_err(|e| UnpackError::write(&entry.path, "set the mode", e))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        match fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Err(Errno::INVAL | Errno::RANGE | Errno::TOOBIG) => {
                return Err(UnpackError::refused(
                    &entry.path,
                    "it has an extended attribute that is not valid",
                ));
            }
            set => set.map_err(|e| UnpackError::write(&entry.path, "set an extended attribute", e))?,
        }
    }
    Ok(())
}

/// Attributes a layer may bring; overlayfs's own and the security modules' are never taken from it.
fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn set_opaque(directory: BorrowedFd<'_>, entry: &[u8]) -> Result<(), UnpackError> {
    fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(|e| UnpackError::write(entry, "hide what is below the directory", e))
}

fn stamps((seconds, nanos): (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    Timestamps { last_access: time, last_modification: time }
}

fn through(entry: &[u8], error: Errno) -> UnpackError {
    match error {
        Errno::LOOP => UnpackError::refused(entry, "its path leads through a symbolic link"),
        Errno::NOTDIR => UnpackError::refused(entry, "its path leads through something that is no directory"),
        error => UnpackError::write(entry, "open its directory", error),
    }
}
