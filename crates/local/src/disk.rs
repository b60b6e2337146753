//! Where images and sandboxes' files are, with a limit for each sandbox: one btrfs where that can be had, which is the data
//! directory's own or made in a file of it; else an ext4 in a file for each sandbox. It must not know what is stored.

mod btrfs;
mod choice;
mod copies;
mod ext4;
mod pool;
mod snapshots;
mod volumes;

pub use choice::{Choice, Kind, MARK, Storage, choose, lacks_ext4};
pub use ext4::alone;
pub use volumes::VolumeFiles;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use atoll_core::quantity::Bytes;

/// Where a launcher mounts a sandbox's own filesystem, below its workplace.
pub const MOUNTED: &str = "files";

/// Why files cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file operation failed.
    #[error("{path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A tool is missing or failed.
    #[error("{tool} failed: {problem}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// What it said, or how to get it.
        problem: String,
    },
    /// The data directory's filesystem has too little room.
    #[error(
        "{path} has only {free} free; sandboxes need at least 2Gi, half of which is taken; free some or name another --data"
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// How much.
        free: Bytes,
    },
    /// A sandbox's disk cannot be set aside.
    #[error(
        "its {wanted} of disk are set aside at once, and {path} has {free} free, of which 1Gi stays for the machine; ask \
         for a smaller `disk` or volume, or remove sandboxes"
    )]
    Full {
        /// Where.
        path: PathBuf,
        /// How much was to be taken.
        wanted: Bytes,
        /// How much there is.
        free: Bytes,
    },
    /// What a sandbox is to begin with does not fit into its disk.
    #[error("its {wanted} of disk are too little for what the snapshot holds; ask for a larger `disk`")]
    TooSmall {
        /// How much it was to have.
        wanted: Bytes,
    },
    /// What is on the disk of a running sandbox cannot be known.
    #[error(
        "the files of a sandbox of this runtime cannot be seen from outside while it runs; stop it first"
    )]
    Hidden,
    /// A data directory cannot change what it keeps files in.
    #[error(
        "{path} was made with {made} and stays so; leave --storage {asked} out, or name another --data, or `atoll destroy` \
         it first"
    )]
    MadeWith {
        /// Which.
        path: PathBuf,
        /// What it has.
        made: Kind,
        /// What was asked for.
        asked: Kind,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DiskError + '_ {
    move |source| DiskError::File { path: path.to_owned(), source }
}

/// The filesystem of images and sandboxes.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
    kind: Kind,
}

/// A sandbox's own directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// What it changed.
    pub upper: PathBuf,
    /// Overlay's scratch.
    pub work: PathBuf,
    /// The file that has both in a filesystem of its own; their paths then begin where the launcher mounts it.
    pub file: Option<PathBuf>,
}

impl Disk {
    /// Opens the disk of a data directory, and makes it when there is none. `size` counts only then.
    ///
    /// # Errors
    /// When there is no room, the directory was made with another storage, or none can be had.
    pub fn open(data: &Path, asked: Storage, size: Option<Bytes>) -> Result<Self, DiskError> {
        let Choice { kind, lacking } = choose(data, asked)?;
        if let Some(reason) = lacking {
            tracing::warn!(%reason, "no btrfs can be had: each sandbox gets an ext4 in a file");
        }
        let root = data.join("disk");
        fs::create_dir_all(&root).map_err(at(&root))?;
        match kind {
            Kind::Btrfs => open_btrfs(data, &root, size)?,
            Kind::Ext4 => usable_ext4()?,
        }
        choice::remember(data, kind)?;
        for name in ["images", "sandboxes", "volumes", "snapshots"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        // What is a setuid program for the root inside would be one for the host's.
        for path in ["volumes", "snapshots"].map(|name| root.join(name)) {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(at(&path))?;
        }
        Ok(Self { root, kind })
    }

    /// Unmounts what [`Disk::open`] mounted; for a data directory that is given up or at rest.
    ///
    /// # Errors
    /// When something still uses it.
    pub fn close(data: &Path) -> Result<(), DiskError> {
        let root = data.join("disk");
        if !pool::image(data).exists() || !btrfs::is_btrfs(&root).map_err(at(&root))? {
            return Ok(());
        }
        run("umount", Command::new("umount").arg(&root))
    }

    /// Where images are.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Makes a sandbox's directories, owned by `uid`, with a limit. What is left of an earlier try is removed first. In a
    /// file, the directories are for the launcher to make when it has mounted it.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn create(&self, name: &str, limit: Bytes, uid: u32) -> Result<Layers, DiskError> {
        self.remove(name)?;
        let (path, layers) = (self.sandbox(name), self.layers(name));
        if self.kind == Kind::Ext4 {
            return ext4::make(&path, limit).map(|()| layers);
        }
        btrfs::create_subvolume(&self.root.join("sandboxes"), name).map_err(at(&path))?;
        btrfs::limit(&path, limit.0).map_err(at(&path))?;
        for directory in [&layers.upper, &layers.work] {
            make_layer(directory, uid).map_err(at(directory))?;
        }
        Ok(layers)
    }

