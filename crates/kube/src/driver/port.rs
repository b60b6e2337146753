//! The driver port, on everything beside it.

use async_trait::async_trait;
use atoll_core::{
    driver::{
        AgentSigner, BoxStream, Check, Driver, DriverError, Event, ListQuery, Location, LogStream, Page,
        Progress, Target, Usage,
    },
    id::SandboxId,
    image::Images,
    network::NetworkPolicy,
    request::Capacity,
    sandbox::{Reason, Sandbox},
    snapshot::Snapshots,
    volume::Volumes,
};
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::broadcast;

use super::{Inner, KubeDriver, conflict};

#[async_trait]
impl Driver for KubeDriver {
    fn capacity(&self) -> Capacity {
        self.inner.capacity
    }

    async fn create(&self, sandbox: Sandbox, progress: Progress) -> Result<Sandbox, DriverError> {
        self.inner.create(sandbox, progress).await
    }

    async fn get(&self, id: &SandboxId) -> Result<Sandbox, DriverError> {
        let mut sandbox = self.inner.look(id).await?.sandbox.clone();
        self.inner.touches.tell(&mut sandbox);
        Ok(sandbox)
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, DriverError> {
        let mut page = self.inner.shared.cache.list(query);
        page.items.iter_mut().for_each(|it| self.inner.touches.tell(it));
        Ok(page)
    }

    async fn delete(&self, id: &SandboxId, _reason: Reason) -> Result<(), DriverError> {
        self.inner.delete(id).await
    }

    async fn stop(&self, id: &SandboxId, reason: Reason) -> Result<Sandbox, DriverError> {
        self.inner.stop(id, &reason).await
    }

    async fn start(&self, id: &SandboxId, progress: Progress) -> Result<Sandbox, DriverError> {
        self.inner.start(id, progress).await
    }

    async fn pause(&self, id: &SandboxId, reason: Reason) -> Result<Sandbox, DriverError> {
        self.inner.pause(id, &reason).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<Sandbox, DriverError> {
        self.inner.resume(id).await
    }

    async fn connect(&self, id: &SandboxId, target: Target) -> Result<BoxStream, DriverError> {
        self.inner.connect(id, target).await
    }

    /// A bare pod's files go with it.
    fn keeps_files(&self, sandbox: &Sandbox) -> bool {
        !sandbox.spec.volumes.is_empty()
    }

    fn agent_signer(&self, id: &SandboxId) -> Option<AgentSigner> {
        let (agents, id) = (self.inner.agents.clone(), id.to_string());
        Some(Arc::new(move |now_ms, method, target| agents.sign(now_ms, &id, method, target)))
    }

    fn location(&self, id: &SandboxId) -> Location {
        let seen = self.inner.shared.cache.get(id);
        seen.map_or_else(Location::default, |it| Location { node: it.node.clone(), address: it.address })
    }

    async fn logs(&self, id: &SandboxId, tail: u64, follow: bool) -> Result<LogStream, DriverError> {
        self.inner.logs(id, tail, follow).await
    }

    fn touch(&self, id: &SandboxId, at: Timestamp) {
        self.inner.touches.touch(id, at);
    }

    async fn set_deadline(
        &self,
        id: &SandboxId,
        deadline: Option<Timestamp>,
    ) -> Result<Sandbox, DriverError> {
        self.inner.set_deadline(id, deadline).await
    }

    async fn set_network(&self, id: &SandboxId, policy: NetworkPolicy) -> Result<Sandbox, DriverError> {
        self.inner.set_network(id, &policy).await
    }

    async fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError> {
        self.inner.usage(id).await
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.shared.events.subscribe()
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
        self.inner.doctor().await
    }
}

impl Inner {
    /// What the agent says: a hint. One that does not run uses nothing. What it sees of the disk is the node's.
    async fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError> {
        let seen = self.get(id)?;
        let Some(address) = seen.address.filter(|_| seen.phase().is_live()) else {
            return Ok(Usage::default());
        };
        let said = self.agents.metrics(address, id.as_str()).await;
        let said = said.map_err(|error| conflict(&seen, error.to_string()))?;
        Ok(Usage {
            cpu_us: said.cpu_micros,
            memory: said.memory_bytes,
            memory_peak: said.memory_peak_bytes.max(said.memory_bytes),
            disk: None,
            pids: said.pids,
            oom_kills: said.oom_kills,
        })
    }
}
