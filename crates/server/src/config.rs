//! What can be chosen about a server. Knows nothing of where the choices come from.

use atoll_core::{
    address::ContentAddress,
    error::Invalid,
    id::{SandboxId, check_name},
    link::LinkKey,
    quantity::{Bytes, MilliCpu},
    template::{self, EXECUTOR, TemplateSpec},
};
use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use crate::certificates::Certificates;

/// Seconds that a container may be given to become ready.
const READY_SECONDS: RangeInclusive<u64> = 30..=300;
/// A pod's name is a DNS label (RFC 1035, 2.3.4): what is left beside `-` and an id.
const LONGEST_PREFIX: usize = 63 - 1 - 20;

/// How a server behaves.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// Nobody needs a key and everybody is admin. Refused where the listener is reachable from other machines.
    pub no_auth: bool,
    /// `/metrics` needs no key.
    pub metrics_public: bool,
    /// Speak TLS.
    pub tls: Option<Arc<Certificates>>,
    /// Containers of the API under `/api/kata`.
    pub kata: KataConfig,
    /// Of everything below `/api`, nothing is answered: another process does that.
    pub gateway_only: bool,
    /// How ports of sandboxes are reached from outside, where they are.
    pub links: Option<Links>,
    /// The template of the sandboxes under `/v1/sandbox`; the built-in desktop when absent.
    pub user_template: Option<String>,
    /// A directory for files that clients upload for builds of templates; without one, nothing is built.
    pub uploads: Option<PathBuf>,
    /// How much of everything.
    pub limits: Limits,
}

/// What containers of the API under `/api/kata` are.
#[derive(Clone, Debug)]
pub struct KataConfig {
    /// What their pods' names begin with, before `-` and the id.
    pub pod_name_prefix: String,
    /// How long one may take to be ready before its creation is told to have failed: 30 to 300 seconds.
    pub ready_timeout: Duration,
    /// The built-in template that they are made from. A tenant's own of that name takes its place.
    pub executor: TemplateSpec,
}

impl Default for KataConfig {
    fn default() -> Self {
        Self {
            pod_name_prefix: "kata-sandbox".into(),
            ready_timeout: Duration::from_secs(90),
            executor: template::builtin(EXECUTOR).unwrap_or_default(),
        }
    }
}

impl KataConfig {
    /// Refuses what no container could be made with.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        check_name("pod_name_prefix", &self.pod_name_prefix)?;
        if self.pod_name_prefix.len() > LONGEST_PREFIX {
            return Err(Invalid::new(
                "pod_name_prefix",
                format!("has more than {LONGEST_PREFIX} characters"),
            ));
        }
        if !READY_SECONDS.contains(&self.ready_timeout.as_secs()) {
            return Err(Invalid::new("ready_timeout", "is 30 to 300 seconds"));
        }
        self.executor.check()?;
        self.check_requests()
    }

    fn check_requests(&self) -> Result<(), Invalid> {
        let TemplateSpec { cpu, memory, requests, .. } = &self.executor;
        let cpu_of =
            |text: &Option<String>| text.as_deref().map(|text| MilliCpu::parse("cpu", text)).transpose();
        let memory_of =
            |text: &Option<String>| text.as_deref().map(|text| Bytes::parse("memory", text)).transpose();
        let refuse = |field: &str| Err(Invalid::new(field, "is more than the limit"));
        match ((cpu_of(&requests.cpu)?, cpu_of(cpu)?), (memory_of(&requests.memory)?, memory_of(memory)?)) {
            ((Some(request), Some(limit)), _) if request > limit => refuse("requests.cpu"),
            (_, (Some(request), Some(limit))) if request > limit => refuse("requests.memory"),
            _ => Ok(()),
        }
    }

    /// The name of a sandbox's pod.
    #[must_use]
    pub fn name_of(&self, id: &SandboxId) -> String {
        format!("{}-{id}", self.pod_name_prefix)
    }

    /// What may be a sandbox's id in its pod's name, or the whole where that is no such name.
    #[must_use]
    pub fn id_of<'a>(&self, name: &'a str) -> &'a str {
        let rest = name.strip_prefix(&self.pod_name_prefix).and_then(|rest| rest.strip_prefix('-'));
        rest.unwrap_or(name)
    }
}

