//! Creations under way: each runs in a task of its own, so that whoever asked may leave; some run, others wait for their
//! turn, and beyond a bound they are refused. It must not know who asked or why.

use atoll_core::{
    driver::{CreateStep, DriverError, Progress},
    id::SandboxId,
    sandbox::Sandbox,
};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::{Base, agent::Agents, error::ServiceError, ready};

/// How far a creation has come.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Every step so far.
    pub steps: Vec<CreateStep>,
    /// How it ended.
    pub end: Option<Result<Sandbox, ServiceError>>,
}

/// One creation under way.
pub struct Creation {
    /// What is being made, as it was asked for.
    pub sandbox: Sandbox,
    course: watch::Sender<Course>,
    cancelled: CancellationToken,
    /// Whether it is more than announced.
    begun: AtomicBool,
}

impl Creation {
    /// A view of how it goes on, from its beginning.
    pub fn watch(&self) -> watch::Receiver<Course> {
        let mut receiver = self.course.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Result<Sandbox, ServiceError> {
        let mut course = self.course.subscribe();
        let end = course.wait_for(|course| course.end.is_some()).await;
        end.ok().and_then(|course| course.end.clone()).unwrap_or_else(|| Err(lost()))
    }

    /// Gives it up if it still waits for its turn.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    fn step(&self, step: CreateStep) {
        self.course.send_if_modified(|course| {
            let new = course.steps.last() != Some(&step);
            if new {
                course.steps.push(step);
            }
            new
        });
    }

    fn end(&self, end: Result<Sandbox, ServiceError>) {
        self.course.send_modify(|course| course.end = Some(end));
    }
}

fn lost() -> ServiceError {
    ServiceError::Internal("the creation was lost".into())
}

/// All creations under way.
pub struct Creations {
    base: Arc<Base>,
    agents: Arc<Agents>,
    turns: Semaphore,
    waiting: AtomicUsize,
    under_way: Mutex<HashMap<SandboxId, Arc<Creation>>>,
}

impl Creations {
    pub fn new(base: Arc<Base>, agents: Arc<Agents>) -> Self {
        let turns = Semaphore::new(base.config.limits.creates_at_once);
        Self { base, agents, turns, waiting: AtomicUsize::new(0), under_way: Mutex::default() }
    }

    /// The creation of `id`, while it is under way.
    pub fn find(&self, id: &SandboxId) -> Option<Arc<Creation>> {
        self.lock().get(id).cloned()
    }

    /// What is being made or waits for its turn.
    pub fn begun(&self) -> Vec<Sandbox> {
        let under_way = self.lock();
        let begun = under_way.values().filter(|creation| creation.begun.load(Ordering::Relaxed));
        begun.map(|creation| creation.sandbox.clone()).collect()
    }

    /// Makes a creation known without beginning it, so that others who ask for the same can wait for it. One of that id
    /// that is under way is given back as the error.
    pub fn announce(&self, sandbox: Sandbox) -> Result<Arc<Creation>, Arc<Creation>> {
        let course = watch::Sender::new(Course { steps: vec![CreateStep::Queued], end: None });
        let creation = Arc::new(Creation {
            sandbox,
            course,
            cancelled: CancellationToken::new(),
            begun: AtomicBool::new(false),
        });
        match self.lock().entry(creation.sandbox.id().clone()) {
            Entry::Occupied(other) => Err(other.get().clone()),
            Entry::Vacant(place) => Ok(place.insert(creation).clone()),
        }
    }

    /// Begins an announced creation, or refuses it when too many wait already.
    pub fn begin(self: &Arc<Self>, creation: Arc<Creation>) -> Result<(), ServiceError> {
        let limit = self.base.config.limits.creates_waiting;
        let place = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < limit).then_some(waiting + 1)
        });
        if place.is_err() {
            let message = format!("{limit} creations wait already; try again in a few seconds");
            let busy = ServiceError::Busy { code: "too_many_creates", message, retry_after: 5 };
            self.withdraw(&creation, busy.clone());
            return Err(busy);
        }
        creation.begun.store(true, Ordering::Relaxed);
        let all = self.clone();
        tokio::spawn(async move { all.run(&creation).await });
        Ok(())
    }

    /// Ends a creation that never began.
    pub fn withdraw(&self, creation: &Creation, why: ServiceError) {
        self.lock().remove(creation.sandbox.id());
        creation.end(Err(why));
    }

    async fn run(&self, creation: &Arc<Creation>) {
        let began = Instant::now();
        let end = self.make(creation).await;
        self.base.metrics.created(end.is_ok(), began.elapsed());
        if let Err(error) = &end {
            tracing::warn!(sandbox = %creation.sandbox.id(), %error, "creation failed");
        }
        self.lock().remove(creation.sandbox.id());
        creation.end(end);
    }

    async fn make(&self, creation: &Arc<Creation>) -> Result<Sandbox, ServiceError> {
        let turn = self.turn(creation).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let turn = turn?;
        let told = creation.clone();
        let progress: Progress = Arc::new(move |step| told.step(step));
        let made = self.base.driver.create(creation.sandbox.clone(), progress).await;
        let made = made.inspect_err(|error| self.base.metrics.driver_failed(error))?;
        // It runs; others may be made while it gets ready.
        drop(turn);
        ready::wait(&self.agents, &creation.sandbox, self.base.config.limits.ready_for).await;
        Ok(made)
    }

    async fn turn(&self, creation: &Creation) -> Result<SemaphorePermit<'_>, ServiceError> {
        let gone = || DriverError::NotFound(format!("sandbox {}", creation.sandbox.id()));
        tokio::select! {
            biased;
            () = creation.cancelled.cancelled() => Err(gone().into()),
            turn = self.turns.acquire() => turn.map_err(|_| lost()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<Creation>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
