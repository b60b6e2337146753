//! A sandbox is looked at: read what it depends on, see whether it can be, build what should exist, make it so, and tell.
//! Whatever the operator was doing when it was killed, the next look goes on from what is there.

use atoll_core::{
    lifecycle::{Action as Step, Observed as Seen, decide},
    quantity::MilliCpu,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
    runtime::{
        controller::Action,
        events::{Event, EventType},
    },
};
use serde_json::json;
use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    Context, Problem,
    apply::{Applied, apply, are_whole, delete, remove_routes},
    build::{Desired, build, cpu_request, host},
    dereference::{Found, dereference},
    status::{self, Facts, Observed, STARTING, is_ready, observe},
    tenant,
    validate::{Refusal, Validated, validate},
};
use crate::{
    convert::to_core,
    crd::{DesiredState, Phase, Reason, Sandbox, SandboxStatus},
    names::{FINALIZER, id_of},
};

/// How soon what was refused is tried again: a quota may have been raised, a volume given back.
const RETRY: Duration = Duration::from_secs(20);
/// How soon an agent is asked again that should be held.
const HOLD_AGAIN: Duration = Duration::from_millis(500);
/// How long an agent may take to answer in one look, and how soon it is asked again within.
const ANSWER: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// The CPU request of a paused sandbox.
const PAUSED_CPU: MilliCpu = MilliCpu(10);
/// Annotation with which whoever changes the wanted state says why.
pub const WHY: &str = "atoll.dev/reason";

/// Looks at a sandbox.
///
/// # Errors
/// When the cluster does not answer; then it is looked at again, later and later.
pub async fn reconcile(sandbox: Arc<Sandbox>, context: Arc<Context>) -> Result<Action, Problem> {
    let began = std::time::Instant::now();
    let looked = look(&sandbox, &context).await;
    context.metrics.reconciled(looked.is_ok(), began.elapsed());
    if looked.is_ok() {
        context.succeeded(&sandbox.uid().unwrap_or_default());
    }
    looked
}

async fn look(sandbox: &Sandbox, context: &Context) -> Result<Action, Problem> {
    let namespace = sandbox.namespace().unwrap_or_default();
    let tenant = context.settings.namespaces.tenant(&namespace).unwrap_or_default().to_owned();
    let going = sandbox.metadata.deletion_timestamp.is_some();
    let found = match dereference(sandbox, &tenant, context).await {
        Err(kube::Error::Api(status)) if going && status.code == 403 => {
            return let_go(sandbox, &namespace, context).await;
        }
        found => found?,
    };
    if going {
        return take_down(sandbox, &found, context).await;
    }
    hold_on(sandbox, context).await?;
    match validate(sandbox, &tenant, &found, &context.settings) {
        Ok(validated) => settle(sandbox, &validated, &found, context).await,
        Err(refusal) => refuse(sandbox, &found, refusal, context).await,
    }
}

/// What can be is made.
async fn settle(
    sandbox: &Sandbox,
    it: &Validated,
    found: &Found,
    context: &Context,
) -> Result<Action, Problem> {
    tenant::open(&it.namespace, &it.resolved.spec.network, context).await?;
    let mut desired = build(it, &context.settings, &context.platform().await);
    let before = status::with_note(observe(found.pod.as_ref(), it.want, false), found.note.as_ref());
    let failed = before.phase == Phase::Failed && !before.replace;
    if before.replace
        && let Some(pod) = &found.pod
    {
        delete(pod, context).await?;
    }
    if failed && it.want != DesiredState::Stopped {
        // Its log can still be read; it goes when somebody stops, starts or deletes the sandbox.
        desired = Desired { pod: found.pod.clone(), ..desired };
    }
    let applied = apply(it, found, desired, context).await?;
    let held = hold(sandbox, it, &applied, context).await;
    let observed = match (&applied.refused, &applied.pod) {
        (Some(message), _) => status::refused(message),
        (None, pod) => {
            let seen = status::with_note(observe(pod.as_ref(), it.want, held), found.note.as_ref());
            let seen = answered(sandbox, it, pod.as_ref(), seen, context).await;
            found.lost.clone().unwrap_or_else(|| why(sandbox, seen))
        }
    };
    let status = tell(sandbox, &observed, Some(it), applied.pod.as_ref(), context).await?;
    if observed.phase == Phase::Running {
        are_whole(found, context).await?;
    }
    if applied.refused.is_some() {
        return Ok(Action::requeue(RETRY));
    }
    if observed.reason.code == STARTING {
        return Ok(Action::requeue(HOLD_AGAIN));
    }
    rest(sandbox, it, status, held, context).await
}

