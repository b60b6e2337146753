//! The files of this machine that agents may use: those below one directory. The kernel resolves every path beneath it, so
//! neither `..` nor a link leads out.

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat},
    io::Errno,
};
use std::{ffi::OsStr, fs::File, io, os::fd::OwnedFd, path::Path};

/// One directory and what is below it.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
}

/// A file that is being written and appears when it is whole.
#[derive(Debug)]
pub struct Unfinished {
    folder: OwnedFd,
    name: String,
    hidden: String,
    kept: bool,
}

impl Folder {
    /// This directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: openat(CWD, path, flags, Mode::empty())? })
    }

    /// A file in it, to be read.
    pub fn read(&self, path: &str) -> io::Result<File> {
        let file = File::from(self.beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("is not a regular file")),
        }
    }

    /// A file in it, to be written; what was there before is replaced when the new one is whole.
    pub fn write(&self, path: &str) -> io::Result<(File, Unfinished)> {
        let path = Path::new(path);
        let wrong = || io::Error::other("names no file");
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(wrong)?.to_owned();
        let parent = path.parent().and_then(Path::to_str).filter(|parent| !parent.is_empty()).unwrap_or(".");
        let folder = self.beneath(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let hidden = format!(".{name}.{}.part", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&folder, &hidden, flags, Mode::from_raw_mode(0o644))?);
        Ok((file, Unfinished { folder, name, hidden, kept: false }))
    }

    fn beneath(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        opened.map_err(|error| match error {
            Errno::XDEV => io::Error::other("leads out of the directory that may be used"),
            other => other.into(),
        })
    }
}

impl Unfinished {
    /// Lets it appear.
    pub fn keep(mut self) -> io::Result<()> {
        renameat(&self.folder, &self.hidden, &self.folder, &self.name)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // It is hidden, and there is nobody to tell.
            let _ = unlinkat(&self.folder, &self.hidden, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        io::{Read, Write},
        os::unix::fs::symlink,
    };

    #[test]
    fn only_what_is_below_it_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        fs::create_dir_all(inside.join("sub")).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::write(inside.join("a"), "here").unwrap();
        symlink("../secret", inside.join("link")).unwrap();
        symlink("a", inside.join("good")).unwrap();
        let folder = Folder::open(&inside).unwrap();
        for path in ["a", "./a", "sub/../a", "good"] {
            let mut text = String::new();
            folder.read(path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "here", "{path}");
        }
        let secret = dir.path().join("secret").display().to_string();
        for path in ["../secret", "link", &secret, "sub/../../secret", "/etc/passwd", "sub", "", "none"] {
            assert!(folder.read(path).is_err(), "{path}");
        }
        for path in ["../new", "/tmp/new", "sub/../../new", "..", "none/new"] {
            assert!(folder.write(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (mut file, unfinished) = folder.write("a").unwrap();
        file.write_all(b"half").unwrap();
        drop(unfinished);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "old");
        let (mut file, unfinished) = folder.write("a").unwrap();
        file.write_all(b"new").unwrap();
        unfinished.keep().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }
}
