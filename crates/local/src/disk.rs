//! Where images and sandboxes' files are: one btrfs, with a subvolume and a limit for each sandbox. The data directory may
//! lie on one already; else it is made in a preallocated file, so that the limits hold and the file cannot run out under it.
//! It must not know what is stored.

mod btrfs;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use atoll_core::quantity::Bytes;

/// The least with which a machine is of any use.
const LEAST: u64 = 1 << 30;
/// The most that is taken unasked.
const MOST_UNASKED: u64 = 256 << 30;

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
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DiskError + '_ {
    move |source| DiskError::File { path: path.to_owned(), source }
}

/// The filesystem of images and sandboxes.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
}

/// A sandbox's own directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// What it changed.
    pub upper: PathBuf,
    /// Overlay's scratch.
    pub work: PathBuf,
}

impl Disk {
    /// Opens the disk of a data directory, and makes it when there is none. `size` counts only then.
    ///
    /// # Errors
    /// When there is no room, or btrfs cannot be had.
    pub fn open(data: &Path, size: Option<Bytes>) -> Result<Self, DiskError> {
        let root = data.join("disk");
        fs::create_dir_all(&root).map_err(at(&root))?;
        if !btrfs::is_btrfs(&root).map_err(at(&root))? {
            mount(data, &root, size)?;
        }
        btrfs::enable_quota(&root).map_err(at(&root))?;
        for name in ["images", "sandboxes"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        Ok(Self { root })
    }

    /// Unmounts what [`Disk::open`] mounted; for a data directory that is given up or at rest.
    ///
    /// # Errors
    /// When something still uses it.
    pub fn close(data: &Path) -> Result<(), DiskError> {
        let root = data.join("disk");
        if !data.join("disk.img").exists() || !btrfs::is_btrfs(&root).map_err(at(&root))? {
            return Ok(());
        }
        run("umount", Command::new("umount").arg(&root))
    }

    /// Where images are.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Makes a sandbox's directories, owned by `uid`, with a limit. What is left of an earlier try is removed first.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn create(&self, name: &str, limit: Bytes, uid: u32) -> Result<Layers, DiskError> {
        self.remove(name)?;
        let path = self.sandbox(name);
        btrfs::create_subvolume(&self.root.join("sandboxes"), name).map_err(at(&path))?;
        btrfs::limit(&path, limit.0).map_err(at(&path))?;
        let layers = self.layers(name);
        for directory in [&layers.upper, &layers.work] {
            fs::create_dir(directory).map_err(at(directory))?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).map_err(at(directory))?;
            chown(directory, Some(uid), Some(uid)).map_err(at(directory))?;
        }
        Ok(layers)
    }

    /// Where a sandbox's directories are.
    #[must_use]
    pub fn layers(&self, name: &str) -> Layers {
        let path = self.sandbox(name);
        Layers { upper: path.join("upper"), work: path.join("work") }
    }

    /// Removes a sandbox's files. Not being there is fine.
    ///
    /// # Errors
    /// When the filesystem refuses.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.sandbox(name);
        match btrfs::remove_subvolume(&self.root.join("sandboxes"), name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Names of all sandboxes that have files.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("sandboxes")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Bytes charged to a sandbox, where that is counted.
    #[must_use]
    pub fn usage(&self, name: &str) -> Option<u64> {
        btrfs::usage(&self.sandbox(name)).ok().flatten()
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

fn mount(data: &Path, root: &Path, size: Option<Bytes>) -> Result<(), DiskError> {
    if btrfs::is_btrfs(data).map_err(at(data))? {
        return Ok(());
    }
    let image = data.join("disk.img");
    if !image.exists() {
        make_image(data, &image, size)?;
    }
    let device = losetup(&image)?;
    let mounted = run(
        "mount",
        Command::new("mount").args(["-t", "btrfs", "-o", "noatime,nodev,nosuid"]).arg(&device).arg(root),
    );
    // Detaching a device in use only marks it: it goes with the mount, also when nobody is left to detach it.
    run("losetup", Command::new("losetup").arg("--detach").arg(&device))?;
    mounted
}

/// Direct I/O, or every page would be cached twice.
fn losetup(image: &Path) -> Result<String, DiskError> {
    let arguments = ["--find", "--show", "--nooverlap", "--direct-io=on"];
    let output = Command::new("losetup").args(arguments).arg(image).output();
    let output = output.map_err(|error| missing("losetup", &error))?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DiskError::Tool { tool: "losetup", problem });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Formatted under another name, so that a half-made one is never taken for a disk.
fn make_image(data: &Path, image: &Path, size: Option<Bytes>) -> Result<(), DiskError> {
    let size = size.map_or_else(|| default_size(data), Ok)?;
    let unfinished = data.join("disk.img.new");
    let file = fs::File::create(&unfinished).map_err(at(&unfinished))?;
    let made = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size.0)
        .map_err(|error| at(&unfinished)(error.into()))
        .and_then(|()| {
            run("mkfs.btrfs", Command::new("mkfs.btrfs").args(["-q", "-K", "-f"]).arg(&unfinished))
        })
        .and_then(|()| fs::rename(&unfinished, image).map_err(at(image)));
    if made.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    made
}

fn default_size(data: &Path) -> Result<Bytes, DiskError> {
    let found = rustix::fs::statvfs(data).map_err(|error| at(data)(error.into()))?;
    let free = found.f_bavail * found.f_frsize;
    if free / 2 < LEAST {
        return Err(DiskError::NoRoom { path: data.to_owned(), free: Bytes(free) });
    }
    Ok(Bytes((free / 2).min(MOST_UNASKED)))
}

fn run(tool: &'static str, command: &mut Command) -> Result<(), DiskError> {
    let output = command.output().map_err(|error| missing(tool, &error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(DiskError::Tool { tool, problem: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

fn missing(tool: &'static str, error: &io::Error) -> DiskError {
    let package = if tool == "mkfs.btrfs" { "btrfs-progs" } else { "util-linux (mount)" };
    DiskError::Tool { tool, problem: format!("{error}; install the package {package}") }
}
