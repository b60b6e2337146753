//! Watching: the end of first processes, and the loop that runs the lifecycle decision.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

use atoll_core::{
    lifecycle::{Action, Observed, decide},
    phase::Phase,
};

use super::{Inner, agent, table::Entry};
use crate::process::Identity;

/// How often all sandboxes are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Reported activity is written down when it is so much newer than what is recorded.
const COALESCE: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);
/// Over so long it is measured whether a sandbox that seems idle computes something.
const SAMPLE: Duration = Duration::from_millis(250);
/// More than this share of one core is work: a fiftieth.
const BUSY_SHARE: u64 = 50;

/// Waits for the end of a first process, and reports it.
pub fn process(inner: &Arc<Inner>, entry: &Arc<Entry>, identity: Identity) {
    let (inner, entry) = (Arc::downgrade(inner), Arc::downgrade(entry));
    tokio::spawn(async move {
        wait_for_end(&identity).await;
        if let (Some(inner), Some(entry)) = (inner.upgrade(), entry.upgrade())
            && let Err(error) = inner.ended(&entry, &identity).await
        {
            tracing::warn!(sandbox = %entry.record().sandbox.id(), %error, "its end could not be recorded");
        }
    });
}

async fn wait_for_end(identity: &Identity) {
    let Some(pidfd) = identity.open() else { return };
    // SAFETY: the descriptor is owned by the AsyncFd and stays the same for as long as it is registered.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    if let Ok(pidfd) = registered {
        let _ = pidfd.readable().await;
    }
}

/// Decides about every sandbox again and again, as long as there is a driver.
pub async fn lifecycle(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        for entry in inner.table.all() {
            // Whoever changes it now leaves it as it should be; the next tick looks again.
            if entry.changing.try_lock().is_ok() {
                consider(&inner, entry).await;
            }
        }
    }
}

async fn consider(inner: &Arc<Inner>, entry: Arc<Entry>) {
    let sandbox = entry.sandbox();
    let recorded = entry.record().sandbox.last_activity;
    if entry.activity().duration_since(recorded) > COALESCE {
        save_activity(inner, &entry).await;
    }
    let action = decide(&sandbox, &Observed::default(), jiff::Timestamp::now());
    if action != Action::Keep(None) && !matches!(action, Action::Keep(_)) {
        tokio::spawn(act(Arc::clone(inner), entry, action));
    }
}

async fn save_activity(inner: &Arc<Inner>, entry: &Arc<Entry>) {
    let Ok(_changing) = entry.changing.try_lock() else { return };
    if let Err(error) = inner.store(entry, |_| ()).await {
        tracing::warn!(sandbox = %entry.record().sandbox.id(), %error, "its last activity could not be written down");
    }
}

async fn act(inner: Arc<Inner>, entry: Arc<Entry>, action: Action) {
    let done = match action {
        Action::Keep(_) | Action::Fail(_) => Ok(()),
        Action::Pause(reason) if reason.code == "idle" && is_busy(&inner, &entry).await => {
            entry.touch(jiff::Timestamp::now());
            Ok(())
        }
        Action::Pause(reason) => inner.pause(&entry, reason).await.map(drop),
        Action::Stop(reason) => inner.stop(&entry, reason).await.map(drop),
        Action::Terminate(reason) => inner.delete(&entry, reason).await,
    };
    if let Err(error) = done {
        tracing::warn!(sandbox = %entry.record().sandbox.id(), %error, "a lifecycle step failed; it is tried again");
    }
}

/// Asked only when a sandbox is about to be paused: commands, terminals, and CPU that nothing else explains.
async fn is_busy(inner: &Arc<Inner>, entry: &Arc<Entry>) -> bool {
    let record = entry.record();
    if record.sandbox.phase != Phase::Running {
        return false;
    }
    let asked = async {
        let stream = inner.to_agent(&record).await?;
        agent::activity(stream, inner.signer(&record)).await
    };
    let told = asked.await.unwrap_or_default();
    if !told.awake_because.is_empty() {
        return true;
    }
    let before = inner.cgroups.usage(record.group()).cpu_us;
    tokio::time::sleep(SAMPLE).await;
    let used = inner.cgroups.usage(record.group()).cpu_us.saturating_sub(before);
    used > SAMPLE.as_micros() as u64 / BUSY_SHARE
}
