//! Users' volumes: beside the sandboxes' files, kept in the same way, with the ids that are inside a sandbox. They are in
//! no sandbox's range of ids; mounts map them to the range of whoever has them.

use std::path::PathBuf;

use atoll_core::quantity::Bytes;

use super::{Disk, DiskError, Kind, at, btrfs, ext4, names_in};

/// Where a volume's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFiles {
    /// The directory, or the file with a filesystem in it.
    pub path: PathBuf,
    /// Whether it is a file.
    pub is_file: bool,
}

impl Disk {
    /// Makes an empty volume. What is left of an earlier try is removed first.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn create_volume(&self, name: &str, size: Bytes) -> Result<(), DiskError> {
        self.remove_volume(name)?;
        let path = self.volumes().join(name);
        match self.kind {
            Kind::Ext4 => ext4::make(&path, size),
            Kind::Btrfs => btrfs::create_subvolume(&self.volumes(), name)
                .and_then(|()| btrfs::limit(&path, size.0))
                .map_err(at(&path)),
        }
    }

    /// Lets a volume hold more.
    ///
    /// # Errors
    /// When the disk is full, or the volume is still mounted; it is as it was then.
    pub fn grow_volume(&self, name: &str, size: Bytes) -> Result<(), DiskError> {
        let path = self.volumes().join(name);
        match self.kind {
            Kind::Ext4 => ext4::grow(&path, size),
            Kind::Btrfs => btrfs::limit(&path, size.0).map_err(at(&path)),
        }
    }

    /// Where a volume's files are.
    #[must_use]
    pub fn volume(&self, name: &str) -> VolumeFiles {
        VolumeFiles { path: self.volumes().join(name), is_file: self.kind == Kind::Ext4 }
    }

    /// Removes a volume with what is on it. Not being there is fine.
    ///
    /// # Errors
    /// When the filesystem refuses.
    pub fn remove_volume(&self, name: &str) -> Result<(), DiskError> {
        self.remove_from(&self.volumes(), name)
    }

    /// Names of all volumes that have files.
    #[must_use]
    pub fn volume_names(&self) -> Vec<String> {
        names_in(&self.volumes())
    }

    fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }
}
