//! What the sandbox uses, as it can be seen from inside: the control group where it is mounted, else /proc.

use std::sync::{Mutex, OnceLock, PoisonError};

use atoll_proto::init::AgentConfig;

use crate::clock::now_ms;
use crate::procfs;

/// Measured at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics {
    pub timestamp_ms: u64,
    pub cpu_micros: u64,
    pub cpu_count: f64,
    pub memory_bytes: u64,
    pub memory_limit_bytes: u64,
    pub memory_cache_bytes: u64,
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
    pub pids: u32,
    pub memory_peak_bytes: u64,
}

/// Measures.
pub fn measure(config: &AgentConfig) -> Metrics {
    let entries = procfs::entries();
    let (disk_used_bytes, disk_total_bytes) = disk();
    let memory = number(["/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"]);
    Metrics {
        timestamp_ms: now_ms(),
        cpu_micros: cpu_micros(&entries),
        cpu_count: config.cpu_count.unwrap_or_else(visible_cpus),
        memory_bytes: memory.unwrap_or_else(|| resident(&entries)),
        memory_limit_bytes: config.memory_limit_bytes.unwrap_or_else(memory_limit),
        memory_cache_bytes: cache(),
        disk_used_bytes,
        disk_total_bytes,
        pids: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        memory_peak_bytes: number([
            "/sys/fs/cgroup/memory.peak",
            "/sys/fs/cgroup/memory/memory.max_usage_in_bytes",
        ])
        .unwrap_or(0),
    }
}

/// Turns CPU time into a share of one CPU, from call to call.
#[derive(Default)]
pub struct CpuMeter(Mutex<Option<(u64, u64)>>);

impl CpuMeter {
    /// Percent of one CPU since the last call, 0 at the first.
    pub fn percent(&self, now: &Metrics) -> f64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (then_ms, then_micros) = last.replace((now.timestamp_ms, now.cpu_micros)).unwrap_or_default();
        let elapsed = now.timestamp_ms.saturating_sub(then_ms);
        if then_ms == 0 || elapsed == 0 {
            return 0.0;
        }
        let permille = now.cpu_micros.saturating_sub(then_micros) / elapsed;
        f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 10.0
    }
}

/// CPU time of everything that runs, and of everything that was waited for.
pub fn cpu_micros(entries: &[procfs::Entry]) -> u64 {
    let ticks: u64 = entries.iter().map(|entry| entry.ticks).sum();
    ticks.saturating_mul(1_000_000 / configured(libc::_SC_CLK_TCK, 100))
}

fn visible_cpus() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cpus| f64::from(u32::try_from(cpus.get()).unwrap_or(1)))
}

fn number<const N: usize>(files: [&str; N]) -> Option<u64> {
    files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// What the kernel says, unless that is "none" and more than the machine has.
fn memory_limit() -> u64 {
    let machine = *machine_memory();
    let limit = number(["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]);
    limit.unwrap_or(machine).min(machine)
}

fn machine_memory() -> &'static u64 {
    static MEMORY: OnceLock<u64> = OnceLock::new();
    MEMORY.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        field(&text, "MemTotal:").map_or(0, |kilobytes| kilobytes * 1024)
    })
}

fn cache() -> u64 {
    let files =
        [("/sys/fs/cgroup/memory.stat", "file"), ("/sys/fs/cgroup/memory/memory.stat", "total_cache")];
    let read = |(file, name): (&str, &str)| field(&std::fs::read_to_string(file).ok()?, name);
    files.into_iter().find_map(read).unwrap_or(0)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

fn resident(entries: &[procfs::Entry]) -> u64 {
    let pages = |entry: &procfs::Entry| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", entry.pid)).ok()?;
        text.split(' ').nth(1)?.parse().ok()
    };
    let pages: u64 = entries.iter().filter_map(pages).sum();
    pages.saturating_mul(configured(libc::_SC_PAGESIZE, 4096))
}

/// From the C library, which knows it from its start. rustix asks the kernel (`PR_GET_AUXV`, /proc/self/auxv), and gives up where
/// the kernel is gVisor's.
fn configured(name: libc::c_int, otherwise: u64) -> u64 {
    // SAFETY: a number goes in and a number comes out.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0).unwrap_or(otherwise)
}

fn disk() -> (u64, u64) {
    let Ok(stat) = rustix::fs::statvfs("/") else { return (0, 0) };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    (bytes(stat.f_blocks.saturating_sub(stat.f_bfree)), bytes(stat.f_blocks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_uses_something() {
        let metrics = measure(&AgentConfig::default());
        assert!(metrics.memory_bytes > 0 && metrics.cpu_micros > 0 && metrics.pids > 0, "{metrics:?}");
        assert!(metrics.disk_total_bytes >= metrics.disk_used_bytes && metrics.memory_limit_bytes > 0);
        assert!(metrics.cpu_count >= 1.0);
    }

    #[test]
    fn cpu_time_becomes_a_share() {
        let meter = CpuMeter::default();
        let at = |timestamp_ms, cpu_micros| Metrics { timestamp_ms, cpu_micros, ..Metrics::default() };
        assert_eq!(meter.percent(&at(1000, 500)).to_bits(), 0.0_f64.to_bits());
        assert_eq!(meter.percent(&at(2000, 1_500_500)).to_bits(), 150.0_f64.to_bits());
        assert_eq!(meter.percent(&at(2000, 1_600_000)).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(field("MemTotal:   5 kB\nfile 7\n", "file"), Some(7));
        assert_eq!(field("MemTotal:   5 kB\n", "file"), None);
    }
}
