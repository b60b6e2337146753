//! Control groups of sandboxes: limits, freezing, killing, counting; version 1, 2 and the hybrid of both.
//! It must not know what runs in a group.

pub mod throttle;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use atoll_core::{driver::Usage, io::IoLimits, sandbox::Limits};

use self::throttle::Device;

/// Period of the CPU quota in microseconds; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// How long all processes of a group may take to freeze.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so many looks, a group that is not frozen yet is frozen anew.
const FROZEN_ANEW: u32 = 50;
/// How long a teardown waits for the kernel to let go of a group's last process, which may write a filesystem back.
const LAST_BREATH: Duration = Duration::from_secs(60);
/// Controllers that a sandbox is limited and counted by, under version 1.
const V1_CONTROLLERS: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "freezer", "blkio"];

/// Which control groups this machine has, and where ours are.
#[derive(Clone, Debug)]
pub struct Cgroups {
    layout: Layout,
    /// Hierarchies that sandboxes are not limited by, but in which an OCI runtime makes groups all the same.
    others: Vec<PathBuf>,
    parent: String,
}

#[derive(Clone, Debug)]
enum Layout {
    /// Mount point of each controller.
    V1(BTreeMap<String, PathBuf>),
    /// The one mount point.
    V2(PathBuf),
}

/// What cannot be done with control groups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Neither version has what a sandbox needs.
    #[error("no control group controller for {0}; mount it, or boot with it enabled")]
    Missing(&'static str),
    /// A file of a group could not be read or written.
    #[error("control group {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Processes did not go away.
    #[error("control group {0} still has processes")]
    Busy(PathBuf),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CgroupError + '_ {
    move |source| CgroupError::File { path: path.to_owned(), source }
}

fn write(path: &Path, value: impl AsRef<[u8]>) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(at(path))
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of `key value` lines.
fn read_field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

fn make(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path)(error)),
        _ => Ok(()),
    }
}