/// A node knows that an agent's process runs. That the agent answers is seen by asking it, which is sooner than a probe of the
/// node, and true for whoever is going to speak to it.
async fn answered(
    sandbox: &Sandbox,
    it: &Validated,
    pod: Option<&Pod>,
    seen: Observed,
    context: &Context,
) -> Observed {
    let known = sandbox.status.as_ref().and_then(|status| status.phase);
    let begins = seen.reason.code == "started" && !matches!(known, Some(Phase::Running | Phase::Paused));
    let Some(address) = pod.filter(|_| begins).and_then(address) else { return seen };
    let asked = async {
        while context.agents.activity(address, it.id()).await.is_err() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(()) => seen,
        Err(_) => status::silent(),
    }
}

/// Whoever changed the wanted state may have said why.
fn why(sandbox: &Sandbox, observed: Observed) -> Observed {
    let given = sandbox.annotations().get(WHY).and_then(|text| serde_json::from_str::<Reason>(text).ok());
    match (observed.phase, given) {
        (Phase::Paused | Phase::Stopped, Some(reason)) => Observed { reason, ..observed },
        _ => observed,
    }
}

/// Holds the processes of a sandbox that should be paused, or lets them go on. Says whether they are held.
async fn hold(sandbox: &Sandbox, it: &Validated, applied: &Applied, context: &Context) -> bool {
    let was = sandbox.status.as_ref().and_then(|status| status.phase) == Some(Phase::Paused);
    let Some(pod) = applied.pod.as_ref().filter(|pod| is_ready(pod)) else { return false };
    let Some(address) = address(pod) else { return false };
    let wants = it.want == DesiredState::Paused;
    if wants == was {
        return was;
    }
    let resized = resize(it, pod, wants, context);
    let asked = async {
        match wants {
            true => context.agents.freeze(address, it.id()).await,
            false => context.agents.thaw(address, it.id()).await,
        }
    };
    let ((), asked) = tokio::join!(resized, asked);
    match asked {
        Ok(()) => wants,
        Err(error) => {
            tracing::warn!(id = it.id(), %error, "the agent does not do as it is told");
            was
        }
    }
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// Gives the CPU request back, or takes it again. Where the cluster cannot resize in place, it stays.
async fn resize(it: &Validated, pod: &Pod, paused: bool, context: &Context) {
    let cpu = request(it, paused).to_string();
    let patch = json!({ "spec": { "containers": [{ "name": "sandbox", "resources": { "requests": { "cpu": cpu } } }] } });
    let pods = Api::<Pod>::namespaced(context.client.clone(), &it.namespace);
    context.metrics.wrote();
    let (name, patch) = (pod.name_any(), Patch::Strategic(patch));
    let resized = pods.patch_subresource("resize", &name, &PatchParams::default(), &patch).await;
    if let Err(error) = resized {
        tracing::debug!(id = it.id(), %error, "the CPU request stays as it is");
    }
}

/// The CPU request that a sandbox's pod should have.
fn request(it: &Validated, paused: bool) -> MilliCpu {
    let usual = cpu_request(&it.resolved);
    if paused { usual.min(PAUSED_CPU) } else { usual }
}

/// What the lifecycle says to do now, and when to look again.
async fn rest(
    sandbox: &Sandbox,
    it: &Validated,
    status: SandboxStatus,
    held: bool,
    context: &Context,
) -> Result<Action, Problem> {
    if (it.want == DesiredState::Paused) != held && status.phase == Some(Phase::Running) {
        return Ok(Action::requeue(HOLD_AGAIN));
    }
    let now = Timestamp::now();
    let mut seen = sandbox.clone();
    seen.status = Some(status);
    let mut core = to_core(&seen, &it.resolved.spec.tenant);
    core.deadline = it.deadline;
    let known = Seen { stop_loses_files: !it.is_persistent(), ..Seen::default() };
    let step = match decide(&core, &known, now) {
        Step::Pause(_) => decide(&core, &ask(&seen, it, known, context).await, now),
        step => step,
    };
    act(sandbox, step, now, context).await
}

/// What the agent says keeps its sandbox awake; a hint, as all that it says.
async fn ask(sandbox: &Sandbox, it: &Validated, known: Seen, context: &Context) -> Seen {
    let address = sandbox.status.as_ref().and_then(|status| status.address.as_ref()?.parse().ok());
    let Some(address) = address else { return known };
    let Ok(activity) = context.agents.activity(address, it.id()).await else { return known };
    let at = i64::try_from(activity.last_activity_ms).ok().filter(|ms| *ms > 0);
    Seen {
        last_activity: at.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        busy: activity.awake_because.first().cloned(),
        ..known
    }
}

async fn act(sandbox: &Sandbox, step: Step, now: Timestamp, context: &Context) -> Result<Action, Problem> {
    match step {
        Step::Keep(None) => return Ok(Action::await_change()),
        Step::Keep(Some(at)) => {
            // What is due already and kept is busy: it is asked again after a while.
            let wait = at.duration_since(now).max(SignedDuration::from_secs(1));
            return Ok(Action::requeue(Duration::try_from(wait).unwrap_or(RETRY)));
        }
        Step::Pause(reason) => want(sandbox, DesiredState::Paused, &reason, context).await?,
        Step::Stop(reason) => want(sandbox, DesiredState::Stopped, &reason, context).await?,
        Step::Terminate(reason) => {
            context.tell(sandbox, EventType::Normal, &reason.code, &reason.message).await;
            let api =
                Api::<Sandbox>::namespaced(context.client.clone(), &sandbox.namespace().unwrap_or_default());
            api.delete(&sandbox.name_any(), &DeleteParams::default()).await?;
        }
        Step::Fail(_) => {}
    }
    Ok(Action::await_change())
}

async fn want(
    sandbox: &Sandbox,
    state: DesiredState,
    reason: &atoll_core::sandbox::Reason,
    context: &Context,
) -> Result<(), kube::Error> {
    let why = json!({ "code": reason.code, "message": reason.message }).to_string();
    let patch = json!({ "metadata": { "annotations": { WHY: why } }, "spec": { "state": state } });
    let api = Api::<Sandbox>::namespaced(context.client.clone(), &sandbox.namespace().unwrap_or_default());
    context.metrics.wrote();
    api.patch(&sandbox.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// What cannot be is told, and tried again later where that may help.
async fn refuse(
    sandbox: &Sandbox,
    found: &Found,
    refusal: Refusal,
    context: &Context,
) -> Result<Action, Problem> {
    let observed = Observed {
        phase: Phase::Failed,
        reason: status::reason(refusal.code, refusal.message),
        replace: false,
    };
    tell(sandbox, &observed, None, found.pod.as_ref(), context).await?;
    Ok(Action::requeue(RETRY))
}

/// Writes the status when it says something new, with an event for each new phase.
async fn tell(
    sandbox: &Sandbox,
    observed: &Observed,
    it: Option<&Validated>,
    pod: Option<&Pod>,
    context: &Context,
) -> Result<SandboxStatus, kube::Error> {
    let before = sandbox.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    let facts = Facts {
        id: id_of(sandbox).to_string(),
        resolved: it.and_then(|it| serde_json::to_value(&it.resolved).ok()),
        hosts: it.map(|it| hosts(it, context)).unwrap_or_default(),
        generation: sandbox.metadata.generation,
        cpu: it.map(|it| request(it, observed.phase == Phase::Paused)),
    };
    let mut status = status::next(&before, observed, facts, pod, now);
    if status == before {
        return Ok(status);
    }
    if status.phase != before.phase {
        changed(sandbox, observed, now, context).await;
    }
    let api = Api::<Sandbox>::namespaced(context.client.clone(), &sandbox.namespace().unwrap_or_default());
    // The time of the last use is the server's to write.
    status.last_activity = None;
    let patch = Patch::Merge(json!({ "status": with_nulls(&status, &before) }));
    context.metrics.wrote();
    api.patch_status(&sandbox.name_any(), &PatchParams::default(), &patch).await?;
    status.last_activity = before.last_activity;
    Ok(status)
}

/// In a merge patch, what is no more must be said to be nothing.
fn with_nulls(status: &SandboxStatus, before: &SandboxStatus) -> serde_json::Value {
    let mut patch = json!(status);
    if let (Some(patch), Some(before)) = (patch.as_object_mut(), json!(before).as_object()) {
        for key in before.keys().filter(|key| *key != "lastActivity") {
            patch.entry(key).or_insert(serde_json::Value::Null);
        }
        if let Some(hosts) = before.get("hosts").and_then(|it| it.as_object()) {
            for port in hosts.keys() {
                if let Some(new) = patch.get_mut("hosts").and_then(|it| it.as_object_mut()) {
                    new.entry(port).or_insert(serde_json::Value::Null);
                }
            }
        }
    }
    patch
}

fn hosts(it: &Validated, context: &Context) -> std::collections::BTreeMap<String, String> {
    let spec = &it.resolved.spec;
    let (Some(domain), Some(owner)) = (&context.settings.domain, &spec.owner) else {
        return Default::default();
    };
    let label = atoll_core::owner::label(&spec.tenant, owner);
    spec.ports.keys().map(|port| (port.clone(), host(&label, port, domain))).collect()
}

async fn changed(sandbox: &Sandbox, observed: &Observed, now: Timestamp, context: &Context) {
    let kind = if observed.phase == Phase::Failed { EventType::Warning } else { EventType::Normal };
    context.tell(sandbox, kind, &observed.reason.code, &observed.reason.message).await;
    let first =
        sandbox.status.as_ref().is_none_or(|it| it.history.iter().all(|it| it.phase != Phase::Running));
    if observed.phase == Phase::Running
        && first
        && let Some(born) = sandbox.creation_timestamp()
    {
        context.metrics.started(now.duration_since(born.0).as_secs_f64());
    }
}

/// Makes sure that the object stays until its pod is gone. The server's objects come with it.
async fn hold_on(sandbox: &Sandbox, context: &Context) -> Result<(), kube::Error> {
    if sandbox.finalizers().iter().any(|it| it == FINALIZER) {
        return Ok(());
    }
    set_finalizer(sandbox, true, context).await
}

/// With the version that was seen, so that nobody else's finalizer is lost; when that is an old one, with the newest.
async fn set_finalizer(sandbox: &Sandbox, ours: bool, context: &Context) -> Result<(), kube::Error> {
    let api = Api::<Sandbox>::namespaced(context.client.clone(), &sandbox.namespace().unwrap_or_default());
    let name = sandbox.name_any();
    match patch_finalizers(&api, sandbox, ours, context).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        patched => return patched,
    }
    match api.get_opt(&name).await? {
        Some(newest) if newest.uid() == sandbox.uid() => patch_finalizers(&api, &newest, ours, context).await,
        _ => Ok(()),
    }
}

async fn patch_finalizers(
    api: &Api<Sandbox>,
    seen: &Sandbox,
    ours: bool,
    context: &Context,
) -> Result<(), kube::Error> {
    let others = seen.finalizers().iter().map(String::as_str).filter(|it| *it != FINALIZER);
    let list: Vec<&str> = others.chain(ours.then_some(FINALIZER)).collect();
    let metadata = json!({ "finalizers": list, "resourceVersion": seen.resource_version() });
    context.metrics.wrote();
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    match api.patch(&seen.name_any(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        patched => patched.map(drop),
    }
}

/// A sandbox that is deleted keeps its object until nothing of it runs. Claims stay.
async fn take_down(sandbox: &Sandbox, found: &Found, context: &Context) -> Result<Action, Problem> {
    if !sandbox.finalizers().iter().any(|it| it == FINALIZER) {
        return Ok(Action::await_change());
    }
    let asked = status::reason("requested", "deletion was requested");
    let reason = found.lost.clone().map_or(asked, |lost| lost.reason);
    let observed = Observed { phase: Phase::Terminating, reason, replace: false };
    tell(sandbox, &observed, None, found.pod.as_ref(), context).await?;
    thaw(sandbox, found, context).await;
    if let Some(stateful) = &found.stateful {
        delete::<StatefulSet>(stateful, context).await?;
    } else if let Some(pod) = &found.pod {
        delete(pod, context).await?;
    }
    remove_routes(id_of(sandbox).as_str(), context).await?;
    if found.pod.is_some() || found.stateful.is_some() {
        return Ok(Action::requeue(RETRY));
    }
    release(sandbox, context).await
}

/// In a namespace that goes, the operator's rights may go first. The cluster removes everything else there by itself.
async fn let_go(sandbox: &Sandbox, namespace: &str, context: &Context) -> Result<Action, Problem> {
    let there = Api::<Namespace>::all(context.client.clone()).get_opt(namespace).await?;
    if there.is_some_and(|it| it.metadata.deletion_timestamp.is_none()) {
        return Ok(Action::requeue(RETRY));
    }
    release(sandbox, context).await
}

async fn release(sandbox: &Sandbox, context: &Context) -> Result<Action, Problem> {
    set_finalizer(sandbox, false, context).await?;
    // Somebody may wait for its volumes.
    context.stir(sandbox.namespace().as_deref());
    Ok(Action::await_change())
}

/// Held processes cannot end gracefully.
async fn thaw(sandbox: &Sandbox, found: &Found, context: &Context) {
    let paused = sandbox
        .status
        .as_ref()
        .is_some_and(|it| it.history.last().is_some_and(|it| it.phase == Phase::Paused));
    let Some(address) = found.pod.as_ref().filter(|_| paused).and_then(address) else { return };
    if let Err(error) = context.agents.thaw(address, id_of(sandbox).as_str()).await {
        tracing::debug!(%error, "a sandbox that goes could not be let go on");
    }
}

impl Context {
    /// Tells the object's readers what happened.
    pub async fn tell(&self, sandbox: &Sandbox, kind: EventType, code: &str, message: &str) {
        let mut note = message.to_owned();
        note.truncate(note.floor_char_boundary(1000));
        let event = Event {
            type_: kind,
            reason: status::pascal(code),
            note: Some(note),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &sandbox.object_ref(&())).await {
            tracing::debug!(%error, "an event was not published");
        }
    }
}
