//! From what a caller asked for to what will be made: defaults, overrides, and every refusal that needs no I/O.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::{
    error::Invalid,
    id::{SandboxId, check_label},
    io::IoSpec,
    lifecycle::later,
    network::NetworkPolicy,
    owner::check_owner,
    quantity::{Bytes, MilliCpu},
    sandbox::{Limits, PORT_MARK, Requests, Sandbox, SandboxSpec},
    template::{LifecyclePolicy, OnDeadline, RequestSpec, Template, TemplateSpec, check_env},
    volume::{self, Volume},
};

/// Most processes and threads of a sandbox that names no number.
pub const DEFAULT_PIDS: u64 = 1024;
/// The least memory with which the agent and a shell can work.
pub const LEAST_MEMORY: Bytes = Bytes(16 << 20);
/// Most bytes of all keys and values of a sandbox's metadata: it is in every list.
pub const MOST_METADATA: usize = 64 << 10;
/// The least disk with which a sandbox can start.
pub const LEAST_DISK: Bytes = Bytes(8 << 20);

/// How long a sandbox may live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// The caller said nothing: the template's.
    #[default]
    Template,
    /// The caller said `null`: without end, where that is allowed.
    Never,
    /// So many seconds; 0 and less are refused.
    Seconds(i64),
}

/// What a caller asks for.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// Image reference; either this or a template.
    pub image: Option<String>,
    /// CPU limit as text.
    pub cpu: Option<String>,
    /// Memory limit as text.
    pub memory: Option<String>,
    /// Disk limit as text.
    pub disk: Option<String>,
    /// What a cluster is to set aside, in place of the template's.
    pub requests: RequestSpec,
    /// Process limit.
    pub pids: Option<u64>,
    /// I/O limits, each in place of the template's.
    pub io: IoSpec,
    /// Time to live.
    pub ttl: Ttl,
    /// Added to the template's environment.
    pub env: BTreeMap<String, String>,
    /// Added to the template's labels.
    pub labels: BTreeMap<String, String>,
    /// Any text to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Replaces the template's policy.
    pub network: Option<NetworkPolicy>,
    /// The user it is to belong to.
    pub owner: Option<String>,
    /// Replaces the template's word on whether its ports are open to everybody.
    pub public: Option<bool>,
    /// Replaces the template's start command.
    pub start_command: Option<Vec<String>>,
    /// Replaces the template's default user.
    pub user: Option<String>,
    /// Replaces the template's default directory.
    pub workdir: Option<String>,
    /// Replaces the template's seconds until it pauses by itself; 0 is never.
    pub pause_after: Option<u64>,
    /// The same from paused to stopped.
    pub stop_after: Option<u64>,
    /// The same from stopped to terminated.
    pub terminate_after: Option<u64>,
    /// Replaces what the template says happens at the deadline.
    pub on_deadline: Option<OnDeadline>,
    /// Replaces the template's word on whether a request to a port wakes it.
    pub wake_on_request: Option<bool>,
    /// Whether its agent is open to whoever knows its id.
    pub agent_open: bool,
    /// What applications behind its ports see as `Host`.
    pub mask_host: Option<String>,
    /// Ports whose applications speak HTTPS.
    pub https_ports: Vec<u16>,
}

/// What the machine (or cluster) can give to one sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Most CPU.
    pub cpu: MilliCpu,
    /// Most memory.
    pub memory: Bytes,
    /// Most disk.
    pub disk: Bytes,
    /// Most processes.
    pub pids: u64,
}

/// Identity and time of the sandbox to be made, which a pure function cannot make itself.
#[derive(Clone, Debug)]
pub struct Birth {
    /// Its identifier.
    pub id: SandboxId,
    /// The caller's tenant.
    pub tenant: String,
    /// Now.
    pub at: Timestamp,
}

