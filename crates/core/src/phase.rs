//! The phases of a sandbox and which may follow which.
//!
//! ```text
//!             +--------- wake (connect, HTTP, exec) ----------+
//!             v                                               |
//! Creating -> Running -- idle --> Paused -- idle --> Stopped -- idle --> Terminated
//!    |           |  ^--- resume ----'                   ^
//!    '-> Failed  '------------- stop / deadline --------'
//! ```

use serde::{Deserialize, Serialize};

/// Where a sandbox stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Recorded; being prepared and started.
    Creating,
    /// Its agent answers.
    Running,
    /// Frozen: memory and processes kept, no CPU used.
    Paused,
    /// No processes; files kept.
    Stopped,
    /// Could not be started, or its agent died. Files, where there are any, are kept until it is deleted.
    Failed,
    /// Being taken down; nothing of it can be used any more.
    Terminating,
}

impl Phase {
    /// Whether the driver may move a sandbox from this phase to `next`.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use Phase::{Creating, Failed, Paused, Running, Stopped, Terminating};
        match (self, next) {
            (Terminating, _) => false,
            (_, Terminating) => true,
            (Creating, Running | Failed | Stopped) => true,
            (Running, Paused | Stopped | Failed) | (Paused, Running | Stopped | Failed) => true,
            (Stopped | Failed, Creating) => true,
            _ => false,
        }
    }

    /// Whether processes of the sandbox exist.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

#[cfg(test)]
mod tests {
    use super::Phase::{self, Creating, Failed, Paused, Running, Stopped, Terminating};

    const ALL: [Phase; 6] = [Creating, Running, Paused, Stopped, Failed, Terminating];

    #[test]
    fn nothing_leaves_terminating_and_everything_may_enter_it() {
        for phase in ALL {
            assert!(!Terminating.may_become(phase));
            assert_eq!(phase.may_become(Terminating), phase != Terminating);
        }
    }

    #[test]
    fn only_creating_leads_to_running_from_rest() {
        assert!(!Stopped.may_become(Running) && Stopped.may_become(Creating));
        assert!(Paused.may_become(Running) && !Paused.may_become(Creating));
    }
}
