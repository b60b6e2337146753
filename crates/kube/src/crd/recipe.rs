//! What a template and a sandbox have in common: the recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A recipe. What is absent comes from the image or the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Recipe {
    /// Image reference, e.g. `registry.example.com/team/python:3.13`. Pods get it by digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Size by name: basic is 1 CPU, 2 GiB and 10 GiB of disk, standard 2, 4 and 50, premium 4, 8 and 100. These are
    /// requests; limits are twice the CPU and memory. `basic` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// CPU limit, e.g. `500m` or `2`, in place of the tier's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub cpu: Option<String>,
    /// Memory limit, e.g. `512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub memory: Option<String>,
    /// What is set aside, in place of the tier's; at most the limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// Limit of what is written to the root filesystem, e.g. `10Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub disk: Option<String>,
    /// Most processes and threads, where the node can limit them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 4_194_304))]
    pub pids: Option<i64>,
    /// Environment of every command.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Runs from the start, under the agent's supervision; its output is the sandbox's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub start_command: Option<Vec<String>>,
    /// Succeeds when a new sandbox can be used: the API answers whoever asked for one then, or after a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub ready_command: Option<Vec<String>>,
    /// User of commands that name none; the image's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub user: Option<String>,
    /// Directory of commands that name none; the image's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub workdir: Option<String>,
    /// Named ports, for host names such as `alice-vnc`. A name is lowercase letters and digits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-validations" = [
        { "rule": "self.all(name, name.matches('^[a-z0-9]{1,24}$'))", "message": "a port's name is 1 to 24 lowercase letters or digits" },
        { "rule": "self.all(name, self[name] >= 1 && self[name] <= 65535)", "message": "a port is 1 to 65535" }
    ]))]
    #[schemars(extend("maxProperties" = 64))]
    // The cluster knows no smaller format of numbers.
    #[schemars(with = "BTreeMap<String, i32>")]
    pub ports: BTreeMap<String, u16>,
    /// Storage of the owner that outlives the sandbox, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-validations" = [
        { "rule": "self.all(name, name.matches('^[a-z0-9]([-a-z0-9]{0,22}[a-z0-9])?$'))", "message": "a volume's name is a DNS label of at most 24 characters" }
    ]))]
    #[schemars(extend("maxProperties" = 8))]
    pub volumes: BTreeMap<String, Volume>,
    /// Whether whoever knows the address of a port may use it, without key or token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// What may be reached from inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Whether there is a root user inside, in a user namespace of its own, so that `sudo` and package managers work.
    /// Without, everything runs as one ordinary user. True when absent, unless the tenant is a strict one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sudo: Option<bool>,
    /// When sandboxes rest by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// Whether the executor's API answers on port 8666 inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<bool>,
}

/// A named size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// 1 CPU, 2 GiB, 10 GiB of disk.
    Basic,
    /// 2 CPU, 4 GiB, 50 GiB of disk.
    Standard,
    /// 4 CPU, 8 GiB, 100 GiB of disk.
    Premium,
}

/// What is set aside for a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Requests {
    /// CPU, e.g. `250m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub cpu: Option<String>,
    /// Memory, e.g. `128Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub memory: Option<String>,
}

/// Storage of a user that outlives their sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Where it is mounted, e.g. `/home/user`.
    #[schemars(extend("x-kubernetes-validations" = [
        { "rule": "self.startsWith('/') && self != '/'", "message": "is an absolute path below /" }
    ]))]
    #[schemars(length(min = 2, max = 512))]
    pub path: String,
    /// How much it holds; `10Gi` when absent. It can grow where the storage class lets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub size: Option<String>,
}

/// What may be reached from inside. Other sandboxes, the API server, nodes and metadata addresses never can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    /// The ground rule.
    pub mode: EgressMode,
    /// IPv4 ranges that are reachable in any case, e.g. `198.51.100.0/24`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<String>,
    /// IPv4 ranges that are not reachable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub deny: Vec<String>,
}

/// The ground rule of a [`Network`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EgressMode {
    /// The public internet.
    #[default]
    Internet,
    /// Only what `allow` lists.
    Restricted,
    /// Nothing.
    None,
}

/// When a sandbox rests by itself. Seconds; 0 is never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Lifecycle {
    /// Unused for so long is paused; 900 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pause_after_seconds: Option<i64>,
    /// Paused for so long is stopped; 3600 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub stop_after_seconds: Option<i64>,
    /// Stopped for so long is removed, but for its volumes; 86400 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub terminate_after_seconds: Option<i64>,
    /// The hard deadline, from the creation; none when absent or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds: Option<i64>,
    /// Whether a sandbox may do without a deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_no_ttl: Option<bool>,
    /// What happens at the deadline; `Terminate` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_deadline: Option<OnDeadline>,
    /// Whether a request to a port of a resting sandbox wakes it; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake_on_request: Option<bool>,
}

/// What happens at the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDeadline {
    /// It is removed.
    Terminate,
    /// It is paused.
    Pause,
}
