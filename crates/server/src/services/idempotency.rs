//! Requests that promise to be made once. The id of what they make is recorded before the driver is asked, so a repeated
//! request finds the first one's sandbox, also after a restart in between.

use atoll_core::{
    id::SandboxId,
    key::hash,
    store::{IdempotencyKey, IdempotencyRecord},
};
use std::time::Duration;

use super::{Base, access::Caller, error::ServiceError};

/// Longest key that is accepted.
const LONGEST: usize = 255;
/// How often old keys are forgotten.
const SWEEP: Duration = Duration::from_secs(600);

/// A request's promise: the caller's key, and what the body was.
#[derive(Clone, Debug)]
pub struct Promise {
    /// As the caller sent it.
    pub key: String,
    /// Hash of the body.
    pub body_hash: String,
}

impl Promise {
    /// Reads the header's value; the body decides whether a repetition is one.
    pub fn new(key: &str, body: &[u8]) -> Result<Self, ServiceError> {
        let plain = key.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if key.is_empty() || key.len() > LONGEST || !plain {
            let problem = format!("has 1 to {LONGEST} printable ASCII characters");
            return Err(ServiceError::invalid("Idempotency-Key", problem));
        }
        Ok(Self { key: key.to_owned(), body_hash: hash(&String::from_utf8_lossy(body)) })
    }

    /// The key, scoped to the caller and the one route that takes it.
    pub fn scoped(&self, caller: &Caller) -> IdempotencyKey {
        let route = "POST /api/v1/sandboxes".to_owned();
        IdempotencyKey { caller: caller.key.clone(), route, key: self.key.clone() }
    }
}

impl Base {
    /// Records the promise with `id`. Gives back the record of the first such request, if this is a repetition.
    pub async fn begin_promise(
        &self,
        caller: &Caller,
        promise: &Promise,
        id: &SandboxId,
    ) -> Result<Option<IdempotencyRecord>, ServiceError> {
        let record = IdempotencyRecord {
            body_hash: promise.body_hash.clone(),
            resource_id: id.to_string(),
            created_at: self.world.now(),
        };
        let first = self.store.begin_idempotent(&promise.scoped(caller), &record).await?;
        match first {
            Some(first) if first.body_hash != promise.body_hash => {
                Err(ServiceError::IdempotencyMismatch(promise.key.clone()))
            }
            first => Ok(first),
        }
    }

    /// Forgets old promises, for as long as the server runs.
    pub async fn sweep_promises(&self) {
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
            let kept = self.config.limits.idempotency_for;
            let Ok(before) = self.world.now().checked_sub(kept) else { continue };
            if let Err(error) = self.store.sweep_idempotent(before).await {
                tracing::warn!(%error, "old idempotency keys could not be forgotten");
            }
        }
    }
}
