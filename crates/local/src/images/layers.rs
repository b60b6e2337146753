//! Unpacked layers on disk: `layers/sha256-<diff_id>/fs`, each once, whole or not at all.
//! Knows nothing of registries, names or images.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::{
    error::ImageError,
    reference::{file_name, is_digest},
    unpack::{self, Limits, UnpackError},
};

/// What is known of an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layer {
    /// sha256 of the uncompressed archive.
    pub(super) diff_id: String,
    /// Size of the uncompressed archive.
    pub(super) size: u64,
}

/// The layers of a store.
#[derive(Debug)]
pub(super) struct Layers {
    root: PathBuf,
    temporary: PathBuf,
    counter: AtomicU64,
    pins: Mutex<HashMap<String, usize>>,
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Keeps layers from being collected while an image that needs them is being made.
#[derive(Debug)]
pub(super) struct Pins {
    layers: Arc<Layers>,
    diff_ids: Vec<String>,
}

/// A directory that goes away with its owner, unless it was moved to its place.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Layers {
    /// Opens the directory and removes what a killed process left half made.
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        let (layers, temporary) = (root.join("layers"), root.join("tmp"));
        for directory in [&layers, &temporary] {
            fs::create_dir_all(directory).map_err(|e| ImageError::io("create", directory, e))?;
        }
        for entry in read_dir(&temporary)? {
            remove_tree(&entry).map_err(|e| ImageError::io("remove", &entry, e))?;
        }
        Ok(Self {
            root: layers,
            temporary,
            counter: AtomicU64::new(0),
            pins: Mutex::default(),
            locks: Mutex::default(),
        })
    }

    /// The directory for overlayfs.
    pub(super) fn path(&self, diff_id: &str) -> PathBuf {
        self.root.join(file_name(diff_id)).join("fs")
    }

    /// The layer, if it is here.
    pub(super) fn get(&self, diff_id: &str) -> Option<Layer> {
        let text = fs::read(self.root.join(file_name(diff_id)).join("layer.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// All layers that are here.
    pub(super) fn list(&self) -> Result<Vec<Layer>, ImageError> {
        let names = read_dir(&self.root)?.into_iter();
        let digests = names.filter_map(|path| Some(path.file_name()?.to_str()?.replacen('-', ":", 1)));
        Ok(digests.filter(|digest| is_digest(digest)).filter_map(|digest| self.get(&digest)).collect())
    }

    /// A new directory of one's own in the store.
    pub(super) fn scratch(&self) -> Result<Scratch, ImageError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.temporary.join(number.to_string());
        fs::create_dir(&path).map_err(|e| ImageError::io("create", &path, e))?;
        Ok(Scratch(path))
    }

    /// Unpacks an archive and puts it in its place. Blocks; the bytes are forced to the disk before the name appears.
    pub(super) fn install(
        &self,
        archive: impl Read,
        diff_id: Option<&str>,
        limits: Limits,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Layer, LayerError> {
        let scratch = self.scratch()?;
        let files = scratch.path().join("fs");
        fs::create_dir(&files).map_err(|e| ImageError::io("create", &files, e))?;
        let (size, diff_id) = unpack::unpack(archive, &files, diff_id, limits, cancel)?;
        let layer = Layer { diff_id, size };
        let note = serde_json::to_vec(&layer).map_err(|e| ImageError::io("describe", &files, e.into()))?;
        let note_path = scratch.path().join("layer.json");
        fs::write(&note_path, note).map_err(|e| ImageError::io("write", &note_path, e))?;
        sync_file_system(scratch.path())?;
        let place = self.root.join(file_name(&layer.diff_id));
        match fs::rename(scratch.path(), &place) {
            Err(_) if self.get(&layer.diff_id).is_some() => {} // the same layer, by another way
            moved => moved.map_err(|e| ImageError::io("move into place", &place, e))?,
        }
        sync_directory(&self.root)?;
        Ok(layer)
    }

    /// Protects layers until the value is dropped.
    pub(super) fn pin(self: &Arc<Self>, diff_ids: &[String]) -> Pins {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for diff_id in diff_ids {
            *pins.entry(diff_id.clone()).or_default() += 1;
        }
        Pins { layers: Arc::clone(self), diff_ids: diff_ids.to_vec() }
    }

    /// Removes a layer unless it is pinned or needed; tells the bytes given back. Whether it is needed is asked under
    /// the lock: an image is kept first and its pins go after.
    pub(super) fn remove(
        &self,
        diff_id: &str,
        is_needed: impl Fn() -> bool,
    ) -> Result<Option<u64>, ImageError> {
        let scratch = self.scratch()?;
        let size = {
            // Under the lock only the rename: a pull that pins after it does not see the layer any more.
            let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
            if pins.contains_key(diff_id) || is_needed() {
                return Ok(None);
            }
            let place = self.root.join(file_name(diff_id));
            let size = self.get(diff_id).map_or(0, |layer| layer.size);
            let aside = scratch.path().join("layer");
            fs::rename(&place, aside).map_err(|e| ImageError::io("remove", &place, e))?;
            size
        };
        drop(scratch);
        Ok(Some(size))
    }

    /// Whether somebody holds a lock.
    pub(super) fn is_locked(&self, digest: &str) -> bool {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.get(digest).is_some_and(|lock| lock.strong_count() > 0)
    }

    /// The lock of whoever fetches a blob or makes a layer: the second one waits and then finds it here.
    pub(super) fn lock(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(digest.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pins = self.layers.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for diff_id in &self.diff_ids {
            if let Some(count) = pins.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(diff_id);
                }
            }
        }
    }
}

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a temporary directory stays until the next start");
        }
    }
}

