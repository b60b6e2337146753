//! Takes images from archives on disk: OCI layouts (a directory or a tar file) and what `docker save` writes.
//! Knows nothing of registries.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use oci_client::manifest::OciManifest;
use serde::Deserialize;

use super::{
    Image, Inner, blocking,
    config::{ConfigFile, Platform, check_layers, choose, malformed, manifest_digest, parse_manifest},
    error::ImageError,
    flight::CancelOnDrop,
    index::Record,
    layers::Layer,
    progress::{Hub, PullEvent},
    pull::{keep, topmost},
    reference::{digest_of, is_digest},
};

/// Manifests and configurations are small.
const MAX_JSON_BYTES: u64 = 8 << 20;

/// Files by name, in a directory or in a tar file.
enum Source {
    Directory(PathBuf),
    Tar { path: PathBuf, files: HashMap<String, (u64, u64)> },
}

/// An image found in an archive.
struct Found {
    digest: String,
    config: ConfigFile,
    /// The files of its layers, with the digest by which each is known.
    layers: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    layers: Vec<String>,
}

/// Imports an image and keeps it under a name.
pub(super) async fn run(
    inner: Arc<Inner>,
    hub: Arc<Hub>,
    path: PathBuf,
    name: String,
) -> Result<Image, ImageError> {
    let cancel = CancelOnDrop::default();
    let (store, events, stop, called) =
        (Arc::clone(&inner), Arc::clone(&hub), Arc::clone(&cancel.0), name.clone());
    let (record, _pins) = blocking(move || {
        let source = Source::open(&called, &path)?;
        let found = source.find(&called)?;
        let pins = store.layers.pin(found.config.diff_ids());
        Ok((install(&store, &events, &called, &source, found, &stop)?, pins))
    })
    .await?;
    keep(&inner, &hub, name, record).await
}

fn install(
    inner: &Inner,
    hub: &Hub,
    name: &str,
    source: &Source,
    found: Found,
    cancel: &Arc<AtomicBool>,
) -> Result<Record, ImageError> {
    let platform = found.config.check_platform(name, &Platform::host())?;
    let wanted =
        topmost(found.config.diff_ids().iter().zip(&found.layers).collect(), |(diff_id, _)| *diff_id);
    let mut layers = Vec::new();
    for (diff_id, (file, digest)) in wanted {
        let (reader, total_bytes) = source.open_file(name, file)?;
        hub.send(PullEvent::Layer { digest: digest.clone(), done_bytes: total_bytes, total_bytes });
        layers.push(match inner.layers.get(diff_id) {
            Some(layer) => layer,
            None => unpack(inner, hub, name, (reader, digest), diff_id, cancel)?,
        });
        hub.send(PullEvent::Unpacked { digest: digest.clone() });
    }
    Ok(Record {
        digest: found.digest,
        platform: platform.to_string(),
        created_at: found.config.created().unwrap_or_else(jiff::Timestamp::now),
        stored_at: jiff::Timestamp::now(),
        config: found.config.run(),
        layers,
    })
}

fn unpack(
    inner: &Inner,
    hub: &Hub,
    name: &str,
    (reader, digest): (impl Read, &String),
    diff_id: &str,
    cancel: &Arc<AtomicBool>,
) -> Result<Layer, ImageError> {
    hub.send(PullEvent::Unpacking { digest: digest.clone() });
    let made = inner.layers.install(reader, Some(diff_id), inner.config.limits, cancel);
    made.map_err(|error| error.of(name, digest, &inner.root))
}

