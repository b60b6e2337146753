//! Other OCI runtimes in place of our own launcher: which there are, and their command line. A runtime is named by a
//! template, never by a path. It must not know of images, records or the agent's protocol.

pub mod command;
pub mod helper;
pub mod spec;

use serde::{Deserialize, Serialize};
use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use atoll_core::sandbox::Limits;

use crate::cgroup::throttle::Device;

/// Where programs are looked for. The server's own environment does not decide what runs as root.
pub const PROGRAMS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The port that an agent listens on when its socket cannot be handed to it.
pub const AGENT_PORT: u16 = 49983;

/// What a runtime isolates with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The host's kernel: namespaces and a system-call filter, as our own launcher.
    Host,
    /// gVisor: a kernel of its own in user space, which uses the host's network stack inside the sandbox's namespace.
    Gvisor,
}

/// Programs whose command line is known to be OCI's, with what they isolate with. Others are not started: a template's
/// author must not be able to have any program of the host run as root. `NAME-SUFFIX` counts as `NAME`.
const KNOWN: [(&str, Kind); 4] =
    [("runc", Kind::Host), ("crun", Kind::Host), ("youki", Kind::Host), ("runsc", Kind::Gvisor)];

/// A runtime that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Its program.
    pub program: PathBuf,
    /// What it isolates with.
    pub kind: Kind,
}

/// Why a runtime cannot be used, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Not a name that we know.
    #[error(
        "runtime {name:?} is not known; this server can use {}, or a program named like one of them and `-SUFFIX`",
        Known
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// Kata Containers.
    #[error(
        "runtime {name:?} cannot be used on one machine: Kata Containers has no OCI command line since its version 2; on \
         Kubernetes it is a RuntimeClass"
    )]
    Kata {
        /// What was asked for.
        name: String,
    },
    /// Not there.
    #[error("runtime {name:?} is not installed: no program of that name in {}", PROGRAMS.join(":"))]
    Missing {
        /// What was asked for.
        name: String,
    },
    /// It could not be run.
    #[error("{program} {action}: {source}", program = program.display())]
    Run {
        /// Which.
        program: PathBuf,
        /// What it was to do.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("{program} {action}: {told}", program = program.display())]
    Refused {
        /// Which.
        program: PathBuf,
        /// What it was to do.
        action: &'static str,
        /// Its own words.
        told: String,
    },
}

struct Known;

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&KNOWN.map(|(name, _)| name).join(", "))
    }
}

fn is_of(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn kind(name: &str) -> Result<Kind, RuntimeError> {
    if is_of(name, "kata") {
        return Err(RuntimeError::Kata { name: name.to_owned() });
    }
    let known = KNOWN.iter().find(|(family, _)| is_of(name, family));
    known.map(|(_, kind)| *kind).ok_or_else(|| RuntimeError::Unknown { name: name.to_owned() })
}

/// The program of that name, if one is installed.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    PROGRAMS.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// The runtime of that name.
///
/// # Errors
/// When it is not one, or not installed.
pub fn find(name: &str) -> Result<Runtime, RuntimeError> {
    let kind = kind(name)?;
    let program = program(name).ok_or_else(|| RuntimeError::Missing { name: name.to_owned() })?;
    Ok(Runtime { program, kind })
}

/// The runtimes that are installed, by their usual names.
#[must_use]
pub fn installed() -> Vec<&'static str> {
    KNOWN.iter().map(|(name, _)| *name).filter(|name| program(name).is_some()).collect()
}

/// How a sandbox is started through a runtime; the rest of the order is as for our own launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// The runtime's program.
    pub program: PathBuf,
    /// What it isolates with.
    pub kind: Kind,
    /// Where it keeps its own state.
    pub state: PathBuf,
    /// Where the helper is, with the bundle: see [`crate::launcher::Cell::prepare`]. Every uid may reach it.
    pub workplace: PathBuf,
    /// The control group, below each hierarchy's root.
    pub cgroup: String,
    /// Whether control groups are of version 2.
    pub unified: bool,
    /// What the sandbox may use.
    pub limits: Limits,
    /// The devices that its I/O is limited on, when it is.
    pub io_devices: Vec<Device>,
    /// Whose requests the agent answers.
    pub public_key: String,
}

impl Through {
    /// Whether the sandbox's ids are mapped to a range of their own.
    #[must_use]
    pub fn maps_ids(&self) -> bool {
        self.kind == Kind::Host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_with_the_oci_command_line_are_runtimes() {
        assert_eq!(kind("runc").unwrap(), Kind::Host);
        assert_eq!(kind("runsc-kvm").unwrap(), Kind::Gvisor);
        for other in ["sh", "runcx", "poweroff", "", "run"] {
            let refused = kind(other).unwrap_err().to_string();
            assert!(refused.contains(&format!("{other:?}")) && refused.contains("runc, crun"), "{refused}");
        }
        assert!(kind("kata-runtime").unwrap_err().to_string().contains("RuntimeClass"));
    }

    #[test]
    fn one_that_is_not_there_is_named_with_where_it_was_looked_for() {
        let refused = find("runc-that-nobody-has").unwrap_err().to_string();
        assert!(
            refused.contains("runc-that-nobody-has") && refused.contains("/usr/local/sbin:"),
            "{refused}"
        );
    }
}
