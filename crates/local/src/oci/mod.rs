//! Other OCI runtimes in place of our own launcher: which there are, and their command line. A runtime is named by a
//! template, never by a path. It must not know of images, records or the agent's protocol.

pub mod command;
pub mod helper;
pub mod spec;

use serde::{Deserialize, Serialize};
use std::{
    fmt, io,
    path::PathBuf,
    process::{Command, Stdio},
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

/// How gVisor is told to be like the others, where it knows the flag: the network is the one of the sandbox's own
/// namespace, so that its walls and its loopback are those of every other sandbox; files are written through to the root;
/// sudo works unless `noNewPrivileges` forbids it.
const GVISOR: [(&str, &str); 3] = [("network", "host"), ("overlay2", "none"), ("allow-suid", "true")];

/// A runtime that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Its program.
    pub program: PathBuf,
    /// What it isolates with.
    pub kind: Kind,
}

impl Runtime {
    /// The options that it needs besides those that all take. gVisor is asked what it knows, for some ten milliseconds.
    ///
    /// # Errors
    /// When it is too old.
    pub fn options(&self) -> Result<Vec<String>, RuntimeError> {
        if self.kind != Kind::Gvisor {
            return Ok(Vec::new());
        }
        let program = || self.program.clone();
        let asked = Command::new(&self.program).arg("flags").env_clear().stdin(Stdio::null()).output();
        let told =
            asked.map_err(|source| RuntimeError::Run { program: program(), action: "flags", source })?;
        let text = [told.stdout, told.stderr].concat();
        gvisor_options(&String::from_utf8_lossy(&text))
            .ok_or_else(|| RuntimeError::Old { program: program() })
    }
}

/// What a gVisor with these flags is given, unless it is too old.
fn gvisor_options(known: &str) -> Option<Vec<String>> {
    if !known.contains("systrap") {
        return None;
    }
    let all = GVISOR.iter().filter(|(flag, _)| known.contains(&format!("  -{flag}")));
    Some(all.map(|(flag, value)| format!("--{flag}={value}")).collect())
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
    #[error("runtime {name:?} is not installed: no program of that name in {places}")]
    Missing {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        places: String,
    },
    /// A gVisor that cannot run today's programs.
    #[error(
        "{program} is too old: it has no platform systrap, as gVisor has since 2023, and fails calls that today's programs \
         need; install a newer one",
        program = program.display()
    )]
    Old {
        /// Which.
        program: PathBuf,
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

/// The program of that name in the usual places, if one is installed.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    Runtimes::default().program(name)
}

/// Where runtimes are looked for: what the administrator names first, then [`PROGRAMS`].
#[derive(Clone, Debug)]
pub struct Runtimes(Vec<PathBuf>);

impl Default for Runtimes {
    fn default() -> Self {
        Self::beside(&[])
    }
}

impl Runtimes {
    /// Looks in these directories before the usual ones. Absolute paths.
    #[must_use]
    pub fn beside(first: &[PathBuf]) -> Self {
        Self(first.iter().cloned().chain(PROGRAMS.map(PathBuf::from)).collect())
    }

    /// The program of that name, if one is installed.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        self.0.iter().map(|directory| directory.join(name)).find(|path| path.is_file())
    }

    /// The runtime of that name.
    ///
    /// # Errors
    /// When it is not one, or not installed.
    pub fn find(&self, name: &str) -> Result<Runtime, RuntimeError> {
        let kind = kind(name)?;
        let places = || self.0.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(":");
        let missing = || RuntimeError::Missing { name: name.to_owned(), places: places() };
        Ok(Runtime { program: self.program(name).ok_or_else(missing)?, kind })
    }

    /// The runtimes that are installed under their usual names.
    #[must_use]
    pub fn installed(&self) -> Vec<Runtime> {
        KNOWN.iter().filter_map(|(name, _)| self.find(name).ok()).collect()
    }
}

/// How a sandbox is started through a runtime; the rest of the order is as for our own launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// The runtime's program.
    pub program: PathBuf,
    /// What it isolates with.
    pub kind: Kind,
    /// Options of its own.
    pub options: Vec<String>,
    /// Where it keeps its own state.
    pub state: PathBuf,
    /// Where the helper is, with the bundle: see [`crate::launcher::Cell::prepare`]. Every uid may reach it.
    pub workplace: PathBuf,
    /// The control group, below each hierarchy's root.
    pub cgroup: String,
    /// Whether control groups are of version 2.
    pub unified: bool,
    /// Whether they can limit swap.
    pub swap: bool,
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
        let places = Runtimes::beside(&["/opt/runtimes".into()]);
        let refused = places.find("runc-that-nobody-has").unwrap_err().to_string();
        assert!(
            refused.contains("runc-that-nobody-has") && refused.contains("/opt/runtimes:/usr/local/sbin:"),
            "{refused}"
        );
    }

    #[test]
    fn gvisor_is_given_the_flags_that_it_knows_and_refused_when_it_is_too_old() {
        let new =
            "  -allow-suid\n  -network value\n  -overlay2 value\n  -platform string\n    \tsystrap, ptrace";
        assert_eq!(gvisor_options(new).unwrap(), ["--network=host", "--overlay2=none", "--allow-suid=true"]);
        let older = "  -network value\n  -platform string\n    \tsystrap, ptrace";
        assert_eq!(gvisor_options(older).unwrap(), ["--network=host"]);
        assert_eq!(gvisor_options("  -network value\n  -platform string\n    \tptrace, kvm"), None);
    }
}
