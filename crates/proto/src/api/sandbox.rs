//! Sandboxes: what is asked for, what is answered, what is streamed while one is made.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

use super::{OnDeadline, Volume};

/// Body of `POST /api/v1/sandboxes`: an image or a template, and what differs from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CreateSandbox {
    /// Image reference, e.g. `base` or `python:3.11-slim`. Either this or `template`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Name of a template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Version of the template; the newest when absent.
    #[serde(rename = "templateVersion", skip_serializing_if = "Option::is_none")]
    pub template_version: Option<i64>,
    /// The same fields as below, as older clients nest them beside `template`. A field may be given in one place only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
    /// CPU limit: `500m`, `2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory limit: `512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Disk limit: `10Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// What a cluster is to set aside, in place of the template's; at most the limits.
    #[serde(skip_serializing_if = "Requests::is_none")]
    pub requests: Requests,
    /// Most processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Limits of I/O on the disk, each in place of the template's.
    #[serde(skip_serializing_if = "Io::is_none")]
    pub io: Io,
    /// Seconds until the hard deadline. Absent: the template's; `null`: none, where that is allowed.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>, minimum = 1))]
    pub ttl: Option<Option<i64>>,
    /// Seconds without use until it is paused; 0 is never. Absent: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_after: Option<u64>,
    /// Seconds from paused to stopped; 0 is never. Absent: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<u64>,
    /// Seconds from stopped to terminated; 0 is never. Absent: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminate_after: Option<u64>,
    /// What happens at the hard deadline. Absent: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_deadline: Option<OnDeadline>,
    /// Whether a request to one of its ports wakes it. Absent: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake_on_request: Option<bool>,
    /// Environment of every command. The value `${SANDBOX_ID}` stands for the sandbox's id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels to find it by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Any text to find it by, 64 KiB at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether whoever knows its id may run commands in it, without key or token, through port 49983 of its address.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub agent_open: bool,
    /// What applications behind its ports see as `Host`, with `${PORT}` where the number goes. Absent: what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_host: Option<String>,
    /// Ports whose applications speak HTTPS: requests reach them over TLS, whatever their certificates say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub https_ports: Vec<u16>,
    /// The user it is to belong to, whose volumes it gets: any name, also an e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whether whoever knows the address of a port may use it, without key or token. Absent: the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// What it may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Runs from the start, supervised; its output is the sandbox's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_command: Option<Vec<String>>,
    /// User of commands that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Directory of commands that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
}

impl CreateSandbox {
    /// A sandbox of an image, with every default.
    #[must_use]
    pub fn of_image(reference: impl Into<String>) -> Self {
        Self { image: Some(reference.into()), ..Self::default() }
    }

    /// A sandbox of a template's newest version.
    #[must_use]
    pub fn of_template(name: impl Into<String>) -> Self {
        Self { template: Some(name.into()), ..Self::default() }
    }
}

/// What may be changed about a template for one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// CPU limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Seconds until the hard deadline.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>, minimum = 1))]
    pub ttl: Option<Option<i64>>,
    /// Environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Keeps `null` and "absent" apart.
pub(super) fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::<i64>::deserialize(deserializer).map(Some)
}

/// What a cluster sets aside for a sandbox. One machine sets nothing aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Requests {
    /// CPU: `250m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory: `128Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

impl Requests {
    /// Whether nothing is named.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits of I/O on the disk: of the sandbox's own files and its image. What is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Io {
    /// Bytes read each second, at least `64Ki`: `10Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_rate: Option<String>,
    /// Bytes written each second, at least `64Ki`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_rate: Option<String>,
    /// Read operations each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 10, maximum = 4_294_967_295_u64))]
    pub read_iops: Option<u64>,
    /// Write operations each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 10, maximum = 4_294_967_295_u64))]
    pub write_iops: Option<u64>,
}

impl Io {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a sandbox may reach. The host, other sandboxes and metadata addresses are never reachable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// The ground rule.
    pub mode: NetworkMode,
    /// Ranges (`198.51.100.0/24`) that are reachable in any case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Ranges that are not reachable; `allow` goes before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// Ground rule of a [`Network`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The public internet.
    #[default]
    Internet,
    /// Only what `allow` lists.
    Restricted,
    /// Only its own loopback.
    None,
}

/// Body of `PATCH /api/v1/sandboxes/{id}`; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct UpdateSandbox {
    /// Seconds from now until the hard deadline; `null`: none, where that is allowed.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>, minimum = 1))]
    pub ttl: Option<Option<i64>>,
    /// Replaces what it may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

