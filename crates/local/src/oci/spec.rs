//! A sandbox as an OCI runtime configuration: the same walls as our own launcher's, from the same lists. It looks at
//! the new root, and changes nothing.

use atoll_core::io::IoLimits;
use oci_spec::{
    OciSpecError,
    runtime::{
        Arch, Capabilities, Capability, Linux, LinuxBlockIo, LinuxBlockIoBuilder, LinuxBuilder,
        LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxIdMapping,
        LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
        LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxSeccomp, LinuxSeccompAction,
        LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall,
        LinuxSyscallBuilder, LinuxThrottleDeviceBuilder, Mount, MountBuilder, PosixRlimit,
        PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    },
};
use std::{ffi::CStr, fs, path::PathBuf};

use super::{AGENT_PORT, Kind, Through};
use crate::cgroup::throttle::Device;
use crate::launcher::{
    Launch, UIDS_PER_SANDBOX, mounts,
    privileges::{self, ResourceLimit},
    syscalls::{self, Allowed, Test},
};

/// Where the agent and what it is told are inside a sandbox: a read-only mount of their own.
pub const INSIDE: &str = "/.atoll";
const AGENT: &str = "/.atoll/agent";
/// Period of the CPU quota in microseconds; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
const VERSION: &str = "1.0.2";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The namespaces that are there already; the runtime makes the others.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    /// The user namespace, where ids are mapped.
    pub user: Option<PathBuf>,
    /// The network namespace, where it must be ready before the container is made.
    pub network: Option<PathBuf>,
}

/// The configuration. `inside` is the directory that becomes [`INSIDE`].
///
/// # Errors
/// When something cannot be said in it.
pub fn spec(
    launch: &Launch,
    through: &Through,
    limits: &[ResourceLimit],
    joined: Joined,
    inside: PathBuf,
) -> Result<Spec, OciSpecError> {
    SpecBuilder::default()
        .version(VERSION)
        .hostname(&launch.hostname)
        .root(RootBuilder::default().path(root(through)).readonly(false).build()?)
        .process(process(launch, through, limits)?)
        .mounts(all_mounts(through, inside)?)
        .linux(linux(launch, through, joined)?)
        .build()
}

/// By its whole path: gVisor takes no other.
fn root(through: &Through) -> PathBuf {
    through.workplace.join(mounts::ROOT)
}

fn process(launch: &Launch, through: &Through, limits: &[ResourceLimit]) -> Result<Process, OciSpecError> {
    let kept = privileges::KEPT.iter().filter_map(|(_, name)| name.strip_prefix("CAP_")?.parse().ok());
    let kept: Capabilities = kept.collect::<Vec<Capability>>().into_iter().collect();
    let none = Capabilities::new();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(kept.clone())
        .effective(kept.clone())
        .permitted(kept)
        .inheritable(none.clone())
        .ambient(none)
        .build()?;
    let mut limits = limits.iter().map(resource_limit).collect::<Result<Vec<_>, _>>()?;
    if through.kind == Kind::Gvisor {
        limits.push(resource_limit(&(libc::RLIMIT_NPROC, through.limits.pids, through.limits.pids))?);
    }
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .cwd("/")
        .args(arguments(through))
        .env(vec![PATH.to_owned()])
        .capabilities(capabilities)
        .rlimits(limits)
        .build()?;
    // Left out where it is not wanted: youki takes `false` for a filter that it must load without any privilege.
    process.set_no_new_privileges((!launch.sudo).then_some(true));
    Ok(process)
}

/// The agent's command line. Its standard output is the log: the runtimes pass it on as the file that it is, where a
/// mounted one could be filled by anybody inside.
fn arguments(through: &Through) -> Vec<String> {
    let listen = format!("127.0.0.1:{AGENT_PORT}");
    let config = format!("{INSIDE}/config.json");
    let words =
        ["--config", &config, "--listen-tcp", &listen, "--public-key", &through.public_key, "--log-fd", "1"];
    std::iter::once(AGENT).chain(words).map(str::to_owned).collect()
}

