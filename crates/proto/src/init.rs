//! The configuration a launcher hands to the agent. Knows nothing of where it is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The port of the executor's own API inside a sandbox whose template asks for it.
pub const EXECUTOR_PORT: u16 = 8666;
/// As the whole value of a variable of [`AgentConfig::env`], it stands for the sandbox's id, whichever that will be: a copy of
/// a sandbox has another.
pub const ID_MARK: &str = "${SANDBOX_ID}";

/// Everything the agent is told at its start, as JSON. Unknown fields are ignored, absent ones have their default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentConfig {
    /// Id of the sandbox; signed requests name it.
    pub sandbox_id: String,
    /// Name of the host; the launcher has set it already.
    pub hostname: String,
    /// Environment of every command, after PATH, HOME, USER and LOGNAME. [`ID_MARK`] stands for `sandbox_id`.
    pub env: BTreeMap<String, String>,
    /// Program and arguments that run for as long as the sandbox does.
    pub start_command: Option<Vec<String>>,
    /// User of the start command; `default_user` when absent.
    pub user: Option<String>,
    /// Working directory of the start command and of commands that name none; the user's home when absent.
    pub workdir: Option<String>,
    /// User of commands and file calls that name none.
    pub default_user: String,
    /// Commands may gain privileges by set-uid programs.
    pub allow_sudo: bool,
    /// Most bytes the log of the start command may take.
    pub log_cap_bytes: u64,
    /// Time between SIGTERM and SIGKILL at a graceful stop.
    pub grace_seconds: u32,
    /// CPUs the sandbox may use, for its own metrics.
    pub cpu_count: Option<f64>,
    /// Memory the sandbox may use, for its own metrics.
    pub memory_limit_bytes: Option<u64>,
    /// Where commands are also run for whoever is in the sandbox's own network; nowhere when absent.
    pub executor_port: Option<u16>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            sandbox_id: String::new(),
            hostname: String::new(),
            env: BTreeMap::new(),
            start_command: None,
            user: None,
            workdir: None,
            default_user: "root".into(),
            allow_sudo: false,
            log_cap_bytes: 16 << 20,
            grace_seconds: 10,
            cpu_count: None,
            memory_limit_bytes: None,
            executor_port: None,
        }
    }
}

impl AgentConfig {
    /// The same with its own id in the variables that ask for it.
    #[must_use]
    pub fn knowing_itself(mut self) -> Self {
        for value in self.env.values_mut().filter(|value| *value == ID_MARK) {
            value.clone_from(&self.sandbox_id);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_have_defaults_and_unknown_ones_are_ignored() {
        let config: AgentConfig = serde_json::from_str(r#"{"sandbox_id":"i1","added_later":1}"#).unwrap();
        assert_eq!(config, AgentConfig { sandbox_id: "i1".into(), ..AgentConfig::default() });
    }

    #[test]
    fn variables_can_ask_for_the_id() {
        let env = [("A", ID_MARK), ("B", "x${SANDBOX_ID}")].map(|(name, value)| (name.into(), value.into()));
        let config = AgentConfig { sandbox_id: "i1".into(), env: env.into(), ..AgentConfig::default() };
        let env = config.knowing_itself().env;
        assert_eq!((env["A"].as_str(), env["B"].as_str()), ("i1", "x${SANDBOX_ID}"));
    }
}
