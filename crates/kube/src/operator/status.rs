//! The fifth step: what is told of a sandbox. What a pod looks like becomes a phase, a reason and conditions. Pure.
//!
//! ```text
//! no pod ─────────────> Creating (or Stopped, when that is wanted)
//! pod pending ────────> Creating: unschedulable, pulling, preparing, starting; Failed: image_pull_failed, …
//! agent answers ──────> Running, or Paused when its processes are held
//! container ended ────> Failed: agent_died, oom
//! node is silent ─────> Failed: node_lost, until it comes back or the cluster gives it up
//! ```

use atoll_core::quantity::MilliCpu;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateTerminated, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use super::build::FILL;
use super::context::Note;
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
        _ if is_ready(pod) => Observed::new(Phase::Running, "started", answers(pod)),
        _ => coming(pod),
    }
}

fn answers(pod: &Pod) -> String {
    let again = last_end(pod).map(|end| format!(", since it was started again: {}", words(&end).1));
    format!("its agent answers{}", again.unwrap_or_default())
}

/// Whether its container runs, as its node says. That its agent answers is another matter.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition_of(pod, "Ready").is_some_and(|it| it.status == "True")
}

fn condition_of<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|it| it.type_ == kind)
}

/// The node of a pod that is not heard of any more. The kubelet says of a pod that it and its containers are ready in one
/// breath; that only the pod is not, is the word of the cluster, for a node that is silent (`MarkPodsNotReady`).
#[must_use]
pub fn silent_node(pod: &Pod) -> Option<&str> {
    let says = |kind, value| condition_of(pod, kind).is_some_and(|it| it.status == value);
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    (says("Ready", "False") && says("ContainersReady", "True")).then_some(node)
}

/// What a sandbox is whose node is silent: it may run there, and nobody can tell.
#[must_use]
pub fn lost(node: &str, why: &str) -> Observed {
    let message = format!(
        "node {node} is silent{}{why}; the sandbox goes on when the node is back, or on another one when the cluster is told \
         that it will not be (taint node.kubernetes.io/out-of-service)",
        if why.is_empty() { "" } else { ": " }
    );
    Observed::new(Phase::Failed, "node_lost", message)
}

/// A pod that ended: by itself, or because its node had to.
fn ended(pod: &Pod) -> Observed {
    let status = pod.status.clone().unwrap_or_default();
    if let Some(why) = status.reason {
        return evicted(format!("{why}: {}", status.message.unwrap_or_default()));
    }
    if let Some(taken) = condition_of(pod, "DisruptionTarget").filter(|it| it.status == "True") {
        return evicted(taken.message.clone().unwrap_or_else(|| "the cluster took it away".into()));
    }
    let (code, message) = words(&state(pod).and_then(|state| state.terminated).unwrap_or_default());
    Observed::new(Phase::Failed, code, message)
}

/// Why a container ended: for programs and for people.
fn words(end: &ContainerStateTerminated) -> (&'static str, String) {
    match end.reason.as_deref() {
        Some("OOMKilled") => ("oom", "its first process was killed for want of memory".into()),
        Some("StartError" | "ContainerCannotRun") => {
            ("start_failed", end.message.clone().unwrap_or_default())
        }
        _ => (DIED, format!("its first process ended by itself with code {}", end.exit_code)),
    }
}

/// How the sandbox's container ended the last time, where the node has started it again.
fn last_end(pod: &Pod) -> Option<ContainerStateTerminated> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    all.iter().find(|it| it.restart_count > 0)?.last_state.clone()?.terminated
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

/// What the container that fills new volumes said when it could not. It is tried again and again.
fn not_filled(pod: &Pod) -> Option<Observed> {
    let fill = pod.status.as_ref()?.init_container_statuses.as_ref()?.iter().find(|it| it.name == FILL)?;
    let ends =
        [fill.state.clone(), fill.last_state.clone()].into_iter().filter_map(|state| state?.terminated);
    let why = ends.filter(|end| end.exit_code != 0).find_map(|end| end.message)?;
    Some(Observed::new(Phase::Failed, "volume_not_filled", why.trim().trim_start_matches("atoll-agent: ")))
}

/// A pod on its way.
fn coming(pod: &Pod) -> Observed {
    if let Some(failed) = not_filled(pod) {
        return failed;
    }
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
            let again = last_end(pod).map(|end| format!("{}; it is started again", words(&end).1));
            Observed::new(Phase::Creating, STARTING, again.unwrap_or("its first process starts".into()))
        }
        _ => Observed::new(Phase::Creating, "queued", "it waits for a node"),
    }
}

/// One whose container runs and whose agent does not answer yet.
#[must_use]
pub fn silent() -> Observed {
    Observed::new(Phase::Creating, STARTING, "its first process runs, and its agent does not answer yet")
}

