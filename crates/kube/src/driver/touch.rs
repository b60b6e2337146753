//! When sandboxes were used last: kept here at once, and written to the cluster now and then.

use atoll_core::{id::SandboxId, sandbox::Sandbox};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};

use super::Inner;
use crate::names::API;

/// A sandbox's use is written at most so often.
const EVERY: Duration = Duration::from_secs(30);
/// How often it is looked what is to be written.
const SWEEP: Duration = Duration::from_secs(5);
/// So many writes at once.
const AT_ONCE: usize = 8;

/// Reported use.
#[derive(Default)]
pub struct Touches {
    known: Mutex<HashMap<SandboxId, Touch>>,
    new: Notify,
}

#[derive(Clone, Copy)]
struct Touch {
    at: Timestamp,
    /// What was written last, and when.
    written: Option<(Timestamp, Instant)>,
}

impl Touch {
    fn is_due(&self, now: Instant) -> bool {
        self.written.is_none_or(|(at, when)| at < self.at && now.duration_since(when) >= EVERY)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.written.is_some_and(|(at, when)| at >= self.at && now.duration_since(when) >= EVERY)
    }
}

impl Touches {
    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Touch>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports use. The first one after a while is written at once.
    pub fn touch(&self, id: &SandboxId, at: Timestamp) {
        let mut known = self.lock();
        if let Some(touch) = known.get_mut(id) {
            touch.at = touch.at.max(at);
            return;
        }
        known.insert(id.clone(), Touch { at, written: None });
        self.new.notify_one();
    }

    /// Tells a sandbox's latest use, also what the cluster does not know yet.
    pub fn tell(&self, sandbox: &mut Sandbox) {
        if let Some(touch) = self.lock().get(sandbox.id()) {
            sandbox.last_activity = sandbox.last_activity.max(touch.at);
        }
    }

    /// What is to be written now. It counts as written; what is over is forgotten.
    fn due(&self, now: Instant) -> Vec<(SandboxId, Timestamp)> {
        let mut known = self.lock();
        known.retain(|_, touch| !touch.is_over(now));
        let due = known.iter_mut().filter(|(_, touch)| touch.is_due(now));
        due.map(|(id, touch)| {
            touch.written = Some((touch.at, now));
            (id.clone(), touch.at)
        })
        .collect()
    }

    /// It was not written after all.
    fn again(&self, id: &SandboxId) {
        if let Some(touch) = self.lock().get_mut(id) {
            touch.written = touch.written.map(|(_, when)| (Timestamp::MIN, when));
        }
    }
}

/// Writes what is reported, without end.
pub async fn report(inner: Arc<Inner>) {
    let touches = inner.touches.clone();
    loop {
        // A new one, or a while.
        let _ = timeout(SWEEP, touches.new.notified()).await;
        let due = stream::iter(touches.due(Instant::now()));
        due.for_each_concurrent(AT_ONCE, |(id, at)| {
            let inner = &inner;
            async move { inner.write_touch(&id, at).await }
        })
        .await;
    }
}

impl Inner {
    async fn write_touch(&self, id: &SandboxId, at: Timestamp) {
        let Some(seen) = self.shared.cache.get(id).filter(|it| it.sandbox.last_activity < at) else { return };
        let patch = Patch::Merge(json!({ "status": { "lastActivity": at } }));
        let params = PatchParams { field_manager: Some(API.into()), ..PatchParams::default() };
        match self.api(&seen).patch_status(&seen.place.name, &params, &patch).await {
            Ok(object) => self.shared.wrote(&object),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                tracing::debug!(sandbox = %id, %error, "its use could not be written; it is tried again");
                self.touches.again(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::testing::sandbox;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn use_is_written_at_once_and_then_now_and_then() {
        let (touches, mut it, start) = (Touches::default(), sandbox(1), Instant::now());
        let id = it.id().clone();
        touches.touch(&id, at(10));
        assert_eq!(touches.due(start), [(id.clone(), at(10))]);
        touches.touch(&id, at(30));
        touches.touch(&id, at(20));
        assert!(touches.due(start + EVERY / 2).is_empty());
        touches.tell(&mut it);
        assert_eq!(it.last_activity, at(30), "told before it is written");
        assert_eq!(touches.due(start + EVERY), [(id.clone(), at(30))]);
        assert!(touches.due(start + EVERY * 2).is_empty() && touches.lock().is_empty(), "over");
    }

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let (touches, id, start) = (Touches::default(), sandbox(1).id().clone(), Instant::now());
        touches.touch(&id, at(10));
        assert_eq!(touches.due(start).len(), 1);
        touches.again(&id);
        assert!(touches.due(start).is_empty());
        assert_eq!(touches.due(start + EVERY).len(), 1);
    }
}
