//! Every process of the sandbox as /proc shows it, and signals to all of them. Knows nothing of commands.

use rustix::process::{Pid, Signal};

/// One line of /proc.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub pid: i32,
    pub parent: i32,
    pub session: i32,
    /// CPU time of the process and the children it waited for, in clock ticks.
    pub ticks: u64,
}

/// All processes that can be seen.
pub fn entries() -> Vec<Entry> {
    let Ok(directory) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// The name of the program may contain anything, also `)`.
fn parse(pid: i32, stat: &str) -> Option<Entry> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<i64>().ok();
    let ticks = (11..15).filter_map(number).sum::<i64>();
    Some(Entry {
        pid,
        parent: i32::try_from(number(1)?).ok()?,
        session: i32::try_from(number(3)?).ok()?,
        ticks: u64::try_from(ticks).unwrap_or(0),
    })
}

/// Sends a signal to everything in the sandbox but the agent. Where the agent is not the first process, "everything"
/// is what descends from it: nobody else's processes are ever touched.
pub fn signal_everything(signal: Signal) {
    let own = rustix::process::getpid();
    if own.is_init() {
        // SAFETY: no memory is involved; as the first process of a namespace this reaches only that namespace.
        unsafe { libc::kill(-1, signal.as_raw()) };
        return;
    }
    for pid in descendants(&entries(), own.as_raw_nonzero().get()) {
        signal_one(pid, signal);
    }
}

/// Sends a signal to every member of a session, whichever process group it is in.
pub fn signal_session(session: i32, signal: Signal) {
    for entry in entries().iter().filter(|entry| entry.session == session) {
        signal_one(entry.pid, signal);
    }
}

fn signal_one(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn descendants(entries: &[Entry], root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(
            entries.iter().filter(|entry| entry.parent == parent && entry.pid != root).map(|entry| entry.pid),
        );
        next += 1;
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names_are_read() {
        let line = "7 (a) b (c) S 3 7 6 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 5";
        assert_eq!(parse(7, line), Some(Entry { pid: 7, parent: 3, session: 6, ticks: 100 }));
        for bad in ["", "7 (a", "7 (a) S", "7 (a) S x y z"] {
            assert_eq!(parse(7, bad), None, "{bad}");
        }
    }

    #[test]
    fn descendants_are_found_through_generations() {
        let entry = |pid, parent| Entry { pid, parent, session: 0, ticks: 0 };
        let all = [entry(1, 0), entry(5, 1), entry(6, 5), entry(7, 6), entry(8, 1)];
        assert_eq!(descendants(&all, 5), [6, 7]);
        assert!(descendants(&all, 8).is_empty());
    }
}
