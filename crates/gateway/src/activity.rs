//! What an exchange tells others while bytes flow: the driver, that the sandbox is used, and the metrics, how much.

use atoll_core::{
    driver::{Driver, DriverError},
    id::SandboxId,
    phase::Phase,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{gateway::Clock, metrics::Metrics};

/// Least time between two reports of one exchange, in milliseconds.
const EVERY_MS: u64 = 1000;

/// One exchange or tunnel; open until it is dropped.
pub struct Pulse {
    driver: Arc<dyn Driver>,
    id: SandboxId,
    clock: Clock,
    metrics: Metrics,
    began: Instant,
    reported_ms: AtomicU64,
}

impl Pulse {
    /// Begins one, which is use of the sandbox.
    pub fn begin(driver: Arc<dyn Driver>, id: SandboxId, clock: Clock, metrics: Metrics) -> Arc<Self> {
        driver.touch(&id, clock());
        metrics.open.inc();
        Arc::new(Self { driver, id, clock, metrics, began: Instant::now(), reported_ms: AtomicU64::new(0) })
    }

    /// Bytes go to the sandbox. One that was frozen since the last of them wakes, if it may: nobody inside could answer
    /// otherwise.
    pub fn inward(&self, bytes: usize) {
        self.metrics.inward.inc_by(bytes as u64);
        if self.is_due() {
            self.driver.touch(&self.id, (self.clock)());
            tokio::spawn(rouse(self.driver.clone(), self.id.clone()));
        }
    }

    /// Bytes come from the sandbox.
    pub fn outward(&self, bytes: usize) {
        self.metrics.outward.inc_by(bytes as u64);
        if self.is_due() {
            self.driver.touch(&self.id, (self.clock)());
        }
    }

    fn is_due(&self) -> bool {
        let now = self.began.elapsed().as_millis() as u64;
        let last = self.reported_ms.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= EVERY_MS;
        due && self.reported_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.metrics.open.dec();
    }
}

async fn rouse(driver: Arc<dyn Driver>, id: SandboxId) {
    match driver.get(&id).await {
        Ok(sandbox) if sandbox.phase == Phase::Paused && sandbox.spec.lifecycle.wake_on_request => {}
        _ => return,
    }
    match driver.resume(&id).await {
        // Somebody else was faster.
        Ok(_) | Err(DriverError::Conflict { .. }) => {}
        Err(error) => {
            tracing::warn!(sandbox = %id, %error, "a frozen sandbox that is spoken to cannot be woken")
        }
    }
}
