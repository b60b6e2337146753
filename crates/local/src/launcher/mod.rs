//! Starts a sandbox's first process: namespaces, root filesystem, limits, network, capabilities, system-call filter.
//!
//! The work is done by a re-executed, single-threaded helper, because namespaces and credentials belong to threads. It
//! forks twice, so that the server is never the parent of a sandbox and may die at any moment:
//!
//! ```text
//! server -- exec --> helper (host root, own mount namespace, in the sandbox's control groups)
//!                      '-- fork --> founder: becomes the sandbox's uid, makes the user namespace, then all others
//!                                     '-- fork --> first process (pid 1): mounts, pivots, drops everything, execs the agent
//! ```
//!
//! It must not know of images, records or the agent's protocol: it is given directories, descriptors and bytes.

mod cell;
pub(crate) mod entry;
mod files;
#[cfg(test)]
mod filter;
pub(crate) mod first;
mod founder;
pub(crate) mod ids;
pub(crate) mod mounts;
pub(crate) mod privileges;
pub(crate) mod raw;
pub(crate) mod syscalls;
pub(crate) mod volumes;

pub use cell::{Cell, Launched};
pub use entry::entry;
pub use volumes::Attached;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use crate::{net::NetPlan, oci::Through};

/// First argument of the re-executed helper.
pub const ENTRY: &str = "atoll-launch";

/// How many user and group ids a sandbox has: 0 to 65535, as programs expect.
pub const UIDS_PER_SANDBOX: u32 = 65536;

/// Everything that is needed to start a sandbox. Written to a file that is given to the helper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Launch {
    /// Host name inside.
    pub hostname: String,
    /// Kernel uid and gid of the sandbox's root; the range is [`UIDS_PER_SANDBOX`] long.
    pub uid_base: u32,
    /// Directories of the image, topmost first, owned by the ids that the image says.
    pub lowers: Vec<PathBuf>,
    /// An empty directory on the filesystem of those.
    pub bottom: PathBuf,
    /// Where changes go. Belongs to `uid_base`, or on the disk to `stored_base`.
    pub upper: PathBuf,
    /// Overlay's scratch directory, on the same filesystem.
    pub work: PathBuf,
    /// First of the ids that files in both have on the disk, where these are not the sandbox's own: they came from another.
    pub stored_base: Option<u32>,
    /// The file that has both in a filesystem of its own, which is mounted in the workplace, where their paths then begin.
    pub file: Option<PathBuf>,
    /// Whether that filesystem is empty, so that both directories are to be made.
    pub empty: bool,
    /// The user's volumes, outer places before inner ones.
    pub volumes: Vec<Attached>,
    /// The program that becomes the first process.
    pub agent: PathBuf,
    /// Where its socket is bound.
    pub socket: PathBuf,
    /// Where it writes what the start command says.
    pub log: PathBuf,
    /// What it is told, in its own words.
    pub config: serde_json::Value,
    /// The network, or only loopback.
    pub network: Option<Routed>,
    /// Whether setuid programs may give privileges.
    pub sudo: bool,
    /// Whether the root filesystem is new, so that host name and name server are to be written.
    pub fresh: bool,
    /// The OCI runtime that does it, in place of this launcher.
    pub through: Option<Through>,
}

/// A routed network: where the router is and which link is ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Routed {
    /// The router to attach to.
    pub plan: NetPlan,
    /// Place of the sandbox in the plan's address block.
    pub slot: u32,
}

/// What came of a launch: the helper's last words, on a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The first process runs the agent; its pid on the host.
    Started(i32),
    /// Nothing is left running; which step failed, and how.
    Failed(String),
}

/// Why a launch failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The helper could not be started or asked.
    #[error("the launcher could not be run: {0}")]
    Helper(#[from] std::io::Error),
    /// A step failed; everything before it was undone.
    #[error("{0}")]
    Step(String),
}