/// Code of one whose agent does not answer yet.
pub const STARTING: &str = "starting";
/// Code of one whose first process ended.
const DIED: &str = "agent_died";
/// Code of one whose node makes ready what it needs.
const PREPARING: &str = "preparing";

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
        _ => Observed::new(Phase::Creating, PREPARING, "image, volumes and network are being made ready"),
    }
}

/// The kubelet's word for a pod that it ended because its node, or the pod's own limits, had no room for it.
const EVICTED: &str = "Evicted";

/// Words of the kubelet, in events, for what befalls a pod and of which its status says nothing, or not for long: what keeps
/// it from starting at all, and that it was evicted, which is forgotten when its processes then end well.
#[must_use]
pub fn is_telling(event: &str) -> bool {
    [
        "FailedCreatePodSandBox",
        "FailedMount",
        "FailedAttachVolume",
        "FailedMapVolume",
        "NetworkNotReady",
        EVICTED,
    ]
    .contains(&event)
}

/// With what the node said of a pod. What it could not do twice has failed for whoever waits; should it come good later,
/// the sandbox does too.
#[must_use]
pub fn with_note(observed: Observed, note: Option<&Note>) -> Observed {
    let Some(note) = note else { return observed };
    match (observed.reason.code.as_str(), note.times) {
        (PREPARING, ..=1) => Observed::new(Phase::Creating, PREPARING, &note.message),
        (PREPARING, _) => Observed::new(Phase::Failed, "start_failed", &note.message),
        (DIED, _) if note.message.starts_with(EVICTED) => evicted(note.message.clone()),
        _ => observed,
    }
}

fn evicted(message: String) -> Observed {
    Observed { replace: true, ..Observed::new(Phase::Creating, "evicted", message) }
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
    /// The CPU request that its pod should have.
    pub cpu: Option<MilliCpu>,
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
    conditions(&mut status, observed, pod, (facts.generation, facts.cpu), now);
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
    (generation, cpu): (Option<i64>, Option<MilliCpu>),
    now: Timestamp,
) {
    let was_resized = status.conditions.iter().any(|it| it.type_ == condition::RESIZED);
    let concerned = observed.phase == Phase::Paused || (was_resized && observed.phase == Phase::Running);
    let size = pod.zip(cpu).filter(|_| concerned).map(|(pod, cpu)| resized(pod, cpu));
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
    match size {
        Some((holds, why, message)) => set(condition::RESIZED, holds, &why, &message),
        None => status.conditions.retain(|it| it.type_ != condition::RESIZED),
    }
}

