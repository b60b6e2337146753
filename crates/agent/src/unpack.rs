//! A tar archive into a directory: unpacked beside its place, hidden, and moved there when it is complete. Nothing is
//! ever written outside, whatever the archive says. Blocking; whoever calls has taken on the user's credentials.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::app::random_hex;
use crate::entries;
use crate::spool::{HIDDEN_PREFIX, nearest_directory};

/// The first bytes of what gzip writes (RFC 1952, 2.3.1); no entry's name begins so.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("the archive cannot be read: {0}")]
    Archive(io::Error),
    #[error("the archive entry '{0}' leads outside of the directory")]
    Outside(String),
    #[error("the archive entry '{0}' is a device or another kind that is not unpacked")]
    Kind(String),
    #[error("'{0}' exists and is a directory, in the archive it is not")]
    Conflict(String),
}

/// An upload in progress. Dropping it leaves nothing behind.
pub struct Unpack {
    hidden: PathBuf,
    root: OwnedFd,
    target: PathBuf,
    done: bool,
}

impl Unpack {
    /// Begins an upload to an absolute path.
    pub fn begin(path: &str) -> Result<Self, UnpackError> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let base = match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => target.as_path(),
            Ok(_) => return Err(io::Error::from(io::ErrorKind::NotADirectory).into()),
            Err(_) => nearest_directory(&target)?,
        };
        let hidden = base.join(format!("{HIDDEN_PREFIX}{}", random_hex()));
        fs::create_dir(&hidden)?;
        let root = rustix::fs::open(&hidden, DIRECTORY, Mode::empty()).map_err(io::Error::from)?;
        Ok(Self { hidden, root, target, done: false })
    }

    /// The same as [`Unpack::run`], whether the archive was packed with gzip or not.
    pub fn run_packed(self, mut reader: impl Read) -> Result<u64, UnpackError> {
        let mut head = Vec::new();
        reader.by_ref().take(GZIP.len() as u64).read_to_end(&mut head).map_err(UnpackError::Archive)?;
        let packed = head == GZIP;
        let whole = io::Cursor::new(head).chain(reader);
        if packed { self.run(MultiGzDecoder::new(whole)) } else { self.run(whole) }
    }

    /// Unpacks everything and puts it in its place; gives the number of entries.
    pub fn run(mut self, reader: impl Read) -> Result<u64, UnpackError> {
        let mut archive = Archive::new(reader);
        let mut directories = Vec::new();
        let mut count = 0;
        for entry in archive.entries().map_err(UnpackError::Archive)? {
            let mut entry = entry.map_err(UnpackError::Archive)?;
            count += u64::from(self.entry(&mut entry, &mut directories)?);
        }
        // What follows the archive belongs to it; a connection that broke there shows itself here.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(UnpackError::Archive)?;
        // A directory that may not be written gets its mode when all is in it.
        for (path, mode) in directories.iter().rev() {
            let directory = self.walk(path, false)?;
            rustix::fs::fchmod(&directory, *mode).map_err(io::Error::from)?;
        }
        self.place()?;
        self.done = true;
        Ok(count)
    }

    fn entry(
        &self,
        entry: &mut Entry<'_, impl Read>,
        directories: &mut Vec<(PathBuf, Mode)>,
    ) -> Result<bool, UnpackError> {
        let path = inside(&entry.path_bytes())?;
        let kind = entry.header().entry_type();
        let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o777);
        let Some(name) = path.file_name() else {
            return Ok(false);
        };
        if kind == EntryType::Directory {
            self.walk(&path, true)?;
            directories.push((path, mode));
            return Ok(true);
        }
        if kind == EntryType::XGlobalHeader {
            return Ok(false);
        }
        let parent = self.walk(path.parent().unwrap_or(Path::new("")), true)?;
        clear(&parent, name)?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                write(entry, &parent, name, mode)?
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| UnpackError::Kind(show(&path)))?;
                let target = OsStr::from_bytes(&target);
                rustix::fs::symlinkat(target, &parent, name).map_err(io::Error::from)?;
            }
            EntryType::Link => self.link(entry, &parent, name)?,
            _ => return Err(UnpackError::Kind(show(&path))),
        }
        Ok(true)
    }

    /// A hard link to something that came earlier in the archive.
    fn link(&self, entry: &Entry<'_, impl Read>, parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = inside(&target)?;
        let target_name = target.file_name().ok_or_else(|| UnpackError::Outside(show(&target)))?;
        let directory = self.walk(target.parent().unwrap_or(Path::new("")), false)?;
        let linked = rustix::fs::linkat(&directory, target_name, parent, name, AtFlags::empty());
        Ok(linked.map_err(io::Error::from)?)
    }

    /// Opens a directory below the root one step at a time, following no link.
    fn walk(&self, path: &Path, create: bool) -> Result<OwnedFd, UnpackError> {
        let mut directory = self.root.try_clone()?;
        for part in path.components() {
            let part = part.as_os_str();
            if create {
                match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(io::Error::from(error).into()),
                }
            }
            directory = match rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty()) {
                Ok(directory) => directory,
                Err(Errno::LOOP | Errno::NOTDIR) => return Err(UnpackError::Outside(show(path))),
                Err(error) => return Err(io::Error::from(error).into()),
            };
        }
        Ok(directory)
    }

    fn place(&self) -> Result<(), UnpackError> {
        match rustix::fs::open(&self.target, DIRECTORY, Mode::empty()) {
            Ok(target) => {
                check(&self.root, &target, Path::new(""))?;
                merge(&self.root, &target)?;
                fs::remove_dir_all(&self.hidden)?;
            }
            Err(Errno::NOENT) => {
                entries::make_parents(&self.target)?;
                fs::rename(&self.hidden, &self.target)?;
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
        Ok(())
    }
}

impl Drop for Unpack {
    fn drop(&mut self) {
        if !self.done {
            // Nobody is left to tell.
            let _ = fs::remove_dir_all(&self.hidden);
        }
    }
}

/// The path of an entry, if it stays inside.
fn inside(bytes: &[u8]) -> Result<PathBuf, UnpackError> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => return Err(UnpackError::Outside(show(path))),
        }
    }
    Ok(clean)
}

