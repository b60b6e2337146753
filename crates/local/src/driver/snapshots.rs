//! Snapshots on this machine: the files of a sandbox, kept beside the image below them. One that is removed while sandboxes
//! are being made from it goes when they are made. Which those are is told by their own records; here is only an index of it.

use async_trait::async_trait;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atoll_core::{
    driver::DriverError,
    id::{SandboxId, SnapshotId},
    phase::Phase,
    quantity::Bytes,
    sandbox::Sandbox,
    snapshot::{self, NewSnapshot, Snapshot, SnapshotPage, SnapshotQuery, Snapshots},
};

use super::{
    Inner, LocalDriver, blocking, conflict, internal,
    start::{defaults, no_room},
    table::Entry,
};
use crate::{
    images::ImageConfig,
    record::{Base, Files, Origin, Record},
    snapshot::{SnapshotRecord, root},
};

/// The snapshots and who needs them.
pub struct Gallery {
    records: Files,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<SnapshotId, SnapshotRecord>,
    /// Those that are being taken.
    begun: BTreeSet<SnapshotId>,
    /// Sandboxes that are being made.
    needed: BTreeMap<SnapshotId, BTreeSet<SandboxId>>,
}

fn named(sandbox: &Sandbox) -> Result<Option<SnapshotId>, DriverError> {
    snapshot::of_image(&sandbox.spec.image).map_err(|error| DriverError::Invalid(error.to_string()))
}

fn missing(id: &SnapshotId) -> DriverError {
    DriverError::NotFound(format!("snapshot {id}"))
}

/// Refuses a limit below what will be charged to a sandbox from its beginning.
fn fits(record: &SnapshotRecord, limit: Bytes) -> Result<(), DriverError> {
    let all = record.snapshot.size.unwrap_or_default();
    let shared = record.base.origin.as_ref().map_or(0, |origin| origin.shared);
    if all.0.saturating_sub(shared) <= limit.0 {
        return Ok(());
    }
    let problem = format!("disk: {limit} are less than the {all} that the snapshot holds");
    Err(DriverError::Invalid(problem))
}

impl State {
    fn live(&self, id: &SnapshotId) -> Option<&SnapshotRecord> {
        self.known.get(id).filter(|record| !record.going)
    }

    /// What is to go now. Until it is gone it counts as begun, so that nobody takes another one of its id meanwhile.
    fn take_out(&mut self, id: &SnapshotId) -> bool {
        let unneeded = self.needed.get(id).is_none_or(BTreeSet::is_empty);
        let gone = unneeded && self.known.get(id).is_some_and(|record| record.going);
        if gone {
            self.known.remove(id);
            self.begun.insert(id.clone());
        }
        gone
    }
}

