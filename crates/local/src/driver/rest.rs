//! Putting sandboxes to rest and taking them down.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};
use std::{sync::Arc, time::Duration};

use atoll_core::{
    driver::DriverError,
    phase::Phase,
    sandbox::{Reason, Sandbox},
};

use super::{Inner, blocking, conflict, internal, table::Entry, watch};
use crate::{process::Identity, record::Record};

/// Between the polite and the final signal.
const GRACE: Duration = Duration::from_secs(10);
/// How long the kernel may take to end a process after the final signal: the last one of a sandbox writes back its
/// filesystem, where that is its own.
const END: Duration = Duration::from_secs(60);
/// Pause before a failed teardown is tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Inner {
    pub(super) async fn stop(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        reason: Reason,
    ) -> Result<Sandbox, DriverError> {
        let _changing = entry.changing.lock().await;
        let record = entry.record();
        match record.sandbox.phase {
            Phase::Stopped => return Ok(entry.sandbox()),
            Phase::Running | Phase::Paused => {}
            _ => return Err(conflict(entry, "only a running or paused sandbox can be stopped")),
        }
        let (inner, stopping) = (Arc::clone(self), Arc::clone(&record));
        blocking(move || inner.end(&stopping, GRACE)).await?;
        self.move_to(entry, Phase::Stopped, reason, Record::at_rest).await
    }

    pub(super) async fn pause(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        reason: Reason,
    ) -> Result<Sandbox, DriverError> {
        let only = "only a running sandbox can be paused";
        self.between(entry, Phase::Running, Phase::Paused, only, reason).await
    }

    pub(super) async fn resume(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        reason: Reason,
    ) -> Result<Sandbox, DriverError> {
        let only = "only a paused sandbox can be resumed; start a stopped one";
        self.between(entry, Phase::Paused, Phase::Running, only, reason).await
    }

    /// Freezes or thaws. One that is there already stays; a move that cannot be recorded is taken back.
    async fn between(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        from: Phase,
        to: Phase,
        only: &str,
        reason: Reason,
    ) -> Result<Sandbox, DriverError> {
        let _changing = entry.changing.lock().await;
        match entry.record().sandbox.phase {
            phase if phase == to => return Ok(entry.sandbox()),
            phase if phase == from => {}
            _ => return Err(conflict(entry, only)),
        }
        let frozen = to == Phase::Paused;
        self.freeze(entry, frozen).await?;
        if !frozen {
            entry.touch(jiff::Timestamp::now());
        }
        let moved = self.move_to(entry, to, reason, |_| ()).await;
        if moved.is_err() {
            self.freeze(entry, !frozen).await?;
        }
        moved
    }

    async fn freeze(self: &Arc<Self>, entry: &Arc<Entry>, frozen: bool) -> Result<(), DriverError> {
        let (inner, record) = (Arc::clone(self), entry.record());
        blocking(move || inner.cgroups.freeze(record.group(), frozen).map_err(internal)).await
    }

    /// Records that the sandbox is to go, and lets it go in the background.
    pub(super) async fn delete(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        reason: Reason,
    ) -> Result<(), DriverError> {
        entry.cancel();
        let _changing = entry.changing.lock().await;
        if entry.record().sandbox.phase == Phase::Terminating {
            return Ok(());
        }
        self.move_to(entry, Phase::Terminating, reason, |_| ()).await?;
        tokio::spawn(Arc::clone(self).take_down(Arc::clone(entry)));
        Ok(())
    }

    /// Tries until nothing of the sandbox is left. Its slot is free only then.
    pub(super) async fn take_down(self: Arc<Self>, entry: Arc<Entry>) {
        let _changing = entry.changing.lock().await;
        loop {
            let (inner, record) = (Arc::clone(&self), entry.record());
            match blocking(move || inner.remove(&record)).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(sandbox = %entry.record().sandbox.id(), %error, "cannot be taken down yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        let record = entry.record();
        self.shelf.release(&record.sandbox);
        self.let_go_snapshot(&record.sandbox).await;
        self.table.remove(&record.sandbox);
        self.slots().release(record.slot);
        self.tell(&entry.sandbox(), true);
    }

    fn remove(&self, record: &Record) -> Result<(), DriverError> {
        self.end(record, Duration::ZERO)?;
        self.disk.remove(record.sandbox.id().as_str()).map_err(internal)?;
        self.drop_new_volumes(&record.sandbox)?;
        self.records.remove(record.sandbox.id()).map_err(internal)
    }

    /// Ends all processes, politely when there is grace, and removes what they had.
    pub(super) fn end(&self, record: &Record, grace: Duration) -> Result<(), DriverError> {
        if let Some(identity) = &record.process {
            if grace.is_zero() {
                identity.signal(Signal::KILL);
            } else {
                // A frozen process takes no signal but the final one.
                self.cgroups.freeze(record.group(), false).map_err(internal)?;
                identity.signal(Signal::TERM);
                if !ended_within(identity, grace) {
                    identity.signal(Signal::KILL);
                }
            }
            self.cgroups.kill(record.group());
            if !ended_within(identity, END) {
                return Err(DriverError::Internal(format!("process {} does not end", identity.pid)));
            }
        }
        self.clean_up(record)
    }

    /// The first process has ended by itself: records why, and keeps the files.
    pub(super) async fn ended(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        identity: &Identity,
    ) -> Result<(), DriverError> {
        let _changing = entry.changing.lock().await;
        let record = entry.record();
        if record.process.as_ref() != Some(identity) || !record.sandbox.phase.is_live() {
            return Ok(());
        }
        let reason = self.cause_of_death(&record);
        let inner = Arc::clone(self);
        blocking(move || inner.clean_up(&record)).await?;
        self.move_to(entry, Phase::Failed, reason, Record::at_rest).await.map(drop)
    }

    fn cause_of_death(&self, record: &Record) -> Reason {
        let usage = self.cgroups.usage(record.group());
        if usage.oom_kills > 0 && usage.memory_peak >= record.sandbox.spec.limits.memory.0 / 100 * 95 {
            let text = format!(
                "its agent died; the sandbox had run out of its {} of memory",
                record.sandbox.spec.limits.memory
            );
            return Reason::new("agent_died", text);
        }
        Reason::new("agent_died", "its first process, the agent, was killed; its files are kept")
    }

    /// Watches a process that was adopted.
    pub(super) fn watch(self: &Arc<Self>, entry: &Arc<Entry>, identity: Identity) {
        watch::process(self, entry, identity);
    }
}

/// Whether the process has ended, after waiting for that.
fn ended_within(identity: &Identity, patience: Duration) -> bool {
    let Some(pidfd) = identity.open() else { return true };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    matches!(poll(&mut fds, Some(&timeout)), Ok(n) if n > 0)
}
