//! Between the API's words and core's. No rule is here but "a field may be given in one place only".

use atoll_core::{
    self as core,
    io::{IoLimits, IoSpec},
    network::{NetworkMode, NetworkPolicy},
    request::{CreateRequest, Ttl},
    sandbox::Sandbox,
    template::{LifecyclePolicy, OnDeadline, RequestSpec, Template, TemplateSpec, Tier},
    volume::VolumeSpec,
};
use atoll_proto::api;
use std::collections::BTreeMap;

use super::error::ServiceError;

/// What was asked for, in core's words.
pub fn create_request(ask: api::CreateSandbox) -> Result<CreateRequest, ServiceError> {
    let nested = ask.overrides.unwrap_or_default();
    let ttl = once("overrides.ttl", ask.ttl, nested.ttl)?;
    if !ask.env.is_empty() && !nested.env.is_empty() {
        return Err(given_twice("overrides.env"));
    }
    Ok(CreateRequest {
        image: ask.image,
        cpu: once("overrides.cpu", ask.cpu, nested.cpu)?,
        memory: once("overrides.memory", ask.memory, nested.memory)?,
        disk: ask.disk,
        requests: requests_in(ask.requests),
        pids: ask.pids,
        io: io_in(ask.io),
        ttl: ttl.map_or(Ttl::Template, |ttl| ttl.map_or(Ttl::Never, Ttl::Seconds)),
        env: if ask.env.is_empty() { nested.env } else { ask.env },
        labels: ask.labels,
        owner: ask.owner,
        public: ask.public,
        network: ask.network.map(network_in).transpose()?,
        start_command: ask.start_command,
        user: ask.user,
        workdir: ask.workdir,
        pause_after: ask.pause_after,
        stop_after: ask.stop_after,
        terminate_after: ask.terminate_after,
        on_deadline: ask.on_deadline.map(on_deadline_in),
        wake_on_request: ask.wake_on_request,
        metadata: ask.metadata,
        agent_open: ask.agent_open,
        mask_host: ask.mask_host,
        https_ports: ask.https_ports,
    })
}

fn once<T>(field: &str, outer: Option<T>, nested: Option<T>) -> Result<Option<T>, ServiceError> {
    if outer.is_some() && nested.is_some() {
        return Err(given_twice(field));
    }
    Ok(outer.or(nested))
}

fn given_twice(field: &str) -> ServiceError {
    ServiceError::invalid(field, "is also given outside `overrides`; give it once")
}

/// A policy, in core's words.
pub fn network_in(network: api::Network) -> Result<NetworkPolicy, ServiceError> {
    let mode = match network.mode {
        api::NetworkMode::Internet => NetworkMode::Internet,
        api::NetworkMode::Restricted => NetworkMode::Restricted,
        api::NetworkMode::None => NetworkMode::None,
    };
    Ok(NetworkPolicy::parse(mode, &network.allow, &network.deny)?)
}

fn network(policy: &NetworkPolicy) -> api::Network {
    let mode = match policy.mode {
        NetworkMode::Internet => api::NetworkMode::Internet,
        NetworkMode::Restricted => api::NetworkMode::Restricted,
        NetworkMode::None => api::NetworkMode::None,
    };
    let texts = |ranges: &[core::network::Cidr]| ranges.iter().map(ToString::to_string).collect();
    api::Network { mode, allow: texts(&policy.allow), deny: texts(&policy.deny) }
}

fn requests(it: core::sandbox::Requests) -> api::Requests {
    api::Requests { cpu: Some(it.cpu.to_string()), memory: Some(it.memory.to_string()) }
}

fn requests_in(it: api::Requests) -> RequestSpec {
    RequestSpec { cpu: it.cpu, memory: it.memory }
}

fn io_in(it: api::Io) -> IoSpec {
    let api::Io { read_rate, write_rate, read_iops, write_iops } = it;
    IoSpec { read_rate, write_rate, read_iops, write_iops }
}