/// Status in the words of older clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being made.
    Pending,
    /// Ready for commands.
    Running,
    /// Ended well; kept for older clients.
    Succeeded,
    /// Could not start or died.
    Failed,
    /// Resting: paused or stopped.
    Stopped,
    /// Being taken down.
    Terminating,
    /// Not known.
    Unknown,
}

/// Phase in our own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being made.
    Creating,
    /// Its agent answers.
    Running,
    /// Frozen.
    Paused,
    /// No processes, files kept.
    Stopped,
    /// Could not start or died.
    Failed,
    /// Being taken down.
    Terminating,
}

/// Why something is as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reason {
    /// Stable, for programs.
    pub code: String,
    /// One sentence, for people.
    pub message: String,
}

/// A move to a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Transition {
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Where to.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// Its identifier.
    pub id: String,
    /// Image reference it was made from.
    pub image: String,
    /// CPU limit.
    pub cpu: String,
    /// Memory limit.
    pub memory: String,
    /// Disk limit.
    pub disk: String,
    /// What a cluster sets aside; servers from before there was any say nothing.
    #[serde(default, skip_serializing_if = "Requests::is_none")]
    pub requests: Requests,
    /// Process limit.
    pub pids: u64,
    /// Limits of I/O on the disk, when there are any.
    #[serde(default, skip_serializing_if = "Io::is_none")]
    pub io: Io,
    /// Seconds between creation and hard deadline; `null` is none.
    pub ttl: Option<i64>,
    /// Environment of every command.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Any text to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether whoever knows its id may run commands in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agent_open: bool,
    /// What applications behind its ports see as `Host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_host: Option<String>,
    /// Ports whose applications speak HTTPS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub https_ports: Vec<u16>,
    /// Status in the words of older clients.
    pub status: Status,
    /// Phase in our own.
    pub phase: Phase,
    /// Why it is in that phase.
    pub reason: Reason,
    /// The user it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The label that stands for that user in host names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_label: Option<String>,
    /// Named ports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// The URL of each of them. Where the sandbox has an owner, it is the owner's, and leads to their oldest sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub urls: BTreeMap<String, String>,
    /// The URL of any of its ports, with `{port}` where the number goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_url: Option<String>,
    /// Where programs reach its ports that resolve no names: `/port/{port}/` and the application's path follow.
    #[serde(default, rename = "accessUrl", skip_serializing_if = "Option::is_none")]
    pub access_url: Option<String>,
    /// What opens its ports there, as `X-Access-Token`, for as long as it exists.
    #[serde(default, rename = "accessToken", skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Its owner's volumes that it has, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Volume>,
    /// Whether whoever knows the address of a port may use it.
    #[serde(default)]
    pub public: bool,
    /// Template it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Version of that template.
    #[serde(rename = "templateVersion", skip_serializing_if = "Option::is_none")]
    pub template_version: Option<i64>,
    /// What it may reach.
    pub network: Network,
    /// OCI runtime, when it is not our own launcher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// When it was asked for.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// The hard deadline.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// When it came to its phase.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub updated_at: Timestamp,
    /// When it was last used, as far as was reported.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub last_activity: Timestamp,
    /// Earlier transitions, oldest first.
    pub history: Vec<Transition>,
}

/// Answer of `GET /api/v1/sandboxes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SandboxList {
    /// Newest first.
    pub items: Vec<Sandbox>,
    /// Pass as `cursor` to get the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One event of a streamed creation (`Accept: text/event-stream`). The event's name is the tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum CreateEvent {
    /// It has an id, and waits for others to be started.
    Queued {
        /// The id to poll with, should the stream break.
        id: String,
    },
    /// Its image is being fetched.
    Pulling {
        /// 0 to 100.
        percent: u8,
    },
    /// Filesystem, network and limits are being made.
    Preparing,
    /// Its first process starts.
    Starting,
    /// It can be used. The last event.
    Ready {
        /// The sandbox.
        sandbox: Box<Sandbox>,
    },
    /// It could not be made. The last event.
    Failed {
        /// Why.
        error: super::ErrorBody,
    },
}

/// Answer of `GET /api/v1/sandboxes/{id}/usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// CPU time since its start, in microseconds.
    pub cpu_us: u64,
    /// Bytes of memory charged to it.
    pub memory_bytes: u64,
    /// The most that it ever was.
    pub memory_peak_bytes: u64,
    /// Bytes of disk charged to it, where that is counted.
    pub disk_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// Answer of `GET /api/v1/sandboxes/{id}/logs` without `follow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Logs {
    /// What the start command wrote; bytes that are no UTF-8 are replaced.
    pub logs: String,
    /// What happened to the sandbox, oldest first.
    pub events: Vec<Transition>,
}
