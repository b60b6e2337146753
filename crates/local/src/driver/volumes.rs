//! Volumes of users on this machine: made at the first creation that names them, kept when the sandbox goes, one sandbox
//! at a time. Who has which is told by the sandboxes' own records; here is only an index of it.

use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use atoll_core::{
    driver::DriverError,
    id::SandboxId,
    phase::Phase,
    sandbox::Sandbox,
    volume::{Volume, VolumeInfo, Volumes},
};

use super::{Inner, LocalDriver, blocking, internal, start::no_room, table::Entry};
use crate::{
    disk::VolumeFiles,
    launcher::Attached,
    record::Record,
    volume::{self, Key, VolumeRecord, VolumeRecords},
};

/// How long a sandbox that is going away may take to give its volumes back before another one is refused them.
const PATIENCE: Duration = Duration::from_secs(30);

/// The volumes and who has them.
pub struct Shelf {
    records: VolumeRecords,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<Key, VolumeRecord>,
    holders: BTreeMap<Key, Holder>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    Sandbox(SandboxId),
    /// It is being removed.
    Nobody,
}

/// A volume that somebody has.
struct Held {
    key: Key,
    holder: Holder,
}

impl From<Held> for DriverError {
    fn from(held: Held) -> Self {
        let Key { owner, name, .. } = held.key;
        Self::InUse(match held.holder {
            Holder::Sandbox(id) => {
                format!("volume {name} of {owner} is used by sandbox {id}; delete that first")
            }
            Holder::Nobody => format!("volume {name} of {owner} is being removed; try again"),
        })
    }
}

fn keys(sandbox: &Sandbox) -> impl Iterator<Item = Key> + '_ {
    sandbox.spec.volumes.iter().map(|volume| key(sandbox, volume))
}

fn key(sandbox: &Sandbox, volume: &Volume) -> Key {
    let owner = sandbox.spec.owner.clone().unwrap_or_default();
    Key { tenant: sandbox.spec.tenant.clone(), owner, name: volume.name.clone() }
}

impl State {
    fn free(&self, key: &Key) -> Result<(), Held> {
        let held = |holder: &Holder| Held { key: key.clone(), holder: holder.clone() };
        self.holders.get(key).map_or(Ok(()), |holder| Err(held(holder)))
    }

    fn hold(&mut self, sandbox: &Sandbox) {
        self.holders.extend(keys(sandbox).map(|key| (key, Holder::Sandbox(sandbox.id().clone()))));
    }
}

