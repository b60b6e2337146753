//! How often the kernel killed for want of memory: in the control group where that can be seen, else on the machine.
//! A hint either way; who is outside knows better.

use std::path::PathBuf;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

const MACHINE: &str = "/proc/vmstat";

/// Remembers the count from call to call.
pub struct OomWatch {
    file: PathBuf,
    last: Mutex<u64>,
    blamed: AtomicU64,
}

impl OomWatch {
    pub fn new() -> Self {
        let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = files(&membership).into_iter().find(|file| count(file).is_some());
        let file = file.unwrap_or_else(|| MACHINE.into());
        Self { last: Mutex::new(count(&file).unwrap_or(0)), file, blamed: AtomicU64::new(0) }
    }

    /// A command begins: on a machine that many share, only what happens from now on can be its doing.
    pub fn begin(&self) {
        if self.file.as_os_str() == MACHINE {
            self.has_grown();
        }
    }

    /// Whether a command that was killed just now was killed for want of memory.
    pub fn is_to_blame(&self) -> bool {
        let grown = self.has_grown();
        self.blamed.fetch_add(u64::from(grown), Relaxed);
        grown
    }

    /// How often in all: what the control group counted, else how many commands it was blamed for.
    pub fn kills(&self) -> u64 {
        let own = (self.file.as_os_str() != MACHINE).then(|| count(&self.file)).flatten();
        own.unwrap_or_else(|| self.blamed.load(Relaxed))
    }

    /// Whether the kernel killed since the last call.
    fn has_grown(&self) -> bool {
        let now = count(&self.file).unwrap_or(0);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = now > *last;
        *last = now;
        grown
    }
}

/// Where the group of a process may count, from what /proc says of its membership.
fn files(membership: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|controller| controller == "memory") {
            files.push(PathBuf::from("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"));
        } else if controllers.is_empty() {
            files.push(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.events"));
        }
    }
    files
}

fn count(file: &PathBuf) -> Option<u64> {
    parse(&std::fs::read_to_string(file).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_in_all_formats() {
        assert_eq!(parse("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(parse("nr_free_pages 1\n"), None);
    }

    #[test]
    fn the_group_of_a_process_is_found_in_both_versions() {
        let found = files("9:pids:/x\n4:cpu,memory:/a/b\n0::/c\nbroken\n");
        let expected = ["/sys/fs/cgroup/memory/a/b/memory.oom_control", "/sys/fs/cgroup/c/memory.events"];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
