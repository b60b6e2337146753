//! The fifth step: what is told of a sandbox. What a pod looks like becomes a phase, a reason and conditions. Pure.
//!
//! ```text
//! no pod ─────────────> Creating (or Stopped, when that is wanted)
//! pod pending ────────> Creating: unschedulable, pulling, preparing, starting; Failed: image_pull_failed, …
//! agent answers ──────> Running, or Paused when its processes are held
//! container ended ────> Failed: agent_died, oom
//! ```

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerState, Pod},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use crate::crd::{DesiredState, Phase, Reason, SandboxStatus, Transition, condition};

/// How many transitions are kept.
const HISTORY: usize = 32;

/// What a pod says of its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The phase that it is in, or comes to.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
    /// Whether the pod is of no more use and another should be made: a node that left, an eviction.
    pub replace: bool,
}

impl Observed {
    fn new(phase: Phase, code: &str, message: impl Into<String>) -> Self {
        Self { phase, reason: reason(code, message), replace: false }
    }
}

/// A reason of a code and a sentence.
#[must_use]
pub fn reason(code: &str, message: impl Into<String>) -> Reason {
    Reason { code: code.into(), message: message.into() }
}

/// What the pod, or that there is none, means.
#[must_use]
pub fn observe(pod: Option<&Pod>, want: DesiredState, frozen: bool) -> Observed {
    let Some(pod) = pod else {
        return match want {
            DesiredState::Stopped => Observed::new(Phase::Stopped, "requested", "stop was requested"),
            _ => Observed::new(Phase::Creating, "queued", "its pod is being made"),
        };
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return match want {
            DesiredState::Stopped => {
                Observed::new(Phase::Running, "stopping", "its processes are being ended")
            }
            _ => Observed::new(Phase::Creating, "queued", "its pod goes away; another will be made"),
        };
    }
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Failed" | "Succeeded") => ended(pod),
        _ if is_ready(pod) && frozen => Observed::new(Phase::Paused, "requested", "pause was requested"),
        _ if is_ready(pod) => Observed::new(Phase::Running, "started", "its agent answers"),
        _ => coming(pod),
    }
}

/// Whether its agent answered.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|it| it.type_ == "Ready" && it.status == "True"))
}

/// A pod that ended: by itself, or because its node had to.
fn ended(pod: &Pod) -> Observed {
    let status = pod.status.clone().unwrap_or_default();
    if let Some(why) = status.reason {
        let message = format!("{why}: {}", status.message.unwrap_or_default());
        return Observed { replace: true, ..Observed::new(Phase::Creating, "evicted", message) };
    }
    let end = state(pod).and_then(|state| state.terminated).unwrap_or_default();
    let (code, message) = (end.exit_code, end.message.unwrap_or_default());
    match end.reason.as_deref() {
        Some("OOMKilled") => {
            Observed::new(Phase::Failed, "oom", "its first process was killed for want of memory")
        }
        Some("StartError" | "ContainerCannotRun") => Observed::new(Phase::Failed, "start_failed", message),
        _ => {
            let message = format!("its first process ended by itself with code {code}");
            Observed::new(Phase::Failed, "agent_died", message)
        }
    }
}

fn state(pod: &Pod) -> Option<ContainerState> {
    let status = pod.status.as_ref()?;
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    // The first that is not through: an init container while there is one, then the sandbox's own.
    let through = |state: &ContainerState| state.terminated.as_ref().is_some_and(|it| it.exit_code == 0);
    let states: Vec<ContainerState> = all.filter_map(|it| it.state.clone()).collect();
    states.iter().find(|state| !through(state)).or(states.last()).cloned()
}