impl Cgroups {
    /// Looks at what is mounted. `parent` is the name of the group in which all of ours are.
    ///
    /// # Errors
    /// When memory, CPU or process limits cannot be had.
    pub fn discover(parent: &str) -> Result<Self, CgroupError> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(at(Path::new("/proc/self/mountinfo")))?;
        let layout = layout(&mounts)?;
        Ok(Self { others: others(&mounts, &layout), layout, parent: parent.to_owned() })
    }

    /// `1` or `2`.
    #[must_use]
    pub fn version(&self) -> u8 {
        match self.layout {
            Layout::V1(_) => 1,
            Layout::V2(_) => 2,
        }
    }

    /// Whether the kernel counts swap, so that it can be limited.
    #[must_use]
    pub fn limits_swap(&self) -> bool {
        let file = if self.version() == 1 { "memory.memsw.limit_in_bytes" } else { "memory.swap.max" };
        self.root("memory").join(&self.parent).join(file).exists()
    }

    /// Makes the group of all our sandboxes, with a limit of processes for all of them together.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ensure_parent(&self, pids: u64) -> Result<(), CgroupError> {
        let controllers = if self.throttles() { "+memory +cpu +pids +io" } else { "+memory +cpu +pids" };
        if let Layout::V2(root) = &self.layout {
            write(&root.join("cgroup.subtree_control"), controllers)?;
        }
        for directory in self.roots() {
            make(&directory.join(&self.parent))?;
        }
        if let Layout::V2(root) = &self.layout {
            write(&root.join(&self.parent).join("cgroup.subtree_control"), controllers)?;
        }
        write(&self.pids_root().join(&self.parent).join("pids.max"), pids.to_string())
    }

    /// Removes the group of all our sandboxes, when it is empty.
    pub fn remove_parent(&self) {
        for directory in self.roots().iter().chain(&self.others) {
            let _ = fs::remove_dir(directory.join(&self.parent));
        }
    }

    /// Makes a sandbox's groups. Returns where its processes must be entered.
    ///
    /// # Errors
    /// When the kernel refuses; what was made is removed.
    pub fn create(&self, name: &str) -> Result<Vec<PathBuf>, CgroupError> {
        let groups = self.groups(name);
        if let Err(error) = groups.iter().try_for_each(|group| make(group)) {
            let _ = self.remove(name);
            return Err(error);
        }
        Ok(groups)
    }

    /// Sets a sandbox's limits.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit(&self, name: &str, limits: &Limits) -> Result<(), CgroupError> {
        let quota = limits.cpu.0 * CPU_PERIOD_US / 1000;
        match &self.layout {
            Layout::V1(_) => {
                write(
                    &self.group("memory", name).join("memory.limit_in_bytes"),
                    limits.memory.0.to_string(),
                )?;
                let swap = self.group("memory", name).join("memory.memsw.limit_in_bytes");
                if swap.exists() {
                    write(&swap, limits.memory.0.to_string())?;
                }
                write(&self.group("cpu", name).join("cpu.cfs_quota_us"), quota.to_string())?;
            }
            Layout::V2(_) => {
                let group = self.group("", name);
                write(&group.join("memory.max"), limits.memory.0.to_string())?;
                let swap = group.join("memory.swap.max");
                if swap.exists() {
                    write(&swap, "0")?;
                }
                write(&group.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
            }
        }
        write(&self.group("pids", name).join("pids.max"), limits.pids.to_string())
    }

    /// Whether I/O can be limited.
    #[must_use]
    pub fn throttles(&self) -> bool {
        match &self.layout {
            Layout::V1(_) => self.root("blkio").join("blkio.throttle.write_bps_device").exists(),
            Layout::V2(root) => {
                let had = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                had.split_whitespace().any(|controller| controller == "io")
            }
        }
    }

    /// Limits a sandbox's I/O on these devices.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_io(&self, name: &str, devices: &[Device], limits: &IoLimits) -> Result<(), CgroupError> {
        let group = self.group("blkio", name);
        for device in devices {
            match &self.layout {
                Layout::V1(_) => throttle::v1(limits, *device)
                    .iter()
                    .try_for_each(|(file, line)| write(&group.join(file), line))?,
                Layout::V2(_) => write(&group.join("io.max"), throttle::v2(limits, *device))?,
            }
        }
        Ok(())
    }

    /// Freezes or thaws every process of a sandbox, and returns when that is done.
    ///
    /// # Errors
    /// When the kernel refuses, or some process cannot be frozen in time; then all are thawed again.
    pub fn freeze(&self, name: &str, frozen: bool) -> Result<(), CgroupError> {
        let group = self.group("freezer", name);
        let (file, value) = match (&self.layout, frozen) {
            (Layout::V1(_), true) => ("freezer.state", "FROZEN"),
            (Layout::V1(_), false) => ("freezer.state", "THAWED"),
            (Layout::V2(_), true) => ("cgroup.freeze", "1"),
            (Layout::V2(_), false) => ("cgroup.freeze", "0"),
        };
        let thawed = if self.version() == 1 { "THAWED" } else { "0" };
        write(&group.join(file), value)?;
        let deadline = Instant::now() + PATIENCE;
        for turn in 1_u32.. {
            if self.is_frozen(name) == frozen {
                break;
            }
            if Instant::now() > deadline {
                write(&group.join(file), thawed)?;
                return Err(CgroupError::Busy(group));
            }
            thread::sleep(Duration::from_micros(100));
            // Under version 1 a group that forks all the time may stay half frozen until it is let go and frozen once more.
            if self.version() == 1 && frozen && turn % FROZEN_ANEW == 0 {
                write(&group.join(file), thawed)?;
                write(&group.join(file), value)?;
            }
        }
        Ok(())
    }

    /// Whether all of a sandbox's processes are frozen.
    #[must_use]
    pub fn is_frozen(&self, name: &str) -> bool {
        let group = self.group("freezer", name);
        match &self.layout {
            Layout::V1(_) => {
                fs::read_to_string(group.join("freezer.state")).is_ok_and(|s| s.trim() == "FROZEN")
            }
            Layout::V2(_) => read_field(&group.join("cgroup.events"), "frozen ") == Some(1),
        }
    }

    /// Kills every process of a sandbox, frozen ones too.
    pub fn kill(&self, name: &str) {
        for pid in self.processes(name) {
            // SAFETY: takes no memory. The pid was read from the group just now; one that ended meanwhile and was given to
            // another process in between would need the whole pid space to be used up in microseconds.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        // A frozen process takes its signal only when it thaws.
        let _ = match &self.layout {
            Layout::V1(_) => write(&self.group("freezer", name).join("freezer.state"), "THAWED"),
            Layout::V2(_) => write(&self.group("", name).join("cgroup.kill"), "1"),
        };
    }

    /// Processes of a sandbox, by their pids on the host.
    #[must_use]
    pub fn processes(&self, name: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.group("pids", name).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Removes a sandbox's groups. Kills what is still in them.
    ///
    /// # Errors
    /// When processes do not go away.
    pub fn remove(&self, name: &str) -> Result<(), CgroupError> {
        let deadline = Instant::now() + LAST_BREATH;
        let others = self.others.iter().map(|root| root.join(&self.parent).join(name));
        for group in self.groups(name).into_iter().chain(others) {
            while let Err(error) = fs::remove_dir(&group) {
                match error.kind() {
                    io::ErrorKind::NotFound => break,
                    io::ErrorKind::ResourceBusy if Instant::now() < deadline => {
                        self.kill(name);
                        thread::sleep(Duration::from_millis(1));
                    }
                    io::ErrorKind::ResourceBusy => return Err(CgroupError::Busy(group)),
                    _ => return Err(at(&group)(error)),
                }
            }
        }
        Ok(())
    }

    /// Names of all sandboxes that have a group.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .roots()
            .iter()
            .chain(&self.others)
            .filter_map(|root| fs::read_dir(root.join(&self.parent)).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// What a sandbox uses; the disk is not counted here.
    #[must_use]
    pub fn usage(&self, name: &str) -> Usage {
        let pids = read_number(&self.group("pids", name).join("pids.current")).unwrap_or(0);
        let memory = self.group("memory", name);
        match &self.layout {
            Layout::V1(_) => Usage {
                cpu_us: read_number(&self.group("cpuacct", name).join("cpuacct.usage")).unwrap_or(0) / 1000,
                memory: read_number(&memory.join("memory.usage_in_bytes")).unwrap_or(0),
                memory_peak: read_number(&memory.join("memory.max_usage_in_bytes")).unwrap_or(0),
                disk: None,
                pids,
                oom_kills: read_field(&memory.join("memory.oom_control"), "oom_kill ").unwrap_or(0),
            },
            Layout::V2(_) => Usage {
                cpu_us: read_field(&memory.join("cpu.stat"), "usage_usec ").unwrap_or(0),
                memory: read_number(&memory.join("memory.current")).unwrap_or(0),
                memory_peak: read_number(&memory.join("memory.peak")).unwrap_or(0),
                disk: None,
                pids,
                oom_kills: read_field(&memory.join("memory.events"), "oom_kill ").unwrap_or(0),
            },
        }
    }

    fn roots(&self) -> Vec<PathBuf> {
        match &self.layout {
            Layout::V1(mounts) => {
                let mut roots: Vec<PathBuf> = mounts.values().cloned().collect();
                roots.sort();
                roots.dedup();
                roots
            }
            Layout::V2(root) => vec![root.clone()],
        }
    }

    fn pids_root(&self) -> PathBuf {
        self.root("pids")
    }

    fn root(&self, controller: &str) -> PathBuf {
        match &self.layout {
            Layout::V1(mounts) => mounts.get(controller).cloned().unwrap_or_default(),
            Layout::V2(root) => root.clone(),
        }
    }

    fn group(&self, controller: &str, name: &str) -> PathBuf {
        self.root(controller).join(&self.parent).join(name)
    }

    fn groups(&self, name: &str) -> Vec<PathBuf> {
        self.roots().into_iter().map(|root| root.join(&self.parent).join(name)).collect()
    }
}

/// Prefers version 1 where its memory controller is mounted: on a hybrid, version 2 is there but empty.
fn layout(mountinfo: &str) -> Result<Layout, CgroupError> {
    let mut controllers = BTreeMap::new();
    let mut unified = None;
    for (point, kind, options) in mountinfo.lines().filter_map(mount) {
        match kind {
            "cgroup2" => unified = Some(PathBuf::from(point)),
            "cgroup" => {
                let ours = options.split(',').filter(|option| V1_CONTROLLERS.contains(option));
                controllers.extend(ours.map(|name| (name.to_owned(), PathBuf::from(point))));
            }
            _ => {}
        }
    }
    if controllers.contains_key("memory") {
        for needed in ["cpu", "cpuacct", "pids", "freezer"] {
            controllers.get(needed).map(drop).ok_or(CgroupError::Missing(needed))?;
        }
        return Ok(Layout::V1(controllers));
    }
    unified.map(Layout::V2).ok_or(CgroupError::Missing("memory"))
}

/// Every mounted hierarchy that is not in the layout.
fn others(mountinfo: &str, layout: &Layout) -> Vec<PathBuf> {
    let Layout::V1(ours) = layout else { return Vec::new() };
    let points = mountinfo.lines().filter_map(mount).filter(|(_, kind, _)| kind.starts_with("cgroup"));
    points
        .map(|(point, ..)| PathBuf::from(point))
        .filter(|point| ours.values().all(|it| it != point))
        .collect()
}

/// Mount point, type and superblock options of a line of mountinfo (proc(5)).
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let point = before.split(' ').nth(4)?;
    let mut rest = after.split(' ');
    Some((point, rest.next()?, rest.nth(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
1 0 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw
2 1 0:2 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
3 1 0:3 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
4 1 0:4 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
5 1 0:5 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
6 1 0:6 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_is_version_one_and_shared_mounts_count_once() {
        let layout = layout(HYBRID).unwrap();
        let groups = Cgroups { others: others(HYBRID, &layout), layout, parent: "p".into() };
        assert_eq!(groups.others, [Path::new("/sys/fs/cgroup/unified")]);
        assert_eq!((groups.version(), groups.roots().len()), (1, 4));
        assert_eq!(groups.group("cpuacct", "x"), Path::new("/sys/fs/cgroup/cpu/p/x"));
    }

    #[test]
    fn a_unified_mount_alone_is_version_two() {
        let found = layout("2 1 0:2 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n").unwrap();
        assert!(matches!(found, Layout::V2(root) if root == Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(layout("").unwrap_err().to_string().contains("memory"));
        let without: String =
            HYBRID.lines().filter(|l| !l.contains("pids")).map(|l| format!("{l}\n")).collect();
        assert!(layout(&without).unwrap_err().to_string().contains("pids"));
    }
}
