//! The server's log: lines for a person at a terminal, JSON for everything else.

use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// What is logged at which level, e.g. `info` or `atoll_local=debug`.
const VARIABLE: &str = "ATOLL_LOG";

/// Begins to log to standard error, what is of this level unless the environment says otherwise.
pub fn begin(format: LogFormat, usual: &str) {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(usual));
    let human = match format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second server in one process would be a mistake of the program, not a reason to stop.
    let _ = match human {
        true => log.with_ansi(crate::output::colours_on(&io::stderr())).with_target(false).try_init(),
        false => log.json().flatten_event(true).with_span_list(false).try_init(),
    };
}
