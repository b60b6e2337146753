//! The command line: what can be said, and nothing of what is then done.

mod cluster;
mod families;
mod mcp;
mod operator;
mod serve;

pub use cluster::DriverKind;
pub use families::{Images, Keys, MakeForks, Role, Snapshots, Templates, Volumes};
pub use mcp::Mcp;
pub use operator::Operator;
pub use serve::{Executor, Kata, LogFormat, Registries, Serve, ServerRole};

use atoll_client::api::NetworkMode;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::{ffi::OsString, path::PathBuf};

use crate::{failure, output::Format, values};

/// Sandboxes for users and AI agents, from one binary.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, arg_required_else_help = true)]
#[command(after_help = "Start a server as root with `atoll serve`; then: atoll run base -- echo hello")]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Address of the server [default: the configuration file's, else http://127.0.0.1:8080]
    #[arg(long, env = "ATOLL_URL", global = true, hide_env_values = true)]
    pub url: Option<String>,
    /// API key [default: the configuration file's, else this machine's admin key where it may be read]
    #[arg(long, env = "ATOLL_API_KEY", global = true, hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Certificates (PEM) of a private authority to trust beside the system's
    #[arg(long, env = "ATOLL_CA", global = true, hide_env_values = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new sandbox, which is removed afterwards
    #[command(after_help = EXIT_CODES)]
    Run(Run),
    /// Make a sandbox and print its id
    Create(Create),
    /// List sandboxes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show everything about a sandbox
    Get {
        /// Id, or the beginning of one
        sandbox: String,
    },
    /// Run a command in a sandbox
    #[command(after_help = EXIT_CODES)]
    Exec(Exec),
    /// Open a login shell in a sandbox
    #[command(after_help = EXIT_CODES)]
    Shell(OpenShell),
    /// Copy files and folders into a sandbox or out of it
    #[command(after_help = CP_HELP)]
    Cp(Cp),
    /// Print what the sandbox's start command wrote
    Logs(Logs),
    /// Remove sandboxes with their files
    Rm(Rm),
    /// End the processes of sandboxes and keep their files
    Stop(Several),
    /// Start stopped sandboxes again
    Start(Several),
    /// Stop sandboxes and start them again
    Restart(Several),
    /// Freeze sandboxes; their memory is kept
    Pause(Several),
    /// Thaw paused sandboxes
    Resume(Several),
    /// Change the deadline or the network of a sandbox
    Update(Update),
    /// Show what sandboxes use
    #[command(visible_alias = "stats")]
    Usage {
        /// Ids, or beginnings of them; every running sandbox when absent
        sandboxes: Vec<String>,
    },
    /// Make a link that opens a port of a sandbox to whoever has it
    Url {
        /// Id, or the beginning of one
        sandbox: String,
        /// Number or name of the port
        port: String,
        /// How long it lives: at most 30d [default: 1h]
        #[arg(long, value_parser = values::seconds, value_name = "TIME")]
        expires: Option<u64>,
    },
    /// Images that sandboxes start from
    #[command(subcommand)]
    Images(Images),
    /// Templates: named recipes for sandboxes
    #[command(subcommand)]
    Templates(Templates),
    /// Volumes: storage of users that outlives their sandboxes
    #[command(subcommand)]
    Volumes(Volumes),
    /// Snapshots: the files of sandboxes, to make others from
    #[command(subcommand, visible_alias = "snapshots")]
    Snapshot(Snapshots),
    /// Make sandboxes like one that is there, which begin with its files
    Fork(MakeForks),
    /// API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Check the machine that sandboxes run on
    Doctor(Doctor),
    /// Print the version of the server
    Version,
    /// Give AI agents sandboxes as tools, by the Model Context Protocol: over standard input and output, or HTTP
    #[command(after_help = MCP_HELP)]
    Mcp(Mcp),
    /// Serve sandboxes from this machine, which needs root, or from a Kubernetes cluster
    #[command(after_help = SERVE_HELP)]
    Serve(Box<Serve>),
    /// Make pods of a cluster's Sandbox objects; several replicas, of which one works
    Operator(Box<Operator>),
    /// Take everything of a data directory off this machine; needs root
    Destroy {
        /// Which data directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
    /// Write the program that runs inside sandboxes into a folder, for pods that start from another image
    InstallAgent {
        /// The folder, which is there already
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print the definitions of the objects that a cluster must know, for `kubectl apply -f -`
    Crd,
    /// Make the key that servers and the operator of a cluster sign requests to agents with; prints the public key
    AgentKey {
        /// Where to write its 32 bytes; nothing may be there
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the description of the HTTP API: OpenAPI 3.1, as JSON
    Openapi,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

const EXIT_CODES: &str = "Exit code: the program's; 128 + N when signal N ended it. 125: Atoll itself failed; 126: the \
                          program cannot be executed; 127: there is no such program.";

const SERVE_HELP: &str = "The admin key is made at the first start, in admin.key in the data directory. Sandboxes run on \
                          when the server ends, and the next one finds them. ATOLL_LOG chooses what is logged, e.g. \
                          debug or atoll_local=debug.";

const MCP_HELP: &str = "An agent's own sandbox is made when it first uses one, and removed when its session ends. Over HTTP every \
                        request shows ATOLL_MCP_TOKEN as `Authorization: Bearer`; clients of protocols without sessions share \
                        one sandbox.";

const CP_HELP: &str = "One side is SANDBOX:PATH. Write ./a:b for a file on this machine whose name has a colon. A folder \
                       that exists takes things in under their own name; FOLDER/. is what is in FOLDER.";

/// What a sandbox is made from and how.
#[derive(Debug, Default, Args)]
pub struct Recipe {
    /// Name of a template; the first argument then belongs to the command
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// Version of the template [default: the newest]
    #[arg(long, value_name = "N")]
    pub template_version: Option<i64>,
    /// User to whom it belongs; a template's volumes are theirs
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Let everybody who knows its address use its ports
    #[arg(long)]
    pub public: bool,
    /// Set a variable; KEY alone takes its value from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Label to find it by
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// CPU limit, e.g. 500m or 2
    #[arg(long)]
    pub cpu: Option<String>,
    /// Memory limit, e.g. 512Mi
    #[arg(long)]
    pub memory: Option<String>,
    /// Disk limit, e.g. 10Gi
    #[arg(long)]
    pub disk: Option<String>,
    /// Most processes and threads
    #[arg(long, value_name = "N")]
    pub pids: Option<u64>,
    /// How fast it may read and write its disk.
    #[command(flatten)]
    pub io: IoArgs,
    /// Remove it after so long, e.g. 90s, 15m, 2h, 1d, or none
    #[arg(long, value_parser = values::ttl, value_name = "TIME")]
    pub ttl: Option<Ttl>,
    /// Pause it after so long without use; 0 is never
    #[arg(long, value_parser = values::seconds, value_name = "TIME")]
    pub pause_after: Option<u64>,
    /// What it may reach
    #[command(flatten)]
    pub network: NetworkArgs,
    /// User of commands that name none
    #[arg(short, long)]
    pub user: Option<String>,
    /// Directory of commands that name none
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
}

/// A deadline in seconds, or none. Named, because clap takes a bare `Option` for an absent flag.
pub type Ttl = Option<i64>;

/// How fast a sandbox may read and write its disk.
#[derive(Debug, Default, Args)]
pub struct IoArgs {
    /// Most bytes read from the disk each second, e.g. 10Mi
    #[arg(long, value_name = "SIZE")]
    pub disk_read_rate: Option<String>,
    /// Most bytes written to the disk each second
    #[arg(long, value_name = "SIZE")]
    pub disk_write_rate: Option<String>,
    /// Most read operations on the disk each second
    #[arg(long, value_name = "N")]
    pub disk_read_iops: Option<u64>,
    /// Most write operations on the disk each second
    #[arg(long, value_name = "N")]
    pub disk_write_iops: Option<u64>,
}

/// What a sandbox may reach.
#[derive(Debug, Default, Args)]
pub struct NetworkArgs {
    /// What it may reach
    #[arg(long, value_enum, value_name = "MODE")]
    pub network: Option<Network>,
    /// Range of addresses that is reachable in any case
    #[arg(long, value_name = "CIDR")]
    pub allow: Vec<String>,
    /// Range of addresses that is not reachable
    #[arg(long, value_name = "CIDR")]
    pub deny: Vec<String>,
}

/// Ground rule of a sandbox's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// Only its own loopback
    None,
    /// Only what --allow lists
    Restricted,
    /// The public internet
    Internet,
}

impl From<Network> for NetworkMode {
    fn from(network: Network) -> Self {
        match network {
            Network::None => Self::None,
            Network::Restricted => Self::Restricted,
            Network::Internet => Self::Internet,
        }
    }
}

/// `atoll run`
#[derive(Debug, Args)]
pub struct Run {
    /// Image or template
    #[arg(value_name = "IMAGE_OR_TEMPLATE", required_unless_present = "template")]
    pub source: Option<String>,
    /// Program and arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// How to make the sandbox.
    #[command(flatten)]
    pub recipe: Recipe,
    /// Give it a terminal [default: when standard input and output are one]
    #[arg(short, long)]
    pub tty: bool,
    /// Pass standard input on [default: unless it is a terminal]
    #[arg(short, long)]
    pub interactive: bool,
    /// Do not remove the sandbox afterwards
    #[arg(long)]
    pub keep: bool,
    /// Kill the command after so long
    #[arg(long, value_parser = values::seconds, value_name = "TIME")]
    pub timeout: Option<u64>,
}

/// `atoll create`
#[derive(Debug, Args)]
pub struct Create {
    /// Image or template
    #[arg(value_name = "IMAGE_OR_TEMPLATE", required_unless_present = "template")]
    pub source: Option<String>,
    /// Start command: program and arguments; its output is the sandbox's log
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// How to make the sandbox.
    #[command(flatten)]
    pub recipe: Recipe,
    /// Print the id at once and do not wait until it runs
    #[arg(long)]
    pub no_wait: bool,
    /// Make no second sandbox when this is repeated with the same key
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// `atoll ls`
#[derive(Debug, Args)]
pub struct Ls {
    /// Also those that are stopped, failed or being removed
    #[arg(short, long)]
    pub all: bool,
    /// Only those with this label
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Only this user's
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// `atoll exec`
#[derive(Debug, Args)]
pub struct Exec {
    /// Id, or the beginning of one
    pub sandbox: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Pass standard input on [default: unless it is a terminal]
    #[arg(short, long)]
    pub interactive: bool,
    /// Let it run on and print its process id
    #[arg(short, long, conflicts_with_all = ["tty", "interactive"])]
    pub detach: bool,
    /// Set a variable; KEY alone takes its value from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// As whom: a name or uid[:gid]
    #[arg(short, long)]
    pub user: Option<String>,
    /// In which directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Kill it after so long
    #[arg(long, value_parser = values::seconds, value_name = "TIME")]
    pub timeout: Option<u64>,
}

/// `atoll shell`
#[derive(Debug, Args)]
pub struct OpenShell {
    /// Id, or the beginning of one
    pub sandbox: String,
    /// As whom: a name or uid[:gid]
    #[arg(short, long)]
    pub user: Option<String>,
    /// In which directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
}

/// `atoll cp`
#[derive(Debug, Args)]
pub struct Cp {
    /// What to copy
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Where to
    pub destination: String,
    /// As which user of the sandbox
    #[arg(short, long)]
    pub user: Option<String>,
}

/// `atoll logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// Id, or the beginning of one
    pub sandbox: String,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Print what happened to the sandbox instead
    #[arg(long, conflicts_with_all = ["follow", "tail"])]
    pub events: bool,
}

/// `atoll rm`
#[derive(Debug, Args)]
pub struct Rm {
    /// Ids, or beginnings of them
    #[arg(required_unless_present_any = ["all", "label"])]
    pub sandboxes: Vec<String>,
    /// Every sandbox
    #[arg(long, conflicts_with = "sandboxes")]
    pub all: bool,
    /// Every sandbox with this label
    #[arg(short, long, value_name = "KEY=VALUE", conflicts_with = "sandboxes")]
    pub label: Vec<String>,
    /// Do not ask, and do not mind what is gone already
    #[arg(short, long)]
    pub force: bool,
}

/// Several sandboxes.
#[derive(Debug, Args)]
pub struct Several {
    /// Ids, or beginnings of them
    #[arg(required = true)]
    pub sandboxes: Vec<String>,
}

/// `atoll update`
#[derive(Debug, Args)]
pub struct Update {
    /// Id, or the beginning of one
    pub sandbox: String,
    /// Remove it after so long from now, e.g. 15m, or none
    #[arg(long, value_parser = values::ttl, value_name = "TIME")]
    pub ttl: Option<Ttl>,
    /// What it may reach.
    #[command(flatten)]
    pub network: NetworkArgs,
}

/// `atoll doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Mend what can be mended without a choice: switches IPv4 forwarding on
    #[arg(long)]
    pub fix: bool,
    /// Look at this machine and this data directory, without a server
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where images come from.
    #[command(flatten)]
    pub registries: Registries,
}

impl Command {
    /// The exit code for failures of Atoll itself.
    pub fn own_failure(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Exec(_) | Self::Shell(_) => failure::OWN,
            _ => 1,
        }
    }
}

/// The exit code for a command line that makes no sense: 2, or our own where the code is the program's.
pub fn usage_code(mut arguments: impl Iterator<Item = OsString>) -> u8 {
    const USAGE: u8 = 2;
    match arguments.find(|argument| !argument.as_encoded_bytes().starts_with(b"-")) {
        Some(word) if ["run", "exec", "shell"].iter().any(|name| word == *name) => failure::OWN,
        _ => USAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &[&str]) -> Command {
        Cli::try_parse_from([&["atoll"], line].concat()).expect("a good line").command
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_and_after_the_image_but_belong_to_the_program_after_it() {
        let Command::Run(run) =
            parse(&["run", "-e", "A=1", "base", "--cpu", "2", "--", "ls", "-la", "--keep"])
        else {
            panic!("run expected");
        };
        assert_eq!(
            (run.source.as_deref(), run.recipe.cpu.as_deref(), run.keep),
            (Some("base"), Some("2"), false)
        );
        assert_eq!(run.command, ["ls", "-la", "--keep"]);
        let Command::Run(run) = parse(&["run", "base", "ls", "-o", "x"]) else { panic!("run expected") };
        assert_eq!(run.command, ["ls", "-o", "x"]);
        let Command::Exec(exec) = parse(&["exec", "-t", "i1", "sh", "-c", "true"]) else {
            panic!("exec expected")
        };
        assert_eq!((exec.tty, exec.command.len()), (true, 3));
    }

    #[test]
    fn none_is_a_deadline_too() {
        let Command::Create(create) = parse(&["create", "base", "--ttl", "none"]) else {
            panic!("create expected")
        };
        assert_eq!(create.recipe.ttl, Some(None));
        let Command::Create(create) = parse(&["create", "base"]) else { panic!("create expected") };
        assert_eq!(create.recipe.ttl, None);
    }

    #[test]
    fn usage_codes() {
        let code = |line: &[&str]| usage_code(line.iter().map(OsString::from));
        assert_eq!((code(&["run", "--x"]), code(&["ls"]), code(&[])), (125, 2, 2));
    }
}
