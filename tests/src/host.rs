//! What the kernel of the host says: mounts, control groups, interfaces, loop devices, processes, memory. It must not
//! change anything but send signals to processes that a test started.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

/// What stands on the host at one moment, one line each, each line naming the kind first.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at everything that a sandbox may leave behind.
    ///
    /// # Errors
    /// The kernel's files cannot be read.
    pub fn take() -> Result<Self> {
        let mut all = BTreeSet::new();
        all.extend(mounts()?.into_iter().map(|path| format!("mount {path}")));
        all.extend(control_groups().into_iter().map(|path| format!("control group {}", path.display())));
        all.extend(names_in(Path::new("/sys/class/net")).into_iter().map(|name| format!("interface {name}")));
        all.extend(loop_devices().into_iter().map(|backing| format!("loop device on {backing}")));
        all.extend(tables().into_iter().map(|table| format!("nftables table {table}")));
        all.extend(processes().into_iter().map(|(pid, line)| format!("process {pid}: {line}")));
        Ok(Self(all))
    }

    /// What is here, carries one of these marks and was not there before. Other servers on the same machine come and go
    /// meanwhile: what carries another mark, or none, is theirs.
    #[must_use]
    pub fn since(&self, before: &Self, marks: &[String]) -> Vec<String> {
        let ours = |line: &&String| marks.iter().any(|mark| line.contains(mark.as_str()));
        self.0.difference(&before.0).filter(ours).cloned().collect()
    }
}

/// What marks things of a server's directory: its path, and the tag in the names of its interfaces and control groups.
#[must_use]
pub fn marks(data: &Path) -> Vec<String> {
    let chosen = std::fs::read_to_string(data.join("host.json")).unwrap_or_default();
    let chosen: serde_json::Value = serde_json::from_str(&chosen).unwrap_or_default();
    let tag = chosen["tag"].as_str().map(str::to_owned);
    tag.into_iter().chain([data.display().to_string()]).collect()
}

/// Mount points of this process's namespace.
///
/// # Errors
/// The kernel's file cannot be read.
pub fn mounts() -> Result<Vec<String>> {
    let info = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(info.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect())
}

fn control_groups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        let children = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let dirs =
            children.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|entry| entry.path());
        let dirs: Vec<_> = dirs.collect();
        open.extend(dirs.iter().cloned());
        found.extend(dirs);
    }
    found
}

/// Names of the control groups right below every group of this name, in any hierarchy.
#[must_use]
pub fn groups_below(name: &str) -> BTreeSet<String> {
    let parent =
        |path: &PathBuf| path.parent().and_then(Path::file_name).is_some_and(|parent| parent == name);
    let last = |path: &PathBuf| path.file_name().map(|last| last.to_string_lossy().into_owned());
    control_groups().iter().filter(|path| parent(path)).filter_map(last).collect()
}

/// What a file of the control group of this name says, in whichever hierarchy has one.
///
/// # Errors
/// None has.
pub fn group_file(group: &str, file: &str) -> Result<String> {
    let named = control_groups().into_iter().filter(|path| path.ends_with(group));
    let read = named.filter_map(|path| std::fs::read_to_string(path.join(file)).ok()).next();
    read.with_context(|| format!("no control group {group} has {file}"))
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn loop_devices() -> Vec<String> {
    let devices = names_in(Path::new("/sys/block")).into_iter().filter(|name| name.starts_with("loop"));
    let backing = |name: String| std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok();
    devices.filter_map(backing).map(|file| file.trim_end().to_owned()).collect()
}

fn tables() -> Vec<String> {
    let listed = Command::new("nft").args(["list", "tables"]).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Every process with its command line, or its name where there is none, and its control groups.
#[must_use]
pub fn processes() -> Vec<(u32, String)> {
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<u32>().ok());
    let describe = |pid: u32| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let line = read("cmdline")?.replace('\0', " ");
        let groups = read("cgroup")?
            .lines()
            .filter_map(|l| l.split(':').nth(2))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .fold(String::new(), |all, one| all + " " + one);
        Some((pid, format!("{}{}[{groups} ]", line, read("comm")?.trim_end())))
    };
    pids.filter_map(describe).collect()
}

/// Processes that are in a control group whose path contains `part`, by pid.
#[must_use]
pub fn processes_in_group(part: &str) -> Vec<u32> {
    let inside = |line: &str| line.rsplit('[').next().is_some_and(|groups| groups.contains(part));
    let mut pids: Vec<_> =
        processes().into_iter().filter(|(_, line)| inside(line)).map(|(pid, _)| pid).collect();
    pids.sort_unstable();
    pids
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// There is no such process.
pub fn resident(pid: u32) -> Result<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Memory that the host could give away, in bytes.
///
/// # Errors
/// The kernel's file cannot be read.
pub fn available() -> Result<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} in {path}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Sends a signal to a process that a test started.
///
/// # Errors
/// There is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0 is no process")?;
    Ok(kill_process(pid, signal)?)
}
