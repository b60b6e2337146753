//! What this API is asked and answers, field by field.

use atoll_core::{
    network::{Cidr, NetworkMode, NetworkPolicy},
    phase::Phase,
    sandbox::Sandbox,
    template::OnDeadline,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::{ENVD_VERSION, network::EVERYTHING, rests};
use crate::{config::Links, services::Services};

/// A sandbox to make. Fields that are not known are ignored.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct NewSandbox {
    /// Name or id of a template.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Seconds until it ends.
    #[schema(minimum = 0)]
    pub timeout: Option<i64>,
    /// Whether it is paused then, and not taken down.
    pub auto_pause: Option<bool>,
    /// Whether that keeps its memory and processes; `true` when absent.
    pub auto_pause_memory: Option<bool>,
    /// Whether traffic wakes it.
    pub auto_resume: Option<AutoResume>,
    /// `false` opens commands and files to whoever knows its id. Only where the older path is asked.
    pub secure: Option<bool>,
    /// `false` closes the internet.
    #[serde(rename = "allow_internet_access", alias = "allowInternetAccess")]
    pub allow_internet_access: Option<bool>,
    /// What it may reach, and who may reach it.
    pub network: Option<Network>,
    /// Any text to find it by.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Environment of every command.
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Refused, unless empty.
    #[schema(value_type = Option<Object>)]
    pub mcp: Option<Value>,
    /// Refused, unless empty.
    #[schema(value_type = Option<Object>)]
    pub iam: Option<Value>,
    /// Refused, unless empty.
    #[schema(value_type = Option<Vec<Object>>)]
    pub volume_mounts: Option<Vec<Value>>,
}

/// Whether traffic wakes a sandbox.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct AutoResume {
    /// Whether it does.
    pub enabled: bool,
}

/// What a sandbox may reach, and who may reach it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    /// Addresses and ranges that it may reach whatever `denyOut` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_out: Option<Vec<String>>,
    /// Addresses and ranges that it may not reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_out: Option<Vec<String>>,
    /// Whether its ports are open to everybody; `true` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_public_traffic: Option<bool>,
    /// What applications in it see as `Host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_request_host: Option<String>,
    /// `false` closes the internet.
    #[serde(skip_serializing, rename = "allow_internet_access", alias = "allowInternetAccess")]
    pub allow_internet_access: Option<bool>,
    /// Refused, unless empty.
    #[serde(skip_serializing)]
    #[schema(value_type = Option<Object>)]
    pub egress_proxy: Option<Value>,
    /// Refused, unless empty.
    #[serde(skip_serializing)]
    #[schema(value_type = Option<Object>)]
    pub rules: Option<Value>,
    /// Refused, unless empty.
    #[serde(skip_serializing)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub dns_servers: Option<Value>,
    /// Ports whose applications speak HTTPS. It is said when the sandbox is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_ports: Option<Vec<u16>>,
}

/// A sandbox that was made, connected to or resumed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MadeSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: String,
    envd_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    /// Opens its commands and files.
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<String>,
    /// Opens its other ports, where those are not open to everybody.
    traffic_access_token: Option<String>,
    /// What follows `{port}-{id}.` in its host names.
    domain: Option<String>,
}

/// A sandbox of a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    end_at: Timestamp,
    cpu_count: u64,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u64,
    state: State,
    envd_version: &'static str,
    metadata: BTreeMap<String, String>,
    volume_mounts: Vec<VolumeMount>,
}

/// Everything about a sandbox.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDetail {
    #[serde(flatten)]
    listed: ListedSandbox,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<String>,
    domain: Option<String>,
    /// Whether it reaches the internet; not told where that depends on the address.
    allow_internet_access: Option<bool>,
    network: Network,
    lifecycle: Lifecycle,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_mode: Option<PauseMode>,
}

/// Whether a sandbox runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does, or is about to.
    Running,
    /// It rests.
    Paused,
}

/// A volume that it has.
#[derive(Debug, Serialize, ToSchema)]
pub struct VolumeMount {
    name: String,
    path: String,
}

/// What becomes of it by itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    auto_resume: bool,
    /// `pause` or `kill`.
    on_timeout: &'static str,
}

/// What a pause has kept.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PauseMode {
    /// Memory and processes, too.
    Full,
    /// Files alone.
    Filesystem,
}

/// What a sandbox without an end is told to end at: the client's types have no word for never.
const NEVER: i64 = 253_402_300_799;