fn io(it: IoSpec) -> api::Io {
    let IoSpec { read_rate, write_rate, read_iops, write_iops } = it;
    api::Io { read_rate, write_rate, read_iops, write_iops }
}

fn io_limits(it: &IoLimits) -> api::Io {
    let text = |rate: Option<core::quantity::Bytes>| rate.map(|rate| rate.to_string());
    api::Io {
        read_rate: text(it.read_rate),
        write_rate: text(it.write_rate),
        read_iops: it.read_iops,
        write_iops: it.write_iops,
    }
}

/// A sandbox, in the API's words, but for its URLs.
pub fn sandbox(it: Sandbox) -> api::Sandbox {
    let created_at = it.spec.created_at;
    api::Sandbox {
        id: it.spec.id.to_string(),
        image: it.spec.image,
        cpu: it.spec.limits.cpu.to_string(),
        memory: it.spec.limits.memory.to_string(),
        disk: it.spec.limits.disk.to_string(),
        requests: requests(it.spec.requests),
        pids: it.spec.limits.pids,
        io: io_limits(&it.spec.limits.io),
        ttl: it.deadline.map(|deadline| deadline.duration_since(created_at).as_secs()),
        env: it.spec.env,
        labels: it.spec.labels,
        metadata: it.spec.metadata,
        agent_open: it.spec.agent_open,
        mask_host: it.spec.mask_host,
        https_ports: it.spec.https_ports,
        status: status(it.phase),
        phase: phase(it.phase),
        reason: reason(it.reason),
        owner_label: it.spec.owner.as_deref().map(|owner| core::owner::label(&it.spec.tenant, owner)),
        owner: it.spec.owner,
        ports: it.spec.ports,
        urls: BTreeMap::new(),
        port_url: None,
        access_url: None,
        access_token: None,
        volumes: it.spec.volumes.into_iter().map(volume).collect(),
        public: it.spec.public,
        template: it.spec.template,
        template_version: it.spec.template_version,
        network: network(&it.spec.network),
        runtime: it.spec.runtime,
        created_at,
        expires_at: it.deadline,
        updated_at: it.since,
        last_activity: it.last_activity,
        history: it.history.into_iter().map(transition).collect(),
    }
}

fn volume(it: core::volume::Volume) -> (String, api::Volume) {
    (it.name, api::Volume { path: it.path, size: Some(it.size.to_string()) })
}

/// A volume that exists, in the API's words.
pub fn volume_info(it: core::volume::VolumeInfo) -> api::VolumeInfo {
    api::VolumeInfo {
        name: it.name,
        owner: it.owner,
        tenant: it.tenant,
        size: it.size.to_string(),
        created_at: it.created_at,
        used_by: it.used_by.map(|id| id.to_string()),
    }
}

/// A snapshot, in the API's words.
pub fn snapshot(it: core::snapshot::Snapshot) -> api::Snapshot {
    api::Snapshot {
        reference: it.reference(),
        id: it.id.to_string(),
        names: it.names,
        sandbox: it.source.to_string(),
        tenant: it.tenant,
        image: it.image,
        size: it.size.map(|size| size.0),
        created_at: it.created_at,
    }
}

/// A user's sandbox, in the words of the API of one for each user.
pub fn user_sandbox(it: api::Sandbox) -> api::UserSandbox {
    api::UserSandbox {
        user_id: it.owner.unwrap_or_default(),
        label: it.owner_label.unwrap_or_default(),
        id: it.id,
        status: it.status,
        phase: it.phase,
        reason: it.reason,
        template: it.template,
        ports: it.ports,
        urls: it.urls,
        volumes: it.volumes,
        created_at: it.created_at,
        expires_at: it.expires_at,
    }
}

/// A move to a phase, in the API's words.
pub fn transition(it: core::sandbox::Transition) -> api::Transition {
    api::Transition { at: it.at, phase: phase(it.phase), reason: reason(it.reason) }
}

