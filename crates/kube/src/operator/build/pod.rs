//! The pod of a sandbox: one container whose first process is the agent. Pure.

use atoll_core::{quantity::MilliCpu, volume};
use atoll_proto::init::AgentConfig;
use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EmptyDirVolumeSource, EnvVar, ImageVolumeSource, LocalObjectReference,
        PersistentVolumeClaimVolumeSource, Pod, PodDNSConfig, PodSecurityContext, PodSpec,
        ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

use super::{Platform, metadata};
use crate::{
    convert::Resolved,
    crd,
    names::AGENT_PORT,
    operator::{
        settings::{Injection, Settings},
        validate::Validated,
    },
};

/// Name of the volume that the agent comes in.
const AGENT_VOLUME: &str = "atoll";
/// Where that is inside.
const AGENT_DIRECTORY: &str = "/.atoll";
/// The user of sandboxes without root whose image names none; the first of ordinary people on Debian.
const ORDINARY: i64 = 1000;
/// What root in a sandbox's user namespace may do: what package managers and `sudo` need, and nothing that reaches the
/// kernel's less-trodden paths.
const CAPABILITIES: [&str; 10] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
    "SETFCAP",
    "KILL",
    "SYS_CHROOT",
    "NET_BIND_SERVICE",
];
/// Seconds until what does not end by itself is killed; the agent gives its children less.
const GRACE: i64 = 30;
const AGENT_GRACE: u32 = 10;
/// Most bytes that the log of a start command may take inside; the node keeps its own.
const LOG_CAP: u64 = 16 << 20;

/// The pod.
pub fn pod(it: &Validated, settings: &Settings, platform: &Platform) -> Pod {
    Pod { metadata: metadata(it, &it.pod()), spec: Some(spec(it, settings, platform)), status: None }
}

