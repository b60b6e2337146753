//! API keys, looked up by hash and believed for a moment: also that a text is none, for applications have keys of their own.

use atoll_core::{
    key::{ApiKey, hash},
    store::{Store, StoreError},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// More than this is not remembered, so that guessing cannot fill the memory.
const MOST: usize = 4096;
/// Longest text that could be a key.
const LONGEST: usize = 256;

/// Whether it is a key, and since when that is known.
type Remembered = (Option<ApiKey>, Instant);

/// Tells keys from other texts.
pub struct Keys {
    store: Arc<dyn Store>,
    believed_for: Duration,
    known: Mutex<HashMap<String, Remembered>>,
}

impl Keys {
    pub fn new(store: Arc<dyn Store>, believed_for: Duration) -> Self {
        Self { store, believed_for, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key with this secret, if there is one.
    pub async fn find(&self, secret: &str) -> Result<Option<ApiKey>, StoreError> {
        if secret.is_empty() || secret.len() > LONGEST {
            return Ok(None);
        }
        let hash = hash(secret);
        if let Some((key, since)) = self.lock().get(&hash)
            && since.elapsed() < self.believed_for
        {
            return Ok(key.clone());
        }
        let key = self.store.key_by_hash(&hash).await?;
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(hash, (key.clone(), Instant::now()));
        Ok(key)
    }
}
