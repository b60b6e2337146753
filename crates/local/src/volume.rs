//! What is remembered of a user's volume: one JSON file each. Which sandbox has it is not in there: the sandboxes' own
//! records say that. It must not know where its files are.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    io,
    path::{Path, PathBuf},
};

use atoll_core::quantity::Bytes;

use crate::record::Files;

/// Whose a volume is and which of theirs: tenant, user, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its tenant.
    pub tenant: String,
    /// Its user.
    pub owner: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// What its record and files are called: users' names may be anything. 128 bits of a hash, in hex.
    #[must_use]
    pub fn file_name(&self) -> String {
        // A NUL is in none of the three, so no two keys are the same bytes.
        let parts = [&self.tenant, &self.owner, &self.name];
        let digest = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part).chain_update([0]));
        hex::encode(&digest.finalize()[..16])
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Which it is.
    #[serde(flatten)]
    pub key: Key,
    /// How much it holds.
    pub size: Bytes,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether a sandbox has run with it. Until then, its files may be half made, and go when that sandbox cannot start.
    pub populated: bool,
}

/// The records of a data directory: `volumes/KEY.json`.
#[derive(Clone, Debug)]
pub struct VolumeRecords(Files);

impl VolumeRecords {
    /// Opens the records, and makes their directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        Files::open(root).map(Self)
    }

    /// Writes a record durably.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there then.
    pub fn save(&self, record: &VolumeRecord) -> io::Result<()> {
        self.0.save(&record.key.file_name(), record)
    }

    /// Forgets a volume. Not to know it is fine.
    ///
    /// # Errors
    /// When the record cannot be removed.
    pub fn remove(&self, key: &Key) -> io::Result<()> {
        self.0.remove(&key.file_name())
    }

    /// Every record. What was left of an unfinished one is removed.
    ///
    /// # Errors
    /// When the directory cannot be read, or a record is damaged: that is named, and nothing is removed for it.
    pub fn load(&self) -> io::Result<Vec<VolumeRecord>> {
        self.0.load()
    }
}

/// Where a data directory keeps the records.
#[must_use]
pub fn root(data: &Path) -> PathBuf {
    data.join("volumes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn record(owner: &str, name: &str) -> VolumeRecord {
        let key = Key { tenant: "default".into(), owner: owner.into(), name: name.into() };
        VolumeRecord { key, size: Bytes(1 << 20), created_at: Timestamp::UNIX_EPOCH, populated: false }
    }

    #[test]
    fn each_volume_has_a_name_of_its_own() {
        let keys = [("ab", "c"), ("a", "bc"), ("../etc", "home"), ("\u{65e5}\u{672c}", "home")];
        let names: std::collections::BTreeSet<String> =
            keys.iter().map(|(owner, name)| record(owner, name).key.file_name()).collect();
        assert_eq!(names.len(), keys.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_hexdigit())));
    }

    #[test]
    fn records_survive_and_left_overs_do_not() {
        let data = tempfile::tempdir().unwrap();
        let records = VolumeRecords::open(root(data.path())).unwrap();
        records.save(&record("alice", "home")).unwrap();
        let grown = VolumeRecord { size: Bytes(2 << 20), populated: true, ..record("alice", "home") };
        records.save(&grown).unwrap();
        fs::write(root(data.path()).join("half.new"), "{").unwrap();
        assert_eq!(records.load().unwrap(), std::slice::from_ref(&grown));
        assert!(!root(data.path()).join("half.new").exists());
        records.remove(&grown.key).unwrap();
        records.remove(&grown.key).unwrap();
        assert!(records.load().unwrap().is_empty());
        fs::write(root(data.path()).join("bad.json"), "{").unwrap();
        assert!(records.load().unwrap_err().to_string().contains("bad.json"));
    }
}
