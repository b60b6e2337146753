//! Templates: named recipes from which sandboxes are made.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::{
    error::Invalid,
    id::check_name,
    io::IoSpec,
    network::NetworkPolicy,
    owner::LONGEST_PORT,
    quantity::{Bytes, MilliCpu},
    snapshot,
    volume::{self, VolumeSpec},
};

/// A named size. Requests as listed; limits are twice the CPU and memory, clamped to the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// 1 CPU, 2 GiB of memory, 10 GiB of disk.
    #[default]
    Basic,
    /// 2 CPU, 4 GiB of memory, 50 GiB of disk.
    Standard,
    /// 4 CPU, 8 GiB of memory, 100 GiB of disk.
    Premium,
}

impl Tier {
    /// What the tier asks for: CPU, memory, disk.
    #[must_use]
    pub fn requests(self) -> (MilliCpu, Bytes, Bytes) {
        let (cpu, memory, disk) = match self {
            Self::Basic => (1, 2, 10),
            Self::Standard => (2, 4, 50),
            Self::Premium => (4, 8, 100),
        };
        (MilliCpu(cpu * 1000), Bytes(memory * Bytes::GIB.0), Bytes(disk * Bytes::GIB.0))
    }
}

/// What a cluster sets aside for a sandbox, in place of the tier's. One machine sets nothing aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestSpec {
    /// CPU, e.g. `250m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory, e.g. `128Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

impl RequestSpec {
    /// Whether nothing is named.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// When a sandbox rests by itself. A step that is `None` is never taken. Seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LifecyclePolicy {
    /// Running without activity for so long becomes paused.
    pub pause_after: Option<u64>,
    /// Paused for so long becomes stopped.
    pub stop_after: Option<u64>,
    /// Stopped for so long is terminated.
    pub terminate_after: Option<u64>,
    /// The hard deadline of a sandbox that names none, from its creation.
    pub ttl: Option<u64>,
    /// Whether a caller may ask for a sandbox without a deadline.
    pub allow_no_ttl: bool,
    /// What happens at the deadline.
    pub on_deadline: OnDeadline,
    /// Whether a request to a port of a resting sandbox wakes it.
    pub wake_on_request: bool,
}

/// What happens to a sandbox at its hard deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeadline {
    /// It is taken down with its files.
    #[default]
    Terminate,
    /// It is frozen.
    Pause,
}

impl Default for LifecyclePolicy {
    fn default() -> Self {
        Self {
            pause_after: Some(15 * 60),
            stop_after: Some(60 * 60),
            terminate_after: Some(24 * 60 * 60),
            ttl: None,
            allow_no_ttl: true,
            on_deadline: OnDeadline::Terminate,
            wake_on_request: true,
        }
    }
}

/// A recipe as its author wrote it. Everything that is absent comes from the image or from the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateSpec {
    /// Image reference: `base`, `python:3.11-slim`, `registry.example.com/x@sha256:…`.
    pub image: String,
    /// Named size; `cpu`, `memory` and `disk` override its limits.
    pub tier: Tier,
    /// CPU limit, e.g. `500m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory limit, e.g. `512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Disk limit, e.g. `10Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// What a cluster sets aside; never more than the limits.
    #[serde(skip_serializing_if = "RequestSpec::is_none")]
    pub requests: RequestSpec,
    /// Most processes and threads at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Limits of I/O on the disk.
    pub io: IoSpec,
    /// Environment of every command.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Runs from the start, under the agent's supervision; its output is the sandbox's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_command: Option<Vec<String>>,
    /// Succeeds when a new sandbox can be used: whoever asked for one is answered then, or after a while. It is tried again
    /// until it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_command: Option<Vec<String>>,
    /// User of commands that name none; the image's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Directory of commands that name none; the image's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Named ports, for host names like `alice-vnc`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// Storage of the owner that outlives the sandbox, by name; a sandbox with any needs an owner.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// Whether whoever knows the address of a port may use it, without key or token.
    pub public: bool,
    /// What sandboxes of this template may reach.
    pub network: NetworkPolicy,
    /// Whether `sudo` can work: without it `no_new_privs` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sudo: Option<bool>,
    /// Name of an OCI runtime binary (`runsc`, `runc`, `kata-runtime`); our own launcher when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Whether the agent also runs commands for whoever asks at its own port inside the sandbox's network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub executor: bool,
    /// When its sandboxes rest by themselves.
    pub lifecycle: LifecyclePolicy,
    /// Labels that its sandboxes carry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Name of the built-in template of the base image, and of that image.
