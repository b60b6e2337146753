//! What can be said of images, templates, volumes and keys.

use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;

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
