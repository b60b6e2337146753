//! A driver that runs nothing: sandboxes are values in memory. Whoever tests with it decides what a connection leads to,
//! when a creation may go on and what fails.

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Semaphore, broadcast};

use super::{ROOM, fake_images::FakeImages, fake_snapshots::FakeSnapshots, fake_volumes::FakeVolumes};
use crate::{
    driver::{
        AgentSigner, BoxStream, Check, CheckStatus, CreateStep, Driver, DriverError, Event, ListQuery,
        LogStream, Page, Position, Progress, Target, Usage,
    },
    id::{SandboxId, SnapshotId},
    image::Images,
    network::NetworkPolicy,
    phase::Phase,
    request::Capacity,
    sandbox::{Reason, Sandbox},
    snapshot::{NewSnapshot, Snapshot, SnapshotPage, SnapshotQuery, Snapshots},
    volume::Volumes,
};

/// What a connection to a fake sandbox leads to.
pub type Connector = dyn Fn(&SandboxId, Target) -> Result<BoxStream, DriverError> + Send + Sync;

/// An in-memory [`Driver`].
pub struct FakeDriver {
    inner: Mutex<Inner>,
    gate: Semaphore,
    events: broadcast::Sender<Event>,
    images: FakeImages,
    volumes: FakeVolumes,
    snapshots: FakeSnapshots,
    connector: Box<Connector>,
    signer: Mutex<Option<AgentSigner>>,
}

#[derive(Default)]
struct Inner {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    logs: HashMap<SandboxId, Vec<u8>>,
    failures: HashMap<&'static str, DriverError>,
    creating: usize,
    most_creating: usize,
}

impl Default for FakeDriver {
    fn default() -> Self {
        Self::new(Box::new(|_, target| match target {
            Target::Agent => Err(DriverError::Internal("the fake has no agent".into())),
            Target::Port(port) => Err(DriverError::PortClosed(port)),
        }))
    }
}

impl FakeDriver {
    /// A driver whose connections come from `connector`.
    #[must_use]
    pub fn new(connector: Box<Connector>) -> Self {
        Self {
            inner: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            events: broadcast::channel(1024).0,
            images: FakeImages::default(),
            volumes: FakeVolumes::default(),
            snapshots: FakeSnapshots::default(),
            connector,
            signer: Mutex::default(),
        }
    }

    /// From now on agents want their requests signed so.
    pub fn sign_with(&self, signer: AgentSigner) {
        *self.signer.lock().unwrap_or_else(PoisonError::into_inner) = Some(signer);
    }

    /// From now on a creation waits before its first step until [`FakeDriver::release`] lets it go on.
    pub fn hold_creates(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets `number` held creations go on.
    pub fn release(&self, number: usize) {
        self.gate.add_permits(number);
    }

    /// Lets one image arrive whose reference begins with `slow`.
    pub fn image_arrives(&self) {
        self.images.arrive();
    }

    /// Makes the next call of `operation` (a method's name) fail.
    pub fn fail_next(&self, operation: &'static str, error: DriverError) {
        self.lock().failures.insert(operation, error);
    }

    /// Adds to what a sandbox's start command wrote.
    pub fn write_log(&self, id: &SandboxId, text: &[u8]) {
        self.lock().logs.entry(id.clone()).or_default().extend_from_slice(text);
    }

    /// How many creations ran at the same time at most.
    #[must_use]
    pub fn most_creating(&self) -> usize {
        self.lock().most_creating
    }

    /// How many sandboxes it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().sandboxes.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self, operation: &'static str) -> Result<(), DriverError> {
        self.lock().failures.remove(operation).map_or(Ok(()), Err)
    }

    fn change(
        &self,
        id: &SandboxId,
        change: impl FnOnce(&mut Sandbox) -> Result<(), DriverError>,
    ) -> Result<Sandbox, DriverError> {
        let mut inner = self.lock();
        let sandbox = inner.sandboxes.get_mut(id).ok_or_else(|| missing(id))?;
        change(sandbox)?;
        let sandbox = sandbox.clone();
        drop(inner);
        self.tell(&sandbox, false);
        Ok(sandbox)
    }

