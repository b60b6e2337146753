//! The services of the agent: generated messages, service traits and clients.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated from the .proto files, which carry the comments"
)]

pub mod generated {
    connectrpc::include_generated!();
}

/// A request with this header is answered only by a sandbox that does not rest: its sender may not wake it, and whoever
/// passes it on may not know yet that it rests.
pub const AWAKE_ONLY_HEADER: &str = "atoll-awake-only";
/// Marks the answer of a sandbox that rests to such a request.
pub const RESTING_HEADER: &str = "atoll-resting";

/// Our own services.
pub mod v1 {
    pub use super::generated::atoll::agent::v1::*;
}

pub use generated::{filesystem, process};
