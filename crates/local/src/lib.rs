//! The driver that runs sandboxes on one Linux machine: images, disk, control groups, network, launcher.
//! It must not know of HTTP, users, exec or files; those belong to the server and the agent.

mod cgroup;
mod disk;
pub mod doctor;
pub mod driver;
mod host;
pub mod images;
pub mod launcher;
pub mod net;
pub mod oci;
mod process;
mod record;
mod snapshot;
mod volume;

pub use disk::{Kind as StorageKind, Storage};
pub use driver::{LocalConfig, LocalDriver, OpenError, destroy};
