//! Templates: named recipes, each change a new version.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Io, Network, Requests, Volume};

/// A recipe. What is absent comes from the image or the defaults. The body of `PUT /api/v1/templates/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TemplateSpec {
    /// Image reference.
    pub image: String,
    /// Size by name.
    pub tier: Tier,
    /// CPU limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Disk limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// What a cluster sets aside; never more than the limits.
    #[serde(skip_serializing_if = "Requests::is_none")]
    pub requests: Requests,
    /// Most processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Limits of I/O on the disk.
    #[serde(skip_serializing_if = "Io::is_none")]
    pub io: Io,
    /// Environment of every command.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Runs from the start, supervised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_command: Option<Vec<String>>,
    /// Succeeds when a new sandbox can be used; its creation is answered then, or after 50 seconds. Tried again until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_command: Option<Vec<String>>,
    /// Default user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Default directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Named ports.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// Storage of the owner that outlives the sandbox, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Volume>,
    /// Whether whoever knows the address of a port may use it, without key or token.
    pub public: bool,
    /// What its sandboxes may reach.
    pub network: Network,
    /// Whether `sudo` can work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sudo: Option<bool>,
    /// Name of an OCI runtime binary; our own launcher when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Whether commands are also run for whoever asks at port 8666 inside the sandbox's network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub executor: bool,
    /// When its sandboxes rest by themselves.
    pub lifecycle: Lifecycle,
    /// Labels that its sandboxes carry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Size by name: requests; limits are twice the CPU and memory, clamped to the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// 1 CPU, 2 GiB, 10 GiB of disk.
    #[default]
    Basic,
    /// 2 CPU, 4 GiB, 50 GiB of disk.
    Standard,
    /// 4 CPU, 8 GiB, 100 GiB of disk.
    Premium,
}

/// When a sandbox rests by itself, in seconds; `null` is never.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Lifecycle {
    /// Idle for so long is paused.
    pub pause_after: Option<u64>,
    /// Paused for so long is stopped.
    pub stop_after: Option<u64>,
    /// Stopped for so long is terminated.
    pub terminate_after: Option<u64>,
    /// Hard deadline of a sandbox that names none.
    pub ttl: Option<u64>,
    /// Whether `ttl: null` may be asked for.
    pub allow_no_ttl: bool,
    /// `terminate` or `pause`.
    pub on_deadline: OnDeadline,
    /// Whether a request to a port of a resting sandbox wakes it.
    pub wake_on_request: bool,
}

/// What happens at the hard deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnDeadline {
    /// Taken down with its files.
    #[default]
    Terminate,
    /// Frozen.
    Pause,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            pause_after: Some(900),
            stop_after: Some(3600),
            terminate_after: Some(86_400),
            ttl: None,
            allow_no_ttl: true,
            on_deadline: OnDeadline::Terminate,
            wake_on_request: true,
        }
    }
}

/// One version of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Template {
    /// Name.
    pub name: String,
    /// Version, from 1; 0 is built in.
    pub version: i64,
    /// The recipe.
    pub spec: TemplateSpec,
    /// When this version was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// Body of `POST /api/v1/templates/{name}/rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RollbackTemplate {
    /// The version whose recipe is to be the newest again.
    #[serde(rename = "targetVersion")]
    pub target_version: i64,
    /// Older clients say why; that is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changelog: Option<String>,
}

/// Answer of `GET /api/v1/templates` and of `GET /api/v1/templates/{name}/versions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TemplateList {
    /// By name, or newest version first.
    pub items: Vec<Template>,
}