/// A pod on its way.
fn coming(pod: &Pod) -> Observed {
    let conditions = pod.status.as_ref().and_then(|it| it.conditions.clone()).unwrap_or_default();
    let unscheduled = conditions.iter().find(|it| it.type_ == "PodScheduled" && it.status == "False");
    if let Some(it) = unscheduled {
        let message = it.message.clone().unwrap_or_else(|| "no node takes it".into());
        return Observed::new(Phase::Creating, "unschedulable", message);
    }
    match state(pod) {
        Some(ContainerState { waiting: Some(waiting), .. }) => {
            waits(&waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
        }
        Some(ContainerState { running: Some(_), .. }) => {
            Observed::new(Phase::Creating, "starting", "its first process starts")
        }
        _ => Observed::new(Phase::Creating, "queued", "it waits for a node"),
    }
}

/// Words of the kubelet (`pkg/kubelet/images`, `pkg/kubelet/container`), in ours. What it tries again and again has
/// failed for whoever waits; should it come good later, the sandbox does too.
fn waits(why: &str, message: String) -> Observed {
    match why {
        "ErrImagePull" => Observed::new(Phase::Creating, "pulling", message),
        "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
            Observed::new(Phase::Failed, "image_pull_failed", message)
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Observed::new(Phase::Failed, "start_failed", format!("{why}: {message}"))
        }
        "CrashLoopBackOff" => Observed::new(Phase::Failed, "agent_died", message),
        _ => Observed::new(Phase::Creating, "preparing", "image, volumes and network are being made ready"),
    }
}

/// What is told besides.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The sandbox's identifier.
    pub id: String,
    /// What was decided, as the status keeps it.
    pub resolved: Option<serde_json::Value>,
    /// Host names by port.
    pub hosts: std::collections::BTreeMap<String, String>,
    /// Generation of the object that was looked at.
    pub generation: Option<i64>,
}

/// The status after `observed`, from the one before.
#[must_use]
pub fn next(
    before: &SandboxStatus,
    observed: &Observed,
    facts: Facts,
    pod: Option<&Pod>,
    now: Timestamp,
) -> SandboxStatus {
    let mut status = before.clone();
    status.id = Some(facts.id);
    status.resolved = facts.resolved.or(status.resolved);
    status.hosts = facts.hosts;
    status.observed_generation = facts.generation;
    let live = pod.filter(|_| matches!(observed.phase, Phase::Running | Phase::Paused | Phase::Creating));
    status.address = live.and_then(|pod| pod.status.as_ref()?.pod_ip.clone());
    status.node = live.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
    conditions(&mut status, observed, pod, facts.generation, now);
    if status.phase != Some(observed.phase) {
        status.since = Some(now);
        status.history.push(Transition { at: now, phase: observed.phase, reason: observed.reason.clone() });
        let surplus = status.history.len().saturating_sub(HISTORY);
        status.history.drain(..surplus);
    }
    status.phase = Some(observed.phase);
    status.reason = Some(observed.reason.clone());
    status
}

fn conditions(
    status: &mut SandboxStatus,
    observed: &Observed,
    pod: Option<&Pod>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let scheduled = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some();
    let ready = matches!(observed.phase, Phase::Running | Phase::Paused) && pod.is_some_and(is_ready);
    let resolved = status.resolved.is_some();
    let Reason { code, message } = &observed.reason;
    let why = pascal(code);
    let mut set = |kind: &str, holds: bool, why: &str, message: &str| {
        let value = if holds { "True" } else { "False" };
        let old = status.conditions.iter().find(|it| it.type_ == kind);
        let since =
            old.filter(|it| it.status == value).map_or(Time(now), |it| it.last_transition_time.clone());
        status.conditions.retain(|it| it.type_ != kind);
        status.conditions.push(Condition {
            type_: kind.into(),
            status: value.into(),
            reason: why.into(),
            message: message.into(),
            last_transition_time: since,
            observed_generation: generation,
        });
    };
    let (found, what) =
        if resolved { ("Resolved", "template and image are known") } else { (&*why, &**message) };
    set(condition::RESOLVED, resolved, found, what);
    set(
        condition::SCHEDULED,
        scheduled,
        if scheduled { "Scheduled" } else { &why },
        if scheduled { "it has a node" } else { message },
    );
    set(condition::READY, ready, &why, message);
}

/// `quota_exceeded` as `QuotaExceeded`, as conditions and events spell reasons.
#[must_use]
pub fn pascal(code: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
            .unwrap_or_default()
    };
    code.split('_').map(word).collect()
}

