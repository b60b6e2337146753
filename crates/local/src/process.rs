//! Which process on the host a sandbox is, beyond doubt: a pid alone may be somebody else's by now.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::{fs, io, os::fd::OwnedFd, os::unix::fs::MetadataExt};

/// Identity of a sandbox's first process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `/proc/sys/kernel/random/boot_id` of the boot in which it was started.
    pub boot: String,
    /// Pid in the host's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub started: u64,
    /// Inode of its pid namespace.
    pub pid_namespace: u64,
}

/// The current boot.
///
/// # Errors
/// When the kernel does not say.
pub fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl Identity {
    /// Identifies a running process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: i32) -> io::Result<Self> {
        let pid_namespace = fs::metadata(format!("/proc/{pid}/ns/pid"))?.ino();
        Ok(Self { boot: boot()?, pid, started: start_time(pid)?, pid_namespace })
    }

    /// A descriptor of the process, which becomes readable when it ends; `None` when it has ended.
    #[must_use]
    pub fn open(&self) -> Option<OwnedFd> {
        // First the descriptor, then the comparison: what is compared is then what the descriptor means.
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::NONBLOCK).ok()?;
        (Self::of(self.pid).ok()? == *self).then_some(pidfd)
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pidfd) = self.open() {
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }
}

fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::other("/proc/PID/stat has another form"))
}

/// The name in parentheses may itself have spaces and parentheses; fields are counted from the last one.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let state = fields.split_whitespace().next()?;
    // A zombie still has a start time, but runs nothing.
    if state == "Z" || state == "X" {
        return None;
    }
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_itself_and_nothing_else() {
        let me = Identity::of(std::process::id() as i32).unwrap();
        assert!(me.open().is_some());
        for other in [
            Identity { started: me.started + 1, ..me.clone() },
            Identity { boot: "another".into(), ..me.clone() },
            Identity { pid_namespace: 1, ..me.clone() },
            Identity { pid: i32::MAX, ..me.clone() },
        ] {
            assert!(other.open().is_none(), "{other:?}");
        }
    }

    #[test]
    fn names_with_parentheses_do_not_confuse_it() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time(&stat.replace(" S ", " Z ")), None);
    }
}
