//! What can be said of images, templates, volumes and keys.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

use super::Ttl;
use crate::values;

/// `atoll images`
#[derive(Debug, Subcommand)]
pub enum Images {
    /// Fetch an image from its registry
    Pull {
        /// Image reference
        reference: String,
        /// User name for the registry
        #[arg(long)]
        username: Option<String>,
        /// Read the registry's password from standard input
        #[arg(long, requires = "username")]
        password_stdin: bool,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Remove images that no sandbox uses
    Rm {
        /// Image references
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Remove everything that no sandbox uses
    Prune,
}

/// `atoll templates`
#[derive(Debug, Subcommand)]
pub enum Templates {
    /// List templates
    #[command(visible_alias = "list")]
    Ls,
    /// Show a template
    Get {
        /// Its name
        name: String,
        /// Which version [default: the newest]
        #[arg(long)]
        version: Option<i64>,
    },
    /// Make a template, or its next version, from a file
    #[command(
        after_help = "The file is TOML or JSON with the fields of a template and its `name`; `-` is standard input. A time \
                      of its lifecycle may be \"never\"."
    )]
    Apply {
        /// TOML or JSON
        #[arg(short, long)]
        file: PathBuf,
        /// Name, when the file has none
        name: Option<String>,
    },
    /// Remove templates with all their versions
    Rm {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// List the versions of a template
    Versions {
        /// Its name
        name: String,
    },
}

/// `atoll volumes`
#[derive(Debug, Subcommand)]
pub enum Volumes {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls {
        /// Only this user's
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
    },
    /// Remove volumes with everything on them; ones that no sandbox has
    Rm {
        /// The user whose they are
        owner: String,
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// `atoll snapshot`
#[derive(Debug, Subcommand)]
pub enum Snapshots {
    /// Keep a sandbox's files as they are now and print the snapshot's id
    #[command(
        after_help = "`atoll create snapshot:ID` makes sandboxes from it. Volumes, memory and processes are not in it."
    )]
    Take {
        /// Id of the sandbox, or the beginning of one
        sandbox: String,
        /// What to call it: NAME or NAME:TAG
        #[arg(long)]
        name: Option<String>,
    },
    /// List snapshots, newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only those taken of this sandbox
        #[arg(long, value_name = "ID")]
        sandbox: Option<String>,
        /// Only those with this name
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove snapshots; sandboxes that were made from them keep their files
    Rm {
        /// Ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// `atoll fork`
#[derive(Debug, Args)]
#[command(after_help = "Memory and processes are not in a fork; one of a sandbox with volumes is refused.")]
pub struct MakeForks {
    /// Id, or the beginning of one
    pub sandbox: String,
    /// How many: 1 to 20
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<i64>,
    /// Remove them after so long, or none [default: as long as the sandbox was given]
    #[arg(long, value_parser = values::ttl, value_name = "TIME")]
    pub ttl: Option<Ttl>,
}

/// `atoll keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// List keys
    #[command(visible_alias = "list")]
    Ls,
    /// Make a key and print its secret, which is shown only now
    Create {
        /// What to call it
        name: String,
        /// Whose things it reaches [default: default]
        #[arg(long)]
        tenant: Option<String>,
        /// What it may do
        #[arg(long, value_enum, default_value_t)]
        role: Role,
    },
    /// Revoke keys
    Rm {
        /// Ids of keys
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// What a key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Everything of its tenant
    #[default]
    Member,
    /// Everything, for every tenant
    Admin,
}
