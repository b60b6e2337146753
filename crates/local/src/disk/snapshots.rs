//! Snapshots of sandboxes' files: beside them, kept in the same way, with the ids that they have there. Nobody mounts one;
//! sandboxes begin with a copy.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use atoll_core::quantity::Bytes;

use super::{Disk, DiskError, Kind, Layers, at, btrfs, ext4, names_in};

/// Bytes of a snapshot's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// All of them.
    pub all: u64,
    /// Those that are charged to it, and to each sandbox that begins with it.
    pub own: u64,
}

impl Disk {
    /// Keeps a sandbox's files as they are. Nobody may write to them meanwhile; `process` is its first process, while it has
    /// one. What is left of an earlier try is removed first.
    ///
    /// # Errors
    /// When the disk is full, or the files cannot be seen; nothing is left then.
    pub fn take_snapshot(&self, sandbox: &str, name: &str, process: Option<i32>) -> Result<(), DiskError> {
        self.remove_snapshot(name)?;
        let (from, place) = (self.sandbox(sandbox), self.snapshots());
        match self.kind {
            Kind::Btrfs => btrfs::snapshot(&from, &place, name, true).map_err(at(&from)),
            Kind::Ext4 => {
                process.map_or(Ok(()), write_back)?;
                ext4::keep(&from, &place.join(name))
            }
        }
    }

    /// Makes a sandbox's directories with what is in a snapshot, with a limit. What is left of an earlier try is removed
    /// first.
    ///
    /// # Errors
    /// When the disk is full, or the limit is too little.
    pub fn create_from(&self, snapshot: &str, name: &str, limit: Bytes) -> Result<Layers, DiskError> {
        self.remove(name)?;
        let (from, to) = (self.snapshots().join(snapshot), self.sandbox(name));
        match self.kind {
            Kind::Btrfs => btrfs::snapshot(&from, &self.sandboxes(), name, false)
                .and_then(|()| btrfs::limit(&to, limit.0))
                .map_err(at(&to))?,
            Kind::Ext4 => ext4::make_from(&from, &to, limit)?,
        }
        Ok(self.layers(name))
    }

    /// Bytes of a snapshot that was just taken of a sandbox, of whose files `shared` are charged to others. `None` where
    /// that is not counted.
    #[must_use]
    pub fn snapshot_usage(&self, sandbox: &str, name: &str, shared: u64) -> Option<Counted> {
        let path = self.snapshots().join(name);
        if self.kind == Kind::Ext4 {
            return ext4::usage(&path).ok().map(|own| Counted { all: own, own });
        }
        let charged = |path: &Path| btrfs::usage(path).ok().flatten();
        let (source, own) = (charged(&self.sandbox(sandbox))?, charged(&path)?);
        // Quotas of older kernels charge a block to all who have it.
        Some(Counted { all: own.max(source + shared), own })
    }

    /// Removes a snapshot. Not being there is fine.
    ///
    /// # Errors
    /// When the filesystem refuses.
    pub fn remove_snapshot(&self, name: &str) -> Result<(), DiskError> {
        self.remove_from(&self.snapshots(), name)
    }

    /// Removes all snapshots of a data directory that is given up: nobody may write in them, so they do not go as
    /// directories do.
    ///
    /// # Errors
    /// When the filesystem refuses.
    pub fn clear_snapshots(data: &Path) -> Result<(), DiskError> {
        let place = data.join("disk/snapshots");
        if !place.exists() || !btrfs::is_btrfs(&place).map_err(at(&place))? {
            return Ok(());
        }
        let names = names_in(&place);
        names.iter().try_for_each(|name| btrfs::remove_subvolume(&place, name)).map_err(at(&place))
    }

    /// Names of all snapshots that have files.
    #[must_use]
    pub fn snapshot_names(&self) -> Vec<String> {
        names_in(&self.snapshots())
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }
}

/// Has a filesystem that only a sandbox has mounted written to its file: an overlay passes that on to its upper layer.
fn write_back(process: i32) -> Result<(), DiskError> {
    let root = PathBuf::from(format!("/proc/{process}/root"));
    let opened = File::open(&root).map_err(at(&root))?;
    let found = rustix::fs::fstatfs(&opened).map_err(|error| at(&root)(error.into()))?;
    if found.f_type != libc::OVERLAYFS_SUPER_MAGIC {
        return Err(DiskError::Hidden);
    }
    rustix::fs::syncfs(&opened).map_err(|error| at(&root)(error.into()))
}
