//! What a new server does with what it finds. Sandboxes that run are watched again; what was half made is finished; what
//! belongs to no record is removed.

use std::{collections::HashSet, fs::File, io, sync::Arc};

use atoll_core::{
    driver::{DriverError, no_progress},
    phase::Phase,
    sandbox::Reason,
};

use super::{Inner, OpenError, blocking, internal, table::Entry};
use crate::{process, record::Record};

/// Takes over every record, then sweeps.
pub async fn adopt(inner: &Arc<Inner>) -> Result<(), OpenError> {
    let opened = Arc::clone(inner);
    let records = tokio::task::spawn_blocking(move || {
        let records = opened.records.load()?;
        records.iter().try_for_each(|record| await_helper(&opened, record))?;
        Ok::<_, io::Error>(records)
    });
    let records = records.await.map_err(io::Error::other)??;
    let mut entries = Vec::with_capacity(records.len());
    for record in records {
        inner.slots().mark(record.slot);
        inner.shelf.hold(&record.sandbox);
        if record.sandbox.phase == Phase::Creating && !record.populated {
            inner.gallery.keep_for(&record.sandbox);
        }
        let entry = Entry::new(record);
        inner.table.insert(&entry);
        entries.push(entry);
    }
    let swept = Arc::clone(inner);
    blocking(move || sweep(&swept)).await.map_err(io::Error::other)?;
    for entry in entries {
        take_over(inner, &entry).await.map_err(io::Error::other)?;
    }
    Ok(())
}

/// A launcher of the server before may still be at work. It holds the lock of its order until it is done.
fn await_helper(inner: &Inner, record: &Record) -> io::Result<()> {
    match File::open(inner.records.directory(record.sandbox.id()).join("launch.json")) {
        Ok(order) => order.lock(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

async fn take_over(inner: &Arc<Inner>, entry: &Arc<Entry>) -> Result<(), DriverError> {
    let record = entry.record();
    let runs = record.process.as_ref().filter(|identity| identity.open().is_some());
    match (record.sandbox.phase, runs) {
        (Phase::Terminating, _) => {
            tokio::spawn(Arc::clone(inner).take_down(Arc::clone(entry)));
        }
        (Phase::Running | Phase::Paused, Some(identity)) => {
            settle_freezer(inner, &record).await?;
            inner.watch(entry, identity.clone());
        }
        (Phase::Running | Phase::Paused, None) => lost(inner, entry, &record).await?,
        (Phase::Creating, _) => {
            let (inner, entry) = (Arc::clone(inner), Arc::clone(entry));
            tokio::spawn(async move { finish(&inner, &entry).await });
        }
        (Phase::Stopped | Phase::Failed, _) => {}
    }
    Ok(())
}

/// The server may have died between freezing and recording it, or the other way round: the record counts.
async fn settle_freezer(inner: &Arc<Inner>, record: &Arc<Record>) -> Result<(), DriverError> {
    let wanted = record.sandbox.phase == Phase::Paused;
    if inner.cgroups.is_frozen(record.group()) == wanted {
        return Ok(());
    }
    let (inner, record) = (Arc::clone(inner), Arc::clone(record));
    blocking(move || inner.cgroups.freeze(record.group(), wanted).map_err(internal)).await
}

/// Its process ended while no server was there to see it.
async fn lost(inner: &Arc<Inner>, entry: &Arc<Entry>, record: &Arc<Record>) -> Result<(), DriverError> {
    let _changing = entry.changing.lock().await;
    let same_boot = record.process.as_ref().is_some_and(|p| process::boot().is_ok_and(|boot| boot == p.boot));
    let (phase, reason) = if same_boot {
        (
            Phase::Failed,
            Reason::new("agent_died", "its first process ended while no server ran; its files are kept"),
        )
    } else {
        (Phase::Stopped, Reason::new("host_restarted", "the machine was restarted; its files are kept"))
    };
    let (cleaner, gone) = (Arc::clone(inner), Arc::clone(record));
    blocking(move || cleaner.clean_up(&gone)).await?;
    inner.move_to(entry, phase, reason, Record::at_rest).await.map(drop)
}

/// The server before died while it made this one: whatever runs of it is ended, and it is made again.
async fn finish(inner: &Arc<Inner>, entry: &Arc<Entry>) {
    let _changing = entry.changing.lock().await;
    let (cleaner, record) = (Arc::clone(inner), entry.record());
    let finished = match blocking(move || cleaner.clean_up(&record)).await {
        Ok(()) => inner.bring_up(entry, &no_progress()).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = finished {
        tracing::warn!(sandbox = %entry.record().sandbox.id(), %error, "its creation could not be finished");
    }
}

/// Removes groups, links and files that belong to no record.
fn sweep(inner: &Inner) -> Result<(), DriverError> {
    let records: Vec<_> = inner.table.all().iter().map(|entry| entry.record()).collect();
    let names: HashSet<&str> = records.iter().map(|record| record.sandbox.id().as_str()).collect();
    let slots: HashSet<u32> = records.iter().map(|record| record.slot).collect();
    let groups: HashSet<&str> = records.iter().map(|record| record.group()).collect();
    for name in inner.cgroups.names().iter().filter(|name| !groups.contains(name.as_str())) {
        inner.cgroups.kill(name);
        inner.cgroups.remove(name).map_err(internal)?;
    }
    for slot in inner.router.attached().map_err(internal)?.into_iter().filter(|slot| !slots.contains(slot)) {
        inner.router.detach(slot).map_err(internal)?;
    }
    for slot in inner.router.policies().map_err(internal)?.into_iter().filter(|slot| !slots.contains(slot)) {
        inner.router.clear_policy(slot).map_err(internal)?;
    }
    for name in inner.disk.names().iter().filter(|name| !names.contains(name.as_str())) {
        inner.disk.remove(name).map_err(internal)?;
    }
    inner.sweep_volumes()?;
    inner.sweep_snapshots()
}
