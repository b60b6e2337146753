//! Threads for work that blocks, done with a user's credentials. One thread always exists, so that files can be
//! reached when no more processes can be made. Knows nothing of files.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::credentials;
use crate::users::Account;

/// Threads beside the permanent one.
const EXTRA_THREADS: usize = 7;
const IDLE: Duration = Duration::from_secs(2);
const STACK_BYTES: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the threads.
#[derive(Clone)]
pub struct Workers(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    extra: usize,
}

impl Workers {
    /// Starts the permanent thread.
    pub fn start() -> io::Result<Self> {
        let workers = Self(Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new() }));
        workers.thread(None)?;
        Ok(workers)
    }

    /// Does blocking work as a user. The work goes on when nobody waits for it any more.
    pub async fn run<T, F>(&self, account: &Account, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        let account = account.clone();
        self.submit(Box::new(move || {
            // Nobody may be waiting any more.
            let _ = send.send(credentials::with(&account, work).and_then(|result| result));
        }));
        receive.await.unwrap_or_else(|_| Err(io::Error::other("the work was abandoned")))
    }

    /// Long work gets a thread of its own, where the kernel gives one.
    pub fn dedicated(account: Account, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let body = move || {
            let _ = credentials::with(&account, work);
        };
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(body).map(drop)
    }

    fn submit(&self, job: Job) {
        let mut queue = self.0.lock();
        queue.jobs.push_back(job);
        let more = queue.idle < queue.jobs.len() && queue.extra < EXTRA_THREADS;
        if more {
            queue.extra += 1;
        }
        drop(queue);
        if more && self.thread(Some(IDLE)).is_err() {
            self.0.lock().extra -= 1;
        }
        self.0.wake.notify_one();
    }

    fn thread(&self, idle: Option<Duration>) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || shared.work(idle)).map(drop)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, idle: Option<Duration>) {
        while let Some(job) = self.next(idle) {
            job();
        }
    }

    /// The next job; an extra thread gives up after a while.
    fn next(&self, idle: Option<Duration>) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue.idle += 1;
            let (woken, over) = match idle {
                None => (self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner), false),
                Some(idle) => {
                    let waited = self.wake.wait_timeout(queue, idle).unwrap_or_else(PoisonError::into_inner);
                    (waited.0, waited.1.timed_out())
                }
            };
            queue = woken;
            queue.idle -= 1;
            if over && queue.jobs.is_empty() {
                queue.extra -= 1;
                return None;
            }
        }
    }
}