/// Puts a request, its template and the capacity together into a sandbox to be created.
///
/// # Errors
/// Names the first field that cannot be satisfied.
pub fn resolve(
    ask: CreateRequest,
    template: Option<&Template>,
    capacity: &Capacity,
    birth: Birth,
) -> Result<Sandbox, Invalid> {
    let mut recipe = template.map(|t| t.spec.clone()).unwrap_or_default();
    let asked = SizeNames { cpu: ask.cpu.is_some(), memory: ask.memory.is_some(), disk: ask.disk.is_some() };
    merge(&mut recipe, &ask);
    recipe.check()?;
    check_env("env", &ask.env)?;
    ask.labels.iter().try_for_each(|(key, value)| check_label(key, value))?;
    check_metadata(&ask.metadata)?;
    ask.mask_host.as_deref().map_or(Ok(()), check_mask)?;
    check_https_ports(&ask.https_ports)?;
    let limits = limits(&recipe, asked, capacity)?;
    let requests = requests(&recipe, &ask.requests, &limits)?;
    let deadline = deadline(ask.ttl, &recipe, birth.at)?;
    let volumes = volumes(&recipe, ask.owner.as_deref())?;
    let spec = SandboxSpec {
        owner: ask.owner,
        volumes,
        requests,
        metadata: ask.metadata,
        agent_open: ask.agent_open,
        mask_host: ask.mask_host,
        https_ports: ask.https_ports,
        ..spec(recipe, template, limits, birth)
    };
    Ok(Sandbox::new(spec, deadline))
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Invalid> {
    let size: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MOST_METADATA {
        let problem = format!("{size} bytes; the most is {MOST_METADATA}");
        return Err(Invalid::new("metadata", problem));
    }
    let nul =
        metadata.iter().find(|(key, value)| key.is_empty() || key.contains('\0') || value.contains('\0'));
    match nul {
        Some((key, _)) => Err(Invalid::new("metadata", format!("{key:?} is empty or has a NUL character"))),
        None => Ok(()),
    }
}

/// A host name, as it can stand in a header, once the port's number is in it.
fn check_mask(mask: &str) -> Result<(), Invalid> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    let shown = mask.replace(PORT_MARK, "65535");
    if (1..=255).contains(&shown.len()) && shown.bytes().all(plain) {
        return Ok(());
    }
    let rule = format!("{mask:?} is no host name; write it as example.com or localhost:{PORT_MARK}");
    Err(Invalid::new("mask_host", rule))
}

fn check_https_ports(ports: &[u16]) -> Result<(), Invalid> {
    match ports.iter().position(|port| *port == 0) {
        Some(n) => Err(Invalid::new(format!("https_ports[{n}]"), "0 is no port; give 1 to 65535")),
        None => Ok(()),
    }
}

/// Volumes are a user's, so a sandbox that has any is one's too.
fn volumes(recipe: &TemplateSpec, owner: Option<&str>) -> Result<Vec<Volume>, Invalid> {
    owner.map(|user| check_owner("owner", user)).transpose()?;
    let volumes = volume::parse(&recipe.volumes)?;
    if owner.is_none() && !volumes.is_empty() {
        return Err(Invalid::new("owner", "this template has volumes; name the user whose they are"));
    }
    Ok(volumes)
}

/// Which sizes the caller named itself: those are refused above the capacity, a template's are clamped to it.
#[derive(Clone, Copy)]
struct SizeNames {
    cpu: bool,
    memory: bool,
    disk: bool,
}

fn merge(recipe: &mut TemplateSpec, ask: &CreateRequest) {
    let replace = |slot: &mut Option<String>, value: &Option<String>| {
        if value.is_some() {
            slot.clone_from(value);
        }
    };
    if let Some(image) = &ask.image {
        recipe.image.clone_from(image);
    }
    replace(&mut recipe.cpu, &ask.cpu);
    replace(&mut recipe.memory, &ask.memory);
    replace(&mut recipe.disk, &ask.disk);
    replace(&mut recipe.requests.cpu, &ask.requests.cpu);
    replace(&mut recipe.requests.memory, &ask.requests.memory);
    replace(&mut recipe.user, &ask.user);
    replace(&mut recipe.workdir, &ask.workdir);
    recipe.pids = ask.pids.or(recipe.pids);
    recipe.public = ask.public.unwrap_or(recipe.public);
    recipe.io = std::mem::take(&mut recipe.io).replaced_by(&ask.io);
    recipe.start_command = ask.start_command.clone().or(recipe.start_command.take());
    recipe.network = ask.network.clone().unwrap_or(std::mem::take(&mut recipe.network));
    recipe.env.extend(ask.env.clone());
    recipe.labels.extend(ask.labels.clone());
    merge_lifecycle(&mut recipe.lifecycle, ask);
}

