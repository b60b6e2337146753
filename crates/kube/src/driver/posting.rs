//! Objects that are being written: until the answer is there nobody sees them, and yet they can be asked to go.

use atoll_core::id::SandboxId;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// By identifier, whether it was asked to go meanwhile.
#[derive(Debug, Default)]
pub struct Posting(Mutex<HashMap<SandboxId, bool>>);

/// One that is being written. Forgotten when dropped.
pub struct Post<'a> {
    all: &'a Posting,
    id: &'a SandboxId,
}

impl Posting {
    /// Begins to write one.
    pub fn begin<'a>(&'a self, id: &'a SandboxId) -> Post<'a> {
        self.lock().insert(id.clone(), false);
        Post { all: self, id }
    }

    /// Asks one to go as soon as it is there. Says whether it is being written.
    pub fn let_go(&self, id: &SandboxId) -> bool {
        self.lock().get_mut(id).map(|unwanted| *unwanted = true).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Post<'_> {
    /// It is there and can be seen. Says whether it was asked to go.
    pub fn end(self) -> bool {
        self.all.lock().get(self.id).copied().unwrap_or_default()
    }
}

impl Drop for Post<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_to_go_while_it_is_written_goes() {
        let (all, id) = (Posting::default(), SandboxId::parse("i0123456789abcdefghi").unwrap());
        assert!(!all.let_go(&id), "nobody writes it");
        assert!(!all.begin(&id).end());
        let post = all.begin(&id);
        assert!(all.let_go(&id) && post.end());
        drop(all.begin(&id));
        assert!(!all.let_go(&id), "nobody writes it any more");
    }
}
