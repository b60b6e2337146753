//! Gets an image from a registry: what the name means, its configuration, its layers, each checked by its digest.
//! Knows nothing of tar or of how blobs survive a broken connection.

use std::{fs::File, path::PathBuf, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use oci_client::{
    Reference,
    errors::OciDistributionError,
    manifest::{OciDescriptor, OciImageManifest, OciManifest},
};

use super::{
    Image, Inner, blocking,
    config::{ConfigFile, Platform, check_layers, choose, malformed, parse_manifest},
    credentials::Credentials,
    error::ImageError,
    flight::CancelOnDrop,
    index::Record,
    layers::Layer,
    progress::{Hub, PullEvent},
    reference::{digest_of, key},
    registry::{Endpoint, Refusal, conclude, endpoints},
};

const MAX_CONFIG_BYTES: i64 = 8 << 20;

/// An image as the registry has it.
struct Resolved {
    digest: String,
    manifest: OciImageManifest,
}

/// Why an endpoint did not resolve a name.
enum Failed {
    Refused(Refusal),
    Final(ImageError),
}

/// One pull at work.
struct Pull {
    inner: Arc<Inner>,
    hub: Arc<Hub>,
    name: String,
    endpoints: Vec<Endpoint>,
    cancel: CancelOnDrop,
}

/// Pulls an image and keeps it.
pub(super) async fn run(
    inner: Arc<Inner>,
    hub: Arc<Hub>,
    reference: Reference,
    platform: Platform,
    credentials: Option<Credentials>,
) -> Result<Image, ImageError> {
    hub.send(PullEvent::Resolving);
    let name = key(&reference);
    let mut endpoints = endpoints(&inner.config, &reference, credentials.as_ref())?;
    let (resolved, at) = resolve(&name, &endpoints, &platform).await?;
    endpoints.swap(0, at); // who had the manifest is asked first for the rest
    let pull = Pull { inner, hub, name, endpoints, cancel: CancelOnDrop::default() };
    pull.complete(resolved, &platform).await
}

async fn resolve(
    name: &str,
    endpoints: &[Endpoint],
    platform: &Platform,
) -> Result<(Resolved, usize), ImageError> {
    let mut refusals = Vec::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        match resolve_at(name, endpoint, platform).await {
            Ok(resolved) => return Ok((resolved, at)),
            Err(Failed::Final(error)) => return Err(error),
            Err(Failed::Refused(refusal)) => refusals.push(refusal),
        }
    }
    Err(conclude(name, "manifest", refusals))
}

/// Follows indexes to the manifest for the platform.
async fn resolve_at(name: &str, endpoint: &Endpoint, platform: &Platform) -> Result<Resolved, Failed> {
    let refused = |error: OciDistributionError| Failed::Refused(endpoint.refusal(&error));
    let mut bytes = endpoint.manifest().await.map_err(refused)?;
    let mut expected = endpoint.image.digest().map(str::to_owned);
    for _ in 0..3 {
        let digest = digest_of(&bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Failed::Refused(Refusal::wrong_digest(&endpoint.name, &expected, digest)));
        }
        match parse_manifest(name, &bytes).map_err(Failed::Final)? {
            OciManifest::Image(manifest) => return Ok(Resolved { digest, manifest }),
            OciManifest::ImageIndex(index) => {
                let entry = choose(name, &index.manifests, platform).map_err(Failed::Final)?;
                bytes = endpoint.manifest_by_digest(&entry.digest).await.map_err(refused)?;
                expected = Some(entry.digest.clone());
            }
        }
    }
    Err(Failed::Final(malformed(name, "index", "indexes within indexes")))
}

impl Pull {
    async fn complete(&self, resolved: Resolved, platform: &Platform) -> Result<Image, ImageError> {
        let config = self.config(&resolved.manifest.config).await?;
        check_layers(&self.name, &resolved.manifest, &config)?;
        let platform = config.check_platform(&self.name, platform)?;
        let _pins = self.inner.layers.pin(config.diff_ids());
        let layers = self.layers(&resolved.manifest, &config).await?;
        let record = Record {
            digest: resolved.digest,
            platform: platform.to_string(),
            created_at: config.created().unwrap_or_else(jiff::Timestamp::now),
            stored_at: jiff::Timestamp::now(),
            config: config.run(),
            layers,
        };
        keep(&self.inner, &self.hub, self.name.clone(), record).await
    }

