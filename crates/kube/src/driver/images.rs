//! Images: a cluster's nodes keep them themselves.

use async_trait::async_trait;
use atoll_core::{
    driver::{DriverError, Progress},
    image::{ImageInfo, Images, Pruned, RegistryLogin},
};

use super::KubeDriver;

fn unsupported<T>() -> Result<T, DriverError> {
    let why = "the cluster's nodes pull, keep and remove images by themselves; name the image in a sandbox or template";
    Err(DriverError::Unsupported(why.into()))
}

#[async_trait]
impl Images for KubeDriver {
    async fn pull(
        &self,
        _reference: &str,
        _login: Option<RegistryLogin>,
        _progress: Progress,
    ) -> Result<ImageInfo, DriverError> {
        unsupported()
    }

    async fn get(&self, _reference: &str) -> Result<Option<ImageInfo>, DriverError> {
        unsupported()
    }

    async fn list(&self) -> Result<Vec<ImageInfo>, DriverError> {
        unsupported()
    }

    async fn remove(&self, _reference: &str) -> Result<(), DriverError> {
        unsupported()
    }

    async fn prune(&self, _keep: &[String]) -> Result<Pruned, DriverError> {
        unsupported()
    }
}
