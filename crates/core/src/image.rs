//! What the platform knows of images, and the port through which they are managed where the driver keeps them itself.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{driver::DriverError, driver::Progress};

/// An image that is ready to start sandboxes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The name it was asked for by.
    pub reference: String,
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
    /// Bytes on disk; layers that are shared count in each image.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
    /// When it came here.
    pub created_at: Timestamp,
    /// How many sandboxes use it.
    pub used_by: usize,
}

/// What a clean-up gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Images removed.
    pub images: usize,
    /// Layers removed.
    pub layers: usize,
    /// Bytes freed.
    pub bytes: u64,
}

/// User name and password (or token) for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// User name.
    pub username: String,
    /// Password or token; never logged.
    pub password: String,
}

impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryLogin").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The images a driver keeps. Where a cluster keeps them, calls answer [`DriverError::Unsupported`].
#[async_trait]
pub trait Images: Send + Sync {
    /// Fetches an image, or refreshes it; returns it when sandboxes can start from it.
    async fn pull(
        &self,
        reference: &str,
        login: Option<RegistryLogin>,
        progress: Progress,
    ) -> Result<ImageInfo, DriverError>;
    /// An image that is here.
    async fn get(&self, reference: &str) -> Result<Option<ImageInfo>, DriverError>;
    /// All images, by reference.
    async fn list(&self) -> Result<Vec<ImageInfo>, DriverError>;
    /// Forgets an image. One that a sandbox uses is refused.
    async fn remove(&self, reference: &str) -> Result<(), DriverError>;
    /// Removes every image that no sandbox and no template uses; `keep` names references to leave.
    async fn prune(&self, keep: &[String]) -> Result<Pruned, DriverError>;
}