impl Shelf {
    /// Reads the records of a data directory.
    pub fn open(data: &Path) -> io::Result<Self> {
        let records = VolumeRecords::open(volume::root(data))?;
        let known = records.load()?.into_iter().map(|record| (record.key.clone(), record)).collect();
        Ok(Self { records, state: Mutex::new(State { known, holders: BTreeMap::new() }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a sandbox that was found has its volumes.
    pub fn hold(&self, sandbox: &Sandbox) {
        self.lock().hold(sandbox);
    }

    /// Gives a new sandbox all of its volumes, or none.
    fn claim(&self, sandbox: &Sandbox) -> Result<(), Held> {
        let mut state = self.lock();
        keys(sandbox).try_for_each(|key| state.free(&key))?;
        state.hold(sandbox);
        Ok(())
    }

    /// Takes a sandbox's volumes back.
    pub fn release(&self, sandbox: &Sandbox) {
        let mut state = self.lock();
        let own = Holder::Sandbox(sandbox.id().clone());
        for key in keys(sandbox) {
            if state.holders.get(&key) == Some(&own) {
                state.holders.remove(&key);
            }
        }
    }

    fn find(&self, key: &Key) -> Option<VolumeRecord> {
        self.lock().known.get(key).cloned()
    }

    fn save(&self, record: VolumeRecord) -> Result<(), DriverError> {
        self.records.save(&record).map_err(internal)?;
        self.lock().known.insert(record.key.clone(), record);
        Ok(())
    }

    fn infos(&self, wanted: impl Fn(&Key) -> bool) -> Vec<VolumeInfo> {
        let state = self.lock();
        let matching = state.known.values().filter(|record| wanted(&record.key));
        let info = |record: &VolumeRecord| VolumeInfo {
            tenant: record.key.tenant.clone(),
            owner: record.key.owner.clone(),
            name: record.key.name.clone(),
            size: record.size,
            created_at: record.created_at,
            used_by: match state.holders.get(&record.key) {
                Some(Holder::Sandbox(id)) => Some(id.clone()),
                _ => None,
            },
        };
        matching.map(info).collect()
    }
}

impl Inner {
    /// Gives a new sandbox its volumes. One that is going away is waited for.
    pub(super) async fn claim_volumes(&self, sandbox: &Sandbox) -> Result<(), DriverError> {
        let begun = Instant::now();
        loop {
            let Err(held) = self.shelf.claim(sandbox) else { return Ok(()) };
            let Some(going) = self.going(&held) else { return Err(held.into()) };
            let left = PATIENCE.saturating_sub(begun.elapsed());
            // Whoever takes it down holds this to the end.
            if tokio::time::timeout(left, going.changing.lock()).await.is_err() {
                return Err(held.into());
            }
        }
    }

    fn going(&self, held: &Held) -> Option<Arc<Entry>> {
        let Holder::Sandbox(id) = &held.holder else { return None };
        self.table.get(id).filter(|entry| entry.record().sandbox.phase == Phase::Terminating)
    }

    /// Makes the volumes that are not there yet and lets others grow; says how all are to be mounted. `user` is whose
    /// the new ones are. Blocks.
    pub(super) fn ready_volumes(&self, record: &Record, user: &str) -> Result<Vec<Attached>, DriverError> {
        let sandbox = &record.sandbox;
        let ready = |volume: &Volume| self.ready_volume(key(sandbox, volume), volume, user);
        let mut all = sandbox.spec.volumes.iter().map(ready).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(all)
    }

    fn ready_volume(&self, key: Key, wanted: &Volume, user: &str) -> Result<Attached, DriverError> {
        let name = key.file_name();
        let fresh = match self.shelf.find(&key) {
            Some(known) if known.populated => {
                if known.size < wanted.size {
                    self.disk.grow_volume(&name, wanted.size).map_err(no_room)?;
                    self.shelf.save(VolumeRecord { size: wanted.size, ..known })?;
                }
                false
            }
            _ => {
                let created_at = jiff::Timestamp::now();
                self.shelf.save(VolumeRecord { key, size: wanted.size, created_at, populated: false })?;
                self.disk.create_volume(&name, wanted.size).map_err(no_room)?;
                true
            }
        };
        let VolumeFiles { path: from, is_file } = self.disk.volume(&name);
        Ok(Attached { path: wanted.path.clone(), from, is_file, fresh, user: user.to_owned() })
    }

    /// Notes that a sandbox runs with its volumes: from now on they are kept. Blocks.
    pub(super) fn keep_volumes(&self, sandbox: &Sandbox) -> Result<(), DriverError> {
        let known = keys(sandbox).filter_map(|key| self.shelf.find(&key));
        let mut fresh = known.filter(|record| !record.populated);
        fresh.try_for_each(|record| self.shelf.save(VolumeRecord { populated: true, ..record }))
    }

    /// Removes what was made for a sandbox that never ran with it. Blocks.
    pub(super) fn drop_new_volumes(&self, sandbox: &Sandbox) -> Result<(), DriverError> {
        let known = keys(sandbox).filter_map(|key| self.shelf.find(&key));
        let mut fresh = known.filter(|record| !record.populated);
        fresh.try_for_each(|record| self.drop_volume(&record.key))
    }

    /// The record goes first: without it, the files are left-overs, which the next start removes.
    fn drop_volume(&self, key: &Key) -> Result<(), DriverError> {
        self.shelf.records.remove(key).map_err(internal)?;
        self.shelf.lock().known.remove(key);
        self.disk.remove_volume(&key.file_name()).map_err(internal)
    }

    /// Removes volumes that were half made for a sandbox that is not there, and files that belong to no volume.
    pub(super) fn sweep_volumes(&self) -> Result<(), DriverError> {
        let abandoned: Vec<Key> = {
            let state = self.shelf.lock();
            let unused =
                |record: &&VolumeRecord| !record.populated && !state.holders.contains_key(&record.key);
            state.known.values().filter(unused).map(|record| record.key.clone()).collect()
        };
        abandoned.iter().try_for_each(|key| self.drop_volume(key))?;
        let known: Vec<String> = self.shelf.lock().known.keys().map(Key::file_name).collect();
        let names = self.disk.volume_names();
        let mut unknown = names.iter().filter(|name| !known.contains(name));
        unknown.try_for_each(|name| self.disk.remove_volume(name).map_err(internal))
    }

    fn begin_removal(&self, key: &Key) -> Result<(), DriverError> {
        let mut state = self.shelf.lock();
        if !state.known.contains_key(key) {
            return Err(DriverError::NotFound(format!("volume {} of {}", key.name, key.owner)));
        }
        state.free(key)?;
        state.holders.insert(key.clone(), Holder::Nobody);
        Ok(())
    }
}

#[async_trait]
impl Volumes for LocalDriver {
    async fn list(&self, tenant: Option<&str>, owner: Option<&str>) -> Result<Vec<VolumeInfo>, DriverError> {
        let wanted = |key: &Key| {
            tenant.is_none_or(|tenant| tenant == key.tenant) && owner.is_none_or(|owner| owner == key.owner)
        };
        Ok(self.inner.shelf.infos(wanted))
    }

    async fn remove(&self, tenant: &str, owner: &str, name: &str) -> Result<(), DriverError> {
        let key = Key { tenant: tenant.into(), owner: owner.into(), name: name.into() };
        let inner = Arc::clone(&self.inner);
        inner.begin_removal(&key)?;
        // Goes on to its end when whoever asked is gone.
        blocking(move || {
            let removed = inner.drop_volume(&key);
            inner.shelf.lock().holders.remove(&key);
            removed
        })
        .await
    }
}
