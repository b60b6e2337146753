//! A sandbox as everybody sees it: what it was made from and where it stands.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::{
    id::SandboxId,
    io::IoLimits,
    lifecycle::deadline_after_wake,
    network::NetworkPolicy,
    phase::Phase,
    quantity::{Bytes, MilliCpu},
    template::LifecyclePolicy,
    volume::Volume,
};

/// Stands for the number of the port in [`SandboxSpec::mask_host`].
pub const PORT_MARK: &str = "${PORT}";

/// How many transitions a sandbox remembers.
pub const HISTORY: usize = 32;

/// Everything that was decided when a sandbox was asked for. It never changes afterwards, but for `network`, which a
/// caller may replace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name everywhere.
    pub id: SandboxId,
    /// The organisation it belongs to.
    pub tenant: String,
    /// The user it belongs to, when it belongs to one.
    #[serde(default)]
    pub owner: Option<String>,
    /// Template name, when it was made from one.
    pub template: Option<String>,
    /// Version of that template.
    pub template_version: Option<i64>,
    /// Image reference as it was asked for.
    pub image: String,
    /// Hard limits.
    pub limits: Limits,
    /// What a cluster sets aside for it.
    #[serde(default)]
    pub requests: Requests,
    /// Environment of every command.
    pub env: BTreeMap<String, String>,
    /// What runs from the start; `None` runs only the agent.
    pub start_command: Option<Vec<String>>,
    /// Succeeds when it can be used. Whoever makes it waits for that, not the driver.
    #[serde(default)]
    pub ready_command: Option<Vec<String>>,
    /// Default user; `None` takes the image's.
    pub user: Option<String>,
    /// Default directory; `None` takes the image's.
    pub workdir: Option<String>,
    /// Named ports.
    pub ports: BTreeMap<String, u16>,
    /// Its owner's volumes that it has.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Whether whoever knows the address of a port may use it, without key or token.
    #[serde(default)]
    pub public: bool,
    /// Whether whoever knows its id may speak to its agent, without token.
    #[serde(default)]
    pub agent_open: bool,
    /// What applications behind its ports see as `Host`, with [`PORT_MARK`] where the port's number goes; `None` shows the
    /// one that was asked for.
    #[serde(default)]
    pub mask_host: Option<String>,
    /// Ports whose applications speak HTTPS: they are reached over TLS, whatever their certificates say.
    #[serde(default)]
    pub https_ports: Vec<u16>,
    /// What it may reach.
    pub network: NetworkPolicy,
    /// Whether privileges may be gained through setuid programs.
    pub sudo: bool,
    /// OCI runtime binary, or our own launcher.
    pub runtime: Option<String>,
    /// Whether its agent also runs commands for whoever asks at the executor's port.
    #[serde(default)]
    pub executor: bool,
    /// When it rests by itself.
    pub lifecycle: LifecyclePolicy,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// Whatever else the caller wants to find it by: any text.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// Hard limits of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU time per time.
    pub cpu: MilliCpu,
    /// Memory of all its processes, its page cache included.
    pub memory: Bytes,
    /// What it may write to its root filesystem.
    pub disk: Bytes,
    /// Processes and threads.
    pub pids: u64,
    /// I/O on its disk. Records from before there were any have none.
    #[serde(default)]
    pub io: IoLimits,
}

/// What a cluster sets aside for a sandbox, at most its limits. One machine sets nothing aside; records from before there
/// was any have 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// CPU time per time.
    pub cpu: MilliCpu,
    /// Memory.
    pub memory: Bytes,
}

/// A sandbox: its spec and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// What was decided at creation.
    pub spec: SandboxSpec,
    /// Where it stands.
    pub phase: Phase,
    /// Why it stands there.
    pub reason: Reason,
    /// When it came to this phase.
    pub since: Timestamp,
    /// The hard deadline.
    pub deadline: Option<Timestamp>,
    /// When somebody last used it, as far as was reported.
    pub last_activity: Timestamp,
    /// Earlier transitions, oldest first, at most [`HISTORY`].
    pub history: Vec<Transition>,
}

/// A move to a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// Where to.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
}

/// Why something is as it is: a code for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable, snake_case: `requested`, `idle`, `deadline`, `agent_died`, `oom`, …
    pub code: String,
    /// One sentence.
    pub message: String,
}

impl Reason {
    /// A reason of a code and a sentence.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

impl Sandbox {
    /// A sandbox that has just been asked for. Its deadline is `deadline`.
    #[must_use]
    pub fn new(spec: SandboxSpec, deadline: Option<Timestamp>) -> Self {
        let at = spec.created_at;
        let reason = Reason::new("requested", "creation was requested");
        let first = Transition { at, phase: Phase::Creating, reason: reason.clone() };
        Self {
            spec,
            phase: Phase::Creating,
            reason,
            since: at,
            deadline,
            last_activity: at,
            history: vec![first],
        }
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.spec.id
    }

    /// Moves to `phase`, unless the phases forbid it, and remembers why. One that wakes after its deadline gets another.
    ///
    /// # Errors
    /// Gives back the phase it is in.
    pub fn become_phase(&mut self, phase: Phase, reason: Reason, at: Timestamp) -> Result<(), Phase> {
        if !self.phase.may_become(phase) {
            return Err(self.phase);
        }
        if phase == Phase::Running {
            self.deadline = deadline_after_wake(self, at).or(self.deadline);
        }
        self.phase = phase;
        self.since = at;
        self.reason = reason.clone();
        self.history.push(Transition { at, phase, reason });
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
        Ok(())
    }
}