fn reason(it: core::sandbox::Reason) -> api::Reason {
    api::Reason { code: it.code, message: it.message }
}

/// A phase, in the API's words.
pub fn phase(phase: core::phase::Phase) -> api::Phase {
    use core::phase::Phase;
    match phase {
        Phase::Creating => api::Phase::Creating,
        Phase::Running => api::Phase::Running,
        Phase::Paused => api::Phase::Paused,
        Phase::Stopped => api::Phase::Stopped,
        Phase::Failed => api::Phase::Failed,
        Phase::Terminating => api::Phase::Terminating,
    }
}

/// The phases that a word of the API stands for: one of ours, or a status as older clients say it.
pub fn phases_named(field: &str, word: &str) -> Result<Vec<core::phase::Phase>, ServiceError> {
    use core::phase::Phase::{Creating, Failed, Paused, Running, Stopped, Terminating};
    Ok(match (field, word) {
        ("phase", "creating") | ("status", "pending") => vec![Creating],
        ("phase" | "status", "running") => vec![Running],
        ("phase", "paused") => vec![Paused],
        ("phase", "stopped") => vec![Stopped],
        ("status", "stopped") => vec![Paused, Stopped],
        ("phase" | "status", "failed") => vec![Failed],
        ("phase" | "status", "terminating") => vec![Terminating],
        ("phase", _) => {
            let words = "creating, running, paused, stopped, failed, terminating";
            return Err(ServiceError::invalid("phase", format!("{word:?} is none of: {words}")));
        }
        _ => {
            let words = "pending, running, stopped, failed, terminating";
            return Err(ServiceError::invalid("status", format!("{word:?} is none of: {words}")));
        }
    })
}

fn status(phase: core::phase::Phase) -> api::Status {
    use core::phase::Phase;
    match phase {
        Phase::Creating => api::Status::Pending,
        Phase::Running => api::Status::Running,
        Phase::Paused | Phase::Stopped => api::Status::Stopped,
        Phase::Failed => api::Status::Failed,
        Phase::Terminating => api::Status::Terminating,
    }
}

/// What a sandbox uses, in the API's words.
pub fn usage(it: core::driver::Usage) -> api::Usage {
    api::Usage {
        cpu_us: it.cpu_us,
        memory_bytes: it.memory,
        memory_peak_bytes: it.memory_peak,
        disk_bytes: it.disk,
        pids: it.pids,
        oom_kills: it.oom_kills,
    }
}

/// A recipe, in core's words.
pub fn template_spec_in(it: api::TemplateSpec) -> Result<TemplateSpec, ServiceError> {
    Ok(TemplateSpec {
        image: it.image,
        tier: match it.tier {
            api::Tier::Basic => Tier::Basic,
            api::Tier::Standard => Tier::Standard,
            api::Tier::Premium => Tier::Premium,
        },
        cpu: it.cpu,
        memory: it.memory,
        disk: it.disk,
        requests: requests_in(it.requests),
        pids: it.pids,
        io: io_in(it.io),
        env: it.env,
        start_command: it.start_command,
        ready_command: it.ready_command,
        user: it.user,
        workdir: it.workdir,
        ports: it.ports,
        volumes: it
            .volumes
            .into_iter()
            .map(|(name, it)| (name, VolumeSpec { path: it.path, size: it.size }))
            .collect(),
        public: it.public,
        network: network_in(it.network)?,
        sudo: it.sudo,
        runtime: it.runtime,
        executor: it.executor,
        lifecycle: lifecycle_in(it.lifecycle),
        labels: it.labels,
    })
}

fn lifecycle_in(it: api::Lifecycle) -> LifecyclePolicy {
    LifecyclePolicy {
        pause_after: it.pause_after,
        stop_after: it.stop_after,
        terminate_after: it.terminate_after,
        ttl: it.ttl,
        allow_no_ttl: it.allow_no_ttl,
        on_deadline: on_deadline_in(it.on_deadline),
        wake_on_request: it.wake_on_request,
    }
}

