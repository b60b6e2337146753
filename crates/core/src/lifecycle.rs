//! The one decision about a sandbox's rest, shared by all drivers. Pure: the time and what was observed come in.

use jiff::{SignedDuration, Timestamp};

use crate::{
    phase::Phase,
    sandbox::{Reason, Sandbox},
    template::OnDeadline,
};

/// The least time in seconds until the next deadline of a sandbox that wakes after its own has passed.
const LEAST_AWAKE: u64 = 300;

/// What the driver saw of a sandbox just now.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Whether its processes were seen alive; `None` when that was not looked at.
    pub alive: Option<bool>,
    /// The latest activity seen by anyone: gateway, server, agent.
    pub last_activity: Option<Timestamp>,
    /// What keeps it awake right now, e.g. `2 commands are running`.
    pub busy: Option<String>,
    /// Whether a stop would lose its files: then idleness leaves it paused until it is taken down.
    pub stop_loses_files: bool,
}

/// What is to be done with a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until about this time when it is known.
    Keep(Option<Timestamp>),
    /// Freeze it.
    Pause(Reason),
    /// End its processes, keep its files.
    Stop(Reason),
    /// Take it down.
    Terminate(Reason),
    /// Record that its agent is gone.
    Fail(Reason),
}

/// Decides what is to be done with `sandbox` at `now`. The hard deadline goes before the idle ladder; death before both.
#[must_use]
pub fn decide(sandbox: &Sandbox, seen: &Observed, now: Timestamp) -> Action {
    if sandbox.phase == Phase::Terminating {
        return Action::Keep(None);
    }
    if sandbox.phase.is_live() && seen.alive == Some(false) {
        return Action::Fail(Reason::new("agent_died", "the sandbox's first process ended by itself"));
    }
    at_deadline(sandbox, now).unwrap_or_else(|| idle(sandbox, seen, now))
}

fn at_deadline(sandbox: &Sandbox, now: Timestamp) -> Option<Action> {
    sandbox.deadline.filter(|deadline| *deadline <= now)?;
    let reason = Reason::new("deadline", "its time to live is over");
    match (sandbox.spec.lifecycle.on_deadline, sandbox.phase) {
        (OnDeadline::Pause, Phase::Running) => Some(Action::Pause(reason)),
        (OnDeadline::Pause, _) => None,
        (OnDeadline::Terminate, _) => Some(Action::Terminate(reason)),
    }
}

/// The deadline of a sandbox that wakes at `now` after its own has passed; `None` leaves it as it is. Without another one it
/// would be put to rest again at once.
#[must_use]
pub fn deadline_after_wake(sandbox: &Sandbox, now: Timestamp) -> Option<Timestamp> {
    sandbox.deadline.filter(|deadline| *deadline <= now)?;
    let policy = &sandbox.spec.lifecycle;
    let rests = policy.on_deadline == OnDeadline::Pause;
    rests.then(|| later(now, policy.ttl.unwrap_or(LEAST_AWAKE).max(LEAST_AWAKE)))?
}

fn idle(sandbox: &Sandbox, seen: &Observed, now: Timestamp) -> Action {
    let policy = &sandbox.spec.lifecycle;
    let active = seen.last_activity.map_or(sandbox.last_activity, |at| at.max(sandbox.last_activity));
    match sandbox.phase {
        Phase::Running if seen.busy.is_some() => Action::Keep(sandbox.deadline),
        Phase::Running => step(policy.pause_after, active.max(sandbox.since), sandbox, now, Action::Pause),
        Phase::Paused if seen.stop_loses_files => {
            let after =
                policy.stop_after.zip(policy.terminate_after).map(|(stop, end)| stop.saturating_add(end));
            step(after, sandbox.since, sandbox, now, Action::Terminate)
        }
        Phase::Paused => step(policy.stop_after, sandbox.since, sandbox, now, Action::Stop),
        Phase::Stopped => step(policy.terminate_after, sandbox.since, sandbox, now, Action::Terminate),
        Phase::Creating | Phase::Failed | Phase::Terminating => Action::Keep(sandbox.deadline),
    }
}