fn show(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A later entry of an archive replaces an earlier one.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write(
    entry: &mut Entry<'_, impl Read>,
    parent: &OwnedFd,
    name: &OsStr,
    mode: Mode,
) -> Result<(), UnpackError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(io::Error::from)?;
    let mut file = File::from(file);
    copy(entry, &mut file)?;
    rustix::fs::fchmod(&file, mode).map_err(io::Error::from)?;
    let seconds = entry.header().mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    };
    Ok(rustix::fs::futimens(&file, &times).map_err(io::Error::from)?)
}

/// Tells errors of the archive from those of the disk.
fn copy(entry: &mut impl Read, file: &mut File) -> Result<(), UnpackError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match entry.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnpackError::Archive(error)),
        };
        io::Write::write_all(file, buffer.get(..length).unwrap_or_default())?;
    }
}

/// Names and kinds in a directory.
fn children(directory: &OwnedFd) -> io::Result<Vec<(PathBuf, bool)>> {
    let mut children = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            children.push((
                OsStr::from_bytes(name.to_bytes()).into(),
                is_directory(directory, name)? == Some(true),
            ));
        }
    }
    Ok(children)
}

/// Whether an entry is a directory and no link to one; nothing when it does not exist.
fn is_directory(directory: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Option<bool>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open_child(directory: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?)
}

/// Before anything is moved: can everything be?
fn check(from: &OwnedFd, to: &OwnedFd, below: &Path) -> Result<(), UnpackError> {
    for (name, directory) in children(from)? {
        match (directory, is_directory(to, &name)?) {
            (true, Some(true)) => {
                check(&open_child(from, &name)?, &open_child(to, &name)?, &below.join(&name))?
            }
            (false, Some(true)) => return Err(UnpackError::Conflict(show(&below.join(name)))),
            _ => {}
        }
    }
    Ok(())
}

fn merge(from: &OwnedFd, to: &OwnedFd) -> Result<(), UnpackError> {
    for (name, directory) in children(from)? {
        match (directory, is_directory(to, &name)?) {
            (true, Some(true)) => merge(&open_child(from, &name)?, &open_child(to, &name)?)?,
            (true, Some(false)) => {
                rustix::fs::unlinkat(to, &name, AtFlags::empty()).map_err(io::Error::from)?;
                rustix::fs::renameat(from, &name, to, &name).map_err(io::Error::from)?;
            }
            _ => rustix::fs::renameat(from, &name, to, &name).map_err(io::Error::from)?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
