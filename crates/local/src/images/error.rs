//! What can go wrong with an image, in words a person can act on. Knows nothing of how any of it is done.

use std::{io, path::PathBuf, sync::Arc};

/// Why an image could not be had, kept, made or removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The text is not a name of an image.
    #[error(
        "`{reference}` is not an image reference: {reason}; write [registry/]name[:tag] or [registry/]name@sha256:..."
    )]
    InvalidReference {
        /// The text as given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting of the store cannot be used.
    #[error("image settings: `{setting}` is wrong: {reason}")]
    InvalidSetting {
        /// The setting and its value.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry does not know the image.
    #[error("image `{reference}` does not exist at {registry}{other}; check its name and tag")]
    NotFound {
        /// The image.
        reference: String,
        /// Who was asked.
        registry: String,
        /// What the other places that were asked said.
        other: String,
    },
    /// The registry wants credentials, or other ones.
    #[error(
        "{registry} refused `{reference}`: credentials are missing or wrong (401){other}; the image may also not exist. \
         Give a user name and password, or a token"
    )]
    Unauthorized {
        /// The image.
        reference: String,
        /// Who was asked.
        registry: String,
        /// What the other places that were asked said.
        other: String,
    },
    /// The credentials are right and do not reach this image.
    #[error("{registry} denied `{reference}` (403){other}; these credentials may not read it")]
    Forbidden {
        /// The image.
        reference: String,
        /// Who was asked.
        registry: String,
        /// What the other places that were asked said.
        other: String,
    },
    /// The registry limits how often it may be asked.
    #[error(
        "{registry} answered too many requests (429) for `{reference}`{other}; wait, sign in, or use a mirror"
    )]
    RateLimited {
        /// The image.
        reference: String,
        /// Who was asked.
        registry: String,
        /// What the other places that were asked said.
        other: String,
    },
    /// No answer from the registry.
    #[error(
        "{registry} cannot be reached for `{reference}`: {reason}{other}; check the network, its address, or set a mirror"
    )]
    Unreachable {
        /// The image.
        reference: String,
        /// Who was asked.
        registry: String,
        /// What happened to the connection.
        reason: String,
        /// What the other places that were asked said.
        other: String,
    },
    /// The registry answered with something a registry does not answer.
    #[error("{registry} failed on `{reference}`: {reason}{other}; try again later")]
    RegistryFault {
        /// The image.
        reference: String,
        /// Who was asked.
        registry: String,
        /// What it said.
        reason: String,
        /// What the other places that were asked said.
        other: String,
    },
    /// Bytes are not the ones that were named.
    #[error(
        "`{reference}`: {what} has the wrong digest: expected {expected}, got {actual}; \
         the registry's copy is damaged or was changed, nothing of it is kept"
    )]
    WrongDigest {
        /// The image.
        reference: String,
        /// Manifest, configuration, blob or layer.
        what: String,
        /// The digest that was named.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// Made for another kind of machine.
    #[error(
        "image `{reference}` is for {found}, this machine needs {wanted}; use an image built for {wanted}"
    )]
    WrongPlatform {
        /// The image.
        reference: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A manifest or configuration that makes no sense.
    #[error("`{reference}`: its {what} is not valid: {reason}; the image must be built anew")]
    Malformed {
        /// The image.
        reference: String,
        /// Manifest, configuration, archive.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a kind of image or layer that can be run.
    #[error("`{reference}` has {what} of type `{media_type}`, which cannot be run as a file system")]
    UnsupportedMediaType {
        /// The image.
        reference: String,
        /// Manifest or layer.
        what: String,
        /// The type it says it has.
        media_type: String,
    },
    /// A layer tries something that no honest layer does.
    #[error(
        "`{reference}`: layer {layer} is refused at entry `{entry}`: {reason}; nothing of the layer is kept"
    )]
    LayerRefused {
        /// The image.
        reference: String,
        /// The layer's digest.
        layer: String,
        /// The path in the layer.
        entry: String,
        /// Why.
        reason: String,
    },
    /// More bytes or entries than allowed.
    #[error(
        "`{reference}`: layer {layer} is larger than allowed ({limit}); raise the limit if you trust the image"
    )]
    LayerTooLarge {
        /// The image.
        reference: String,
        /// The layer's digest.
        layer: String,
        /// The limit that was met.
        limit: String,
    },
    /// A layer that is not a tar archive in a known compression.
    #[error("`{reference}`: layer {layer} is damaged: {reason}; the image must be built anew")]
    LayerDamaged {
        /// The image.
        reference: String,
        /// The layer's digest.
        layer: String,
        /// What the reader met.
        reason: String,
    },
    /// No room.
    #[error("the disk under {path} is full while storing `{reference}`; free some space (`images prune`) and try again", path = path.display())]
    DiskFull {
        /// The image.
        reference: String,
        /// The store's directory.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another process works on the same store.
    #[error("the image store {path} is in use by another process", path = path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// There is no such image here.
    #[error("there is no image `{reference}` here; `images ls` shows those there are")]
    NotPresent {
        /// The image.
        reference: String,
    },
    /// A sandbox stands on the image.
    #[error("image `{reference}` ({digest}) is used by a sandbox; remove the sandbox first")]
    InUse {
        /// The image.
        reference: String,
        /// Its digest, as the sandbox's record names it.
        digest: String,
    },
    /// A recipe that makes no sense.
    #[error("recipe `{recipe}` is not valid: {reason}")]
    InvalidRecipe {
        /// The recipe.
        recipe: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A program for building from packages is not installed.
    #[error("building `{recipe}` needs `{tool}`; install it: apt-get install {package}")]
    ToolMissing {
        /// The recipe.
        recipe: String,
        /// The program.
        tool: String,
        /// The package that has it.
        package: String,
    },
    /// The machine has no sources of packages that can be used.
    #[error("building `{recipe}` is not possible on this machine: {reason}")]
    NoPackageSource {
        /// The recipe.
        recipe: String,
        /// What is missing.
        reason: String,
    },
    /// The build from packages failed.
    #[error("building `{recipe}` failed ({status}); its last words:\n{output}")]
    BuildFailed {
        /// The recipe.
        recipe: String,
        /// How the build ended.
        status: String,
        /// The last lines it said.
        output: String,
    },
    /// Everybody who waited for the work has gone.
    #[error("work on `{reference}` was cancelled")]
    Cancelled {
        /// The image.
        reference: String,
    },
}

impl ImageError {
    /// An I/O error on a path; a full disk is told apart by [`ImageError::or_full`].
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source: Arc::new(source) }
    }

    /// The same error, or that the disk is full when that is what it means.
    pub(super) fn or_full(self, reference: &str) -> Self {
        match self {
            Self::Io { source, path, .. } if is_full(&source) => {
                Self::DiskFull { reference: reference.to_owned(), path }
            }
            other => other,
        }
    }
}

/// Whether the system says that there is no room, on the disk or within a quota.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
