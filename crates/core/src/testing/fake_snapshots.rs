//! Snapshots that hold nothing, for the fake driver.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    driver::DriverError,
    id::SnapshotId,
    phase::Phase,
    sandbox::Sandbox,
    snapshot::{self, Defaults, NewSnapshot, Snapshot, SnapshotPage, SnapshotQuery},
};

/// Snapshots in memory.
#[derive(Debug, Default)]
pub struct FakeSnapshots(Mutex<BTreeMap<SnapshotId, Kept>>);

#[derive(Debug)]
struct Kept {
    snapshot: Snapshot,
    passing: bool,
}

impl FakeSnapshots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a sandbox whose image names no snapshot of its tenant.
    pub(super) fn check(&self, sandbox: &Sandbox) -> Result<(), DriverError> {
        self.below(sandbox).map(drop)
    }

    /// The snapshot that a sandbox was made from, where it was made from one.
    fn below(&self, sandbox: &Sandbox) -> Result<Option<Snapshot>, DriverError> {
        let spec = &sandbox.spec;
        let named = snapshot::of_image(&spec.image).map_err(|it| DriverError::Invalid(it.to_string()))?;
        let Some(id) = named else { return Ok(None) };
        let kept = self.lock();
        let found = kept.get(&id).filter(|it| it.snapshot.tenant == spec.tenant);
        found.map(|it| Some(it.snapshot.clone())).ok_or_else(|| snapshot::unknown(&id))
    }

    pub(super) fn take(&self, sandbox: &Sandbox, ask: NewSnapshot) -> Result<Snapshot, DriverError> {
        if !matches!(sandbox.phase, Phase::Running | Phase::Paused | Phase::Stopped) {
            return Err(DriverError::Conflict {
                id: sandbox.id().clone(),
                phase: sandbox.phase,
                problem: "only a running, paused or stopped sandbox can be snapshotted".into(),
            });
        }
        // One whose snapshot is gone stands on nothing that a fake would know.
        let below = self.below(sandbox).ok().flatten();
        let image = below.as_ref().map_or_else(|| sandbox.spec.image.clone(), |it| it.image.clone());
        let defaults = below.map_or_else(Defaults::default, |it| it.defaults).below(&sandbox.spec);
        let passing = ask.passing;
        let snapshot = ask.made(&sandbox.spec, image, defaults, None);
        self.lock().insert(snapshot.id.clone(), Kept { snapshot: snapshot.clone(), passing });
        Ok(snapshot)
    }

    pub(super) fn get(&self, id: &SnapshotId) -> Result<Snapshot, DriverError> {
        self.lock().get(id).map(|it| it.snapshot.clone()).ok_or_else(|| missing(id))
    }

    pub(super) fn list(&self, query: &SnapshotQuery) -> SnapshotPage {
        query.page(self.lock().values().filter(|it| !it.passing).map(|it| &it.snapshot))
    }

    pub(super) fn remove(&self, id: &SnapshotId) -> Result<(), DriverError> {
        self.lock().remove(id).map(drop).ok_or_else(|| missing(id))
    }
}

fn missing(id: &SnapshotId) -> DriverError {
    DriverError::NotFound(format!("snapshot {id}"))
}
