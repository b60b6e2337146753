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

/// Our own services.
pub mod v1 {
    pub use super::generated::atoll::agent::v1::*;
}

pub use generated::{filesystem, process};
