//! A file that is being uploaded: hidden until it is complete, then put in its place at once. Blocking; whoever calls
//! has taken on the user's credentials.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::write::GzDecoder;
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};

use crate::app::random_hex;
use crate::entries::{self, METADATA_PREFIX};

/// How the names of incomplete uploads begin; they are nobody's business.
pub const HIDDEN_PREFIX: &str = ".atoll-";
/// How they begin where the file is there already and is to be replaced.
pub const REPLACING_PREFIX: &str = ".atoll-over-";

/// An upload in progress. Dropping it leaves nothing behind.
pub struct Spool {
    sink: Sink,
    /// The nearest directory that exists; missing ones are made when the file is complete.
    base: OwnedFd,
    temporary: String,
    target: PathBuf,
    replaced: Option<Metadata>,
    done: bool,
}

enum Sink {
    Plain(File),
    Gzip(Box<GzDecoder<File>>),
}

impl Spool {
    /// Begins an upload to an absolute path.
    pub fn create(path: &str, gzip: bool) -> io::Result<Self> {
        // A link is written through, as everywhere else.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let replaced = fs::symlink_metadata(&target).ok();
        if let Some(metadata) =
            replaced.as_ref().filter(|metadata| !metadata.is_file() && !metadata.is_symlink())
        {
            let kind =
                if metadata.is_dir() { io::ErrorKind::IsADirectory } else { io::ErrorKind::Unsupported };
            return Err(io::Error::new(kind, "the path is not a regular file"));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open(nearest_directory(&target)?, flags, Mode::empty())?;
        let prefix = if replaced.is_some() { REPLACING_PREFIX } else { HIDDEN_PREFIX };
        let temporary = format!("{prefix}{}", random_hex());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&base, &temporary, flags, Mode::from_raw_mode(0o644))?);
        let sink = if gzip { Sink::Gzip(Box::new(GzDecoder::new(file))) } else { Sink::Plain(file) };
        Ok(Self { sink, base, temporary, target, replaced, done: false })
    }

    /// Writes pieces one after the other, at once where that can be.
    pub fn write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        match &mut self.sink {
            Sink::Plain(file) => write_all(file, pieces),
            Sink::Gzip(decoder) => pieces.iter().try_for_each(|piece| decoder.write_all(piece)),
        }
    }

    /// Adds what another file has, inside the kernel where that can be.
    pub fn append(&mut self, source: &mut File) -> io::Result<()> {
        match &mut self.sink {
            Sink::Plain(file) => io::copy(source, file).map(drop),
            Sink::Gzip(decoder) => io::copy(source, decoder.as_mut()).map(drop),
        }
    }

    /// Puts the complete file in its place; gives that place.
    pub fn commit(mut self, metadata: &BTreeMap<String, String>) -> io::Result<PathBuf> {
        if let Sink::Gzip(decoder) = &mut self.sink {
            decoder.try_finish()?;
        }
        let file = match &self.sink {
            Sink::Plain(file) => file,
            Sink::Gzip(decoder) => decoder.get_ref(),
        };
        if let Some(old) = &self.replaced {
            // Whoever may not give files away becomes their owner.
            let (uid, gid) =
                (rustix::process::Uid::from_raw(old.uid()), rustix::process::Gid::from_raw(old.gid()));
            let _ = rustix::fs::fchown(file, Some(uid), Some(gid));
            rustix::fs::fchmod(file, Mode::from_raw_mode(old.mode() & 0o777))?;
        }
        for (name, value) in metadata {
            let name = format!("{METADATA_PREFIX}{name}");
            rustix::fs::fsetxattr(file, name, value.as_bytes(), XattrFlags::empty())?;
        }
        self.place()?;
        self.done = true;
        Ok(self.target.clone())
    }

    fn place(&self) -> io::Result<()> {
        let no_name = || io::Error::from(io::ErrorKind::IsADirectory);
        let parent = self.target.parent().ok_or_else(no_name)?;
        let name = self.target.file_name().ok_or_else(no_name)?;
        entries::make_parents(&self.target)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent, flags, Mode::empty())?;
        Ok(rustix::fs::renameat(&self.base, &self.temporary, &parent, name)?)
    }
}

fn write_all(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.done {
            // The directory is pinned and the name unguessable: nothing else can be hit.
            let _ = rustix::fs::unlinkat(&self.base, &self.temporary, AtFlags::empty());
        }
    }
}

/// The lowest directory on the way to a path that exists.
pub fn nearest_directory(path: &Path) -> io::Result<&Path> {
    for ancestor in path.ancestors().skip(1) {
        match fs::metadata(ancestor) {
            Ok(metadata) if metadata.is_dir() => return Ok(ancestor),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::IsADirectory.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        let mut spool = Spool::create(path.to_str().unwrap(), false).unwrap();
        spool.write(&[Bytes::from_static(b"hello")]).unwrap();
        assert!(!dir.path().join("a").exists());
        spool.commit(&BTreeMap::new()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn an_aborted_upload_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path().join("a/file").to_str().unwrap(), false).unwrap();
        spool.write(&[Bytes::from_static(b"half")]).unwrap();
        drop(spool);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn links_are_written_through_and_modes_kept() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o750)).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let mut spool = Spool::create(dir.path().join("link").to_str().unwrap(), false).unwrap();
        spool.write(&[Bytes::from_static(b"new")]).unwrap();
        spool.commit(&BTreeMap::new()).unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o750);
        assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |path: &Path| Spool::create(path.to_str().unwrap(), false).err().map(|error| error.kind());
        assert_eq!(kind(dir.path()), Some(io::ErrorKind::IsADirectory));
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(kind(&dir.path().join("file/below")), Some(io::ErrorKind::NotADirectory));
        assert_eq!(kind(Path::new("/dev/null")), Some(io::ErrorKind::Unsupported));
        assert_eq!(kind(Path::new("/")), Some(io::ErrorKind::IsADirectory));
    }

    #[test]
    fn broken_gzip_is_an_error_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path().join("file").to_str().unwrap(), true).unwrap();
        let failed = spool
            .write(&[Bytes::from_static(b"this is no gzip at all")])
            .and_then(|()| spool.commit(&BTreeMap::new()).map(drop));
        assert!(failed.is_err());
        assert!(names(dir.path()).is_empty());
    }
}
