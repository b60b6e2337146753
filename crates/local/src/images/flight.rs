//! Work that several callers want at the same time and that is done once. Knows nothing of what the work is.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

use super::{Image, Progress, credentials::Credentials, error::ImageError, progress::Hub};

type Outcome = Result<Image, ImageError>;
type Work = Shared<BoxFuture<'static, Outcome>>;
/// Kept alive only by those who wait for it.
type Running = (WeakShared<BoxFuture<'static, Outcome>>, Arc<Hub>);

/// What makes two callers' wishes the same. Credentials are part of it: nobody rides on somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) platform: String,
    pub(super) credentials: Option<Credentials>,
}

/// Work that is being done.
#[derive(Debug, Default)]
pub(super) struct Flights {
    running: Mutex<HashMap<Key, Running>>,
}

impl Flights {
    /// Joins the work that is being done for a key, or starts it; it is dropped when all who joined are.
    pub(super) async fn join<F>(
        &self,
        key: Key,
        start: impl FnOnce(Arc<Hub>) -> F,
        progress: Progress<'_>,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (work, hub) = self.find_or_start(key, start);
        follow(work, &hub, progress).await
    }

    fn find_or_start<F>(&self, key: Key, start: impl FnOnce(Arc<Hub>) -> F) -> (Work, Arc<Hub>)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, (work, _)| work.upgrade().is_some_and(|work| work.peek().is_none()));
        if let Some((work, hub)) = running.get(&key)
            && let Some(work) = work.upgrade()
        {
            return (work, Arc::clone(hub));
        }
        let hub = Arc::new(Hub::new());
        let work = start(Arc::clone(&hub)).boxed().shared();
        if let Some(weak) = work.downgrade() {
            running.insert(key, (weak, Arc::clone(&hub)));
        }
        (work, hub)
    }
}

/// Waits for the work and passes on what is told meanwhile.
async fn follow(work: Work, hub: &Hub, progress: Progress<'_>) -> Outcome {
    let (past, mut events) = hub.join();
    past.into_iter().for_each(progress);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            biased;
            event = events.recv() => {
                // Who is too slow misses figures, never the outcome.
                if let Ok(event) = event { progress(event); }
            }
            outcome = &mut work => break outcome,
        }
    };
    while let Ok(event) = events.try_recv() {
        progress(event);
    }
    outcome
}

/// Tells threads that nobody wants their result any more, when it is dropped.
#[derive(Debug, Default)]
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