impl Gallery {
    /// Reads the records of a data directory. What was only a means counts as removed.
    pub fn open(data: &Path) -> io::Result<Self> {
        let records = Files::open(root(data))?;
        let found: Vec<SnapshotRecord> = records.load()?;
        let settled = found.into_iter().map(|it| SnapshotRecord { going: it.going || it.passing, ..it });
        let known = settled.map(|it| (it.snapshot.id.clone(), it)).collect();
        Ok(Self { records, state: Mutex::new(State { known, ..State::default() }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a sandbox is being made from the snapshot that its image names, where it names one, and says what it then
    /// stands on. Safe to repeat, also when the snapshot was removed meanwhile.
    pub fn hold(&self, sandbox: &Sandbox) -> Result<Option<Base>, DriverError> {
        let Some(id) = named(sandbox)? else { return Ok(None) };
        let mut state = self.lock();
        let held = state.needed.get(&id).is_some_and(|needed| needed.contains(sandbox.id()));
        let found = if held { state.known.get(&id) } else { state.live(&id) };
        let found = found.filter(|it| it.snapshot.tenant == sandbox.spec.tenant);
        let found = found.ok_or_else(|| snapshot::unknown(&id))?;
        fits(found, sandbox.spec.limits.disk)?;
        let base = found.base.clone();
        state.needed.entry(id).or_default().insert(sandbox.id().clone());
        Ok(Some(base))
    }

    /// Notes the same of one that was found half made.
    pub fn keep_for(&self, sandbox: &Sandbox) {
        if let Ok(Some(id)) = named(sandbox) {
            self.lock().needed.entry(id).or_default().insert(sandbox.id().clone());
        }
    }

    /// Digests of the images that snapshots stand on.
    pub fn digests(&self) -> Vec<String> {
        self.lock().known.values().map(|record| record.base.digest.clone()).collect()
    }

    fn begin(&self, id: &SnapshotId) -> Result<(), DriverError> {
        let mut state = self.lock();
        if state.known.contains_key(id) || !state.begun.insert(id.clone()) {
            return Err(DriverError::InUse(format!("snapshot {id} exists already")));
        }
        Ok(())
    }

    /// Writes one down whose files are whole.
    fn keep(&self, record: SnapshotRecord) -> Result<Snapshot, DriverError> {
        let snapshot = record.snapshot.clone();
        self.records.save(snapshot.id.as_str(), &record).map_err(internal)?;
        self.lock().known.insert(snapshot.id.clone(), record);
        Ok(snapshot)
    }
}

impl Inner {
    /// The sandbox has been made or never will be: what was removed meanwhile can go.
    pub(super) async fn let_go_snapshot(self: &Arc<Self>, sandbox: &Sandbox) {
        let Ok(Some(id)) = named(sandbox) else { return };
        let gone = {
            let mut state = self.gallery.lock();
            if let Some(sandboxes) = state.needed.get_mut(&id) {
                sandboxes.remove(sandbox.id());
            }
            state.needed.retain(|_, sandboxes| !sandboxes.is_empty());
            state.take_out(&id)
        };
        if !gone {
            return;
        }
        let (inner, of) = (Arc::clone(self), id.clone());
        if let Err(error) = blocking(move || inner.drop_snapshot(&of)).await {
            tracing::warn!(snapshot = %id, %error, "its files are left until the next start");
        }
    }

    /// The record goes first: without it, the files are left-overs, which the next start removes.
    fn drop_snapshot(&self, id: &SnapshotId) -> Result<(), DriverError> {
        let removed = self
            .gallery
            .records
            .remove(id.as_str())
            .map_err(internal)
            .and_then(|()| self.disk.remove_snapshot(id.as_str()).map_err(internal));
        let mut state = self.gallery.lock();
        state.begun.remove(id);
        state.needed.remove(id);
        removed
    }

    /// Removes those that nobody needs any more, and files that belong to none.
    pub(super) fn sweep_snapshots(&self) -> Result<(), DriverError> {
        let gone: Vec<SnapshotId> = {
            let mut state = self.gallery.lock();
            let all: Vec<SnapshotId> = state.known.keys().cloned().collect();
            all.into_iter().filter(|id| state.take_out(id)).collect()
        };
        gone.iter().try_for_each(|id| self.drop_snapshot(id))?;
        let known: BTreeSet<String> = self.gallery.lock().known.keys().map(ToString::to_string).collect();
        let names = self.disk.snapshot_names();
        let mut unknown = names.iter().filter(|name| !known.contains(*name));
        unknown.try_for_each(|name| self.disk.remove_snapshot(name).map_err(internal))
    }

    async fn take(self: Arc<Self>, entry: Arc<Entry>, ask: NewSnapshot) -> Result<Snapshot, DriverError> {
        let _changing = entry.changing.lock().await;
        let record = entry.record();
        if !matches!(record.sandbox.phase, Phase::Running | Phase::Paused | Phase::Stopped) {
            return Err(conflict(&entry, "only a running, paused or stopped sandbox can be snapshotted"));
        }
        let (inner, id) = (Arc::clone(&self), ask.id.clone());
        self.gallery.begin(&id)?;
        let taken = blocking(move || {
            let id = ask.id.clone();
            let kept = inner.keep_files(&record, &id).and_then(|()| inner.describe(&record, ask));
            kept.and_then(|described| inner.gallery.keep(described)).inspect_err(|_| {
                if let Err(error) = inner.disk.remove_snapshot(id.as_str()) {
                    tracing::warn!(snapshot = %id, %error, "its files are left until the next start");
                }
            })
        })
        .await;
        self.gallery.lock().begun.remove(&id);
        taken
    }

    /// The sandbox stands still meanwhile, and goes on whatever comes of it. Should this server be killed in between, the
    /// next one lets it go on: its record says that it runs.
    fn keep_files(&self, record: &Record, id: &SnapshotId) -> Result<(), DriverError> {
        let process = record.process.as_ref().map(|identity| identity.pid);
        let take =
            || self.disk.take_snapshot(record.sandbox.id().as_str(), id.as_str(), process).map_err(no_room);
        if record.sandbox.phase != Phase::Running {
            return take();
        }
        self.cgroups.freeze(record.group(), true).map_err(internal)?;
        let taken = take();
        self.cgroups.freeze(record.group(), false).map_err(internal)?;
        taken
    }

    fn describe(&self, record: &Record, ask: NewSnapshot) -> Result<SnapshotRecord, DriverError> {
        let spec = &record.sandbox.spec;
        let no_image = || DriverError::Internal(format!("sandbox {} has run on no image", spec.id));
        let below = record.image.as_ref().ok_or_else(no_image)?;
        let counted = self.disk.snapshot_usage(spec.id.as_str(), ask.id.as_str(), record.shared());
        let origin = Origin {
            snapshot: ask.id.clone(),
            image: below.origin.as_ref().map_or_else(|| spec.image.clone(), |it| it.image.clone()),
            stored_base: self.stored_base(record)?,
            shared: counted.map_or(0, |counted| counted.all - counted.own),
        };
        let passing = ask.passing;
        let snapshot =
            ask.made(spec, origin.image.clone(), defaults(record, below), counted.map(|it| Bytes(it.all)));
        let base = standing_on(below, &snapshot, origin);
        Ok(SnapshotRecord { snapshot, base, passing, going: false })
    }
}

/// What a snapshot's sandboxes stand on: the image of its source, which wants to be run as the snapshot says.
fn standing_on(below: &Base, snapshot: &Snapshot, origin: Origin) -> Base {
    let defaults = &snapshot.defaults;
    let config = ImageConfig {
        env: defaults.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        user: defaults.user.clone().unwrap_or_default(),
        workdir: defaults.workdir.clone().unwrap_or_default(),
        ..below.config.clone()
    };
    let start_command = defaults.start_command.clone();
    Base {
        digest: below.digest.clone(),
        layers: below.layers.clone(),
        config,
        start_command,
        origin: Some(origin),
    }
}

#[async_trait]
impl Snapshots for LocalDriver {
    async fn take(&self, sandbox: &SandboxId, ask: NewSnapshot) -> Result<Snapshot, DriverError> {
        let entry = self.inner.entry(sandbox)?;
        // Goes on to its end when whoever asked is gone.
        tokio::spawn(Arc::clone(&self.inner).take(entry, ask)).await.map_err(internal)?
    }

    async fn get(&self, id: &SnapshotId) -> Result<Snapshot, DriverError> {
        let state = self.inner.gallery.lock();
        state.live(id).map(|record| record.snapshot.clone()).ok_or_else(|| missing(id))
    }

    async fn list(&self, query: &SnapshotQuery) -> Result<SnapshotPage, DriverError> {
        let state = self.inner.gallery.lock();
        let shown = state.known.values().filter(|record| !record.going && !record.passing);
        Ok(query.page(shown.map(|record| &record.snapshot)))
    }

    async fn remove(&self, id: &SnapshotId) -> Result<(), DriverError> {
        let inner = Arc::clone(&self.inner);
        let id = id.clone();
        blocking(move || {
            let (going, gone) = {
                let mut state = inner.gallery.lock();
                let record = state.known.get_mut(&id).filter(|record| !record.going);
                let record = record.ok_or_else(|| missing(&id))?;
                record.going = true;
                (record.clone(), state.take_out(&id))
            };
            if gone {
                return inner.drop_snapshot(&id);
            }
            inner.gallery.records.save(id.as_str(), &going).map_err(internal)
        })
        .await
    }
}