/// Whether the node has given a pod the CPU request that it should have, and why not.
fn resized(pod: &Pod, wanted: MilliCpu) -> (bool, String, String) {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let mut requests =
        statuses.into_iter().flatten().filter_map(|it| it.resources.as_ref()?.requests.as_ref());
    let is = requests.find_map(|it| MilliCpu::parse("cpu", &it.get("cpu")?.0).ok());
    if is == Some(wanted) {
        return (true, "Resized".into(), format!("its CPU request is {wanted}"));
    }
    let pending = condition_of(pod, "PodResizePending").or_else(|| condition_of(pod, "PodResizeInProgress"));
    let why = pending.and_then(|it| it.reason.clone()).unwrap_or_else(|| "NotResized".into());
    let more = pending.and_then(|it| it.message.as_deref()).unwrap_or("the node has not said so yet");
    (false, why, format!("its CPU request is not {wanted}: {more}"))
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

/// Whether a sandbox was refused for want of something that may come without anybody touching it.
#[must_use]
pub fn waits_for_others(status: &SandboxStatus) -> bool {
    let code = status.reason.as_ref().map(|it| it.code.as_str());
    let awaited = ["quota_exceeded", "not_admitted", "volume_in_use", "template_not_found", "name_in_use"];
    status.phase == Some(Phase::Failed) && code.is_some_and(|code| awaited.contains(&code))
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
        let taken = pod(json!({ "phase": "Failed", "conditions": [
            { "type": "DisruptionTarget", "status": "True", "message": "PodGC: node is out of service" }] }));
        let observed = observe(Some(&taken), DesiredState::Running, false);
        assert!(observed.replace && observed.reason.message.contains("out of service"));
    }

    #[test]
    fn a_silent_node_is_told_by_the_pod_alone() {
        let conditions = |ready: &str, containers: &str| {
            pod(json!({ "phase": "Running", "conditions": [
                { "type": "Ready", "status": ready }, { "type": "ContainersReady", "status": containers }] }))
        };
        assert_eq!(silent_node(&conditions("False", "True")), Some("n1"));
        assert_eq!(silent_node(&conditions("True", "True")), None);
        assert_eq!(silent_node(&conditions("False", "False")), None, "it starts");
        let told = lost("n1", "Kubelet stopped posting node status.");
        assert_eq!((told.phase, &*told.reason.code, told.replace), (Phase::Failed, "node_lost", false));
        assert!(told.reason.message.starts_with("node n1 is silent: Kubelet"), "{}", told.reason.message);
        assert!(lost("n1", "").reason.message.starts_with("node n1 is silent; "));
    }

    #[test]
    fn what_a_node_cannot_do_twice_has_failed() {
        let note = |times| Note { message: "FailedMount: no such disk".into(), times };
        let told = |pod: &Pod, times| {
            let observed = with_note(observe(Some(pod), DesiredState::Running, false), Some(&note(times)));
            (observed.phase, observed.reason.code, observed.reason.message)
        };
        let coming = waiting("ContainerCreating");
        assert_eq!(told(&coming, 1), (Phase::Creating, PREPARING.into(), note(1).message));
        assert_eq!(told(&coming, 2), (Phase::Failed, "start_failed".into(), note(2).message));
        assert_eq!(told(&ready(), 2).0, Phase::Running, "it came good");
    }

    #[test]
    fn an_eviction_is_known_by_its_event_where_the_processes_ended_well() {
        let ended = pod(json!({ "phase": "Succeeded" }));
        let told = |message: &str| {
            let note = Note { message: message.into(), times: 1 };
            with_note(observe(Some(&ended), DesiredState::Running, false), Some(&note))
        };
        let evicted = told("Evicted: usage of local storage exceeds 16Mi");
        assert_eq!(
            (evicted.phase, &*evicted.reason.code, evicted.replace),
            (Phase::Creating, "evicted", true)
        );
        assert_eq!(told("FailedMount: once").reason.code, DIED);
    }

    #[test]
    fn a_volume_that_cannot_be_filled_says_why() {
        let said =
            "atoll-agent: what the image has at /home/user cannot be copied into its volume: no space\n";
        let end = json!({ "terminated": { "exitCode": 1, "message": said } });
        for (state, last) in
            [(json!({ "waiting": { "reason": "CrashLoopBackOff" } }), end.clone()), (end, json!({}))]
        {
            let fill = json!([{ "name": FILL, "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last }]);
            let it = pod(json!({ "phase": "Pending", "initContainerStatuses": fill }));
            let seen = observe(Some(&it), DesiredState::Running, false);
            assert_eq!((seen.phase, seen.reason.code.as_str()), (Phase::Failed, "volume_not_filled"));
            assert_eq!(
                seen.reason.message,
                "what the image has at /home/user cannot be copied into its volume: no space"
            );
        }
    }

    #[test]
    fn one_that_was_started_again_says_why() {
        let again = |ready: &str| {
            pod(
                json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }], "containerStatuses": [
                { "name": "sandbox", "image": "", "imageID": "", "ready": false, "restartCount": 1,
                  "state": { "running": {} }, "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }] }),
            )
        };
        for (ready, phase) in [("False", Phase::Creating), ("True", Phase::Running)] {
            let observed = observe(Some(&again(ready)), DesiredState::Running, false);
            assert_eq!(observed.phase, phase);
            assert!(observed.reason.message.contains("want of memory"), "{}", observed.reason.message);
        }
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
    fn a_cpu_request_is_told_when_it_was_to_change() {
        let with = |cpu: &str, pending: serde_json::Value| {
            pod(json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }, pending],
                "containerStatuses": [{ "name": "sandbox", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "resources": { "requests": { "cpu": cpu } } }] }))
        };
        let told = |before: &SandboxStatus, pod: &Pod, frozen, cpu| {
            let observed = observe(Some(pod), DesiredState::Running, frozen);
            let facts = Facts { cpu: Some(MilliCpu(cpu)), ..Facts::default() };
            next(before, &observed, facts, Some(pod), Timestamp::UNIX_EPOCH)
        };
        let of = |status: &SandboxStatus| {
            let found = status.conditions.iter().find(|it| it.type_ == "Resized");
            found.map(|it| (it.status.clone(), it.reason.clone()))
        };
        let none = json!({ "type": "x", "status": "True" });
        let running = told(&SandboxStatus::default(), &with("199m", none.clone()), false, 199);
        assert_eq!(of(&running), None, "it was never paused");
        let paused = told(&running, &with("10m", none), true, 10);
        assert_eq!(of(&paused), Some(("True".into(), "Resized".into())));
        let full = json!({ "type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "no room" });
        let resumed = told(&paused, &with("10m", full), false, 199);
        assert_eq!(of(&resumed), Some(("False".into(), "Deferred".into())));
    }

    #[test]
    fn codes_become_words_of_conditions() {
        assert_eq!(pascal("quota_exceeded"), "QuotaExceeded");
        assert_eq!(refused("pods \"x\" is forbidden: exceeded quota: q").reason.code, "quota_exceeded");
        assert_eq!(refused("violates PodSecurity").reason.code, "not_admitted");
    }
}