fn step(
    after: Option<u64>,
    from: Timestamp,
    sandbox: &Sandbox,
    now: Timestamp,
    act: fn(Reason) -> Action,
) -> Action {
    let Some(seconds) = after else { return Action::Keep(sandbox.deadline) };
    let Some(due) = later(from, seconds) else { return Action::Keep(sandbox.deadline) };
    if due <= now {
        return act(Reason::new("idle", format!("nothing used it for {seconds} s")));
    }
    Action::Keep(Some(sandbox.deadline.map_or(due, |deadline| deadline.min(due))))
}

/// `from` plus `seconds`, or `None` when that is beyond the end of time.
#[must_use]
pub fn later(from: Timestamp, seconds: u64) -> Option<Timestamp> {
    from.checked_add(SignedDuration::from_secs(i64::try_from(seconds).ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sandbox;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn in_phase(phase: Phase, since: i64) -> Sandbox {
        let mut it = sandbox(0);
        (it.phase, it.since, it.last_activity) = (phase, at(since), at(since));
        it
    }

    #[test]
    fn the_ladder_descends_by_idleness() {
        let nothing = Observed::default();
        assert_eq!(decide(&in_phase(Phase::Running, 0), &nothing, at(899)), Action::Keep(Some(at(900))));
        assert!(matches!(decide(&in_phase(Phase::Running, 0), &nothing, at(900)), Action::Pause(_)));
        assert!(matches!(decide(&in_phase(Phase::Paused, 0), &nothing, at(3600)), Action::Stop(_)));
        assert!(matches!(decide(&in_phase(Phase::Stopped, 0), &nothing, at(86400)), Action::Terminate(_)));
        assert_eq!(decide(&in_phase(Phase::Failed, 0), &nothing, at(1 << 30)), Action::Keep(None));
    }

    #[test]
    fn files_are_not_lost_to_idleness_before_their_time() {
        let seen = Observed { stop_loses_files: true, ..Observed::default() };
        let mut paused = in_phase(Phase::Paused, 0);
        assert_eq!(decide(&paused, &seen, at(3600)), Action::Keep(Some(at(90_000))));
        assert!(matches!(decide(&paused, &seen, at(90_000)), Action::Terminate(_)));
        paused.spec.lifecycle.stop_after = None;
        assert_eq!(decide(&paused, &seen, at(1 << 30)), Action::Keep(None));
    }

    #[test]
    fn work_and_activity_keep_it_awake() {
        let busy = Observed { busy: Some("1 command is running".into()), ..Observed::default() };
        assert_eq!(decide(&in_phase(Phase::Running, 0), &busy, at(5000)), Action::Keep(None));
        let seen = Observed { last_activity: Some(at(5000)), ..Observed::default() };
        assert_eq!(decide(&in_phase(Phase::Running, 0), &seen, at(5001)), Action::Keep(Some(at(5900))));
    }

    #[test]
    fn the_deadline_goes_before_the_ladder_and_death_before_both() {
        let mut it = in_phase(Phase::Running, 0);
        it.deadline = Some(at(10));
        assert!(matches!(decide(&it, &Observed::default(), at(10)), Action::Terminate(_)));
        it.spec.lifecycle.on_deadline = OnDeadline::Pause;
        assert!(matches!(decide(&it, &Observed::default(), at(10)), Action::Pause(_)));
        let dead = Observed { alive: Some(false), ..Observed::default() };
        assert!(matches!(decide(&it, &dead, at(10)), Action::Fail(_)));
    }

    #[test]
    fn one_that_wakes_after_its_deadline_has_another() {
        let mut it = in_phase(Phase::Paused, 0);
        it.deadline = Some(at(10));
        assert_eq!(deadline_after_wake(&it, at(11)), None, "it is about to be taken down");
        it.spec.lifecycle.on_deadline = OnDeadline::Pause;
        assert_eq!(deadline_after_wake(&it, at(9)), None);
        assert_eq!(deadline_after_wake(&it, at(11)), Some(at(311)));
        it.spec.lifecycle.ttl = Some(1000);
        assert_eq!(deadline_after_wake(&it, at(10)), Some(at(1010)));
    }

    #[test]
    fn steps_that_are_off_are_never_taken() {
        let mut it = in_phase(Phase::Running, 0);
        it.spec.lifecycle.pause_after = None;
        assert_eq!(decide(&it, &Observed::default(), at(1 << 32)), Action::Keep(None));
        it.phase = Phase::Terminating;
        it.deadline = Some(at(1));
        assert_eq!(decide(&it, &Observed::default(), at(1 << 32)), Action::Keep(None));
    }
}