    async fn config(&self, descriptor: &OciDescriptor) -> Result<ConfigFile, ImageError> {
        if !(0..=MAX_CONFIG_BYTES).contains(&descriptor.size)
            || !super::reference::is_digest(&descriptor.digest)
        {
            return Err(malformed(&self.name, "configuration", "its digest or size makes no sense"));
        }
        let lock = self.inner.layers.lock(&blob_lock(&descriptor.digest));
        let _held = lock.lock().await;
        let path = self.inner.blobs.fetch(&self.name, &self.endpoints, descriptor, &|_| {}).await?;
        let bytes = std::fs::read(&path).map_err(|e| ImageError::io("read", &path, e))?;
        self.inner.blobs.forget(&descriptor.digest)?;
        ConfigFile::parse(&self.name, &bytes)
    }

    /// All layers, some at a time, lowest first in the result.
    async fn layers(
        &self,
        manifest: &OciImageManifest,
        config: &ConfigFile,
    ) -> Result<Vec<Layer>, ImageError> {
        let pairs = config.diff_ids().iter().cloned().zip(manifest.layers.iter().cloned());
        let wanted = topmost(pairs.collect(), |(diff_id, _)| diff_id.clone());
        for (_, blob) in &wanted {
            self.tell(blob, 0);
        }
        let parallel = self.inner.config.parallel_downloads.max(1);
        let work = wanted.into_iter().map(|(diff_id, blob)| async move { self.layer(&diff_id, &blob).await });
        stream::iter(work).buffered(parallel).try_collect().await
    }

    /// One layer, from whoever has it first: another pull of it, or this one.
    async fn layer(&self, diff_id: &str, blob: &OciDescriptor) -> Result<Layer, ImageError> {
        let layer_lock = self.inner.layers.lock(&format!("layer {diff_id}"));
        let _making = layer_lock.lock().await;
        let layer = match self.inner.layers.get(diff_id) {
            Some(layer) => layer,
            None => {
                let blob_lock = self.inner.layers.lock(&blob_lock(&blob.digest));
                let _fetching = blob_lock.lock().await;
                let progress = |done| self.tell(blob, done);
                let path = self.inner.blobs.fetch(&self.name, &self.endpoints, blob, &progress).await?;
                self.unpack(path, diff_id, &blob.digest).await?
            }
        };
        self.tell(blob, blob.size.cast_unsigned());
        self.hub.send(PullEvent::Unpacked { digest: blob.digest.clone() });
        Ok(layer)
    }

    async fn unpack(&self, path: PathBuf, diff_id: &str, digest: &str) -> Result<Layer, ImageError> {
        let cancelled = || ImageError::Cancelled { reference: self.name.clone() };
        let _permit = self.inner.unpacking.acquire().await.map_err(|_| cancelled())?;
        self.hub.send(PullEvent::Unpacking { digest: digest.to_owned() });
        let (inner, cancel) = (Arc::clone(&self.inner), Arc::clone(&self.cancel.0));
        let (name, diff_id, digest) = (self.name.clone(), diff_id.to_owned(), digest.to_owned());
        blocking(move || {
            let archive = File::open(&path).map_err(|e| ImageError::io("open", &path, e))?;
            let made = inner.layers.install(archive, Some(&diff_id), inner.config.limits, &cancel);
            let made = made.map_err(|error| error.of(&name, &digest, &inner.root));
            if !matches!(made, Err(ImageError::Cancelled { .. })) {
                inner.blobs.forget(&digest)?;
            }
            made
        })
        .await
    }

    fn tell(&self, blob: &OciDescriptor, done_bytes: u64) {
        let total_bytes = blob.size.cast_unsigned();
        self.hub.send(PullEvent::Layer { digest: blob.digest.clone(), done_bytes, total_bytes });
    }
}

/// Writes an image down under a name.
pub(super) async fn keep(
    inner: &Arc<Inner>,
    hub: &Hub,
    name: String,
    record: Record,
) -> Result<Image, ImageError> {
    let store = Arc::clone(inner);
    let image = blocking(move || {
        let record = store.index.put(&name, record).map_err(|error| error.or_full(&name))?;
        Ok(store.image(&name, &record))
    })
    .await?;
    hub.send(PullEvent::Done);
    Ok(image)
}

/// Of things that occur more than once, the last; overlayfs takes no directory twice, and the topmost one decides.
pub(super) fn topmost<T, K: PartialEq>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let repeated = |at: usize| items[at + 1..].iter().any(|later| key(later) == key(&items[at]));
    let keep: Vec<bool> = (0..items.len()).map(|at| !repeated(at)).collect();
    items.into_iter().zip(keep).filter_map(|(item, keep)| keep.then_some(item)).collect()
}

/// The name of the lock of whoever fetches a blob.
pub(super) fn blob_lock(digest: &str) -> String {
    format!("blob {digest}")
}
