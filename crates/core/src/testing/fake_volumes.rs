//! Volumes that hold nothing: who has which, in memory.

use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    driver::DriverError,
    id::SandboxId,
    sandbox::Sandbox,
    volume::{VolumeInfo, Volumes},
};

type Key = (String, String, String);

/// An in-memory [`Volumes`].
#[derive(Debug, Default)]
pub struct FakeVolumes(Mutex<BTreeMap<Key, VolumeInfo>>);

impl FakeVolumes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, VolumeInfo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new sandbox its volumes, all or none.
    pub(super) fn take(&self, sandbox: &Sandbox) -> Result<(), DriverError> {
        let Some(owner) = &sandbox.spec.owner else { return Ok(()) };
        let key = |name: &str| (sandbox.spec.tenant.clone(), owner.clone(), name.to_owned());
        let mut all = self.lock();
        for volume in &sandbox.spec.volumes {
            if let Some(other) = all.get(&key(&volume.name)).and_then(|it| it.used_by.as_ref()) {
                return Err(DriverError::InUse(format!(
                    "volume {} of {owner} is used by {other}",
                    volume.name
                )));
            }
        }
        for volume in &sandbox.spec.volumes {
            let info = VolumeInfo {
                tenant: sandbox.spec.tenant.clone(),
                owner: owner.clone(),
                name: volume.name.clone(),
                size: volume.size,
                created_at: sandbox.spec.created_at,
                used_by: None,
            };
            all.entry(key(&volume.name)).or_insert(info).used_by = Some(sandbox.id().clone());
        }
        Ok(())
    }

    pub(super) fn release(&self, id: &SandboxId) {
        self.lock()
            .values_mut()
            .filter(|it| it.used_by.as_ref() == Some(id))
            .for_each(|it| it.used_by = None);
    }
}

#[async_trait]
impl Volumes for FakeVolumes {
    async fn list(&self, tenant: Option<&str>, owner: Option<&str>) -> Result<Vec<VolumeInfo>, DriverError> {
        let wanted = |it: &&VolumeInfo| {
            tenant.is_none_or(|tenant| tenant == it.tenant) && owner.is_none_or(|owner| owner == it.owner)
        };
        Ok(self.lock().values().filter(wanted).cloned().collect())
    }

    async fn remove(&self, tenant: &str, owner: &str, name: &str) -> Result<(), DriverError> {
        let key = (tenant.to_owned(), owner.to_owned(), name.to_owned());
        let mut all = self.lock();
        match all.get(&key).map(|it| &it.used_by) {
            None => Err(DriverError::NotFound(format!("volume {name} of {owner}"))),
            Some(Some(by)) => Err(DriverError::InUse(format!("volume {name} of {owner} is used by {by}"))),
            Some(None) => {
                all.remove(&key);
                Ok(())
            }
        }
    }
}