/// Where a gateway answers, and what opens it.
#[derive(Clone, Debug)]
pub struct Links {
    /// How its URLs are written.
    pub address: ContentAddress,
    /// What links are signed with.
    pub key: LinkKey,
}

/// Bounds, each with a default that suits one machine.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at the same time; more wait to be accepted.
    pub connections: usize,
    /// A connection that has not sent a request's head after so long is closed.
    pub header_timeout: Duration,
    /// How long requests may finish after the server was told to stop.
    pub drain: Duration,
    /// Creations that the driver is asked for at the same time.
    pub creates_at_once: usize,
    /// Creations that may wait for that; more are refused with 503.
    pub creates_waiting: usize,
    /// Bytes of a JSON body.
    pub json_body: usize,
    /// Bytes of each of a command's output streams in one answer.
    pub exec_output: usize,
    /// Connections to agents that are kept although nothing uses them.
    pub agents_idle: usize,
    /// How long each is kept.
    pub agent_idle_for: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_for: Duration,
    /// How long a key that was found in the store is believed without asking again.
    pub key_cache_for: Duration,
    /// How long a creation waits for the ready command: clients of E2B's API wait 60 seconds for an answer.
    pub ready_for: Duration,
    /// How long the same clients wait for an image that is not here yet before they are told so.
    pub image_for: Duration,
    /// Builds of a tenant at the same time.
    pub builds_at_once: u64,
    /// How long a build may take.
    pub build_for: Duration,
    /// How long the ready command of a template that is being built may take to succeed.
    pub build_ready_for: Duration,
    /// Bytes of the files of one step of a build.
    pub upload: u64,
    /// Bytes of all such files that are kept.
    pub uploads: u64,
    /// How long they are kept after their last use.
    pub uploads_for: Duration,
    /// How long what a step of a build made is kept for builds with the same steps.
    pub layers_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            creates_at_once: 32,
            creates_waiting: 2048,
            json_body: 16 << 20,
            exec_output: 16 << 20,
            agents_idle: 64,
            agent_idle_for: Duration::from_secs(2),
            idempotency_for: Duration::from_secs(24 * 60 * 60),
            key_cache_for: Duration::from_secs(10),
            ready_for: Duration::from_secs(50),
            image_for: Duration::from_secs(45),
            builds_at_once: 20,
            build_for: Duration::from_secs(60 * 60),
            build_ready_for: Duration::from_secs(5 * 60),
            upload: 2 << 30,
            uploads: 16 << 30,
            uploads_for: Duration::from_secs(24 * 60 * 60),
            layers_for: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_ids() {
        let config = KataConfig::default();
        let id = SandboxId::from_entropy([3; 19]);
        let name = config.name_of(&id);
        assert!(name.starts_with("kata-sandbox-i") && name.len() <= 63);
        assert_eq!((config.id_of(&name), config.id_of(id.as_str())), (id.as_str(), id.as_str()));
        assert_eq!(config.id_of("kata-sandboxes-x"), "kata-sandboxes-x");
    }

    #[test]
    fn each_refusal_names_its_field() {
        let config = KataConfig::default;
        config().check().unwrap();
        let sized = |cpu: &str, memory: &str| {
            let mut sized = config();
            sized.executor.cpu = Some(cpu.into());
            sized.executor.memory = Some(memory.into());
            sized
        };
        for (field, config) in [
            ("pod_name_prefix", KataConfig { pod_name_prefix: "Kata".into(), ..config() }),
            ("pod_name_prefix", KataConfig { pod_name_prefix: "k".repeat(43), ..config() }),
            ("ready_timeout", KataConfig { ready_timeout: Duration::from_secs(29), ..config() }),
            ("ready_timeout", KataConfig { ready_timeout: Duration::from_secs(301), ..config() }),
            ("requests.cpu", sized("249m", "1Gi")),
            ("requests.memory", sized("1", "127Mi")),
            ("memory", sized("1", "much")),
        ] {
            assert_eq!(config.check().unwrap_err().field, field);
        }
    }
}