fn merge_lifecycle(policy: &mut LifecyclePolicy, ask: &CreateRequest) {
    let replace = |slot: &mut Option<u64>, asked: Option<u64>| {
        if let Some(seconds) = asked {
            *slot = Some(seconds).filter(|seconds| *seconds > 0);
        }
    };
    replace(&mut policy.pause_after, ask.pause_after);
    replace(&mut policy.stop_after, ask.stop_after);
    replace(&mut policy.terminate_after, ask.terminate_after);
    policy.on_deadline = ask.on_deadline.unwrap_or(policy.on_deadline);
    policy.wake_on_request = ask.wake_on_request.unwrap_or(policy.wake_on_request);
}

fn limits(recipe: &TemplateSpec, asked: SizeNames, capacity: &Capacity) -> Result<Limits, Invalid> {
    let (cpu, memory, disk) = recipe.tier.requests();
    let named = |text: &Option<String>| text.as_deref().map(str::to_owned);
    let cpu = match named(&recipe.cpu) {
        Some(text) => MilliCpu::parse("cpu", &text)?,
        None => MilliCpu(cpu.0 * 2),
    };
    let memory = match named(&recipe.memory) {
        Some(text) => Bytes::parse("memory", &text)?,
        None => Bytes(memory.0 * 2),
    };
    let disk = match named(&recipe.disk) {
        Some(text) => Bytes::parse("disk", &text)?,
        None => disk,
    };
    refuse_below("memory", memory, LEAST_MEMORY)?;
    refuse_below("disk", disk, LEAST_DISK)?;
    Ok(Limits {
        cpu: MilliCpu(fit("cpu", cpu.0, capacity.cpu.0, asked.cpu, &capacity.cpu)?),
        memory: Bytes(fit("memory", memory.0, capacity.memory.0, asked.memory, &capacity.memory)?),
        disk: Bytes(fit("disk", disk.0, capacity.disk.0, asked.disk, &capacity.disk)?),
        pids: pids(recipe.pids, capacity)?,
        io: recipe.io.parse()?,
    })
}

fn fit(
    field: &str,
    value: u64,
    most: u64,
    asked: bool,
    shown: &dyn std::fmt::Display,
) -> Result<u64, Invalid> {
    if value > most && asked {
        return Err(Invalid::new(field, format!("more than this machine has; the most is {shown}")));
    }
    Ok(value.min(most))
}

/// Requests that the caller names are refused above the limits; others are clamped to them.
fn requests(recipe: &TemplateSpec, asked: &RequestSpec, limits: &Limits) -> Result<Requests, Invalid> {
    let (cpu, memory, _) = recipe.tier.requests();
    let named = |text: &Option<String>| text.as_deref().map(str::to_owned);
    let cpu = named(&recipe.requests.cpu).map_or(Ok(cpu), |text| MilliCpu::parse("requests.cpu", &text))?;
    let memory =
        named(&recipe.requests.memory).map_or(Ok(memory), |text| Bytes::parse("requests.memory", &text))?;
    let refuse = |field: &str, limit: &dyn std::fmt::Display| {
        Err(Invalid::new(field, format!("more than the limit, which is {limit}")))
    };
    if asked.cpu.is_some() && cpu > limits.cpu {
        return refuse("requests.cpu", &limits.cpu);
    }
    if asked.memory.is_some() && memory > limits.memory {
        return refuse("requests.memory", &limits.memory);
    }
    Ok(Requests { cpu: cpu.min(limits.cpu), memory: memory.min(limits.memory) })
}

fn refuse_below(field: &str, value: Bytes, least: Bytes) -> Result<(), Invalid> {
    if value < least {
        return Err(Invalid::new(field, format!("{value} is too little to start; the least is {least}")));
    }
    Ok(())
}

fn pids(asked: Option<u64>, capacity: &Capacity) -> Result<u64, Invalid> {
    match asked {
        None => Ok(DEFAULT_PIDS.min(capacity.pids)),
        Some(number) if (8..=capacity.pids).contains(&number) => Ok(number),
        Some(number) => Err(Invalid::new("pids", format!("{number} is not between 8 and {}", capacity.pids))),
    }
}

fn deadline(ttl: Ttl, recipe: &TemplateSpec, now: Timestamp) -> Result<Option<Timestamp>, Invalid> {
    let seconds = match ttl {
        Ttl::Template => recipe.lifecycle.ttl,
        Ttl::Never if recipe.lifecycle.allow_no_ttl => None,
        Ttl::Never => return Err(Invalid::new("ttl", "this template demands a time to live; give seconds")),
        Ttl::Seconds(seconds) => Some(positive(seconds)?),
    };
    let beyond = || Invalid::new("ttl", "reaches beyond the end of time; use null for no deadline");
    seconds.map(|seconds| later(now, seconds).ok_or_else(beyond)).transpose()
}

