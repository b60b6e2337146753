//! `Sandbox`: what somebody asked for, and where it stands.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::Recipe;

/// Names of conditions.
pub mod condition {
    /// The template and image were found and everything that was asked for is possible.
    pub const RESOLVED: &str = "Resolved";
    /// Its pod has a node.
    pub const SCHEDULED: &str = "Scheduled";
    /// Its agent answers.
    pub const READY: &str = "Ready";
    /// A paused sandbox's CPU request was given back, or a resumed one's restored.
    pub const RESIZED: &str = "Resized";
}

/// An isolated Linux environment of a user or a program. `kubectl explain sandbox.spec` tells what can be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "Sandbox",
    plural = "sandboxes",
    shortname = "sbx",
    category = "atoll",
    namespaced,
    status = "SandboxStatus",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".spec.owner",
    selectable = ".spec.template",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Template","type":"string","jsonPath":".spec.template"}"#,
    printcolumn = r#"{"name":"Owner","type":"string","jsonPath":".spec.owner"}"#,
    printcolumn = r#"{"name":"Node","type":"string","priority":1,"jsonPath":".status.node"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.reason.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "has(self.template) || has(self.image)", "message": "a sandbox needs a template or an image" },
    { "rule": "!has(oldSelf.template) || (has(self.template) && self.template == oldSelf.template)", "message": "the template cannot change; make another sandbox" },
    { "rule": "!has(oldSelf.image) || (has(self.image) && self.image == oldSelf.image)", "message": "the image cannot change; make another sandbox" },
    { "rule": "has(self.owner) == has(oldSelf.owner) && (!has(self.owner) || self.owner == oldSelf.owner)", "message": "the owner cannot change; make another sandbox" },
    { "rule": "has(self.owner) || !has(self.volumes)", "message": "volumes belong to an owner; name one" }
]))]
#[serde(default, rename_all = "camelCase")]
pub struct SandboxSpec {
    /// Name of a SandboxTemplate in this namespace or the platform's. What else stands here goes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub template: Option<String>,
    /// The user it belongs to, whose volumes it gets: any name, also an e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub owner: Option<String>,
    /// What is different from the template.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// When it ends at the latest, in place of the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// Any text to find it by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether whoever knows its id may speak to its agent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub agent_open: bool,
    /// What applications behind its ports see as `Host`, with `${PORT}` where the number goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub mask_host: Option<String>,
    /// Ports whose applications speak HTTPS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub https_ports: Vec<u16>,
    /// How it should be. `Running` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<DesiredState>,
}

/// How a sandbox should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// With its processes running.
    #[default]
    Running,
    /// With its processes stopped, in memory.
    Paused,
    /// Without processes; volumes are kept.
    Stopped,
}

/// Where a sandbox stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SandboxStatus {
    /// Its identifier on the platform, and the name of its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When it came to this phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When somebody last used it, as far as was reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<Timestamp>,
    /// The generation that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Address of its agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The node it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Names under which its ports can be reached.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, String>,
    /// What was decided when it was made; it never changes but for the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub resolved: Option<serde_json::Value>,
    /// Earlier phases, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Transition>,
    /// `Resolved`, `Scheduled`, `Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Phases of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Being made.
    Creating,
    /// Its agent answers.
    Running,
    /// Its processes are stopped.
    Paused,
    /// No processes.
    Stopped,
    /// Could not start, or its agent died.
    Failed,
    /// Being removed.
    Terminating,
}

/// Why something is as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// Stable, for programs.
    pub code: String,
    /// One sentence, for people.
    pub message: String,
}

/// A move to a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// Where to.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
}

fn anything(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
