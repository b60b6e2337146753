//! What is remembered of a sandbox: one JSON file each, the only truth about where sandboxes live on this machine.
//! It must not know what the driver does with it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use atoll_core::{
    id::{SandboxId, SnapshotId},
    sandbox::Sandbox,
};

use crate::{images::ImageConfig, process::Identity};

/// A sandbox and what on this machine belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What everybody sees.
    pub sandbox: Sandbox,
    /// Its place among this directory's uid ranges and addresses; its own until it is deleted.
    pub slot: u32,
    /// The image it stands on, once that is known. Kept for all later starts, whatever becomes of the image's name.
    pub image: Option<Base>,
    /// Its first process, while it has one.
    pub process: Option<Identity>,
    /// Name of its control group, while it has one of a prepared launch.
    #[serde(default)]
    pub group: Option<String>,
    /// Whether its files have been made and started once.
    pub populated: bool,
}

impl Record {
    /// Its processes are gone, and with them their group.
    pub fn at_rest(&mut self) {
        self.process = None;
        self.group = None;
    }

    /// Bytes of its files that are charged to others: those that came with a snapshot.
    #[must_use]
    pub fn shared(&self) -> u64 {
        self.image.as_ref().and_then(|base| base.origin.as_ref()).map_or(0, |origin| origin.shared)
    }

    /// Name of its control group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or_else(|| self.sandbox.id().as_str())
    }
}

/// What a sandbox needs of its image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Digest of its manifest.
    pub digest: String,
    /// Its layers' directories, topmost first.
    pub layers: Vec<PathBuf>,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// What runs from the start where the sandbox itself says nothing. Only snapshots have any.
    #[serde(default)]
    pub start_command: Option<Vec<String>>,
    /// The snapshot that the sandbox's own files begin as, where it is made from one.
    #[serde(default)]
    pub origin: Option<Origin>,
}

/// What a sandbox needs of the snapshot that it is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Which it is; it may be gone once the sandbox has run.
    pub snapshot: SnapshotId,
    /// The image below, by name.
    pub image: String,
    /// First of the ids that its files have on the disk, and those of its sandboxes for good.
    pub stored_base: u32,
    /// Bytes of it that are charged to others, not to the sandbox.
    pub shared: u64,
}

/// The records of a data directory: `sandboxes/ID/record.json`.
#[derive(Clone, Debug)]
pub struct Records {
    root: PathBuf,
}

impl Records {
    /// Opens the records, and makes their directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// A sandbox's own directory: record, log, socket, launch order.
    #[must_use]
    pub fn directory(&self, id: &SandboxId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Writes a record so that a crash at any instant leaves the old one or the new one. `durable` waits for the disk:
    /// for what must be known after a power cut, not for a changed time of use. A first record is waited for with its
    /// directories: one that was lost would take the sandbox's files with it.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there then.
    pub fn save(&self, record: &Record, durable: bool) -> io::Result<()> {
        let directory = self.directory(record.sandbox.id());
        fs::create_dir_all(&directory)?;
        let first = replace(&directory, "record", &serde_json::to_vec(record)?, durable)?;
        if first { File::open(&self.root)?.sync_all() } else { Ok(()) }
    }

    /// Forgets a sandbox.
    ///
    /// # Errors
    /// When its directory cannot be removed.
    pub fn remove(&self, id: &SandboxId) -> io::Result<()> {
        let directory = self.directory(id);
        // The record goes first: without it, the rest is left-overs, which the next start removes.
        match fs::remove_file(directory.join("record.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Every record. Directories without one are left-overs of a creation that was never recorded, and are removed.
    ///
    /// # Errors
    /// When the directory cannot be read, or a record is damaged: that is named, and nothing is removed for it.
    pub fn load(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let directory = entry?.path();
            match read(&directory.join("record.json"))? {
                Some(record) => records.push(record),
                None => fs::remove_dir_all(&directory)?,
            }
        }
        Ok(records)
    }
}

/// Records of one kind in a directory of their own: `NAME.json` each.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Opens the directory, and makes it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// Writes a record durably.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there then.
    pub fn save(&self, name: &str, record: &impl Serialize) -> io::Result<()> {
        replace(&self.root, name, &serde_json::to_vec(record)?, true).map(drop)
    }

    /// Forgets a record. Not to know it is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(name).with_extension("json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.root)?.sync_all(),
        }
    }

    /// Every record. What was left of an unfinished one is removed.
    ///
    /// # Errors
    /// When the directory cannot be read, or a record is damaged: that is named, and nothing is removed for it.
    pub fn load<T: DeserializeOwned>(&self) -> io::Result<Vec<T>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            match path.extension() {
                Some(kind) if kind == "json" => all.extend(read(&path)?),
                _ => fs::remove_file(&path)?,
            }
        }
        Ok(all)
    }
}

/// Writes `NAME.json` of a directory so that a crash at any instant leaves the old one or the new one, and says whether it
/// is the first. `durable` waits for the disk; a first one's directory is waited for in any case.
///
/// # Errors
/// When it cannot be written; the old one is still there then.
pub fn replace(directory: &Path, name: &str, bytes: &[u8], durable: bool) -> io::Result<bool> {
    let (unfinished, path) = (directory.join(format!("{name}.new")), directory.join(format!("{name}.json")));
    let first = !path.exists();
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&unfinished, &path)?;
    if first {
        File::open(directory)?.sync_all()?;
    }
    Ok(first)
}

/// Reads what [`replace`] wrote; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is damaged: that is named.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let damaged = |error| io::Error::other(format!("{} is damaged: {error}", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::testing::sandbox;

    fn record(n: u8) -> Record {
        Record {
            sandbox: sandbox(n),
            slot: u32::from(n),
            image: None,
            process: None,
            group: None,
            populated: false,
        }
    }

    #[test]
    fn records_survive_and_left_overs_do_not() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path().join("sandboxes")).unwrap();
        records.save(&record(1), true).unwrap();
        records.save(&Record { slot: 9, ..record(1) }, false).unwrap();
        fs::create_dir_all(root.path().join("sandboxes/leftover")).unwrap();
        assert_eq!(records.load().unwrap(), vec![Record { slot: 9, ..record(1) }]);
        assert!(!root.path().join("sandboxes/leftover").exists());
        records.remove(record(1).sandbox.id()).unwrap();
        records.remove(record(1).sandbox.id()).unwrap();
        assert!(records.load().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_record_is_named_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path().to_owned()).unwrap();
        records.save(&record(2), true).unwrap();
        let path = records.directory(record(2).sandbox.id()).join("record.json");
        fs::write(&path, "{").unwrap();
        assert!(records.load().unwrap_err().to_string().contains("record.json"));
        assert!(path.exists());
    }
}