    /// Where a sandbox's directories are.
    #[must_use]
    pub fn layers(&self, name: &str) -> Layers {
        let path = self.sandbox(name);
        let (place, file) = match self.kind {
            Kind::Btrfs => (path, None),
            Kind::Ext4 => (PathBuf::from(MOUNTED), Some(path)),
        };
        Layers { upper: place.join("upper"), work: place.join("work"), file }
    }

    /// Removes a sandbox's files. Not being there is fine.
    ///
    /// # Errors
    /// When the filesystem refuses.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.remove_from(&self.sandboxes(), name)
    }

    fn remove_from(&self, place: &Path, name: &str) -> Result<(), DiskError> {
        let path = place.join(name);
        let removed = match self.kind {
            Kind::Btrfs => btrfs::remove_subvolume(place, name),
            Kind::Ext4 => fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Names of all sandboxes that have files.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        names_in(&self.sandboxes())
    }

    /// Bytes charged to a sandbox, where that is counted. `process` is its first process, while it has one.
    #[must_use]
    pub fn usage(&self, name: &str, process: Option<i32>) -> Option<u64> {
        let path = self.sandbox(name);
        match (self.kind, process) {
            (Kind::Btrfs, _) => btrfs::usage(&path).ok().flatten(),
            (Kind::Ext4, None) => ext4::usage(&path).ok(),
            (Kind::Ext4, Some(pid)) => seen_by(pid),
        }
    }

    /// Where sandboxes' files are, whichever way they are kept: I/O on them is I/O on what holds this directory.
    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// Size of the whole disk.
    #[must_use]
    pub fn size(&self) -> Bytes {
        rustix::fs::statvfs(&self.root).map_or(Bytes(0), |s| Bytes(s.f_blocks * s.f_frsize))
    }

    fn sandbox(&self, name: &str) -> PathBuf {
        self.root.join("sandboxes").join(name)
    }
}

fn names_in(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Makes an upper or work directory of `uid`.
pub fn make_layer(directory: &Path, uid: u32) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    chown(directory, Some(uid), Some(uid))
}

/// What the root filesystem of a process holds: an overlay tells of its upper layer. Others, such as a process of gVisor's,
/// tell nothing.
fn seen_by(pid: i32) -> Option<u64> {
    let root = format!("/proc/{pid}/root");
    let found = rustix::fs::statfs(&root).ok()?;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    (found.f_type == libc::OVERLAYFS_SUPER_MAGIC).then(|| used * u64::try_from(found.f_bsize).unwrap_or(0))
}

fn open_btrfs(data: &Path, root: &Path, size: Option<Bytes>) -> Result<(), DiskError> {
    if !btrfs::is_btrfs(root).map_err(at(root))? {
        pool::mount(data, root, size)?;
    }
    btrfs::enable_quota(root).map_err(at(root))
}

fn usable_ext4() -> Result<(), DiskError> {
    let lacking = lacks_ext4();
    lacking.map_or(Ok(()), |problem| Err(DiskError::Tool { tool: "ext4 in a file", problem }))
}

/// Makes a file with all its room taken.
fn set_aside(path: &Path, size: Bytes) -> Result<(), DiskError> {
    let file = fs::File::create(path).map_err(at(path))?;
    let taken = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size.0);
    taken.map_err(|error| at(path)(error.into()))
}

/// What is free for everybody on the filesystem of `path`.
fn free(path: &Path) -> Result<Bytes, DiskError> {
    let found = rustix::fs::statvfs(path).map_err(|error| at(path)(error.into()))?;
    Ok(Bytes(found.f_bavail * found.f_frsize))
}

fn run(tool: &'static str, command: &mut Command) -> Result<(), DiskError> {
    let output = command.output().map_err(|error| missing(tool, &error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(DiskError::Tool { tool, problem: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

fn missing(tool: &'static str, error: &io::Error) -> DiskError {
    let package = match tool {
        "mkfs.btrfs" => "btrfs-progs",
        "mkfs.ext4" | "e2fsck" | "resize2fs" => "e2fsprogs",
        _ => "util-linux (mount)",
    };
    DiskError::Tool { tool, problem: format!("{error}; install the package {package}") }
}