fn resource_limit(limit: &ResourceLimit) -> Result<PosixRlimit, OciSpecError> {
    let typ = match limit.0 {
        libc::RLIMIT_CORE => PosixRlimitType::RlimitCore,
        libc::RLIMIT_NPROC => PosixRlimitType::RlimitNproc,
        _ => PosixRlimitType::RlimitNofile,
    };
    PosixRlimitBuilder::default().typ(typ).soft(limit.1).hard(limit.2).build()
}

fn all_mounts(through: &Through, inside: PathBuf) -> Result<Vec<Mount>, OciSpecError> {
    let quiet = ["nosuid", "nodev", "noexec"];
    let quiet_read_only = ["nosuid", "nodev", "noexec", "ro"];
    let terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let mut all = vec![
        mount("/proc", "proc", "proc", &quiet)?,
        mount("/sys", "sysfs", "sysfs", &quiet_read_only)?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=0755", "size=1m"])?,
        mount("/dev/pts", "devpts", "devpts", &terminals)?,
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "nodev", "mode=1777"])?,
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet)?,
    ];
    if through.unified {
        all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &quiet_read_only)?);
    }
    if through.kind == Kind::Gvisor
        && fs::symlink_metadata(root(through).join("tmp")).is_ok_and(|tmp| tmp.is_dir())
    {
        // It would put memory on an empty one, which neither counts as disk nor outlives a stop.
        all.push(mount("/tmp", "bind", root(through).join("tmp"), &["rbind", "rw", "nosuid", "nodev"])?);
    }
    // The agent's own mount is below the other; not every crun takes it along.
    let agent = inside.join("agent");
    all.push(mount(INSIDE, "bind", inside, &["rbind", "ro", "nosuid", "nodev"])?);
    all.push(mount(AGENT, "bind", agent, &["bind", "ro", "nosuid", "nodev"])?);
    Ok(all)
}

fn mount(at: &str, kind: &str, from: impl Into<PathBuf>, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    MountBuilder::default().destination(at).typ(kind).source(from.into()).options(options).build()
}

fn linux(launch: &Launch, through: &Through, joined: Joined) -> Result<Linux, OciSpecError> {
    let text = |paths: &[&CStr]| paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(through, joined)?)
        .cgroups_path(&through.cgroup)
        .resources(resources(through)?)
        .masked_paths::<Vec<String>>(text(&mounts::MASKED))
        .readonly_paths::<Vec<String>>(text(&mounts::READ_ONLY))
        .seccomp(seccomp()?);
    if through.maps_ids() {
        let ids = [ids(launch)?];
        linux = linux.uid_mappings(ids).gid_mappings(ids);
    }
    linux.build()
}

fn ids(launch: &Launch) -> Result<LinuxIdMapping, OciSpecError> {
    LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(launch.uid_base)
        .size(UIDS_PER_SANDBOX)
        .build()
}

fn namespaces(through: &Through, joined: Joined) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let made = [Pid, Ipc, Uts, Mount, Cgroup].map(|typ| (typ, None));
    let user = through.maps_ids().then_some((User, joined.user));
    let all = made.into_iter().chain(user).chain([(Network, joined.network)]);
    all.map(|(typ, path)| {
        let namespace = LinuxNamespaceBuilder::default().typ(typ);
        if let Some(path) = path { namespace.path(path).build() } else { namespace.build() }
    })
    .collect()
}

/// The runtime makes and limits the groups, below our own parent, so that they are counted and frozen as every other.
fn resources(through: &Through) -> Result<LinuxResources, OciSpecError> {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let limits = &through.limits;
    let quota = signed(limits.cpu.0 * CPU_PERIOD_US / 1000);
    let mut memory = LinuxMemoryBuilder::default().limit(signed(limits.memory.0));
    if through.swap {
        // Of memory and swap together: none beside the memory.
        memory = memory.swap(signed(limits.memory.0));
    }
    let resources = LinuxResourcesBuilder::default()
        .devices([LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?])
        .memory(memory.build()?)
        .cpu(LinuxCpuBuilder::default().quota(quota).period(CPU_PERIOD_US).build()?)
        .pids(LinuxPidsBuilder::default().limit(signed(host_pids(through))).build()?);
    match through.io_devices.is_empty() {
        true => resources.build(),
        false => resources.block_io(block_io(&limits.io, &through.io_devices)?).build(),
    }
}