pub const BASE: &str = "base";

/// Name of the built-in template whose sandboxes run commands for whoever asks at the executor's port.
pub const EXECUTOR: &str = "executor";

/// Name of the built-in template of a desktop in a browser.
pub const DESKTOP: &str = "desktop";

/// Name of the built-in template whose sandboxes run code for clients of the code interpreter.
pub const CODE: &str = "code-interpreter-v1";

/// Name of the built-in template of a desktop whose clients start it themselves. [`DESKTOP`] is another: that of a user.
pub const BARE_DESKTOP: &str = "desktop-e2b";

/// The name of the built-in template that clients of E2B mean by a name of theirs.
#[must_use]
pub fn meant_by_e2b(name: &str) -> &str {
    match name {
        "code-interpreter" => CODE,
        DESKTOP => BARE_DESKTOP,
        other => other,
    }
}

/// The recipe of a built-in template. One that a tenant stores under the same name takes its place.
#[must_use]
pub fn builtin(name: &str) -> Option<TemplateSpec> {
    match name {
        BASE => Some(TemplateSpec { image: BASE.into(), ..TemplateSpec::default() }),
        EXECUTOR => Some(executor()),
        DESKTOP => Some(desktop()),
        CODE => Some(code()),
        BARE_DESKTOP => Some(TemplateSpec { image: "desktop".into(), ..TemplateSpec::default() }),
        _ => None,
    }
}

fn executor() -> TemplateSpec {
    let text = |text: &str| Some(text.to_owned());
    TemplateSpec {
        image: "base".into(),
        cpu: text("1"),
        memory: text("512Mi"),
        requests: RequestSpec { cpu: text("250m"), memory: text("128Mi") },
        executor: true,
        ..TemplateSpec::default()
    }
}

/// Its user, `headless`, and what it starts are the image's own: see docker/Dockerfile.xfce.24-04 of its source.
fn desktop() -> TemplateSpec {
    let home = VolumeSpec { path: "/home/headless".into(), size: Some("10Gi".into()) };
    let start = ["/usr/bin/tini", "--", "/dockerstartup/startup.sh"];
    TemplateSpec {
        image: "accetto/ubuntu-vnc-xfce-firefox-g3".into(),
        tier: Tier::Standard,
        start_command: Some(start.map(str::to_owned).to_vec()),
        ports: BTreeMap::from([("vnc".into(), 6901), ("api".into(), 3000)]),
        volumes: BTreeMap::from([("home".into(), home)]),
        sudo: Some(true),
        ..TemplateSpec::default()
    }
}

/// The image's own service listens on port 49999 and starts a kernel for Python at once.
fn code() -> TemplateSpec {
    let program = |name: &str| Some(vec![format!("/usr/lib/atoll-code/{name}")]);
    let (start_command, ready_command) = (program("start"), program("ready"));
    TemplateSpec { image: "code".into(), start_command, ready_command, ..TemplateSpec::default() }
}

/// One stored version of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Unique within the tenant.
    pub name: String,
    /// 1 for the first; each change makes the next. 0 is a built-in one.
    pub version: i64,
    /// The recipe.
    pub spec: TemplateSpec,
    /// When this version was made.
    pub created_at: jiff::Timestamp,
}

