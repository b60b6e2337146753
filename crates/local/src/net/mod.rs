//! The network of the sandboxes on one machine: a router namespace for each data directory, a routed veth pair for
//! each sandbox, nftables for what may be reached, a forwarder for names. Knows slots, namespaces and policies;
//! must not know sandboxes, images or the API.

mod addresses;
mod connect;

pub mod dns;
mod doctor;
mod firewall;
mod netlink;
mod netns;
mod nft;
mod plan;
mod router;
mod sysctl;

use std::io;
use std::path::PathBuf;

use atoll_core::network::Cidr;

pub use addresses::Addresses;
pub use connect::connect_in;
pub use doctor::{Finding, State, doctor};
pub use netns::of_process;
pub use plan::{HostLock, NetPlan, PlanOptions, RUN_ROOT, plan};
pub use router::{Router, attach_none};
pub use sysctl::{enable_forwarding, forwarding};

/// What failed in the network, and about which object.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The tag cannot be part of a link's name.
    #[error("'{0}' is not a network tag: 1 to 10 lowercase letters and digits")]
    BadTag(String),
    /// Every block is in use.
    #[error("no free address block for sandboxes in {}; name another range", show(.0))]
    NoFreeBlock(Vec<Cidr>),
    /// Somebody took the block since it was planned.
    #[error("the address block {block} is now taken by {by}")]
    BlockTaken {
        /// The block.
        block: Cidr,
        /// Who has it.
        by: String,
    },
    /// A slot outside the block.
    #[error("slot {slot} is not in the address block {block}")]
    NoSuchSlot {
        /// The slot.
        slot: u32,
        /// The block.
        block: Cidr,
    },
    /// The router is not there; `Router::ensure` makes it.
    #[error("no router namespace at {0}")]
    NoRouter(PathBuf),
    /// A file of the network's own state.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A network namespace.
    #[error("cannot {what} the network namespace {path}: {source}")]
    Netns {
        /// What was tried.
        what: &'static str,
        /// Where it is pinned, or which it is.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The netlink socket itself.
    #[error("netlink: {0}")]
    Socket(io::Error),
    /// The kernel refused a change.
    #[error("cannot {what} ({link}): {source}")]
    Link {
        /// What was tried.
        what: &'static str,
        /// Which link.
        link: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A kernel setting.
    #[error("cannot set {key}: {source}")]
    Sysctl {
        /// The setting's path under /proc/sys.
        key: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A /proc of our own, to write settings through.
    #[error("cannot open a /proc: {0}")]
    OwnProc(io::Error),
    /// `nft` is not installed.
    #[error("the program nft is missing; install the package nftables")]
    NftMissing,
    /// `nft` refused.
    #[error("nft cannot {what}: {told}")]
    Nft {
        /// What was tried.
        what: &'static str,
        /// Its own words.
        told: String,
    },
    /// The forwarder's sockets.
    #[error("cannot listen for name queries on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
}

fn show(ranges: &[Cidr]) -> String {
    ranges.iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ")
}