fn spec(it: &Validated, settings: &Settings, platform: &Platform) -> PodSpec {
    let (sandbox, admins) = (&it.resolved.spec, &it.resolved.pod);
    let always = it.is_persistent();
    PodSpec {
        containers: vec![container(it, settings, platform)],
        init_containers: init_containers(it, settings),
        volumes: Some(volumes(it, settings)),
        host_users: sandbox.sudo.then_some(false),
        hostname: Some(sandbox.id.to_string()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some(if always { "Always" } else { "Never" }.into()),
        termination_grace_period_seconds: Some(GRACE),
        dns_policy: (!platform.resolvers.is_empty()).then(|| "None".into()),
        dns_config: dns(platform),
        security_context: Some(pod_security(it)),
        runtime_class_name: sandbox.runtime.clone(),
        node_selector: (!admins.node_selector.is_empty()).then(|| admins.node_selector.clone()),
        tolerations: (!admins.tolerations.is_empty())
            .then(|| admins.tolerations.iter().map(toleration).collect()),
        priority_class_name: admins.priority_class.clone(),
        image_pull_secrets: (!admins.pull_secrets.is_empty()).then(|| {
            admins.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()
        }),
        ..PodSpec::default()
    }
}

fn dns(platform: &Platform) -> Option<PodDNSConfig> {
    let nameservers: Vec<String> = platform.resolvers.iter().map(ToString::to_string).collect();
    (!nameservers.is_empty())
        .then(|| PodDNSConfig { nameservers: Some(nameservers), ..PodDNSConfig::default() })
}

fn toleration(it: &crd::Toleration) -> Toleration {
    Toleration {
        key: it.key.clone(),
        operator: it.operator.clone(),
        value: it.value.clone(),
        effect: it.effect.clone(),
        toleration_seconds: None,
    }
}

/// The uid of everything in a sandbox without root.
fn ordinary(resolved: &Resolved) -> i64 {
    let named = resolved.image.as_ref().and_then(|image| image.user.split(':').next()?.parse().ok());
    named.filter(|uid| *uid > 0).unwrap_or(ORDINARY)
}

fn pod_security(it: &Validated) -> PodSecurityContext {
    let uid = ordinary(&it.resolved);
    let without_root = !it.resolved.spec.sudo;
    PodSecurityContext {
        run_as_non_root: Some(without_root),
        run_as_user: Some(if without_root { uid } else { 0 }),
        run_as_group: Some(if without_root { uid } else { 0 }),
        fs_group: it.is_persistent().then_some(uid),
        fs_group_change_policy: it.is_persistent().then(|| "OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn security(root: bool) -> SecurityContext {
    let add = root.then(|| CAPABILITIES.map(str::to_owned).to_vec());
    SecurityContext {
        allow_privilege_escalation: Some(root),
        privileged: Some(false),
        capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".into()]) }),
        ..SecurityContext::default()
    }
}

fn container(it: &Validated, settings: &Settings, platform: &Platform) -> Container {
    let sandbox = &it.resolved.spec;
    let text = |text: &str| text.to_owned();
    let command = [
        &format!("{AGENT_DIRECTORY}/atoll-agent"),
        "--config-env",
        CONFIG,
        "--listen-tcp",
        &format!("0.0.0.0:{AGENT_PORT}"),
        "--public-key",
        &platform.public_key,
        "--log-fd",
        "1",
    ];
    let mounts = sandbox.volumes.iter().map(|it| mount(&it.name, &it.path));
    Container {
        name: text(CONTAINER),
        image: Some(image(it, settings)),
        image_pull_policy: Some(text(pull_policy(&it.resolved))),
        command: Some(command.map(text).to_vec()),
        env: Some(vec![EnvVar { name: text(CONFIG), value: Some(config(&it.resolved)), value_from: None }]),
        resources: Some(resources(&it.resolved)),
        security_context: Some(security(sandbox.sudo)),
        volume_mounts: Some([agent_mount(settings)].into_iter().chain(mounts).collect()),
        ..Container::default()
    }
}

/// The container's name; logs are asked for by it.
const CONTAINER: &str = "sandbox";
/// The variable that carries the agent's configuration: nothing secret.
const CONFIG: &str = "ATOLL_CONFIG";

/// The sandbox's image, as nodes are asked for it.
fn image(it: &Validated, settings: &Settings) -> String {
    let digest = it.resolved.image.as_ref().map_or("", |image| &image.digest);
    pinned(&settings.image(&it.resolved.spec.image), digest)
}

/// By digest, where the registry was asked; then a tag that is moved changes nothing.
fn pinned(reference: &str, digest: &str) -> String {
    if digest.is_empty() || reference.contains('@') {
        return reference.to_owned();
    }
    let tagged = reference.rfind(':').filter(|colon| !reference[*colon..].contains('/'));
    format!("{}@{digest}", &reference[..tagged.unwrap_or(reference.len())])
}

/// What the registry shows to anybody may be taken from the node. Anything else is asked for with the sandbox's own
/// credentials, so that nobody gets a private image because somebody else's sandbox has left it on the node.
fn pull_policy(resolved: &Resolved) -> &'static str {
    if resolved.image.is_some() { "IfNotPresent" } else { "Always" }
}

/// What the agent is told: the image's wishes, overridden by the sandbox's.
fn config(resolved: &Resolved) -> String {
    let (spec, image) = (&resolved.spec, resolved.image.clone().unwrap_or_default());
    let pairs = image.env.iter().filter_map(|pair| pair.split_once('='));
    let mut env: BTreeMap<String, String> = pairs.map(|(name, value)| (name.into(), value.into())).collect();
    env.extend(spec.env.clone());
    let images_workdir = Some(image.workdir).filter(|path| !path.is_empty());
    let config = AgentConfig {
        sandbox_id: spec.id.to_string(),
        hostname: spec.id.to_string(),
        env,
        start_command: spec.start_command.clone(),
        workdir: spec.workdir.clone().or(images_workdir).or_else(|| Some("/".into())),
        default_user: default_user(resolved),
        allow_sudo: spec.sudo,
        log_cap_bytes: LOG_CAP,
        grace_seconds: AGENT_GRACE,
        cpu_count: Some(spec.limits.cpu.0 as f64 / 1000.0),
        memory_limit_bytes: Some(spec.limits.memory.0),
        executor_port: spec.executor.then_some(atoll_proto::init::EXECUTOR_PORT),
        ..AgentConfig::default()
    };
    serde_json::to_string(&config).unwrap_or_default()
}

/// The sandbox's wish, or the image's. Without root the agent cannot become anybody.
fn default_user(resolved: &Resolved) -> String {
    let images = resolved.image.as_ref().map(|image| image.user.clone()).filter(|user| !user.is_empty());
    match &resolved.spec {
        spec if spec.sudo => spec.user.clone().or(images).unwrap_or_else(|| "root".into()),
        _ => ordinary(resolved).to_string(),
    }
}

fn resources(resolved: &Resolved) -> ResourceRequirements {
    let (limits, requests) = (&resolved.spec.limits, &resolved.spec.requests);
    let of = |cpu: String, memory: String, disk: u64| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu)),
            ("memory".to_owned(), Quantity(memory)),
            ("ephemeral-storage".to_owned(), Quantity(disk.to_string())),
        ])
    };
    let mut most = of(limits.cpu.to_string(), limits.memory.to_string(), limits.disk.0);
    let mut least =
        of(cpu_request(resolved).to_string(), requests.memory.to_string(), limits.disk.0.min(DISK_REQUEST));
    if let Some(gpu) = &resolved.pod.gpu {
        let name = gpu.resource.clone().unwrap_or_else(|| "nvidia.com/gpu".into());
        most.insert(name.clone(), Quantity(gpu.count.to_string()));
        least.insert(name, Quantity(gpu.count.to_string()));
    }
    ResourceRequirements { limits: Some(most), requests: Some(least), claims: None }
}