fn on_deadline_in(it: api::OnDeadline) -> OnDeadline {
    match it {
        api::OnDeadline::Terminate => OnDeadline::Terminate,
        api::OnDeadline::Pause => OnDeadline::Pause,
    }
}

/// A template, in the API's words.
pub fn template(it: Template) -> api::Template {
    let spec = template_spec(it.spec);
    api::Template { name: it.name, version: it.version, spec, created_at: it.created_at }
}

fn template_spec(it: TemplateSpec) -> api::TemplateSpec {
    api::TemplateSpec {
        image: it.image,
        tier: match it.tier {
            Tier::Basic => api::Tier::Basic,
            Tier::Standard => api::Tier::Standard,
            Tier::Premium => api::Tier::Premium,
        },
        cpu: it.cpu,
        memory: it.memory,
        disk: it.disk,
        requests: api::Requests { cpu: it.requests.cpu, memory: it.requests.memory },
        pids: it.pids,
        io: io(it.io),
        env: it.env,
        start_command: it.start_command,
        ready_command: it.ready_command,
        user: it.user,
        workdir: it.workdir,
        ports: it.ports,
        volumes: it
            .volumes
            .into_iter()
            .map(|(name, it)| (name, api::Volume { path: it.path, size: it.size }))
            .collect(),
        public: it.public,
        network: network(&it.network),
        sudo: it.sudo,
        runtime: it.runtime,
        executor: it.executor,
        lifecycle: lifecycle(it.lifecycle),
        labels: it.labels,
    }
}

fn lifecycle(it: LifecyclePolicy) -> api::Lifecycle {
    api::Lifecycle {
        pause_after: it.pause_after,
        stop_after: it.stop_after,
        terminate_after: it.terminate_after,
        ttl: it.ttl,
        allow_no_ttl: it.allow_no_ttl,
        on_deadline: match it.on_deadline {
            OnDeadline::Terminate => api::OnDeadline::Terminate,
            OnDeadline::Pause => api::OnDeadline::Pause,
        },
        wake_on_request: it.wake_on_request,
    }
}

/// An image, in the API's words.
pub fn image(it: core::image::ImageInfo) -> api::Image {
    api::Image {
        reference: it.reference,
        digest: it.digest,
        size: it.size,
        layers: it.layers,
        created_at: it.created_at,
        used_by: it.used_by,
    }
}

/// What a clean-up gave back, in the API's words.
pub fn pruned(it: core::image::Pruned) -> api::Pruned {
    api::Pruned { images: it.images, layers: it.layers, bytes: it.bytes }
}

/// A key without its secret, in the API's words.
pub fn key(it: core::key::ApiKey) -> api::Key {
    let role = match it.role {
        core::key::Role::Admin => api::Role::Admin,
        core::key::Role::Member => api::Role::Member,
    };
    api::Key { id: it.id, name: it.name, tenant: it.tenant, role, created_at: it.created_at, secret: None }
}

/// A role, in core's words.
pub fn role_in(role: api::Role) -> core::key::Role {
    match role {
        api::Role::Admin => core::key::Role::Admin,
        api::Role::Member => core::key::Role::Member,
    }
}

/// Labels of a query, each `key=value`, each key once.
pub fn labels<'a>(texts: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, String>, ServiceError> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let refuse = |problem: &str| ServiceError::invalid("label", format!("{text:?}: {problem}"));
        let (key, value) = text.split_once('=').ok_or_else(|| refuse("write `key=value`"))?;
        core::id::check_label(key, value).map_err(|invalid| refuse(&invalid.problem))?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some_and(|other| other != value) {
            return Err(refuse("another value of that key is asked for too; a sandbox has one"));
        }
    }
    Ok(labels)
}
