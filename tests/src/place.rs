//! Directories for servers. The base image is expensive to make, so it is kept on a btrfs of the harness's own in the
//! cache, and each server's directory begins with a snapshot of it. It must not know what a server does with them.

use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tempfile::TempDir;

use crate::{cache, scratch, tool};

/// Size of the file behind the harness's disk. It is sparse: only what is used takes room.
const DISK: u64 = 64 << 30;

/// Files and directories that decide what the kept images look like: when one changes, they are made anew.
const SOURCES: [&str; 2] = ["images", "crates/local/src/images/index.rs"];

/// A server's directory. Goes when dropped.
#[derive(Debug)]
pub struct Place {
    // Each goes before what it lies on.
    bind: Option<Bind>,
    dir: TempDir,
    files: Option<Box<Place>>,
    disk: Option<Arc<Disk>>,
}

impl Place {
    /// An empty directory on whatever file system there is.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn bare() -> Result<Self> {
        Ok(Self::of(tempfile::Builder::new().prefix("atoll-").tempdir_in(scratch())?, None))
    }

    fn of(dir: TempDir, disk: Option<Arc<Disk>>) -> Self {
        Self { bind: None, dir, files: None, disk }
    }

    /// An empty directory that no block device holds.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn in_memory() -> Result<Self> {
        Ok(Self::of(tempfile::Builder::new().prefix("atoll-").tempdir_in("/dev/shm")?, None))
    }

    /// A directory with the images that are kept.
    ///
    /// # Errors
    /// The harness's disk cannot be made or mounted.
    pub fn with_images() -> Result<Self> {
        let disk = Disk::open()?;
        let dir = tempfile::Builder::new().prefix("atoll-").tempdir_in(&disk.root)?;
        fs::create_dir(dir.path().join("disk"))?;
        let images = dir.path().join("disk/images");
        let kept = disk.kept();
        if kept.exists() {
            subvolume(&["snapshot"], &[&kept, &images])?;
        } else {
            subvolume(&["create"], &[&images])?;
        }
        Ok(Self::of(dir, Some(disk)))
    }

    /// As a machine has it where a server made its own disk: records on whatever file system there is, images and
    /// sandboxes' files on a btrfs in a file.
    ///
    /// # Errors
    /// The harness's disk cannot be made or mounted.
    pub fn as_installed() -> Result<Self> {
        let (mut place, files) = (Self::bare()?, Self::with_images()?);
        let target = place.path().join("disk");
        fs::create_dir(&target)?;
        tool(Command::new("mount").arg("--bind").arg(files.path().join("disk")).arg(&target))?;
        place.bind = Some(Bind(target));
        place.files = Some(Box::new(files));
        Ok(place)
    }

    /// A directory with a copy of the images that are kept, on whatever file system there is.
    ///
    /// # Errors
    /// The harness's disk cannot be made or mounted, or no images are kept yet.
    pub fn with_copied_images() -> Result<Self> {
        let (place, disk) = (Self::bare()?, Disk::open()?);
        let copy = place.path().join("disk");
        fs::create_dir(&copy)?;
        tool(Command::new("cp").arg("--archive").arg(disk.kept()).arg(copy.join("images")))?;
        Ok(place)
    }

    /// Whether there are images that are kept.
    ///
    /// # Errors
    /// The harness's disk cannot be made or mounted.
    pub fn keeps_images() -> Result<bool> {
        Ok(Disk::open()?.kept().exists())
    }

    /// Keeps the images of this directory for later ones, in place of all that were kept. No server may run on it.
    ///
    /// # Errors
    /// The directory is a bare one, or btrfs refuses.
    pub fn keep_images(&self) -> Result<()> {
        if let Some(files) = &self.files {
            return files.keep_images();
        }
        let disk = self.disk.as_ref().context("a bare directory keeps nothing")?;
        for older in disk.all_kept()? {
            subvolume(&["delete"], &[&older])?;
        }
        subvolume(&["snapshot"], &[&self.dir.path().join("disk/images"), &disk.kept()])
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A bind mount. Goes when dropped.
#[derive(Debug)]
struct Bind(PathBuf);

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = tool(Command::new("umount").arg(&self.0));
    }
}

/// The mounted disk of the harness. One process has it at a time; it is unmounted with its last user.
#[derive(Debug)]
struct Disk {
    root: PathBuf,
    _lock: File,
}

static OPEN: Mutex<Weak<Disk>> = Mutex::new(Weak::new());

impl Disk {
    fn open() -> Result<Arc<Self>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(disk) = open.upgrade() {
            return Ok(disk);
        }
        let disk = Arc::new(Self::mount()?);
        *open = Arc::downgrade(&disk);
        Ok(disk)
    }

    fn mount() -> Result<Self> {
        let root = cache().join("disk");
        fs::create_dir_all(&root)?;
        let lock = File::create(cache().join("disk.lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        let image = cache().join("disk.img");
        if !image.exists() {
            let unfinished = image.with_extension("new");
            File::create(&unfinished)?.set_len(DISK)?;
            tool(Command::new("mkfs.btrfs").arg("--quiet").arg("--force").arg(&unfinished))?;
            fs::rename(&unfinished, &image)?;
        }
        if !is_mount_point(&root)? {
            let mut mount = Command::new("mount");
            tool(mount.args(["-t", "btrfs", "-o", "loop,noatime"]).arg(&image).arg(&root))?;
        }
        Ok(Self { root, _lock: lock })
    }

    /// All that are kept, also those of other sources.
    fn all_kept(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.root)?.collect::<Result<Vec<_>, _>>()?;
        let begins = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("images-");
        Ok(entries.iter().filter(|entry| begins(entry)).map(fs::DirEntry::path).collect())
    }

    fn kept(&self) -> PathBuf {
        let mut hash = DefaultHasher::new();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
        for source in SOURCES {
            hash_below(&workspace.join(source), &mut hash);
        }
        self.root.join(format!("images-{:016x}", hash.finish()))
    }
}

/// A file, or every file below a directory in the order of their names.
fn hash_below(path: &Path, hash: &mut DefaultHasher) {
    path.file_name().hash(hash);
    match fs::read_dir(path) {
        Ok(entries) => {
            let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.sort();
            paths.iter().for_each(|path| hash_below(path, hash));
        }
        Err(_) => fs::read(path).unwrap_or_default().hash(hash),
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What a failed test left mounted below it is reported by that test.
        let _ = tool(Command::new("umount").arg(&self.root));
    }
}

fn is_mount_point(path: &Path) -> Result<bool> {
    Ok(crate::host::mounts()?.iter().any(|point| Path::new(point) == path))
}

fn subvolume(action: &[&str], paths: &[&Path]) -> Result<()> {
    tool(Command::new("btrfs").arg("subvolume").args(action).args(paths))
}
