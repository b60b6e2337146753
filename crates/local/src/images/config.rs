//! Manifests and configurations of images, read leniently where the world is sloppy and strictly where it matters.
//! Knows nothing of registries or files.

use std::{collections::BTreeMap, fmt, str::FromStr};

use oci_client::manifest::{ImageIndexEntry, OciImageManifest, OciManifest};
use serde::{Deserialize, Serialize};

use super::{
    error::ImageError,
    reference::{digest_of, is_digest},
};

/// Directories that one overlay can have.
const MAX_LAYERS: usize = 500;

/// How an image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program, before the command.
    pub entrypoint: Vec<String>,
    /// The command, or the entrypoint's arguments.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    pub user: String,
    /// The directory to start in; empty means `/`.
    pub workdir: String,
    /// `8080/tcp` each.
    pub exposed_ports: Vec<String>,
    /// What its makers say about it.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
}

/// What kind of machine an image is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64` and so on, as images spell it.
    pub architecture: String,
    /// `v7`, `v8`; only where it matters.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    fn matches(&self, os: &str, architecture: &str) -> bool {
        self.os == os && self.architecture == architecture
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [os, architecture] if !os.is_empty() && !architecture.is_empty() => {
                Ok(Self { os: os.into(), architecture: architecture.into(), variant: None })
            }
            [os, architecture, variant] => {
                Ok(Self { os: os.into(), architecture: architecture.into(), variant: Some(variant.into()) })
            }
            _ => Err(ImageError::InvalidSetting {
                setting: format!("platform {text}"),
                reason: "write it as linux/amd64".into(),
            }),
        }
    }
}

/// A configuration file as it comes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigFile {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    created: Option<String>,
    config: Option<RunConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RunConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

impl ConfigFile {
    pub(super) fn parse(reference: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let malformed = |reason: String| malformed(reference, "configuration", reason);
        let config: Self = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        match config.diff_ids().iter().find(|id| !is_digest(id)) {
            Some(id) => Err(malformed(format!("`{id}` is not a sha256 digest of a layer"))),
            None => Ok(config),
        }
    }

    pub(super) fn diff_ids(&self) -> &[String] {
        self.rootfs.diff_ids.as_deref().unwrap_or_default()
    }

    pub(super) fn created(&self) -> Option<jiff::Timestamp> {
        self.created.as_deref()?.parse().ok()
    }

    /// The platform, which must be the wanted one; what says nothing fits everything.
    pub(super) fn check_platform(&self, reference: &str, wanted: &Platform) -> Result<Platform, ImageError> {
        let found = Platform {
            os: self.os.clone().filter(|os| !os.is_empty()).unwrap_or_else(|| wanted.os.clone()),
            architecture: self
                .architecture
                .clone()
                .filter(|architecture| !architecture.is_empty())
                .unwrap_or_else(|| wanted.architecture.clone()),
            variant: self.variant.clone(),
        };
        if wanted.matches(&found.os, &found.architecture) {
            return Ok(found);
        }
        Err(wrong_platform(reference, wanted, &found.to_string()))
    }

    pub(super) fn run(self) -> ImageConfig {
        let config = self.config.unwrap_or_default();
        ImageConfig {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            workdir: config.working_dir.unwrap_or_default(),
            exposed_ports: config.exposed_ports.unwrap_or_default().into_keys().collect(),
            labels: config.labels.unwrap_or_default(),
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        }
    }
}

/// A manifest or an index, checked to be one.
pub(super) fn parse_manifest(reference: &str, bytes: &[u8]) -> Result<OciManifest, ImageError> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| malformed(reference, "manifest", e.to_string()))?;
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) != Some(2) {
        return Err(unsupported(reference, "a manifest", "schema version 1"));
    }
    serde_json::from_value(value).map_err(|e| malformed(reference, "manifest", e.to_string()))
}

