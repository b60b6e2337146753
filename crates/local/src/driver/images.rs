//! The port to the images, on our image store.

use async_trait::async_trait;
use std::{collections::HashMap, sync::Mutex};

use atoll_core::{
    driver::{CreateStep, DriverError, Progress},
    image::{ImageInfo, Images, Pruned, RegistryLogin},
};

use super::{Inner, LocalDriver};
use crate::images::{Credentials, Image, ImageError, Percentage, PruneScope, PullEvent, PullOptions, Recipe};

/// An image's failure in the words of the port.
pub fn refused(error: ImageError) -> DriverError {
    let message = error.to_string();
    let code = match &error {
        ImageError::InvalidReference { .. } | ImageError::InvalidSetting { .. } => {
            return DriverError::Invalid(message);
        }
        ImageError::InUse { .. } => return DriverError::InUse(message),
        ImageError::NotPresent { reference } => return DriverError::NotFound(format!("image {reference}")),
        ImageError::DiskFull { .. } => return DriverError::Exhausted(message),
        ImageError::NotFound { .. } => "image_not_found",
        ImageError::Unauthorized { .. } | ImageError::Forbidden { .. } => "image_unauthorized",
        ImageError::RateLimited { .. } => "registry_rate_limited",
        ImageError::Unreachable { .. } => "registry_unreachable",
        ImageError::RegistryFault { .. } => "registry_failed",
        ImageError::WrongDigest { .. } => "wrong_digest",
        ImageError::WrongPlatform { .. } => "wrong_platform",
        ImageError::LayerRefused { .. } | ImageError::LayerTooLarge { .. } => "image_refused",
        _ => "image_failed",
    };
    DriverError::Image { code: code.to_owned(), message }
}

impl Inner {
    pub(super) async fn pull(
        &self,
        reference: &str,
        options: PullOptions,
        percent: &(dyn Fn(u8) + Send + Sync),
    ) -> Result<Image, DriverError> {
        let overall = Mutex::new(Percentage::default());
        let progress = |event: PullEvent| {
            let mut overall = overall.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            percent(overall.update(&event));
        };
        // Images that are made here from packages, so that the first sandbox needs no registry.
        let had = match Recipe::carried(reference) {
            Some(recipe) => self.images.provision(&recipe.map_err(refused)?, &progress).await,
            None => self.images.pull(reference, options, &progress).await,
        };
        had.map_err(refused)
    }

    fn users(&self) -> HashMap<String, usize> {
        let mut users = HashMap::new();
        for entry in self.table.all() {
            if let Some(base) = &entry.record().image {
                *users.entry(base.digest.clone()).or_default() += 1;
            }
        }
        for digest in self.gallery.digests() {
            *users.entry(digest).or_default() += 1;
        }
        users
    }
}

fn info(image: Image, users: &HashMap<String, usize>) -> ImageInfo {
    ImageInfo {
        used_by: users.get(&image.digest).copied().unwrap_or(0),
        reference: image.reference,
        digest: image.digest,
        size: image.size_bytes,
        layers: image.layers.len(),
        created_at: image.created_at,
    }
}

#[async_trait]
impl Images for LocalDriver {
    async fn pull(
        &self,
        reference: &str,
        login: Option<RegistryLogin>,
        progress: Progress,
    ) -> Result<ImageInfo, DriverError> {
        let credentials =
            login.map(|login| Credentials::Basic { username: login.username, password: login.password });
        let options = PullOptions { credentials, platform: None, force: true };
        let pulled =
            self.inner.pull(reference, options, &|percent| progress(CreateStep::Pulling { percent })).await?;
        Ok(info(pulled, &self.inner.users()))
    }

    async fn get(&self, reference: &str) -> Result<Option<ImageInfo>, DriverError> {
        let found = self.inner.images.get(reference).await.map_err(refused)?;
        Ok(found.map(|image| info(image, &self.inner.users())))
    }

    async fn list(&self) -> Result<Vec<ImageInfo>, DriverError> {
        let users = self.inner.users();
        let images = self.inner.images.list().await.map_err(refused)?;
        Ok(images.into_iter().map(|image| info(image, &users)).collect())
    }

    async fn remove(&self, reference: &str) -> Result<(), DriverError> {
        let users = self.inner.users();
        self.inner
            .images
            .remove(reference, &|digest| users.contains_key(digest))
            .await
            .map(drop)
            .map_err(refused)
    }

    async fn prune(&self, keep: &[String]) -> Result<Pruned, DriverError> {
        let mut used: Vec<String> = self.inner.users().into_keys().collect();
        for reference in keep {
            let image = self.inner.images.get(reference).await.map_err(refused)?;
            used.extend(image.map(|image| image.digest));
        }
        let in_use = |digest: &str| used.iter().any(|used| used == digest);
        let pruned = self.inner.images.prune(PruneScope::Unused, &in_use).await.map_err(refused)?;
        Ok(Pruned { images: pruned.images.len(), layers: pruned.layers.len(), bytes: pruned.bytes })
    }
}
