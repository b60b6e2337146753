//! Images that somebody needs and that are not here yet: fetched, or made, each once and in a task of its own, so that whoever
//! asked for it may leave. It must not know what becomes of an image.

use atoll_core::{
    driver::{CreateStep, DriverError, Progress},
    snapshot::of_image,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::timeout};

use super::{Base, error::ServiceError};

/// Seconds after which it is worth asking again.
const AGAIN: u32 = 30;

type End = Option<Result<(), ServiceError>>;

/// One image on its way.
struct Fetch {
    since: Instant,
    percent: AtomicU8,
    end: watch::Sender<End>,
}

/// All images on their way.
pub struct Fetches {
    base: Arc<Base>,
    under_way: Mutex<HashMap<String, Arc<Fetch>>>,
}

impl Fetches {
    pub fn new(base: Arc<Base>) -> Self {
        Self { base, under_way: Mutex::default() }
    }

    /// Returns when an image is here. One that takes longer than `patience` is on its way all the same: the error says so.
    pub async fn wait(self: &Arc<Self>, image: &str, patience: Duration) -> Result<(), ServiceError> {
        if of_image(image)?.is_some() || self.is_here(image).await? {
            return Ok(());
        }
        let fetch = self.find_or_begin(image);
        let mut end = fetch.end.subscribe();
        match timeout(patience, end.wait_for(Option::is_some)).await {
            Ok(ended) => ended.ok().and_then(|end| end.clone()).unwrap_or_else(|| Err(lost(image))),
            Err(_) => Err(fetch.not_yet(image)),
        }
    }

    /// Whether nothing has to be fetched here: a cluster's nodes see to their images themselves.
    async fn is_here(&self, image: &str) -> Result<bool, ServiceError> {
        match self.base.driver.images().get(image).await {
            Ok(found) => Ok(found.is_some()),
            Err(DriverError::Unsupported(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn find_or_begin(self: &Arc<Self>, image: &str) -> Arc<Fetch> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetch) = under_way.get(image) {
            return fetch.clone();
        }
        let (since, percent) = (Instant::now(), AtomicU8::new(0));
        let fetch = Arc::new(Fetch { since, percent, end: watch::Sender::new(None) });
        under_way.insert(image.to_owned(), fetch.clone());
        let (all, told, image) = (self.clone(), fetch.clone(), image.to_owned());
        tokio::spawn(async move { all.fetch(&image, &told).await });
        fetch
    }

    async fn fetch(&self, image: &str, fetch: &Arc<Fetch>) {
        let told = fetch.clone();
        let progress: Progress = Arc::new(move |step| {
            if let CreateStep::Pulling { percent } = step {
                told.percent.store(percent, Ordering::Relaxed);
            }
        });
        tracing::info!(image, "fetching or making an image that somebody needs");
        let had = self.base.driver.images().pull(image, None, progress).await;
        match &had {
            Ok(_) => tracing::info!(image, took = ?fetch.since.elapsed(), "the image is here"),
            Err(error) => tracing::warn!(image, %error, "the image cannot be had"),
        }
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
        fetch.end.send_replace(Some(had.map(drop).map_err(Into::into)));
    }
}

impl Fetch {
    fn not_yet(&self, image: &str) -> ServiceError {
        let percent = match self.percent.load(Ordering::Relaxed) {
            0 => String::new(),
            percent => format!(", {percent}%"),
        };
        let message = format!(
            "the image {image} is not on this machine yet; it is being fetched or made ({} s so far{percent}), which takes some \
             minutes, once. Nothing else was begun: try again in a minute. `atoll images pull {image}` does it ahead",
            self.since.elapsed().as_secs(),
        );
        ServiceError::Busy { code: "image_not_ready", message, retry_after: AGAIN }
    }
}

fn lost(image: &str) -> ServiceError {
    ServiceError::Internal(format!("nobody fetches the image {image} any more"))
}