/// An image's manifest whose layers fit its configuration and can be unpacked.
pub(super) fn check_layers(
    reference: &str,
    manifest: &OciImageManifest,
    config: &ConfigFile,
) -> Result<(), ImageError> {
    if manifest.layers.len() != config.diff_ids().len() {
        let reason =
            format!("{} layers, but {} in its configuration", manifest.layers.len(), config.diff_ids().len());
        return Err(malformed(reference, "manifest", reason));
    }
    if manifest.layers.len() > MAX_LAYERS {
        let reason = format!("{} layers; overlayfs takes no more than {MAX_LAYERS}", manifest.layers.len());
        return Err(malformed(reference, "manifest", reason));
    }
    match manifest.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        Some(layer) => Err(unsupported(reference, "a layer", &layer.media_type)),
        None => check_digests(reference, manifest),
    }
}

fn check_digests(reference: &str, manifest: &OciImageManifest) -> Result<(), ImageError> {
    match manifest.layers.iter().chain([&manifest.config]).find(|d| !is_digest(&d.digest) || d.size < 0) {
        Some(bad) => Err(malformed(reference, "manifest", format!("`{}` of {} bytes", bad.digest, bad.size))),
        None => Ok(()),
    }
}

fn is_layer(media_type: &str) -> bool {
    let known = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
    let endings = [".tar", ".tar+gzip", ".tar+zstd", ".tar.gzip", ".tar.zstd"];
    known.iter().any(|start| media_type.starts_with(start))
        && endings.iter().any(|end| media_type.ends_with(end))
}

/// The entry of an index for a platform; the same variant is better than none.
pub(super) fn choose<'a>(
    reference: &str,
    entries: &'a [ImageIndexEntry],
    wanted: &Platform,
) -> Result<&'a ImageIndexEntry, ImageError> {
    let fits = |entry: &&ImageIndexEntry| {
        entry
            .platform
            .as_ref()
            .is_some_and(|p| wanted.matches(&p.os.to_string(), &p.architecture.to_string()))
    };
    let variant =
        |entry: &&ImageIndexEntry| entry.platform.as_ref().and_then(|p| p.variant.clone()) == wanted.variant;
    let of_platform = || entries.iter().filter(fits);
    if let Some(entry) = of_platform().find(variant).or_else(|| of_platform().next()) {
        return Ok(entry);
    }
    match entries {
        [only] if only.platform.is_none() => Ok(only), // its configuration will tell
        _ => Err(wrong_platform(reference, wanted, &platforms(entries))),
    }
}

fn platforms(entries: &[ImageIndexEntry]) -> String {
    let known = entries.iter().filter_map(|entry| entry.platform.as_ref());
    let mut names: Vec<String> = known
        .map(|p| format!("{}/{}", p.os, p.architecture))
        .filter(|name| name != "unknown/unknown") // attestations
        .collect();
    names.dedup();
    if names.is_empty() { "no platform".into() } else { names.join(", ") }
}

/// The manifest of an image that was made here or came without one: the same content gives the same digest.
pub(super) fn manifest_digest(config: &[u8], diff_ids: &[String]) -> Result<String, ImageError> {
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = diff_ids
        .iter()
        .map(|digest| serde_json::json!({"mediaType": media_type, "digest": digest}))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config)},
        "layers": layers,
    });
    let bytes =
        serde_json::to_vec(&manifest).map_err(|e| ImageError::io("describe", "an image", e.into()))?;
    Ok(digest_of(&bytes))
}

pub(super) fn malformed(reference: &str, what: &str, reason: impl Into<String>) -> ImageError {
    ImageError::Malformed { reference: reference.to_owned(), what: what.to_owned(), reason: reason.into() }
}

fn unsupported(reference: &str, what: &str, media_type: &str) -> ImageError {
    ImageError::UnsupportedMediaType {
        reference: reference.to_owned(),
        what: what.to_owned(),
        media_type: media_type.to_owned(),
    }
}

fn wrong_platform(reference: &str, wanted: &Platform, found: &str) -> ImageError {
    ImageError::WrongPlatform {
        reference: reference.to_owned(),
        wanted: wanted.to_string(),
        found: found.to_owned(),
    }
}