/// A time to live in seconds, as a caller may give it.
///
/// # Errors
/// When it is 0 or negative.
pub fn positive(seconds: i64) -> Result<u64, Invalid> {
    let refuse =
        || Invalid::new("ttl", format!("{seconds} is not a time to live; give at least 1 second, or null"));
    u64::try_from(seconds).ok().filter(|s| *s > 0).ok_or_else(refuse)
}

fn spec(recipe: TemplateSpec, template: Option<&Template>, limits: Limits, birth: Birth) -> SandboxSpec {
    SandboxSpec {
        id: birth.id,
        tenant: birth.tenant,
        owner: None,
        template: template.map(|t| t.name.clone()),
        template_version: template.map(|t| t.version),
        image: recipe.image,
        limits,
        requests: Requests::default(),
        env: recipe.env,
        start_command: recipe.start_command,
        ready_command: recipe.ready_command,
        user: recipe.user,
        workdir: recipe.workdir,
        ports: recipe.ports,
        volumes: Vec::new(),
        public: recipe.public,
        agent_open: false,
        mask_host: None,
        https_ports: Vec::new(),
        network: recipe.network,
        sudo: recipe.sudo.unwrap_or(true),
        runtime: recipe.runtime,
        executor: recipe.executor,
        lifecycle: recipe.lifecycle,
        labels: recipe.labels,
        metadata: BTreeMap::new(),
        created_at: birth.at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::VolumeSpec;

    const ROOM: Capacity =
        Capacity { cpu: MilliCpu(2000), memory: Bytes(8 << 30), disk: Bytes(64 << 30), pids: 4096 };

    fn birth() -> Birth {
        Birth { id: SandboxId::from_entropy([1; 19]), tenant: "default".into(), at: Timestamp::UNIX_EPOCH }
    }

    fn ask(image: &str) -> CreateRequest {
        CreateRequest { image: Some(image.into()), ..CreateRequest::default() }
    }

    fn resolved(ask: CreateRequest) -> Result<Sandbox, Invalid> {
        resolve(ask, None, &ROOM, birth())
    }

    #[test]
    fn derived_limits_are_twice_the_tier_clamped_to_the_machine() {
        let limits = resolved(ask("base")).unwrap().spec.limits;
        assert_eq!((limits.cpu.0, limits.memory.0, limits.pids), (2000, 4 << 30, DEFAULT_PIDS));
    }

    #[test]
    fn what_the_caller_names_is_the_limit_and_too_much_is_refused() {
        let named = CreateRequest { cpu: Some("500m".into()), memory: Some("512Mi".into()), ..ask("base") };
        let limits = resolved(named).unwrap().spec.limits;
        assert_eq!((limits.cpu.0, limits.memory.0), (500, 512 << 20));
        for (field, request) in [
            ("cpu", CreateRequest { cpu: Some("3".into()), ..ask("base") }),
            ("memory", CreateRequest { memory: Some("9Gi".into()), ..ask("base") }),
            ("disk", CreateRequest { disk: Some("1Ti".into()), ..ask("base") }),
            ("memory", CreateRequest { memory: Some("1Mi".into()), ..ask("base") }),
            ("pids", CreateRequest { pids: Some(5000), ..ask("base") }),
        ] {
            assert_eq!(resolved(request).unwrap_err().field, field);
        }
    }

    #[test]
    fn requests_are_the_tiers_unless_named_and_within_the_limits() {
        let of = |cpu: &str, limit: &str| CreateRequest {
            requests: RequestSpec { cpu: Some(cpu.into()), memory: None },
            cpu: Some(limit.into()),
            ..ask("base")
        };
        let plain = resolved(ask("base")).unwrap().spec.requests;
        assert_eq!((plain.cpu.0, plain.memory.0), (1000, 2 << 30));
        assert_eq!(resolved(of("250m", "500m")).unwrap().spec.requests.cpu.0, 250);
        let small = CreateRequest { cpu: Some("500m".into()), ..ask("base") };
        assert_eq!(resolved(small).unwrap().spec.requests.cpu.0, 500, "clamped");
        assert_eq!(resolved(of("501m", "500m")).unwrap_err().field, "requests.cpu");
        let memory = RequestSpec { cpu: None, memory: Some("5Gi".into()) };
        let much = CreateRequest { requests: memory, ..ask("base") };
        assert_eq!(resolved(much).unwrap_err().field, "requests.memory");
    }

    #[test]
    fn ttl_is_the_templates_unless_said_and_never_zero() {
        assert_eq!(resolved(ask("base")).unwrap().deadline, None);
        let hour = resolved(CreateRequest { ttl: Ttl::Seconds(3600), ..ask("base") }).unwrap();
        assert_eq!(hour.deadline, Some(Timestamp::from_second(3600).unwrap()));
        for seconds in [0, -1, i64::MIN, i64::MAX] {
            let refused = resolved(CreateRequest { ttl: Ttl::Seconds(seconds), ..ask("base") });
            assert_eq!(refused.unwrap_err().field, "ttl", "{seconds}");
        }
    }

    #[test]
    fn metadata_is_any_text_of_some_size() {
        let with = |key: &str, value: String| CreateRequest {
            metadata: BTreeMap::from([(key.to_owned(), value)]),
            ..ask("base")
        };
        let made = resolved(with("a key, any", "\u{fffd} & = ".into())).unwrap();
        assert_eq!(made.spec.metadata.len(), 1);
        for bad in [with("", "x".into()), with("x", "\0".into()), with("x", "y".repeat(MOST_METADATA))] {
            assert_eq!(resolved(bad).unwrap_err().field, "metadata");
        }
    }

    #[test]
    fn a_masked_host_is_a_host() {
        let with = |mask: &str| resolved(CreateRequest { mask_host: Some(mask.into()), ..ask("base") });
        assert!(with("localhost:${PORT}").is_ok() && with("[::1]").is_ok());
        for bad in ["", "a b", "a/b", "$PORT", "a\r\nx: y"] {
            assert_eq!(with(bad).unwrap_err().field, "mask_host", "{bad:?}");
        }
    }

    #[test]
    fn ports_that_speak_https_are_ports() {
        let with =
            |https_ports: &[u16]| resolved(CreateRequest { https_ports: https_ports.into(), ..ask("base") });
        assert_eq!(with(&[443, 8443]).unwrap().spec.https_ports, [443, 8443]);
        assert_eq!(with(&[443, 0]).unwrap_err().field, "https_ports[1]");
    }

    #[test]
    fn each_step_of_rest_can_be_asked_for() {
        let asked = CreateRequest {
            pause_after: Some(0),
            stop_after: Some(7),
            on_deadline: Some(OnDeadline::Pause),
            wake_on_request: Some(false),
            ..ask("base")
        };
        let policy = resolved(asked).unwrap().spec.lifecycle;
        let default = LifecyclePolicy::default();
        let expected = LifecyclePolicy {
            pause_after: None,
            stop_after: Some(7),
            on_deadline: OnDeadline::Pause,
            wake_on_request: false,
            ..default
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn volumes_need_an_owner() {
        let home = VolumeSpec { path: "/home/user".into(), size: None };
        let volumes = BTreeMap::from([("home".to_owned(), home)]);
        let spec = TemplateSpec { image: "base".into(), volumes, ..TemplateSpec::default() };
        let template = Template { name: "t".into(), version: 1, spec, created_at: Timestamp::UNIX_EPOCH };
        let of = |owner: Option<&str>| CreateRequest {
            owner: owner.map(str::to_owned),
            ..CreateRequest::default()
        };
        let made = |owner| resolve(of(owner), Some(&template), &ROOM, birth());
        assert_eq!(made(None).unwrap_err().field, "owner");
        assert_eq!(made(Some("")).unwrap_err().field, "owner");
        let spec = made(Some("alice")).unwrap().spec;
        assert_eq!((spec.owner.as_deref(), spec.volumes.len()), (Some("alice"), 1));
    }

    #[test]
    fn a_template_that_demands_an_end_refuses_never() {
        let mut spec = TemplateSpec { image: "base".into(), ..TemplateSpec::default() };
        (spec.lifecycle.allow_no_ttl, spec.lifecycle.ttl) = (false, Some(60));
        let template = Template { name: "t".into(), version: 3, spec, created_at: Timestamp::UNIX_EPOCH };
        let never = CreateRequest { ttl: Ttl::Never, ..CreateRequest::default() };
        assert_eq!(resolve(never, Some(&template), &ROOM, birth()).unwrap_err().field, "ttl");
        let made = resolve(CreateRequest::default(), Some(&template), &ROOM, birth()).unwrap();
        assert_eq!(
            (made.spec.template_version, made.deadline),
            (Some(3), Some(Timestamp::from_second(60).unwrap()))
        );
    }
}
