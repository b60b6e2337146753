//! Waits until a new sandbox can be used: until the ready command of its recipe succeeds, or a while has passed.

use atoll_core::sandbox::Sandbox;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

use super::{
    agent::Agents,
    error::ServiceError,
    exec::{self, Command, Happened},
};

/// Between two attempts, at first and at most.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// How long to wait after so many attempts: soon at first, then less and less often.
pub fn pause(attempts: u32) -> Duration {
    FIRST.saturating_mul(1 << attempts.min(8)).min(LONGEST)
}

/// Waits, `limit` at most. A sandbox that is not ready by then is there all the same.
pub async fn wait(agents: &Arc<Agents>, sandbox: &Sandbox, limit: Duration) {
    let Some(ready) = &sandbox.spec.ready_command else { return };
    let until = Instant::now() + limit;
    for attempt in 0.. {
        match tokio::time::timeout_at(until, once(agents, sandbox, ready)).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) => {}
            // It is on its way out, or its agent is; whoever uses it is told.
            Ok(Err(error)) => {
                tracing::warn!(sandbox = %sandbox.id(), %error, "whether a sandbox is ready cannot be found out");
                return;
            }
            Err(_) => {
                tracing::warn!(sandbox = %sandbox.id(), ?limit, "a sandbox is not ready in time");
                return;
            }
        }
        tokio::time::sleep(pause(attempt)).await;
    }
}

/// Whether the command succeeds now.
async fn once(agents: &Arc<Agents>, sandbox: &Sandbox, ready: &[String]) -> Result<bool, ServiceError> {
    let command = Command { argv: ready.to_vec(), ..Command::default() };
    let (mut run, _input) = exec::start(agents, sandbox.clone(), command).await?;
    while let Some(happened) = run.next().await? {
        if let Happened::Ended(exit) = happened {
            return Ok(exit.exit_code == 0);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_less_and_less_often() {
        assert_eq!([0, 1, 4, 5, 99].map(|n| pause(n).as_millis()), [50, 100, 800, 1000, 1000]);
    }
}