impl TemplateSpec {
    /// Checks everything that can be checked without a machine or a registry.
    ///
    /// # Errors
    /// Names the first field that cannot be.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.image.trim().is_empty() {
            return Err(Invalid::new(
                "image",
                "a template needs an image, e.g. `base` or `python:3.11-slim`",
            ));
        }
        snapshot::of_image(&self.image)?;
        self.check_sizes()?;
        check_env("env", &self.env)?;
        self.ports.iter().try_for_each(|(name, port)| check_port(name, *port))?;
        volume::parse(&self.volumes)?;
        self.labels.iter().try_for_each(|(key, value)| crate::id::check_label(key, value))?;
        if self.start_command.as_ref().is_some_and(Vec::is_empty) {
            return Err(Invalid::new("start_command", "must name a program, or be left out"));
        }
        if self.ready_command.as_ref().is_some_and(Vec::is_empty) {
            return Err(Invalid::new("ready_command", "must name a program, or be left out"));
        }
        self.runtime.as_deref().map_or(Ok(()), |name| check_name("runtime", name))
    }

    fn check_sizes(&self) -> Result<(), Invalid> {
        self.cpu.as_deref().map(|text| MilliCpu::parse("cpu", text)).transpose()?;
        self.memory.as_deref().map(|text| Bytes::parse("memory", text)).transpose()?;
        self.disk.as_deref().map(|text| Bytes::parse("disk", text)).transpose()?;
        self.requests.cpu.as_deref().map(|text| MilliCpu::parse("requests.cpu", text)).transpose()?;
        self.requests.memory.as_deref().map(|text| Bytes::parse("requests.memory", text)).transpose()?;
        self.io.parse().map(drop)
    }
}

/// A port's name becomes part of a host name, where `-` separates it from the user.
fn check_port(name: &str, port: u16) -> Result<(), Invalid> {
    check_name("ports", name)?;
    if name.contains('-') || name.len() > LONGEST_PORT || port == 0 {
        let rule = format!(
            "a port's name has no `-` and at most {LONGEST_PORT} characters; its number is 1 to 65535"
        );
        return Err(Invalid::new(format!("ports.{name}"), rule));
    }
    Ok(())
}

/// Refuses names and values that no process could be given.
///
/// # Errors
/// Names the variable.
pub fn check_env(field: &str, env: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let problem = "a variable's name is not empty and has no `=`; neither name nor value has a NUL";
            return Err(Invalid::new(format!("{field}.{name}"), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TemplateSpec {
        TemplateSpec { image: "base".into(), ..TemplateSpec::default() }
    }

    #[test]
    fn a_minimal_template_is_enough() {
        spec().check().unwrap();
    }

    #[test]
    fn what_is_built_in_is_a_template() {
        for name in [BASE, EXECUTOR, DESKTOP, CODE, meant_by_e2b("code-interpreter"), meant_by_e2b(DESKTOP)] {
            builtin(name).unwrap().check().unwrap();
        }
        assert_eq!(builtin("no-such"), None);
    }

    #[test]
    fn each_refusal_names_its_field() {
        let cases: Vec<(&str, TemplateSpec)> = vec![
            ("image", TemplateSpec::default()),
            ("image", TemplateSpec { image: "snapshot:../x".into(), ..spec() }),
            ("cpu", TemplateSpec { cpu: Some("lots".into()), ..spec() }),
            ("memory", TemplateSpec { memory: Some("1x".into()), ..spec() }),
            ("disk", TemplateSpec { disk: Some("0".into()), ..spec() }),
            (
                "requests.cpu",
                TemplateSpec {
                    requests: RequestSpec { cpu: Some("0".into()), ..RequestSpec::default() },
                    ..spec()
                },
            ),
            (
                "io.write_iops",
                TemplateSpec { io: IoSpec { write_iops: Some(0), ..IoSpec::default() }, ..spec() },
            ),
            ("env.A=B", TemplateSpec { env: BTreeMap::from([("A=B".into(), String::new())]), ..spec() }),
            ("ports.a-b", TemplateSpec { ports: BTreeMap::from([("a-b".into(), 80)]), ..spec() }),
            (
                "ports.vvvvvvvvvvvvvvvvvvvvvvvvv",
                TemplateSpec { ports: BTreeMap::from([("v".repeat(25), 80)]), ..spec() },
            ),
            ("start_command", TemplateSpec { start_command: Some(vec![]), ..spec() }),
            ("ready_command", TemplateSpec { ready_command: Some(vec![]), ..spec() }),
            ("runtime", TemplateSpec { runtime: Some("../runc".into()), ..spec() }),
        ];
        for (field, spec) in cases {
            assert_eq!(spec.check().unwrap_err().field, field);
        }
    }
}
