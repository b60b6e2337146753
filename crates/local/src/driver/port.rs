//! The driver port, on everything beside it.

use async_trait::async_trait;
use jiff::Timestamp;
use std::sync::Arc;

use atoll_core::{
    driver::{
        AgentSigner, BoxStream, Check, Driver, DriverError, Event, ListQuery, Location, LogStream, Page,
        Progress, Target, Usage,
    },
    id::SandboxId,
    image::Images,
    network::{NetworkMode, NetworkPolicy},
    phase::Phase,
    quantity::{Bytes, MilliCpu},
    request::Capacity,
    sandbox::{Reason, Sandbox},
    snapshot::Snapshots,
    volume::Volumes,
};

use super::{Inner, LocalDriver, blocking, conflict, internal, logs, table::Entry};
use crate::record::Record;

/// Most processes that one sandbox may ask for.
const MOST_PIDS: u64 = 32_768;

#[async_trait]
impl Driver for LocalDriver {
    fn capacity(&self) -> Capacity {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let pages = rustix::system::sysinfo();
        let memory = Bytes(pages.totalram * u64::from(pages.mem_unit));
        Capacity { cpu: MilliCpu(cores * 1000), memory, disk: self.inner.disk.size(), pids: MOST_PIDS }
    }

    async fn create(&self, sandbox: Sandbox, progress: Progress) -> Result<Sandbox, DriverError> {
        let entry = self.inner.record_new(sandbox).await?;
        self.inner.bring_up_detached(entry, progress).await
    }

    async fn get(&self, id: &SandboxId) -> Result<Sandbox, DriverError> {
        Ok(self.inner.entry(id)?.sandbox())
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, DriverError> {
        Ok(self.inner.table.list(query))
    }

    async fn delete(&self, id: &SandboxId, reason: Reason) -> Result<(), DriverError> {
        let entry = self.inner.entry(id)?;
        self.inner.delete(&entry, reason).await
    }

    async fn stop(&self, id: &SandboxId, reason: Reason) -> Result<Sandbox, DriverError> {
        let entry = self.inner.entry(id)?;
        self.inner.stop(&entry, reason).await
    }

    async fn start(&self, id: &SandboxId, progress: Progress) -> Result<Sandbox, DriverError> {
        let entry = self.inner.entry(id)?;
        self.inner.start(&entry, progress, Reason::new("requested", "its start was requested")).await
    }

    async fn pause(&self, id: &SandboxId, reason: Reason) -> Result<Sandbox, DriverError> {
        let entry = self.inner.entry(id)?;
        self.inner.pause(&entry, reason).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<Sandbox, DriverError> {
        let entry = self.inner.entry(id)?;
        self.inner.resume(&entry, Reason::new("requested", "its resumption was requested")).await
    }

    async fn connect(&self, id: &SandboxId, target: Target) -> Result<BoxStream, DriverError> {
        let entry = self.inner.entry(id)?;
        self.inner.connect(&entry, target).await
    }

    fn agent_signer(&self, id: &SandboxId) -> Option<AgentSigner> {
        let entry = self.inner.table.get(id)?;
        self.inner.signer(&entry.record())
    }

    fn location(&self, id: &SandboxId) -> Location {
        let record = self.inner.table.get(id).map(|entry| entry.record());
        record.map_or_else(Location::default, |record| self.inner.location(&record))
    }

    async fn logs(&self, id: &SandboxId, tail: u64, follow: bool) -> Result<LogStream, DriverError> {
        let entry = self.inner.entry(id)?;
        let path = self.inner.log(&entry.record());
        logs::open(path, tail, follow.then(|| Arc::downgrade(&entry))).await
    }

    fn touch(&self, id: &SandboxId, at: Timestamp) {
        if let Some(entry) = self.inner.table.get(id) {
            entry.touch(at);
        }
    }

    async fn set_deadline(
        &self,
        id: &SandboxId,
        deadline: Option<Timestamp>,
    ) -> Result<Sandbox, DriverError> {
        let entry = self.inner.entry(id)?;
        let _changing = entry.changing.lock().await;
        if entry.record().sandbox.phase == Phase::Terminating {
            return Err(conflict(&entry, "it is going away"));
        }
        self.inner.store(&entry, |record| record.sandbox.deadline = deadline).await
    }

    async fn set_network(&self, id: &SandboxId, policy: NetworkPolicy) -> Result<Sandbox, DriverError> {
        let entry = self.inner.entry(id)?;
        self.inner.set_network(&entry, policy).await
    }

    async fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError> {
        let inner = Arc::clone(&self.inner);
        let record = self.inner.entry(id)?.record();
        blocking(move || {
            let process = record.process.as_ref().map(|identity| identity.pid);
            let disk = inner.disk.usage(record.sandbox.id().as_str(), process);
            let disk = disk.map(|own| own + record.shared());
            Ok(Usage { disk, ..inner.cgroups.usage(record.group()) })
        })
        .await
    }

    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    fn images(&self) -> &dyn Images {
        self
    }

    fn volumes(&self) -> &dyn Volumes {
        self
    }

    fn snapshots(&self) -> &dyn Snapshots {
        self
    }

    async fn doctor(&self) -> Vec<Check> {
        let config = &self.inner.config;
        crate::doctor::doctor(&config.data, &config.registries, &config.runtimes).await
    }
}

impl Inner {
    /// This machine; an address only while it runs and has a network.
    fn location(&self, record: &Record) -> Location {
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let routed = record.sandbox.spec.network.mode != NetworkMode::None;
        let address = self.host.net.address(record.slot);
        let has_it = routed && record.sandbox.phase.is_live();
        Location { node: Some(node), address: has_it.then_some(address.into()) }
    }

    /// Goes on to its end when whoever asked is gone.
    async fn bring_up_detached(
        self: &Arc<Self>,
        entry: Arc<Entry>,
        progress: Progress,
    ) -> Result<Sandbox, DriverError> {
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _changing = entry.changing.lock().await;
            if entry.record().sandbox.phase != Phase::Creating {
                // Whoever takes it down gives back what it has.
                return Err(conflict(&entry, "it was deleted before it was started"));
            }
            inner.bring_up(&entry, &progress).await
        });
        task.await.map_err(internal)?
    }

