//! The program inside each sandbox, its first process: starts the start command, reaps, and serves commands, terminals
//! and files to the server. Knows the protocol and the kernel, nothing of servers, drivers or images.

mod app;
mod arguments;
mod clock;
mod compose;
mod credentials;
mod descriptor;
mod dirs;
mod download;
mod entries;
mod errors;
mod executor;
mod fill;
mod gunzip;
mod http;
mod life;
mod log;
mod marks;
mod metrics;
mod oom;
mod oom_score;
mod pack;
mod paths;
mod plan;
mod process;
mod procfs;
mod pty;
mod reaper;
mod ring;
mod rpc;
mod spawn;
mod spool;
mod table;
mod transfer;
mod tunnel;
mod unpack;
mod users;
mod watchers;
mod workers;

pub use fill::{FillError, fill};
pub use life::{AgentError, run};
