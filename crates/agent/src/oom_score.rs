//! Who goes first when memory runs out: commands, then the agent. It must not know what either does.

use std::{
    ffi::{CStr, CString},
    fs,
    sync::OnceLock,
};

/// Of this process (proc_pid_oom_score_adj(5)): -1000 to 1000, and whoever has the most goes first.
const FILE: &CStr = c"/proc/self/oom_score_adj";
/// By how much commands are ahead of the agent, which is half of all memory.
const AHEAD: i32 = 500;
const MOST: i32 = 1000;

static OF_COMMANDS: OnceLock<CString> = OnceLock::new();

/// Puts the agent last. A container's runtime may have given it a score that says how much the whole container is worth to its
/// machine; with the right to do so, it has made that the least. Elsewhere the agent's can be lowered, because nearly
/// nothing is won by ending it. To be called while the process may still write its own files in /proc.
pub fn spare_agent() {
    if own() > 0 {
        // Where that is not allowed, commands are ahead by what is left.
        let _ = fs::write(path(), "0");
    }
    let _ = OF_COMMANDS.set(CString::new(ahead(own()).to_string()).unwrap_or_default());
}

fn path() -> &'static str {
    FILE.to_str().unwrap_or_default()
}

fn own() -> i32 {
    fs::read_to_string(path()).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn ahead(own: i32) -> i32 {
    own.saturating_add(AHEAD).clamp(AHEAD, MOST)
}

/// Puts the calling process, a child before its exec, ahead of the agent. Without /proc there is nothing to do.
pub fn expose_command() {
    let Some(score) = OF_COMMANDS.get() else { return };
    // SAFETY: both strings end with a zero byte and outlive the calls, which are safe after a fork.
    unsafe {
        let file = libc::open(FILE.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, score.as_ptr().cast(), score.count_bytes());
            libc::close(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_ahead_of_the_agent_where_there_is_room() {
        assert_eq!([-997, 0, 300, 916, 1000].map(ahead), [500, 500, 800, 1000, 1000]);
    }
}
