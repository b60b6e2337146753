//! The image store: OCI images as directories that overlayfs can use as lower layers. All of it lies below one
//! directory; the process may be killed at any instant and the next one goes on. Images come from registries, from
//! archives, or are made from Debian packages. It must not know of sandboxes: callers say which images are in use.

mod apt;
mod config;
mod credentials;
mod download;
mod error;
mod flight;
mod import;
mod index;
mod layers;
mod progress;
mod provision;
mod pull;
mod recipe;
mod reference;
mod registry;
mod unpack;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FlockOperation;
use tokio::sync::Semaphore;

pub use self::{
    config::{ImageConfig, Platform},
    credentials::Credentials,
    error::ImageError,
    progress::{Percentage, PullEvent},
    recipe::{Recipe, RecipeConfig},
    registry::RegistryConfig,
    unpack::Limits,
};
use self::{
    download::Blobs,
    flight::{Flights, Key},
    index::{Index, Record},
    layers::Layers,
    provision::provision,
};

/// Partial downloads kept over a restart.
const MAX_PARTIAL_BYTES: u64 = 4 << 30;

/// Who listens to what happens meanwhile.
pub type Progress<'a> = &'a (dyn Fn(PullEvent) + Send + Sync);

/// Tells whether a sandbox stands on the image with a digest.
pub type InUse<'a> = &'a (dyn Fn(&str) -> bool + Send + Sync);

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name in full: `docker.io/library/python:3.11-slim`, or `base`.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// What it is made for: `linux/amd64`.
    pub platform: String,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Directories for overlayfs, topmost first; never empty.
    pub layers: Vec<PathBuf>,
    /// Bytes of its layers, uncompressed; layers are shared between images.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: jiff::Timestamp,
}

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Credentials for the registry that the reference names; else those of the settings.
    pub credentials: Option<Credentials>,
    /// Another platform than this machine's.
    pub platform: Option<Platform>,
    /// Ask the registry even if the image is here: a tag may have moved.
    pub force: bool,
}

/// What to remove when pruning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PruneScope {
    /// Images that lost their name, and what belongs to no image.
    #[default]
    Dangling,
    /// Every image that no sandbox uses, too.
    Unused,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names or digests of images.
    pub images: Vec<String>,
    /// Digests of layers.
    pub layers: Vec<String>,
    /// Bytes given back, about.
    pub bytes: u64,
}

/// The images of one directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    config: RegistryConfig,
    layers: Arc<Layers>,
    index: Index,
    blobs: Blobs,
    unpacking: Semaphore,
    flights: Flights,
    /// Held as long as the store is open.
    _lock: File,
}

impl ImageStore {
    /// Opens the store in a directory, made if it is not there, and removes what a killed process left half made.
    pub fn open(root: &Path, config: RegistryConfig) -> Result<Self, ImageError> {
        let empty = root.join("empty");
        fs::create_dir_all(&empty).map_err(|e| ImageError::io("create", &empty, e))?;
        let lock = lock(root)?;
        let layers = Arc::new(Layers::open(root)?);
        let index = Index::open(root, Arc::clone(&layers))?;
        let blobs = Blobs::open(root)?;
        blobs.bound(MAX_PARTIAL_BYTES)?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let inner = Inner {
            root: root.to_owned(),
            config,
            layers,
            index,
            blobs,
            unpacking: Semaphore::new(cores),
            flights: Flights::default(),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A directory that stays empty, on the filesystem of the layers.
    #[must_use]
    pub fn empty(&self) -> PathBuf {
        self.inner.empty()
    }

    /// Gets an image from its registry or a mirror, unless it is here. Callers who want the same share the work, which
    /// ends when all of them have gone.
    pub async fn pull(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Progress<'_>,
    ) -> Result<Image, ImageError> {
        let parsed = reference::parse(reference)?;
        let platform = options.platform.unwrap_or_else(Platform::host);
        if !options.force
            && let Some(image) = self.inner.find_remote(&parsed, &platform)
        {
            progress(PullEvent::Done);
            return Ok(image);
        }
        let name = reference::key(&parsed);
        let key = Key { name, platform: platform.to_string(), credentials: options.credentials.clone() };
        let inner = Arc::clone(&self.inner);
        let work = |hub| pull::run(inner, hub, parsed, platform, options.credentials);
        self.inner.flights.join(key, work, progress).await
    }

    /// An image that is here. It is answered from memory.
    pub async fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        self.inner.find(reference)
    }

    /// All images that have a name, by name.
    pub async fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self
            .inner
            .index
            .names()
            .into_iter()
            .map(|(name, record)| self.inner.image(&name, &record))
            .collect())
    }

    /// Takes a name away, and the image and its layers with its last name.
    pub async fn remove(&self, reference: &str, in_use: InUse<'_>) -> Result<Pruned, ImageError> {
        let missing = || ImageError::NotPresent { reference: reference.to_owned() };
        let image = self.inner.find(reference)?.ok_or_else(missing)?;
        let digest = image.digest;
        if self.inner.index.names_of(&digest) <= 1 && in_use(&digest) {
            return Err(ImageError::InUse { reference: image.reference, digest });
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut pruned = Pruned::default();
            if inner.index.by_name(&image.reference).is_some() {
                inner.index.remove_name(&image.reference)?;
            }
            if inner.index.remove_nameless(&digest)? {
                pruned.images.push(image.reference);
            }
            inner.collect_layers(&mut pruned)?;
            Ok(pruned)
        })
        .await
    }

    /// Removes what nobody needs: images (see [`PruneScope`]), layers of no image, partial downloads.
    pub async fn prune(&self, scope: PruneScope, in_use: InUse<'_>) -> Result<Pruned, ImageError> {
        let unused: Vec<String> = match scope {
            PruneScope::Dangling => Vec::new(),
            PruneScope::Unused => {
                let names = self.inner.index.names().into_iter();
                names.filter(|(_, record)| !in_use(&record.digest)).map(|(name, _)| name).collect()
            }
        };
        let nameless = self.inner.index.nameless().into_iter().map(|record| record.digest.clone());
        let mut images: Vec<String> = nameless.filter(|digest| !in_use(digest)).collect();
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut pruned = Pruned::default();
            for name in unused {
                images.extend(inner.index.by_name(&name).map(|record| record.digest.clone()));
                inner.index.remove_name(&name)?;
                pruned.images.push(name);
            }
            for digest in images {
                if inner.index.remove_nameless(&digest)? && scope == PruneScope::Dangling {
                    pruned.images.push(digest);
                }
            }
            inner.collect_layers(&mut pruned)?;
            pruned.bytes += inner.blobs.sweep(|digest| inner.layers.is_locked(&pull::blob_lock(digest)))?;
            Ok(pruned)
        })
        .await
    }

    /// Makes an image from Debian packages and keeps it under the recipe's name, in the place of an older one. An image
    /// that it adds to is made before, where it is not here and Atoll has its recipe.
    pub async fn provision(&self, recipe: &Recipe, progress: Progress<'_>) -> Result<Image, ImageError> {
        if let Some(parent) = &recipe.from
            && self.inner.index.by_name(parent).is_none()
            && let Some(parent) = Recipe::carried(parent)
        {
            Box::pin(self.provision(&parent?, progress)).await?;
        }
        let key = Key { name: recipe.name.clone(), platform: String::from("recipe"), credentials: None };
        let (inner, recipe) = (Arc::clone(&self.inner), recipe.clone());
        self.inner.flights.join(key, |hub| provision(inner, hub, recipe), progress).await
    }

    /// Takes an image from an OCI layout (directory or tar) or from a `docker save` archive, under a name.
    pub async fn import(
        &self,
        path: &Path,
        reference: &str,
        progress: Progress<'_>,
    ) -> Result<Image, ImageError> {
        let name = reference::key(&reference::parse(reference)?);
        let key = Key { name: name.clone(), platform: path.display().to_string(), credentials: None };
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        self.inner.flights.join(key, |hub| import::run(inner, hub, path, name), progress).await
    }
}