fn block_io(limits: &IoLimits, devices: &[Device]) -> Result<LinuxBlockIo, OciSpecError> {
    let on_each = |rate: u64| -> Result<Vec<_>, OciSpecError> {
        let one = |it: &Device| {
            LinuxThrottleDeviceBuilder::default().major(it.major).minor(it.minor).rate(rate).build()
        };
        devices.iter().map(one).collect()
    };
    let mut throttles = LinuxBlockIoBuilder::default();
    if let Some(rate) = limits.read_rate {
        throttles = throttles.throttle_read_bps_device(on_each(rate.0)?);
    }
    if let Some(rate) = limits.write_rate {
        throttles = throttles.throttle_write_bps_device(on_each(rate.0)?);
    }
    if let Some(rate) = limits.read_iops {
        throttles = throttles.throttle_read_iops_device(on_each(rate)?);
    }
    if let Some(rate) = limits.write_iops {
        throttles = throttles.throttle_write_iops_device(on_each(rate)?);
    }
    throttles.build()
}

/// gVisor's own kernel holds each user inside to the limit. For each process inside it keeps two or three outside, and some
/// dozens for itself; it ends with the sandbox when it cannot have one, so the outer limit is only the last wall.
fn host_pids(through: &Through) -> u64 {
    match through.kind {
        Kind::Host => through.limits.pids,
        Kind::Gvisor => through.limits.pids * 4 + 256,
    }
}

/// The launcher's filter in the runtimes' words.
fn seccomp() -> Result<LinuxSeccomp, OciSpecError> {
    let (plain, tested): (Vec<Allowed>, _) =
        syscalls::allowed().into_iter().partition(|it| it.tests.is_empty());
    let allow = LinuxSeccompAction::ScmpActAllow;
    let names: Vec<String> = plain.iter().map(|it| name(it.call)).collect();
    let mut rules = vec![LinuxSyscallBuilder::default().names(names).action(allow).build()?];
    for it in &tested {
        for arg in arguments_of(it)? {
            rules.push(
                LinuxSyscallBuilder::default().names([name(it.call)]).action(allow).args([arg]).build()?,
            );
        }
    }
    rules.push(absent()?);
    let otherwise = LinuxSeccompBuilder::default().default_action(LinuxSeccompAction::ScmpActErrno);
    let native = if cfg!(target_arch = "x86_64") { Arch::ScmpArchX86_64 } else { Arch::ScmpArchAarch64 };
    otherwise.default_errno_ret(libc::EPERM.unsigned_abs()).architectures([native]).syscalls(rules).build()
}

fn absent() -> Result<LinuxSyscall, OciSpecError> {
    let names: Vec<String> = syscalls::ABSENT.iter().map(|call| name(*call)).collect();
    let answer = LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActErrno);
    answer.errno_ret(libc::ENOSYS.unsigned_abs()).build()
}

fn name(call: syscalls::Call) -> String {
    call.0.trim_start_matches("SYS_").to_owned()
}

/// One alternative each. Runtimes compare all 64 bits, where the kernel takes 32 of them: so "not equal" is said bit by bit.
fn arguments_of(call: &Allowed) -> Result<Vec<LinuxSeccompArg>, OciSpecError> {
    let masked = |mask: u32, value: u32| {
        LinuxSeccompArgBuilder::default()
            .index(usize::from(call.argument))
            .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
            .value(u64::from(mask))
            .value_two(u64::from(value))
            .build()
    };
    let alternatives = call.tests.iter().flat_map(|test| match *test {
        Test::Masked { mask, value } => vec![masked(mask, value)],
        Test::NotEqual(value) => (0..32).map(|bit| masked(1 << bit, !value & 1 << bit)).collect(),
    });
    alternatives.collect()
}
