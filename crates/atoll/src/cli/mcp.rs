//! The command line of `mcp`.

use clap::Args;
use std::{net::SocketAddr, path::PathBuf};

/// `atoll mcp`
#[derive(Debug, Args)]
pub struct Mcp {
    /// Image of a session's own sandbox [default: base]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Template of it, in place of an image
    #[arg(long, conflicts_with = "image", value_name = "NAME")]
    pub template: Option<String>,
    /// Use this sandbox, which stays, and make none
    #[arg(long, conflicts_with_all = ["image", "template", "keep"], value_name = "ID")]
    pub sandbox: Option<String>,
    /// Do not remove a session's sandbox when it ends
    #[arg(long)]
    pub keep: bool,
    /// Directory of this machine whose files agents may copy from and to [default: the current one; over HTTP none]
    #[arg(long, value_name = "DIR")]
    pub files: Option<PathBuf>,
    /// Listen here, at /mcp, in place of standard input and output; on loopback only
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// The token that agents show over HTTP [default: made and printed]
    #[arg(long, env = "ATOLL_MCP_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
}