impl Inner {
    fn find(&self, text: &str) -> Result<Option<Image>, ImageError> {
        if reference::is_digest(text) {
            return Ok(self.index.by_digest(text).map(|record| self.image(text, &record)));
        }
        if reference::is_local(text)
            && let Some(record) = self.index.by_name(text)
        {
            return Ok(Some(self.image(text, &record)));
        }
        let parsed = reference::parse(text)?;
        Ok(self.find_record(&parsed).map(|record| self.image(&reference::key(&parsed), &record)))
    }

    fn find_record(&self, parsed: &oci_client::Reference) -> Option<Arc<Record>> {
        let by_name = self.index.by_name(&reference::key(parsed));
        by_name.or_else(|| {
            let digest = parsed.digest().filter(|d| self.index.is_of(d, &reference::repository(parsed)))?;
            self.index.by_digest(digest)
        })
    }

    fn find_remote(&self, parsed: &oci_client::Reference, platform: &Platform) -> Option<Image> {
        let record = self.find_record(parsed)?;
        let fits = record.platform.starts_with(&format!("{}/{}", platform.os, platform.architecture));
        fits.then(|| self.image(&reference::key(parsed), &record))
    }

    fn empty(&self) -> PathBuf {
        self.root.join("empty")
    }

    fn image(&self, name: &str, record: &Record) -> Image {
        let mut layers: Vec<PathBuf> =
            record.layers.iter().rev().map(|l| self.layers.path(&l.diff_id)).collect();
        if layers.is_empty() {
            layers.push(self.empty());
        }
        Image {
            reference: name.to_owned(),
            digest: record.digest.clone(),
            platform: record.platform.clone(),
            config: record.config.clone(),
            layers,
            size_bytes: record.layers.iter().map(|layer| layer.size).sum(),
            created_at: record.created_at,
        }
    }

    /// Removes the layers that no image needs.
    fn collect_layers(&self, pruned: &mut Pruned) -> Result<(), ImageError> {
        for layer in self.layers.list()? {
            if self.index.needs(&layer.diff_id) {
                continue;
            }
            if let Some(bytes) = self.layers.remove(&layer.diff_id, || self.index.needs(&layer.diff_id))? {
                pruned.bytes += bytes;
                pruned.layers.push(layer.diff_id);
            }
        }
        Ok(())
    }
}

/// One process at a time works on a store: what it finds half made at its start is nobody's work.
fn lock(root: &Path) -> Result<File, ImageError> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(|e| ImageError::io("create", &path, e))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| ImageError::Locked { path: root.to_owned() })?;
    Ok(file)
}

/// Runs what blocks on a thread made for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| ImageError::io("run", "a thread", error.into()))?
}