    fn go(&self, id: &SandboxId, phase: Phase, reason: Reason) -> Result<Sandbox, DriverError> {
        self.change(id, |sandbox| {
            if sandbox.phase == phase {
                return Ok(());
            }
            let at = sandbox.since;
            sandbox.become_phase(phase, reason, at).map_err(|from| DriverError::Conflict {
                id: id.clone(),
                phase: from,
                problem: format!("it cannot become {phase:?}"),
            })
        })
    }

    fn tell(&self, sandbox: &Sandbox, gone: bool) {
        // Nobody may be listening; then there is nobody to tell.
        let _ = self.events.send(Event { sandbox: Arc::new(sandbox.clone()), gone });
    }

    async fn pass_gate(&self, progress: &Progress) -> Result<(), DriverError> {
        let permit =
            self.gate.acquire().await.map_err(|_| DriverError::Internal("the gate is closed".into()))?;
        permit.forget();
        progress(CreateStep::Preparing);
        progress(CreateStep::Starting);
        Ok(())
    }

    fn enter_creation(&self, sandbox: &Sandbox) -> Result<(), DriverError> {
        let mut inner = self.lock();
        if inner.sandboxes.contains_key(sandbox.id()) {
            return Err(DriverError::Exists(sandbox.id().clone()));
        }
        self.snapshots.check(sandbox)?;
        self.volumes.take(sandbox)?;
        inner.sandboxes.insert(sandbox.id().clone(), sandbox.clone());
        inner.creating += 1;
        inner.most_creating = inner.most_creating.max(inner.creating);
        Ok(())
    }
}

fn missing(id: &SandboxId) -> DriverError {
    DriverError::NotFound(format!("sandbox {id}"))
}

#[async_trait]
impl Driver for FakeDriver {
    fn capacity(&self) -> Capacity {
        ROOM
    }

    async fn create(&self, sandbox: Sandbox, progress: Progress) -> Result<Sandbox, DriverError> {
        self.enter_creation(&sandbox)?;
        let passed = self.pass_gate(&progress).await.and_then(|()| self.failure("create"));
        self.lock().creating -= 1;
        match passed {
            Ok(()) => self.go(sandbox.id(), Phase::Running, Reason::new("started", "its agent answers")),
            Err(error) => {
                self.go(sandbox.id(), Phase::Failed, Reason::new("create_failed", error.to_string()))?;
                Err(error)
            }
        }
    }

