//! Snapshots of sandboxes on this machine.

use async_trait::async_trait;
use atoll_core::{
    driver::DriverError,
    id::{SandboxId, SnapshotId},
    snapshot::{NewSnapshot, Snapshot, SnapshotPage, SnapshotQuery, Snapshots},
};

use super::LocalDriver;

fn unsupported<T>() -> Result<T, DriverError> {
    Err(DriverError::Unsupported("this server keeps no snapshots".into()))
}

#[async_trait]
impl Snapshots for LocalDriver {
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