/// Why a layer is not in its place.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Store(#[from] ImageError),
}

impl LayerError {
    /// In the words of the image that the layer belongs to.
    pub(super) fn of(self, reference: &str, layer: &str, root: &Path) -> ImageError {
        let (reference, layer) = (reference.to_owned(), layer.to_owned());
        match self {
            Self::Store(error) => error.or_full(&reference),
            Self::Unpack(UnpackError::Refused { entry, reason }) => {
                ImageError::LayerRefused { reference, layer, entry, reason }
            }
            Self::Unpack(UnpackError::Damaged { reason }) => {
                ImageError::LayerDamaged { reference, layer, reason }
            }
            Self::Unpack(UnpackError::TooLarge { limit }) => {
                ImageError::LayerTooLarge { reference, layer, limit }
            }
            Self::Unpack(UnpackError::WrongDigest { expected, actual }) => ImageError::WrongDigest {
                reference,
                what: format!("layer {layer}, unpacked,"),
                expected,
                actual,
            },
            Self::Unpack(UnpackError::Cancelled) => ImageError::Cancelled { reference },
            Self::Unpack(UnpackError::Full) => ImageError::DiskFull { reference, path: root.to_owned() },
            Self::Unpack(UnpackError::Write { entry, action, source }) => {
                let path = format!("entry `{entry}` of layer {layer}");
                ImageError::io(action, path, source)
            }
        }
    }
}

/// A file's whole content, replaced at once: the old one or the new one is there, whenever the power goes.
pub(super) fn write_atomically(path: &Path, temporary: &Scratch, content: &[u8]) -> Result<(), ImageError> {
    let aside = temporary.path().join("file");
    let write = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        io::Write::write_all(&mut file, content)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|e| ImageError::io("write", path, e))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Everything in a directory; none when it is not there.
pub(super) fn read_dir(path: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| ImageError::io("read", path, e))?,
    };
    entries.map(|entry| entry.map(|e| e.path()).map_err(|e| ImageError::io("read", path, e))).collect()
}

/// A file, or a directory with all in it. A build that was just killed may still be writing: then once more.
fn remove_tree(path: &Path) -> io::Result<()> {
    for _ in 0..10 {
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    fs::remove_dir_all(path)
}

fn sync_file_system(path: &Path) -> Result<(), ImageError> {
    let directory = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
    rustix::fs::syncfs(&directory).map_err(|e| ImageError::io("write to the disk", path, e.into()))
}

fn sync_directory(path: &Path) -> Result<(), ImageError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| ImageError::io("write to the disk", path, e))
}
