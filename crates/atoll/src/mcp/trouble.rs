//! Why a tool could not do what was asked: said to the agent as its result, so that it can do something about it.

use rmcp::model::{CallToolResult, ContentBlock};

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The server refused, or could not be reached.
    #[error("{0}")]
    Client(#[from] atoll_client::Error),
    /// The sandbox that was to be used could not be made.
    #[error("no sandbox could be made: {0}")]
    NoSandbox(atoll_client::Error),
    /// The arguments make no sense; says what would.
    #[error("{0}")]
    Wrong(String),
    /// A file of the machine that this server runs on.
    #[error("{path}: {source}")]
    Local {
        /// Which.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
    /// The agent does not want it any more.
    #[error("cancelled")]
    Cancelled,
}

/// What the agent is told in the end.
pub fn told(outcome: Result<Vec<ContentBlock>, Trouble>) -> CallToolResult {
    match outcome {
        Ok(content) => CallToolResult::success(content),
        Err(trouble) => CallToolResult::error(vec![ContentBlock::text(trouble.to_string())]),
    }
}
