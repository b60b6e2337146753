//! Connections into sandboxes that wait for the next request. Few and short: each is a descriptor here and a connection
//! that a small program inside may be busy waiting on. Whoever takes one must be able to say everything again, for the
//! other end may close it at any moment.

use atoll_core::id::SandboxId;
use http::{Request, Response};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1::SendRequest,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::body::Outgoing;

/// Most that wait for one port.
const MOST_OF_A_PORT: usize = 16;
/// Most that wait at all.
const MOST: usize = 512;

/// A port of a sandbox.
pub type Key = (SandboxId, u16);

type Idle = (SendRequest<Outgoing>, Instant);

/// Connections that wait.
pub struct Pool {
    idle_for: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    of: HashMap<Key, Vec<Idle>>,
    count: usize,
}

impl Pool {
    /// An empty one. Connections are closed when they waited so long; for that, a task runs as long as it exists.
    pub fn new(idle_for: Duration) -> Arc<Self> {
        let pool = Arc::new(Self { idle_for, waiting: Mutex::default() });
        let weak = Arc::downgrade(&pool);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(idle_for / 2).await;
                let Some(pool) = weak.upgrade() else { return };
                pool.close_old();
            }
        });
        pool
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_old(&self) {
        let mut waiting = self.lock();
        waiting.of.retain(|_, idle| {
            idle.retain(|(sender, since)| since.elapsed() < self.idle_for && sender.is_ready());
            !idle.is_empty()
        });
        waiting.count = waiting.of.values().map(Vec::len).sum();
    }

    /// One that waits, the latest first.
    pub fn take(self: &Arc<Self>, key: &Key) -> Option<Lease> {
        let mut waiting = self.lock();
        while let Some((sender, since)) = waiting.of.get_mut(key)?.pop() {
            waiting.count -= 1;
            if sender.is_ready() && since.elapsed() < self.idle_for {
                return Some(self.lease(key.clone(), sender));
            }
        }
        None
    }

    /// A new one.
    pub fn lease(self: &Arc<Self>, key: Key, sender: SendRequest<Outgoing>) -> Lease {
        Lease { pool: self.clone(), key, sender, carried_body: false }
    }

    fn put(&self, key: Key, sender: SendRequest<Outgoing>) {
        let mut waiting = self.lock();
        if waiting.count >= MOST {
            return;
        }
        let idle = waiting.of.entry(key).or_default();
        if idle.len() < MOST_OF_A_PORT {
            idle.push((sender, Instant::now()));
            waiting.count += 1;
        }
    }
}

/// A connection in use.
pub struct Lease {
    pool: Arc<Pool>,
    key: Key,
    sender: SendRequest<Outgoing>,
    carried_body: bool,
}

impl Lease {
    /// Sends a request on it.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, hyper::Error> {
        self.carried_body |= !request.body().is_end_stream();
        self.sender.send_request(request).await
    }

    /// Lets it wait for another request, once this one's exchange is over in both directions. What carried a body is
    /// closed: a program that answers without reading it takes it for the next request, and somebody else's at that.
    pub fn give_back(mut self) {
        if self.carried_body {
            return;
        }
        if self.sender.is_ready() {
            return self.pool.put(self.key, self.sender);
        }
        if !self.sender.is_closed() {
            tokio::spawn(async move {
                if self.sender.ready().await.is_ok() {
                    self.pool.put(self.key, self.sender);
                }
            });
        }
    }
}
