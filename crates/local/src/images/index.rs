//! What images there are: one JSON file per image and per name, and the same in memory for fast answers.
//! Knows nothing of registries or of how layers come to be.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    config::ImageConfig,
    error::ImageError,
    layers::{Layer, Layers, read_dir, write_atomically},
    reference::{digest_of, file_name},
};

/// An image as it lies on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) digest: String,
    pub(super) platform: String,
    pub(super) config: ImageConfig,
    /// Lowest first, as in the manifest; a layer that occurs twice keeps its highest place.
    pub(super) layers: Vec<Layer>,
    pub(super) created_at: jiff::Timestamp,
    pub(super) stored_at: jiff::Timestamp,
}

/// A name and the image it means.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Name {
    reference: String,
    digest: String,
}

/// All names and images of a store.
#[derive(Debug)]
pub(super) struct Index {
    images: PathBuf,
    names: PathBuf,
    layers: Arc<Layers>,
    /// One change on disk at a time; readers of what is known in memory never wait for the disk.
    changing: Mutex<()>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    names: BTreeMap<String, String>,
    images: BTreeMap<String, Arc<Record>>,
}

impl Index {
    /// Reads what there is; images whose layers are not all here, and names that lead nowhere, are dropped.
    pub(super) fn open(root: &Path, layers: Arc<Layers>) -> Result<Self, ImageError> {
        let (images, names) = (root.join("images"), root.join("names"));
        for directory in [&images, &names] {
            fs::create_dir_all(directory).map_err(|e| ImageError::io("create", directory, e))?;
        }
        let mut known = Known::default();
        for (path, record) in read_all::<Record>(&images)? {
            let whole =
                |record: &Record| record.layers.iter().all(|layer| layers.get(&layer.diff_id).is_some());
            match record.filter(whole) {
                Some(record) => drop(known.images.insert(record.digest.clone(), Arc::new(record))),
                None => fs::remove_file(&path).map_err(|e| ImageError::io("remove", &path, e))?,
            }
        }
        for (path, name) in read_all::<Name>(&names)? {
            match name.filter(|name| known.images.contains_key(&name.digest)) {
                Some(name) => drop(known.names.insert(name.reference, name.digest)),
                None => fs::remove_file(&path).map_err(|e| ImageError::io("remove", &path, e))?,
            }
        }
        Ok(Self { images, names, layers, changing: Mutex::default(), known: RwLock::new(known) })
    }

    /// The image that a name means.
    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Record>> {
        let known = self.read();
        known.names.get(name).and_then(|digest| known.images.get(digest)).cloned()
    }

    /// The image with a digest.
    pub(super) fn by_digest(&self, digest: &str) -> Option<Arc<Record>> {
        self.read().images.get(digest).cloned()
    }

    /// Whether any name in a repository means the image.
    pub(super) fn is_of(&self, digest: &str, repository: &str) -> bool {
        let within =
            |name: &str| name.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@']));
        self.read().names.iter().any(|(name, image)| image == digest && within(name))
    }

    /// All names with their images.
    pub(super) fn names(&self) -> Vec<(String, Arc<Record>)> {
        let known = self.read();
        known.names.iter().filter_map(|(n, d)| Some((n.clone(), Arc::clone(known.images.get(d)?)))).collect()
    }

    /// Images that have no name.
    pub(super) fn nameless(&self) -> Vec<Arc<Record>> {
        let known = self.read();
        let named: HashSet<&String> = known.names.values().collect();
        known.images.values().filter(|image| !named.contains(&image.digest)).cloned().collect()
    }

    /// Whether some image needs a layer.
    pub(super) fn needs(&self, diff_id: &str) -> bool {
        self.read().images.values().any(|image| image.layers.iter().any(|layer| layer.diff_id == diff_id))
    }

    /// Keeps an image under a name: first the image, then the name, so that no name ever leads nowhere.
    pub(super) fn put(&self, name: &str, record: Record) -> Result<Arc<Record>, ImageError> {
        let scratch = self.layers.scratch()?;
        let _changing = self.change();
        let digest = record.digest.clone();
        if self.by_digest(&digest).is_none() {
            write_atomically(&self.image_path(&digest), &scratch, &json(&record)?)?;
        }
        let entry = Name { reference: name.to_owned(), digest: digest.clone() };
        write_atomically(&self.name_path(name), &scratch, &json(&entry)?)?;
        let mut known = self.write();
        known.names.insert(entry.reference, digest.clone());
        Ok(Arc::clone(known.images.entry(digest).or_insert_with(|| Arc::new(record))))
    }

    /// Takes a name away.
    pub(super) fn remove_name(&self, name: &str) -> Result<(), ImageError> {
        let _changing = self.change();
        let path = self.name_path(name);
        fs::remove_file(&path).map_err(|e| ImageError::io("remove", &path, e))?;
        self.write().names.remove(name);
        Ok(())
    }

    /// Takes an image away, if no name means it.
    pub(super) fn remove_nameless(&self, digest: &str) -> Result<bool, ImageError> {
        let _changing = self.change();
        if self.names_of(digest) > 0 || self.by_digest(digest).is_none() {
            return Ok(false);
        }
        let path = self.image_path(digest);
        fs::remove_file(&path).map_err(|e| ImageError::io("remove", &path, e))?;
        self.write().images.remove(digest);
        Ok(true)
    }

    /// How many names mean an image.
    pub(super) fn names_of(&self, digest: &str) -> usize {
        self.read().names.values().filter(|image| *image == digest).count()
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn image_path(&self, digest: &str) -> PathBuf {
        self.images.join(format!("{}.json", file_name(digest)))
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.names.join(format!("{}.json", file_name(&digest_of(name.as_bytes()))))
    }
}

/// Every file of a directory, read; what cannot be read is none.
fn read_all<T: DeserializeOwned>(directory: &Path) -> Result<Vec<(PathBuf, Option<T>)>, ImageError> {
    let read = |path: PathBuf| {
        let text = fs::read(&path).map_err(|e| ImageError::io("read", &path, e))?;
        Ok((path, serde_json::from_slice(&text).ok()))
    };
    read_dir(directory)?.into_iter().map(read).collect()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|e| ImageError::io("describe", "an image", e.into()))
}