impl Source {
    fn open(name: &str, path: &Path) -> Result<Self, ImageError> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let file = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
        let files = index(file).map_err(|e| malformed(name, "archive", format!("not a tar file: {e}")))?;
        Ok(Self::Tar { path: path.to_owned(), files })
    }

    fn has(&self, file: &str) -> bool {
        match self {
            Self::Directory(directory) => directory.join(file).is_file(),
            Self::Tar { files, .. } => files.contains_key(file),
        }
    }

    /// A file's bytes and its size.
    fn open_file(&self, name: &str, file: &str) -> Result<(Box<dyn Read>, u64), ImageError> {
        let missing = || malformed(name, "archive", format!("`{file}` is not in it"));
        match self {
            Self::Directory(directory) => {
                let plain = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
                let path = directory.join(file);
                let opened = File::open(&path).ok().filter(|_| plain).ok_or_else(missing)?;
                let size = opened.metadata().map_err(|e| ImageError::io("read", &path, e))?.len();
                Ok((Box::new(opened), size))
            }
            Self::Tar { path, files } => {
                let (offset, size) = *files.get(file).ok_or_else(missing)?;
                let mut opened = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
                opened.seek(SeekFrom::Start(offset)).map_err(|e| ImageError::io("read", path, e))?;
                Ok((Box::new(opened.take(size)), size))
            }
        }
    }

    fn read(&self, name: &str, file: &str) -> Result<Vec<u8>, ImageError> {
        let (reader, size) = self.open_file(name, file)?;
        if size > MAX_JSON_BYTES {
            return Err(malformed(name, "archive", format!("`{file}` is larger than a manifest can be")));
        }
        let mut bytes = Vec::new();
        reader.take(MAX_JSON_BYTES).read_to_end(&mut bytes).map_err(|e| ImageError::io("read", file, e))?;
        Ok(bytes)
    }

    /// A blob of an OCI layout, which must have the digest it is stored under.
    fn blob(&self, name: &str, digest: &str) -> Result<Vec<u8>, ImageError> {
        let bytes = self.read(name, &blob_file(name, digest)?)?;
        let actual = digest_of(&bytes);
        if actual == digest {
            return Ok(bytes);
        }
        let what = format!("blob {digest}");
        Err(ImageError::WrongDigest { reference: name.to_owned(), what, expected: digest.to_owned(), actual })
    }

    fn find(&self, name: &str) -> Result<Found, ImageError> {
        if self.has("index.json") {
            return self.find_oci(name);
        }
        if self.has("manifest.json") {
            return self.find_docker(name);
        }
        Err(malformed(name, "archive", "it is neither an OCI layout nor written by `docker save`"))
    }

    fn find_oci(&self, name: &str) -> Result<Found, ImageError> {
        let mut bytes = self.read(name, "index.json")?;
        for _ in 0..4 {
            match parse_manifest(name, &bytes)? {
                OciManifest::Image(manifest) => {
                    let config = ConfigFile::parse(name, &self.blob(name, &manifest.config.digest)?)?;
                    check_layers(name, &manifest, &config)?;
                    let file = |layer: &oci_client::manifest::OciDescriptor| {
                        Ok((blob_file(name, &layer.digest)?, layer.digest.clone()))
                    };
                    let layers = manifest.layers.iter().map(file).collect::<Result<_, ImageError>>()?;
                    return Ok(Found { digest: digest_of(&bytes), config, layers });
                }
                OciManifest::ImageIndex(index) => {
                    let entry = choose(name, &index.manifests, &Platform::host())?;
                    bytes = self.blob(name, &entry.digest)?;
                }
            }
        }
        Err(malformed(name, "index", "indexes within indexes"))
    }

    fn find_docker(&self, name: &str) -> Result<Found, ImageError> {
        let bad = |reason: String| malformed(name, "manifest.json", reason);
        let images: Vec<DockerManifest> =
            serde_json::from_slice(&self.read(name, "manifest.json")?).map_err(|e| bad(e.to_string()))?;
        let [image] = &images[..] else { return Err(bad(format!("{} images in it, not one", images.len()))) };
        let bytes = self.read(name, &image.config)?;
        let config = ConfigFile::parse(name, &bytes)?;
        if config.diff_ids().len() != image.layers.len() {
            return Err(bad("it does not name as many layers as its configuration".into()));
        }
        let layers = image.layers.iter().cloned().zip(config.diff_ids().iter().cloned()).collect();
        Ok(Found { digest: manifest_digest(&bytes, config.diff_ids())?, config, layers })
    }
}

fn blob_file(name: &str, digest: &str) -> Result<String, ImageError> {
    if !is_digest(digest) {
        return Err(malformed(name, "manifest", format!("`{digest}` is not a sha256 digest")));
    }
    Ok(format!("blobs/{}", digest.replace(':', "/")))
}

/// Where each file lies in a tar file.
fn index(file: File) -> std::io::Result<HashMap<String, (u64, u64)>> {
    let mut archive = tar::Archive::new(file);
    let mut files = HashMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").to_owned();
        files.insert(path, (entry.raw_file_position(), entry.size()));
    }
    Ok(files)
}