/// What is set aside of a node's CPU: always less than the limit. A pod whose requests are its limits is of the class
/// Guaranteed and stays so, which means that its request could not be lowered while it is paused.
#[must_use]
pub fn cpu_request(resolved: &Resolved) -> MilliCpu {
    let (limits, requests) = (&resolved.spec.limits, &resolved.spec.requests);
    MilliCpu(requests.cpu.0.min(limits.cpu.0.saturating_sub(1)).max(1))
}

/// What is set aside of a node's disk: most sandboxes write little.
const DISK_REQUEST: u64 = 256 << 20;

fn volumes(it: &Validated, settings: &Settings) -> Vec<Volume> {
    let agent = match settings.injection {
        Injection::ImageVolume => Volume {
            name: AGENT_VOLUME.into(),
            image: Some(ImageVolumeSource {
                reference: Some(settings.agent_image.clone()),
                pull_policy: Some("IfNotPresent".into()),
            }),
            ..Volume::default()
        },
        Injection::InitContainer => Volume {
            name: AGENT_VOLUME.into(),
            empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity("16Mi".into())), medium: None }),
            ..Volume::default()
        },
    };
    let claim = |(name, claim): (&String, &crate::operator::validate::Claim)| Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.name.clone(),
            read_only: None,
        }),
        ..Volume::default()
    };
    [agent].into_iter().chain(it.claims.iter().map(claim)).collect()
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), ..VolumeMount::default() }
}

/// Only the directory with the agent: nothing else of that image is inside.
fn agent_mount(settings: &Settings) -> VolumeMount {
    let of_image = settings.injection == Injection::ImageVolume;
    VolumeMount {
        read_only: Some(true),
        sub_path: of_image.then(|| "agent".into()),
        ..mount(AGENT_VOLUME, AGENT_DIRECTORY)
    }
}

fn init_containers(it: &Validated, settings: &Settings) -> Option<Vec<Container>> {
    let installer = (settings.injection == Injection::InitContainer).then(|| installer(settings));
    let all: Vec<Container> = installer.into_iter().chain(filler(it, settings)).collect();
    (!all.is_empty()).then_some(all)
}

