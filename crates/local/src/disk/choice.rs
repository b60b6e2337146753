//! Which storage a data directory has: what it was made with, else what was asked for, else the best that can be had.

use std::{
    fmt, fs, io,
    path::Path,
    process::{Command, Stdio},
};

use super::{DiskError, at, btrfs};
use crate::oci;

/// The file of a data directory that says what it was made with.
pub const MARK: &str = "storage";

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// What the directory was made with, else btrfs where it can be had, else ext4.
    #[default]
    Auto,
    /// This one, or a refusal.
    Only(Kind),
}

/// What keeps sandboxes' files and their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One btrfs, with a subvolume and a quota for each sandbox.
    Btrfs,
    /// An ext4 in a file for each sandbox.
    Ext4,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btrfs => "btrfs",
            Self::Ext4 => "ext4",
        })
    }
}

/// What was chosen, and why, when it is only the second best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The storage.
    pub kind: Kind,
    /// What btrfs lacks here, when ext4 was taken for that.
    pub lacking: Option<String>,
}

/// Looks and decides; makes nothing.
///
/// # Errors
/// When the directory was made with something else than what is asked for.
pub fn choose(data: &Path, asked: Storage) -> Result<Choice, DiskError> {
    match (made_with(data)?, asked) {
        (Some(made), Storage::Only(asked)) if made != asked => {
            Err(DiskError::MadeWith { path: data.to_owned(), made, asked })
        }
        (Some(kind), _) | (None, Storage::Only(kind)) => Ok(Choice { kind, lacking: None }),
        (None, Storage::Auto) => {
            let lacking = lacks_btrfs(data);
            let kind = if lacking.is_some() { Kind::Ext4 } else { Kind::Btrfs };
            Ok(Choice { kind, lacking })
        }
    }
}

/// Writes down what the directory is made with.
///
/// # Errors
/// When it cannot be written.
pub fn remember(data: &Path, kind: Kind) -> Result<(), DiskError> {
    let (path, unfinished) = (data.join(MARK), data.join("storage.new"));
    if path.exists() {
        return Ok(());
    }
    fs::write(&unfinished, format!("{kind}\n")).map_err(at(&unfinished))?;
    fs::rename(&unfinished, &path).map_err(at(&path))
}

/// What a directory was made with, if it was; also by a server that did not write it down yet.
fn made_with(data: &Path) -> Result<Option<Kind>, DiskError> {
    let path = data.join(MARK);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim() {
            "btrfs" => Ok(Some(Kind::Btrfs)),
            "ext4" => Ok(Some(Kind::Ext4)),
            other => Err(at(&path)(io::Error::other(format!("says {other:?}, neither btrfs nor ext4")))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let used = data.join("disk.img").exists() || data.join("disk/sandboxes").exists();
            Ok(used.then_some(Kind::Btrfs))
        }
        Err(error) => Err(at(&path)(error)),
    }
}

/// Why there can be no btrfs for a directory, if so.
fn lacks_btrfs(data: &Path) -> Option<String> {
    let existing = data.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if btrfs::is_btrfs(existing).unwrap_or(false) {
        return None;
    }
    if !kernel_has("btrfs") {
        return Some("the kernel has no btrfs".into());
    }
    lacks_tool("mkfs.btrfs").or_else(|| lacks_tool("losetup"))
}

/// Why there can be no ext4 in a file, if so.
pub fn lacks_ext4() -> Option<String> {
    if !kernel_has("ext4") {
        return Some("the kernel has no ext4".into());
    }
    if !Path::new("/dev/loop-control").exists() && !kernel_module("loop") {
        return Some("the kernel has no loop devices".into());
    }
    lacks_tool("mkfs.ext4")
}

fn lacks_tool(name: &str) -> Option<String> {
    oci::program(name).is_none().then(|| format!("{name} is not installed"))
}

/// Whether a filesystem can be mounted: the kernel knows it, or loads it when it is asked for.
fn kernel_has(kind: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.split_whitespace().last() == Some(kind)) || kernel_module(kind)
}

/// Only asks: nothing is loaded.
fn kernel_module(name: &str) -> bool {
    let mut modprobe = Command::new("modprobe");
    modprobe.args(["--dry-run", "--quiet", name]).stdin(Stdio::null()).stdout(Stdio::null());
    modprobe.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stays_what_it_was_made_with() {
        let data = tempfile::tempdir().unwrap();
        let ext4 = Storage::Only(Kind::Ext4);
        assert_eq!(choose(data.path(), ext4).unwrap().kind, Kind::Ext4);
        remember(data.path(), Kind::Ext4).unwrap();
        remember(data.path(), Kind::Btrfs).unwrap();
        for asked in [Storage::Auto, ext4] {
            assert_eq!(choose(data.path(), asked).unwrap(), Choice { kind: Kind::Ext4, lacking: None });
        }
        let refused = choose(data.path(), Storage::Only(Kind::Btrfs)).unwrap_err().to_string();
        assert!(refused.contains("made with ext4") && refused.contains("--storage"), "{refused}");
    }

    #[test]
    fn one_from_before_it_was_written_down_is_btrfs() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("disk.img"), "").unwrap();
        assert_eq!(choose(data.path(), Storage::Auto).unwrap().kind, Kind::Btrfs);
        assert!(choose(data.path(), Storage::Only(Kind::Ext4)).is_err());
    }

    #[test]
    fn a_damaged_mark_is_named() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(MARK), "zfs\n").unwrap();
        let refused = choose(data.path(), Storage::Auto).unwrap_err().to_string();
        assert!(refused.contains("storage") && refused.contains("zfs"), "{refused}");
    }

    #[test]
    fn what_nobody_has_is_lacking() {
        assert!(!kernel_has("nosuchfs"));
        assert_eq!(lacks_tool("mkfs.nosuchfs").unwrap(), "mkfs.nosuchfs is not installed");
    }
}
