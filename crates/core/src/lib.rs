//! What Atoll is about, as plain values and rules: ids, resources, templates, sandboxes, phases, the lifecycle decision,
//! and the ports ([`driver::Driver`], [`store::Store`]) through which the rest of the system is met.
//! It must not know of I/O, the clock, randomness, HTTP, SQL, namespaces or pods: callers pass those in.

pub mod address;
pub mod build;
pub mod driver;
pub mod early;
pub mod error;
pub mod id;
pub mod image;
pub mod io;
pub mod key;
pub mod lifecycle;
pub mod link;
pub mod network;
pub mod owner;
pub mod phase;
pub mod quantity;
pub mod ranges;
pub mod reach;
pub mod request;
pub mod sandbox;
pub mod snapshot;
pub mod store;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod volume;
