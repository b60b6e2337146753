//! Images that are only names, for the fake driver.

use async_trait::async_trait;
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

use crate::{
    driver::{CreateStep, DriverError, Progress},
    image::{ImageInfo, Images, Pruned, RegistryLogin},
};

/// In-memory [`Images`]. A reference that begins with `missing` cannot be pulled; one that begins with `slow` only after
/// [`arrive`](Self::arrive).
#[derive(Default)]
pub struct FakeImages {
    kept: Mutex<BTreeMap<String, ImageInfo>>,
    arrived: Notify,
}

impl FakeImages {
    /// Lets one image that is slow arrive.
    pub fn arrive(&self) {
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ImageInfo>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Images for FakeImages {
    async fn pull(
        &self,
        reference: &str,
        _login: Option<RegistryLogin>,
        progress: Progress,
    ) -> Result<ImageInfo, DriverError> {
        if reference.starts_with("missing") {
            let message = format!("no registry has {reference}");
            return Err(DriverError::Image { code: "image_not_found".into(), message });
        }
        progress(CreateStep::Pulling { percent: 50 });
        if reference.starts_with("slow") {
            self.arrived.notified().await;
        }
        let image = ImageInfo {
            reference: reference.to_owned(),
            digest: format!("sha256:{}", crate::key::hash(reference)),
            size: 1 << 20,
            layers: 1,
            created_at: Timestamp::UNIX_EPOCH,
            used_by: 0,
        };
        self.lock().insert(reference.to_owned(), image.clone());
        Ok(image)
    }

    async fn get(&self, reference: &str) -> Result<Option<ImageInfo>, DriverError> {
        Ok(self.lock().get(reference).cloned())
    }

    async fn list(&self) -> Result<Vec<ImageInfo>, DriverError> {
        Ok(self.lock().values().cloned().collect())
    }

    async fn remove(&self, reference: &str) -> Result<(), DriverError> {
        let gone = self.lock().remove(reference);
        gone.map(|_| ()).ok_or_else(|| DriverError::NotFound(format!("image {reference}")))
    }

    async fn prune(&self, keep: &[String]) -> Result<Pruned, DriverError> {
        let mut kept = self.lock();
        let before = kept.len();
        kept.retain(|reference, _| keep.contains(reference));
        let images = before - kept.len();
        Ok(Pruned { images, layers: images, bytes: (images as u64) << 20 })
    }
}