/// Name of the container that fills new volumes.
pub const FILL: &str = "fill";
/// Where volumes are while they are filled: not at their own places, which they would hide.
const FILLED: &str = "/atoll-volumes";

/// Fills new volumes with what the image has at their places. It is the sandbox's own image and rights, before the sandbox.
fn filler(it: &Validated, settings: &Settings) -> Option<Container> {
    let sandbox = &it.resolved.spec;
    let new = |volume: &&volume::Volume| it.claims.get(&volume.name).is_some_and(|claim| claim.new);
    let new: Vec<&volume::Volume> = sandbox.volumes.iter().filter(new).collect();
    let pairs = new.iter().flat_map(|volume| [volume.path.clone(), format!("{FILLED}/{}", volume.name)]);
    let fill = [format!("{AGENT_DIRECTORY}/atoll-agent"), "fill".into(), default_user(&it.resolved)];
    let mounts = new.iter().map(|volume| mount(&volume.name, &format!("{FILLED}/{}", volume.name)));
    (!new.is_empty()).then(|| Container {
        name: FILL.into(),
        // What it says in the end is why the pod does not start.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        image: Some(image(it, settings)),
        image_pull_policy: Some(pull_policy(&it.resolved).into()),
        command: Some(fill.into_iter().chain(pairs).collect()),
        resources: Some(resources(&it.resolved)),
        security_context: Some(security(sandbox.sudo)),
        volume_mounts: Some([agent_mount(settings)].into_iter().chain(mounts).collect()),
        ..Container::default()
    })
}

/// Copies the agent where the node's runtime cannot mount an image. It has no rights at all.
fn installer(settings: &Settings) -> Container {
    let few = || {
        let list = [("cpu", "100m"), ("memory", "32Mi"), ("ephemeral-storage", "32Mi")];
        Some(list.map(|(name, much)| (name.to_owned(), Quantity(much.into()))).into())
    };
    Container {
        name: "agent".into(),
        image: Some(settings.agent_image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(vec!["/usr/local/bin/atoll".into(), "install-agent".into(), AGENT_DIRECTORY.into()]),
        resources: Some(ResourceRequirements { limits: few(), requests: few(), claims: None }),
        security_context: Some(SecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(65532),
            ..security(false)
        }),
        volume_mounts: Some(vec![mount(AGENT_VOLUME, AGENT_DIRECTORY)]),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::ImageMeta;

    #[test]
    fn a_request_can_be_given_back() {
        let request = |limit: u64, request: u64| {
            let mut spec = atoll_core::testing::sandbox(1).spec;
            (spec.limits.cpu, spec.requests.cpu) = (MilliCpu(limit), MilliCpu(request));
            cpu_request(&Resolved { spec, deadline: None, pod: Default::default(), image: None }).0
        };
        assert_eq!([request(200, 200), request(2000, 1000), request(1, 1)], [199, 1000, 1]);
    }

    #[test]
    fn private_images_are_asked_for_each_time() {
        let policy = |image| {
            let spec = atoll_core::testing::sandbox(1).spec;
            pull_policy(&Resolved { spec, deadline: None, pod: Default::default(), image })
        };
        assert_eq!((policy(Some(ImageMeta::default())), policy(None)), ("IfNotPresent", "Always"));
    }

    #[test]
    fn images_are_pinned() {
        assert_eq!(pinned("r:5000/a/b:1", "sha256:0"), "r:5000/a/b@sha256:0");
        assert_eq!(pinned("r:5000/a/b", "sha256:0"), "r:5000/a/b@sha256:0");
        assert_eq!(pinned("b:1", "sha256:0"), "b@sha256:0");
        assert_eq!(pinned("b@sha256:1", "sha256:0"), "b@sha256:1");
        assert_eq!(pinned("b:1", ""), "b:1");
    }
}