    /// Starts a stopped or failed sandbox on its files.
    pub(super) async fn start(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        progress: Progress,
        reason: Reason,
    ) -> Result<Sandbox, DriverError> {
        let (inner, entry) = (Arc::clone(self), Arc::clone(entry));
        let task = tokio::spawn(async move {
            let _changing = entry.changing.lock().await;
            match entry.record().sandbox.phase {
                Phase::Running => return Ok(entry.sandbox()),
                Phase::Stopped | Phase::Failed => {}
                _ => return Err(conflict(&entry, "only a stopped or failed sandbox can be started")),
            }
            inner.move_to(&entry, Phase::Creating, reason, |_| ()).await?;
            inner.bring_up(&entry, &progress).await
        });
        task.await.map_err(internal)?
    }

    async fn set_network(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        policy: NetworkPolicy,
    ) -> Result<Sandbox, DriverError> {
        let _changing = entry.changing.lock().await;
        let record = entry.record();
        self.check_network(&policy)?;
        let has_link = |policy: &NetworkPolicy| policy.mode != NetworkMode::None;
        if record.sandbox.phase.is_live() && has_link(&policy) != has_link(&record.sandbox.spec.network) {
            return Err(conflict(entry, "network `none` can be given or taken only while it is stopped"));
        }
        let (inner, default, slot) = (Arc::clone(self), policy.is_default(), record.slot);
        let egress = policy.clone();
        blocking(move || {
            let set = if default {
                inner.router.clear_policy(slot)
            } else {
                inner.router.set_policy(slot, &egress)
            };
            set.map_err(internal)
        })
        .await?;
        self.store(entry, |record| record.sandbox.spec.network = policy).await
    }
}
