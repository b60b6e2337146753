//! The agent's command line and configuration. Decides nothing about what to do with them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use atoll_proto::init::AgentConfig;

/// More than this is no configuration.
const CONFIG_LIMIT: u64 = 1 << 20;
const USAGE: &str = "usage: atoll-agent (--config-fd N | --config FILE | --config-env NAME) \
                     (--listen-fd N | --listen-tcp ADDRESS --public-key HEX) [--log-fd N]";

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    #[error("{0}\n{USAGE}")]
    Usage(String),
    #[error("the configuration cannot be read: {0}")]
    Read(io::Error),
    #[error("the configuration is not valid: {0}")]
    Parse(#[from] serde_json::Error),
}

/// Where requests come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Listen {
    Inherited(RawFd),
    Tcp { address: String, public_key: String },
}

#[derive(Debug, PartialEq, Eq)]
enum Config {
    Inherited(RawFd),
    File(String),
    /// What an environment variable holds, where nothing else can be handed over.
    Variable(String),
}

/// The command line, understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    config: Config,
    pub listen: Listen,
    pub log: Option<RawFd>,
}

impl Arguments {
    /// Understands a command line, without the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, ArgumentError> {
        let mut arguments = arguments.into_iter();
        let (mut config, mut listen, mut log) = (None, None, None);
        let (mut address, mut public_key) = (None, None);
        while let Some(name) = arguments.next() {
            let value =
                arguments.next().ok_or_else(|| ArgumentError::Usage(format!("{name} needs a value")))?;
            match name.as_str() {
                "--config-fd" => config = Some(Config::Inherited(descriptor(&value)?)),
                "--config" => config = Some(Config::File(value)),
                "--config-env" => config = Some(Config::Variable(value)),
                "--listen-fd" => listen = Some(Listen::Inherited(descriptor(&value)?)),
                "--listen-tcp" => address = Some(value),
                "--public-key" => public_key = Some(value),
                // A container's standard output is what its runtime passes on.
                "--log-fd" if value == "1" => log = Some(1),
                "--log-fd" => log = Some(descriptor(&value)?),
                _ => return Err(ArgumentError::Usage(format!("{name} is not known"))),
            }
        }
        let tcp = address.zip(public_key).map(|(address, public_key)| Listen::Tcp { address, public_key });
        let missing = |what: &str| ArgumentError::Usage(format!("{what} is missing"));
        Ok(Self {
            config: config.ok_or_else(|| missing("the configuration"))?,
            listen: listen.or(tcp).ok_or_else(|| missing("where to listen"))?,
            log,
        })
    }

    /// Reads the configuration.
    pub fn config(&self) -> Result<AgentConfig, ArgumentError> {
        let text = match &self.config {
            Config::Inherited(fd) => read(inherited(*fd).map(File::from)),
            Config::File(path) => read(File::open(path)),
            Config::Variable(name) => {
                std::env::var(name).map_err(|why| io::Error::other(format!("{name}: {why}")))
            }
        };
        let config: AgentConfig = serde_json::from_str(&text.map_err(ArgumentError::Read)?)?;
        Ok(config.knowing_itself())
    }
}

fn read(file: io::Result<File>) -> io::Result<String> {
    let mut text = String::new();
    file?.take(CONFIG_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// A descriptor; the standard streams are never meant.
fn descriptor(value: &str) -> Result<RawFd, ArgumentError> {
    value
        .parse()
        .ok()
        .filter(|fd| *fd > 2)
        .ok_or_else(|| ArgumentError::Usage(format!("{value} is no descriptor")))
}

/// Takes over a descriptor that the launcher left open, and keeps it from the commands.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD touches no memory; it fails when the descriptor is not open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the launcher left it to us alone: each is taken once, by its own flag.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn both_ways_to_listen_are_understood() {
        let local = parse("--config-fd 4 --listen-fd 3 --log-fd 5").unwrap();
        assert_eq!(
            (local.config, local.listen, local.log),
            (Config::Inherited(4), Listen::Inherited(3), Some(5))
        );
        let remote = parse("--config /c.json --listen-tcp 0.0.0.0:1 --public-key ab --log-fd 1").unwrap();
        let listen = Listen::Tcp { address: "0.0.0.0:1".into(), public_key: "ab".into() };
        assert_eq!(
            (remote.config, remote.listen, remote.log),
            (Config::File("/c.json".into()), listen, Some(1))
        );
    }

    #[test]
    fn the_configuration_may_stand_in_a_variable() {
        let config = |name: &str| parse(&format!("--config-env {name} --listen-fd 3")).unwrap().config();
        assert!(matches!(config("NO_SUCH_VARIABLE"), Err(ArgumentError::Read(_))));
        assert!(matches!(config("PATH"), Err(ArgumentError::Parse(_))), "there, and no configuration");
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "",
            "--config-fd 4",
            "--listen-fd 3",
            "--config-fd x --listen-fd 3",
            "--config-fd 1 --listen-fd 3",
            "--config-fd 4 --listen-fd 3 --log-fd 2",
            "--config-fd",
            "--what 3",
            "--config-fd 4 --listen-tcp 0.0.0.0:1",
        ] {
            assert!(matches!(parse(line), Err(ArgumentError::Usage(_))), "{line}");
        }
    }
}
