//! What a sandbox uses now, as its agent measures it, and the driver, where it counts. What an agent says is a hint: nothing
//! is decided by it.

use atoll_core::sandbox::Sandbox;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use jiff::Timestamp;
use serde::Deserialize;

use super::{Services, error::ServiceError};

/// Longest answer of an agent: ten numbers and their names.
const LONGEST: usize = 4096;

/// One measurement; sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// When.
    pub at: Timestamp,
    /// CPUs that it may use, rounded up.
    pub cpu_count: u64,
    /// Of all of them together, 100 each.
    pub cpu_used_pct: f64,
    /// Memory without what is only cached.
    pub memory_used: u64,
    /// Its limit.
    pub memory_total: u64,
    /// Memory that caches files.
    pub memory_cache: u64,
    /// Disk in use; 0 where that is not counted.
    pub disk_used: u64,
    /// Its limit.
    pub disk_total: u64,
}

/// What an agent answers (`GET /metrics`).
#[derive(Deserialize)]
struct Said {
    cpu_used_pct: f64,
    mem_used: u64,
    mem_cache: u64,
}

impl Services {
    /// Measures a sandbox that runs.
    pub async fn measure(&self, sandbox: &Sandbox) -> Result<Measured, ServiceError> {
        let silent = |problem: String| ServiceError::AgentSilent { id: sandbox.id().to_string(), problem };
        let request = Request::get("/metrics").header(http::header::HOST, "agent");
        let request =
            request.body(Empty::<bytes::Bytes>::new()).map_err(|error| silent(error.to_string()))?;
        let answer = self.agents.transfer(sandbox, request).await?;
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        let bytes = body.map_err(|error| silent(error.to_string()))?.to_bytes();
        let said: Said = serde_json::from_slice(&bytes).map_err(|error| silent(error.to_string()))?;
        // An agent would tell of its node's disk.
        let disk_used = self.base.driver.usage(sandbox.id()).await?.disk.unwrap_or_default();
        Ok(self.measured(sandbox, &said, disk_used))
    }

    /// Limits are those that are enforced outside.
    fn measured(&self, sandbox: &Sandbox, said: &Said, disk_used: u64) -> Measured {
        let limits = &sandbox.spec.limits;
        Measured {
            at: self.base.world.now(),
            cpu_count: limits.cpu.0.div_ceil(1000),
            cpu_used_pct: said.cpu_used_pct,
            memory_used: said.mem_used,
            memory_total: limits.memory.0,
            memory_cache: said.mem_cache,
            disk_used,
            disk_total: limits.disk.0,
        }
    }
}
