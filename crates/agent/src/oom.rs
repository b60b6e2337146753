//! How often the kernel killed for want of memory, as far as it can be seen from inside. A hint: where the control
//! group is not visible the count is the machine's.

use std::sync::Mutex;
use std::sync::PoisonError;

/// Files that count, the sandbox's own first, and the name of the count in each.
const SOURCES: [&str; 4] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
    "/sys/fs/cgroup/memory.oom_control",
    "/proc/vmstat",
];

/// Remembers the count from call to call.
pub struct OomWatch(Mutex<u64>);

impl OomWatch {
    pub fn new() -> Self {
        Self(Mutex::new(count()))
    }

    /// Whether the kernel killed since the last call.
    pub fn has_grown(&self) -> bool {
        let now = count();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = now > *last;
        *last = now;
        grown
    }
}

fn count() -> u64 {
    SOURCES.iter().find_map(|file| parse(&std::fs::read_to_string(file).ok()?)).unwrap_or(0)
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
}