    async fn get(&self, id: &SandboxId) -> Result<Sandbox, DriverError> {
        self.failure("get")?;
        self.lock().sandboxes.get(id).cloned().ok_or_else(|| missing(id))
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, DriverError> {
        self.failure("list")?;
        let mut items: Vec<_> =
            self.lock().sandboxes.values().filter(|it| query.matches(it)).cloned().collect();
        items.sort_by_cached_key(Position::of);
        if let Some(cursor) = &query.cursor {
            items.retain(|it| Position::of(it) > *cursor);
        }
        let more = items.len() > query.limit;
        items.truncate(query.limit);
        let next = items.last().filter(|_| more).map(Position::of);
        Ok(Page { items, next })
    }

    async fn delete(&self, id: &SandboxId, reason: Reason) -> Result<(), DriverError> {
        self.failure("delete")?;
        let gone = self.go(id, Phase::Terminating, reason)?;
        self.lock().sandboxes.remove(id);
        self.volumes.release(id);
        self.tell(&gone, true);
        Ok(())
    }

    async fn stop(&self, id: &SandboxId, reason: Reason) -> Result<Sandbox, DriverError> {
        self.failure("stop")?;
        self.go(id, Phase::Stopped, reason)
    }

    async fn start(&self, id: &SandboxId, progress: Progress) -> Result<Sandbox, DriverError> {
        self.failure("start")?;
        self.go(id, Phase::Creating, Reason::new("requested", "start was requested"))?;
        self.pass_gate(&progress).await?;
        self.go(id, Phase::Running, Reason::new("started", "its agent answers"))
    }

    async fn pause(&self, id: &SandboxId, reason: Reason) -> Result<Sandbox, DriverError> {
        self.failure("pause")?;
        self.go(id, Phase::Paused, reason)
    }

    async fn resume(&self, id: &SandboxId) -> Result<Sandbox, DriverError> {
        self.failure("resume")?;
        self.go(id, Phase::Running, Reason::new("requested", "resume was requested"))
    }

    async fn connect(&self, id: &SandboxId, target: Target) -> Result<BoxStream, DriverError> {
        self.failure("connect")?;
        let phase = Driver::get(self, id).await?.phase;
        if phase == Phase::Stopped {
            self.start(id, crate::driver::no_progress()).await?;
        }
        self.go(id, Phase::Running, Reason::new("wake", "somebody connected"))?;
        (self.connector)(id, target)
    }

    fn agent_signer(&self, _id: &SandboxId) -> Option<AgentSigner> {
        self.signer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn logs(&self, id: &SandboxId, tail: u64, _follow: bool) -> Result<LogStream, DriverError> {
        Driver::get(self, id).await?;
        let log = self.lock().logs.get(id).cloned().unwrap_or_default();
        let from = log.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
        Ok(stream::iter([Ok(log[from..].to_vec())]).boxed())
    }

    fn touch(&self, id: &SandboxId, at: Timestamp) {
        if let Some(sandbox) = self.lock().sandboxes.get_mut(id) {
            sandbox.last_activity = sandbox.last_activity.max(at);
        }
    }

    async fn set_deadline(
        &self,
        id: &SandboxId,
        deadline: Option<Timestamp>,
    ) -> Result<Sandbox, DriverError> {
        self.change(id, |sandbox| {
            sandbox.deadline = deadline;
            Ok(())
        })
    }

    async fn set_network(&self, id: &SandboxId, policy: NetworkPolicy) -> Result<Sandbox, DriverError> {
        self.change(id, |sandbox| {
            sandbox.spec.network = policy;
            Ok(())
        })
    }

    async fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError> {
        Driver::get(self, id).await?;
        Ok(Usage { cpu_us: 1000, memory: 4096, memory_peak: 8192, disk: None, pids: 1, oom_kills: 0 })
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn images(&self) -> &dyn Images {
        &self.images
    }

    fn volumes(&self) -> &dyn Volumes {
        &self.volumes
    }

    fn snapshots(&self) -> &dyn Snapshots {
        self
    }

    async fn doctor(&self) -> Vec<Check> {
        let detail = "sandboxes are values in memory".to_owned();
        vec![Check { name: "fake".into(), status: CheckStatus::Ok, detail, mend: None }]
    }
}

#[async_trait]
impl Snapshots for FakeDriver {
    async fn take(&self, sandbox: &SandboxId, ask: NewSnapshot) -> Result<Snapshot, DriverError> {
        self.failure("take")?;
        let source = self.lock().sandboxes.get(sandbox).cloned().ok_or_else(|| missing(sandbox))?;
        self.snapshots.take(&source, ask)
    }

    async fn get(&self, id: &SnapshotId) -> Result<Snapshot, DriverError> {
        self.snapshots.get(id)
    }

    async fn list(&self, query: &SnapshotQuery) -> Result<SnapshotPage, DriverError> {
        Ok(self.snapshots.list(query))
    }

    async fn remove(&self, id: &SnapshotId) -> Result<(), DriverError> {
        self.failure("remove")?;
        self.snapshots.remove(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{sandbox, snapshot_contract};

    #[tokio::test]
    async fn the_fake_keeps_the_contract_of_snapshots() {
        snapshot_contract(&FakeDriver::default(), |n| sandbox(n).spec).await;
    }
}