/// Name of the template, or the snapshot or the image where there is none.
fn template_id(sandbox: &Sandbox) -> String {
    let image = || super::snapshots::template_id(&sandbox.spec.image).to_owned();
    sandbox.spec.template.clone().unwrap_or_else(image)
}

fn envd_token(links: Option<&Links>, sandbox: &Sandbox) -> Option<String> {
    links.filter(|_| !sandbox.spec.agent_open).map(|links| links.key.agent_token(sandbox.id()))
}

fn domain(links: Option<&Links>) -> Option<String> {
    links.map(|links| links.address.authority())
}

impl MadeSandbox {
    /// As its maker is told.
    pub fn of(services: &Services, sandbox: &Sandbox) -> Self {
        let links = services.base.config.links.as_ref();
        let closed = links.filter(|_| !sandbox.spec.public);
        Self {
            template_id: template_id(sandbox),
            sandbox_id: sandbox.id().to_string(),
            client_id: sandbox.spec.tenant.clone(),
            envd_version: ENVD_VERSION,
            alias: sandbox.spec.template.clone(),
            envd_access_token: envd_token(links, sandbox),
            traffic_access_token: closed.map(|links| links.key.traffic_token(sandbox.id())),
            domain: domain(links),
        }
    }
}

impl ListedSandbox {
    /// As a list tells it.
    pub fn of(sandbox: Sandbox) -> Self {
        let limits = &sandbox.spec.limits;
        let never = || Timestamp::from_second(NEVER).unwrap_or(Timestamp::MAX);
        Self {
            template_id: template_id(&sandbox),
            sandbox_id: sandbox.id().to_string(),
            client_id: sandbox.spec.tenant.clone(),
            alias: sandbox.spec.template.clone(),
            started_at: sandbox.spec.created_at,
            end_at: sandbox.deadline.unwrap_or_else(never),
            cpu_count: limits.cpu.0.div_ceil(1000),
            memory_mb: limits.memory.0 >> 20,
            disk_size_mb: limits.disk.0 >> 20,
            state: if rests(&sandbox) { State::Paused } else { State::Running },
            envd_version: ENVD_VERSION,
            metadata: sandbox.spec.metadata,
            volume_mounts: sandbox
                .spec
                .volumes
                .into_iter()
                .map(|it| VolumeMount { name: it.name, path: it.path })
                .collect(),
        }
    }
}

impl SandboxDetail {
    /// As whoever asks for it alone is told.
    pub fn of(services: &Services, sandbox: Sandbox) -> Self {
        let links = services.base.config.links.as_ref();
        let policy = &sandbox.spec.lifecycle;
        Self {
            envd_access_token: envd_token(links, &sandbox),
            domain: domain(links),
            allow_internet_access: internet(&sandbox.spec.network),
            network: network(&sandbox),
            lifecycle: Lifecycle {
                auto_resume: policy.wake_on_request,
                on_timeout: match policy.on_deadline {
                    OnDeadline::Pause => "pause",
                    OnDeadline::Terminate => "kill",
                },
            },
            pause_mode: match sandbox.phase {
                Phase::Paused => Some(PauseMode::Full),
                Phase::Stopped => Some(PauseMode::Filesystem),
                _ => None,
            },
            listed: ListedSandbox::of(sandbox),
        }
    }
}

fn internet(policy: &NetworkPolicy) -> Option<bool> {
    match policy.mode {
        NetworkMode::Internet => Some(true),
        _ => policy.allow.is_empty().then_some(false),
    }
}

fn network(sandbox: &Sandbox) -> Network {
    let policy = &sandbox.spec.network;
    let mut deny: Vec<String> = policy.deny.iter().map(address).collect();
    if policy.mode != NetworkMode::Internet {
        deny.push(EVERYTHING.to_owned());
    }
    Network {
        allow_out: Some(policy.allow.iter().map(address).collect()),
        deny_out: Some(deny),
        allow_public_traffic: Some(sandbox.spec.public),
        mask_request_host: sandbox.spec.mask_host.clone(),
        https_ports: Some(sandbox.spec.https_ports.clone()).filter(|ports| !ports.is_empty()),
        ..Network::default()
    }
}

/// A single address is told without its prefix, as callers write it.
fn address(range: &Cidr) -> String {
    if range.prefix == 32 { range.network.to_string() } else { range.to_string() }
}
