//! Launches that are prepared ahead: a few cells, each a control group with a helper in it. It must not know what is launched in them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

use crate::{
    cgroup::Cgroups,
    launcher::{Cell, LaunchError},
};

/// How long after a start the making of new cells begins. Long enough for a first command, short beside what people do.
const REST: Duration = Duration::from_millis(20);

/// A cell and the name of its control group.
pub struct Ready {
    /// Name of its group.
    pub group: String,
    /// The helper in it.
    pub cell: Cell,
}

/// The cells of a driver.
pub struct Cells {
    cgroups: Cgroups,
    launcher: PathBuf,
    workplace: PathBuf,
    ready: Mutex<Vec<Ready>>,
    taken: Notify,
    wanted: usize,
}

impl Cells {
    /// No cells yet; `wanted` are kept ready once [`Cells::keep`] runs.
    pub fn new(cgroups: Cgroups, launcher: PathBuf, workplace: PathBuf, wanted: usize) -> Self {
        Self { cgroups, launcher, workplace, ready: Mutex::default(), taken: Notify::new(), wanted }
    }

    /// A cell: one that is ready, or else a new one. Blocks in that case.
    ///
    /// # Errors
    /// When none can be made; nothing is left of it then.
    pub fn take(&self) -> Result<Ready, LaunchError> {
        let ready = self.ready().pop();
        ready.map_or_else(|| self.make(), Ok)
    }

    /// Has cells made in the place of those that were taken, soon. To be called when a start is over: the making would
    /// compete with it for the processor and the kernel's locks.
    pub fn refill(&self) {
        self.taken.notify_one();
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, Vec<Ready>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> Result<Ready, LaunchError> {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(std::io::Error::from)?;
        let group = format!("c{}", hex::encode(bytes));
        let groups = self.cgroups.create(&group).map_err(|error| LaunchError::Step(error.to_string()))?;
        match Cell::prepare(&self.launcher, &self.workplace, &groups) {
            Ok(cell) => Ok(Ready { group, cell }),
            Err(error) => {
                let _ = self.cgroups.remove(&group);
                Err(error)
            }
        }
    }

    /// Until cells are wanted and the first command of the sandbox that took one has likely run. A second at most: weak again
    /// while waiting would miss the end of the driver, so it is looked for now and then.
    async fn wait(&self) {
        if tokio::time::timeout(Duration::from_secs(1), self.taken.notified()).await.is_ok() {
            tokio::time::sleep(REST).await;
        }
    }

    /// Makes new cells whenever some were taken, one after the other, as long as there is a driver.
    pub async fn keep(cells: std::sync::Weak<Self>) {
        while let Some(cells) = cells.upgrade() {
            let missing = cells.ready().len() < cells.wanted;
            let maker = Arc::clone(&cells);
            let made = match missing {
                false => {
                    cells.wait().await;
                    continue;
                }
                true => tokio::task::spawn_blocking(move || maker.make()).await,
            };
            match made {
                Ok(Ok(ready)) => cells.ready().push(ready),
                problem => {
                    tracing::warn!(problem = ?problem.map(|made| made.err()), "no launch could be prepared ahead");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        for Ready { group, cell } in self.ready().drain(..) {
            cell.discard();
            let _ = self.cgroups.remove(&group);
        }
    }
}