/// What a refusal of the cluster to take a pod means.
#[must_use]
pub fn refused(message: &str) -> Observed {
    let code = if message.contains("exceeded quota") { "quota_exceeded" } else { "not_admitted" };
    Observed::new(Phase::Failed, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({ "metadata": {}, "spec": { "containers": [], "nodeName": "n1" }, "status": status }),
        )
        .unwrap()
    }

    fn waiting(reason: &str) -> Pod {
        let state = json!({ "waiting": { "reason": reason, "message": "m" } });
        pod(json!({ "phase": "Pending", "containerStatuses": [
            { "name": "sandbox", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state }] }))
    }

    fn ready() -> Pod {
        pod(
            json!({ "phase": "Running", "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "True" }] }),
        )
    }

    fn seen(pod: &Pod) -> (Phase, String) {
        let observed = observe(Some(pod), DesiredState::Running, false);
        (observed.phase, observed.reason.code)
    }

    #[test]
    fn pods_on_their_way_say_what_they_wait_for() {
        let unscheduled = pod(json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes" }] }));
        assert_eq!(seen(&unscheduled), (Phase::Creating, "unschedulable".into()));
        assert_eq!(seen(&waiting("ContainerCreating")), (Phase::Creating, "preparing".into()));
        assert_eq!(seen(&waiting("ErrImagePull")), (Phase::Creating, "pulling".into()));
        assert_eq!(seen(&waiting("ImagePullBackOff")), (Phase::Failed, "image_pull_failed".into()));
        assert_eq!(seen(&waiting("CreateContainerError")), (Phase::Failed, "start_failed".into()));
    }

    #[test]
    fn a_pod_that_ended_failed_unless_its_node_did() {
        let dead = pod(json!({ "phase": "Failed" }));
        assert_eq!(seen(&dead), (Phase::Failed, "agent_died".into()));
        let evicted = pod(json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" }));
        assert!(observe(Some(&evicted), DesiredState::Running, false).replace);
    }

    #[test]
    fn without_a_pod_it_is_what_is_wanted() {
        assert_eq!(observe(None, DesiredState::Stopped, false).phase, Phase::Stopped);
        assert_eq!(observe(None, DesiredState::Running, false).phase, Phase::Creating);
        assert_eq!(observe(Some(&ready()), DesiredState::Paused, true).phase, Phase::Paused);
        assert_eq!(observe(Some(&ready()), DesiredState::Paused, false).phase, Phase::Running);
    }

    #[test]
    fn transitions_are_remembered_and_conditions_keep_their_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let facts = || Facts { id: "i1".into(), resolved: Some(json!({})), ..Facts::default() };
        let first = next(
            &SandboxStatus::default(),
            &observe(None, DesiredState::Running, false),
            facts(),
            None,
            at(1),
        );
        let pod = ready();
        let running = observe(Some(&pod), DesiredState::Running, false);
        let second = next(&first, &running, facts(), Some(&pod), at(2));
        let third = next(&second, &running, facts(), Some(&pod), at(3));
        assert_eq!(second, third, "nothing new is no change");
        assert_eq!(
            (second.history.len(), second.since, second.phase),
            (2, Some(at(2)), Some(Phase::Running))
        );
        assert_eq!(second.address.as_deref(), Some("10.0.0.1"));
        let condition = |status: &SandboxStatus, kind: &str| {
            status.conditions.iter().find(|it| it.type_ == kind).unwrap().clone()
        };
        assert_eq!(condition(&second, "Ready").status, "True");
        assert_eq!(condition(&second, "Resolved").last_transition_time, Time(at(1)));
    }

    #[test]
    fn codes_become_words_of_conditions() {
        assert_eq!(pascal("quota_exceeded"), "QuotaExceeded");
        assert_eq!(refused("pods \"x\" is forbidden: exceeded quota: q").reason.code, "quota_exceeded");
        assert_eq!(refused("violates PodSecurity").reason.code, "not_admitted");
    }
}
