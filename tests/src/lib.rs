//! The harness of the stories: starts real servers from the built binary, speaks to them as users do, and looks at the
//! host for what was left behind. It must not know how sandboxes are made: it sees the binary, the API and the kernel.

pub mod cli;
pub mod cluster;
pub mod guest;
pub mod host;
pub mod http;
pub mod on_cluster;
pub mod place;
pub mod python;
pub mod registry;
pub mod runner;
pub mod server;
pub mod stage;
pub mod stats;

pub use cluster::Cluster;
pub use runner::{Run, Skip, story};
pub use server::{Options, Server};

use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where short-lived directories of tests are made: a real file system, not memory.
#[must_use]
pub fn scratch() -> PathBuf {
    std::env::var_os("ATOLL_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// Where is kept what is expensive to make: the base image and the registry.
#[must_use]
pub fn cache() -> PathBuf {
    let set = |variable: &str| std::env::var_os(variable).filter(|dir| !dir.is_empty());
    let below = |variable: &str, rest: &str| set(variable).map(|dir| Path::new(&dir).join(rest));
    let folder = below("XDG_CACHE_HOME", "atoll").or_else(|| below("HOME", ".cache/atoll"));
    folder.unwrap_or_else(|| scratch().join("atoll-cache"))
}

/// Where the OCI runtimes are that `scripts/runtimes.sh` builds.
#[must_use]
pub fn built_runtimes() -> PathBuf {
    cache().join("runtimes")
}

/// The binary under test: `ATOLL_BIN`, else the one beside this test's own.
///
/// # Errors
/// It was not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ATOLL_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("atoll"));
    let found = beside.into_iter().find(|path| path.is_file());
    found
        .ok_or_else(|| anyhow::anyhow!("no atoll beside {}; run `cargo build -p atoll` first", own.display()))
}

/// A name that no earlier run has used: the kept server remembers names.
#[must_use]
pub fn unique(prefix: &str) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{prefix}-{}-{}", std::process::id(), since.as_nanos())
}

/// Runs a tool that must succeed; what it complained of is the error.
pub(crate) fn tool(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
