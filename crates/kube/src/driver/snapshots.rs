//! Snapshots: a cluster keeps none yet.

use async_trait::async_trait;
use atoll_core::{
    driver::DriverError,
    id::{SandboxId, SnapshotId},
    snapshot::{NewSnapshot, Snapshot, SnapshotPage, SnapshotQuery, Snapshots},
};

use super::KubeDriver;

/// Says why.
pub fn unsupported<T>() -> Result<T, DriverError> {
    let why = "sandboxes on Kubernetes cannot be snapshotted or forked: a pod's root filesystem goes with the pod; keep files on \
               a volume, or use a server that runs sandboxes on its own machine";
    Err(DriverError::Unsupported(why.into()))
}

#[async_trait]
impl Snapshots for KubeDriver {
    async fn take(&self, _sandbox: &SandboxId, _ask: NewSnapshot) -> Result<Snapshot, DriverError> {
        unsupported()
    }

    async fn get(&self, _id: &SnapshotId) -> Result<Snapshot, DriverError> {
        unsupported()
    }

    async fn list(&self, _query: &SnapshotQuery) -> Result<SnapshotPage, DriverError> {
        unsupported()
    }

    async fn remove(&self, _id: &SnapshotId) -> Result<(), DriverError> {
        unsupported()
    }
}
