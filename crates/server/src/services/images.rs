//! Images that the driver keeps: pulled, listed, removed, pruned. They belong to the machine, so only admins change them.

use atoll_core::{
    driver::{CreateStep, Progress},
    image::RegistryLogin,
};
use atoll_proto::api;
use std::sync::Arc;
use tokio::sync::mpsc;

use super::{Services, access::Caller, convert, error::ServiceError};

impl Services {
    /// Begins to fetch an image. Progress and outcome come through the channel; nobody listening stops nothing.
    pub fn pull_image(
        &self,
        caller: &Caller,
        ask: api::PullImage,
    ) -> Result<mpsc::UnboundedReceiver<api::PullEvent>, ServiceError> {
        caller.must_be_admin()?;
        let login = login(&ask)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let base = self.base.clone();
        tokio::spawn(async move {
            let progress = pull_progress(sender.clone());
            let pulled = base.driver.images().pull(&ask.reference, login, progress).await;
            let last = match pulled {
                Ok(image) => api::PullEvent::Ready { image: convert::image(image) },
                Err(error) => api::PullEvent::Failed { error: ServiceError::from(error).tell() },
            };
            // Whoever asked may be gone; the image is there all the same.
            let _ = sender.send(last);
        });
        Ok(receiver)
    }

    /// Fetches an image and waits for it.
    pub async fn pull_image_now(
        &self,
        caller: &Caller,
        ask: api::PullImage,
    ) -> Result<api::Image, ServiceError> {
        caller.must_be_admin()?;
        let login = login(&ask)?;
        let base = self.base.clone();
        let pull = async move {
            base.driver.images().pull(&ask.reference, login, atoll_core::driver::no_progress()).await
        };
        Ok(convert::image(super::sandboxes::to_the_end(pull).await??))
    }

    /// Every image.
    pub async fn images(&self) -> Result<api::ImageList, ServiceError> {
        let images = self.base.driver.images().list().await?;
        Ok(api::ImageList { items: images.into_iter().map(convert::image).collect() })
    }

    /// Forgets one image.
    pub async fn remove_image(&self, caller: &Caller, reference: &str) -> Result<(), ServiceError> {
        caller.must_be_admin()?;
        Ok(self.base.driver.images().remove(reference).await?)
    }

    /// Removes images that neither a sandbox nor a template uses.
    pub async fn prune_images(&self, caller: &Caller) -> Result<api::Pruned, ServiceError> {
        caller.must_be_admin()?;
        let keep = self.images_of_templates().await?;
        Ok(convert::pruned(self.base.driver.images().prune(&keep).await?))
    }
}

fn login(ask: &api::PullImage) -> Result<Option<RegistryLogin>, ServiceError> {
    if ask.reference.trim().is_empty() {
        return Err(ServiceError::invalid("reference", "name an image, e.g. `python:3.11-slim`"));
    }
    match (ask.username.clone(), ask.password.clone()) {
        (None, None) => Ok(None),
        (Some(username), Some(password)) => Ok(Some(RegistryLogin { username, password })),
        (Some(_), None) => Err(ServiceError::invalid("password", "goes with `username`")),
        (None, Some(_)) => Err(ServiceError::invalid("username", "goes with `password`")),
    }
}

fn pull_progress(sender: mpsc::UnboundedSender<api::PullEvent>) -> Progress {
    Arc::new(move |step| {
        if let CreateStep::Pulling { percent } = step {
            // As above: nobody has to listen.
            let _ = sender.send(api::PullEvent::Pulling { percent });
        }
    })
}
