//! Making sandboxes: the object is written, and whoever asked waits for what the operator makes of it.

use atoll_core::{
    driver::{CreateStep, DriverError, Progress},
    id::SandboxId,
    phase::Phase,
    sandbox::{Reason, Sandbox},
    snapshot,
};
use jiff::Timestamp;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Inner, Waited, conflict,
    failure::{failed, not_created, step},
    missing,
    request::{RequestError, persist},
    seen::Seen,
};
use crate::{
    convert::from_core,
    crd::{self, DesiredState},
    names::{API, holder_in},
};

/// How long anybody waits for a start: a large image, or a node that is only being made.
const START: Duration = Duration::from_secs(600);
/// How long the operator may take to look at an object: it takes milliseconds, or a change of leader.
const TAKE_UP: Duration = Duration::from_secs(30);
/// An old failure may still be shown for so long after a new start was asked for.
const SETTLE: Duration = Duration::from_secs(5);

/// A way of a sandbox to a phase, as whoever asked for it sees it.
pub struct Journey {
    /// Where to.
    pub goal: Phase,
    /// What was asked for.
    pub want: DesiredState,
    /// The generation that says so.
    pub generation: i64,
    /// When an earlier failure began.
    pub failed_since: Option<Timestamp>,
}

impl Journey {
    /// The journey that begins with `changed`, an object that was just written, from where `before` stands.
    pub fn of(goal: Phase, changed: &Seen, before: &Seen) -> Self {
        let failed_since = (before.phase() == Phase::Failed).then_some(before.sandbox.since);
        Self { goal, want: changed.wanted, generation: changed.generation, failed_since }
    }

    /// Whether it has ended after so long, and how.
    pub fn ended(&self, seen: &Seen, waited: Duration) -> Option<Result<Sandbox, DriverError>> {
        let looked = seen.observed >= self.generation;
        match seen.phase() {
            phase if phase == self.goal && looked => Some(Ok(seen.sandbox.clone())),
            Phase::Terminating => Some(Err(conflict(seen, "it is going away"))),
            Phase::Failed if looked && self.goal != Phase::Stopped && self.is_news(seen, waited) => {
                Some(Err(failed(&seen.sandbox.reason)))
            }
            _ if seen.generation > self.generation && seen.wanted != self.want => {
                let problem = format!("somebody else asked for it to be {:?} meanwhile", seen.wanted);
                Some(Err(conflict(seen, problem)))
            }
            _ if !looked && waited > TAKE_UP => Some(Err(nobody_looks(seen.id()))),
            _ => None,
        }
    }

    fn is_news(&self, seen: &Seen, waited: Duration) -> bool {
        self.failed_since != Some(seen.sandbox.since) || waited > SETTLE
    }
}

fn nobody_looks(id: &SandboxId) -> DriverError {
    DriverError::Internal(format!(
        "the operator has not looked at sandbox {id} for {} s: is it running? (`kubectl get lease atoll-operator` in the \
         platform's namespace)",
        TAKE_UP.as_secs()
    ))
}

/// What to say of one that is on its way for too long.
fn late(seen: &Seen) -> DriverError {
    let reason = &seen.sandbox.reason;
    match reason.code.as_str() {
        "unschedulable" => failed(reason),
        code => DriverError::Internal(format!(
            "sandbox {} is still {:?} ({code}: {}); it goes on",
            seen.id(),
            seen.phase(),
            reason.message
        )),
    }
}

impl Inner {
    /// Writes the object and waits until its agent answers.
    pub(super) async fn create(&self, sandbox: Sandbox, progress: Progress) -> Result<Sandbox, DriverError> {
        can_be_had(&sandbox)?;
        let post = self.posting.begin(sandbox.id());
        let made = self.post(&sandbox).await?;
        self.shared.wrote(&made);
        if post.end() {
            self.delete(sandbox.id()).await?;
            return Err(missing(sandbox.id()));
        }
        let journey = Journey {
            goal: Phase::Running,
            want: DesiredState::Running,
            generation: made.metadata.generation.unwrap_or(1),
            failed_since: None,
        };
        let end = self.travel(sandbox.id(), &journey, START, &progress).await;
        if matches!(end, Err(DriverError::InUse(_))) {
            // As on one machine: who cannot have the volume leaves nothing.
            self.delete(sandbox.id()).await?;
            let _ = self.until(sandbox.id(), TAKE_UP, |_| None::<Result<(), _>>).await;
        }
        end
    }

    /// Whether what is in the way is going away.
    fn will_be_free(&self, error: &DriverError) -> bool {
        let DriverError::InUse(message) = error else { return false };
        let Some(holder) = holder_in(message) else { return false };
        self.shared.cache.get(&holder).is_none_or(|seen| seen.phase() == Phase::Terminating)
    }

    /// An attempt whose answer was lost may have made it: then it is there at the next one.
    async fn post(&self, sandbox: &Sandbox) -> Result<crd::Sandbox, DriverError> {
        let (tenant, namespaces) = (&sandbox.spec.tenant, &self.shared.namespaces);
        let namespace = namespaces.of(tenant);
        let api = Api::<crd::Sandbox>::namespaced(self.client.clone(), &namespace);
        let (object, params) = (
            from_core(sandbox, &namespace),
            PostParams { field_manager: Some(API.into()), ..PostParams::default() },
        );
        let attempts = AtomicUsize::new(0);
        let made = persist(|| {
            attempts.fetch_add(1, Ordering::Relaxed);
            api.create(&params, &object)
        });
        match made.await {
            Err(RequestError::Refused(status)) if status.code == 409 => {
                let name = sandbox.id().as_str();
                let there = persist(|| api.get(name))
                    .await
                    .map_err(|error| not_created(error, tenant, namespaces))?;
                if attempts.into_inner() > 1 && is_ours(&there, &object) {
                    Ok(there)
                } else {
                    Err(exists(sandbox.id()))
                }
            }
            made => made.map_err(|error| not_created(error, tenant, namespaces)),
        }
    }

    /// Waits for the end of a journey, and tells of what happens on the way.
    pub(super) async fn travel(
        &self,
        id: &SandboxId,
        journey: &Journey,
        bound: Duration,
        progress: &Progress,
    ) -> Result<Sandbox, DriverError> {
        let (begun, mut told) = (Instant::now(), None::<CreateStep>);
        let end = self.until(id, bound, |seen| {
            if let Some(step) = step(seen).filter(|step| told.as_ref() != Some(step)) {
                told = Some(step.clone());
                progress(step);
            }
            let end = journey.ended(seen, begun.elapsed())?;
            if end.as_ref().is_err_and(|error| self.will_be_free(error)) { None } else { Some(end) }
        });
        end.await.map_err(|waited| match waited {
            Waited::Over(error) => error,
            Waited::Late(seen) => late(&seen),
        })
    }

    /// Starts one that rests or failed, and waits until its agent answers.
    pub(super) async fn start(&self, id: &SandboxId, progress: Progress) -> Result<Sandbox, DriverError> {
        let seen = self.get(id)?;
        match seen.phase() {
            Phase::Running => return Ok(seen.sandbox.clone()),
            Phase::Stopped => {}
            // What failed is put away first: it may still have a pod.
            Phase::Failed => self.put_away(&seen).await?,
            _ => return Err(conflict(&seen, "only a stopped or failed sandbox can be started")),
        }
        let reason = Reason::new("requested", "its start was requested");
        self.run(&seen, &reason, &progress).await
    }

    /// Asks for it to run, and waits until its agent answers.
    pub(super) async fn run(
        &self,
        before: &Arc<Seen>,
        reason: &Reason,
        progress: &Progress,
    ) -> Result<Sandbox, DriverError> {
        let changed = self.want(before, DesiredState::Running, reason).await?;
        let journey = Journey::of(Phase::Running, &changed, before);
        self.travel(before.id(), &journey, START, progress).await
    }
}

/// What to say to whoever asks for limits that the objects have no words for.
pub const NO_IO: &str = "io: a cluster does not limit I/O on disks; leave it out";

/// What the objects have no words for is refused, not left out.
fn can_be_had(sandbox: &Sandbox) -> Result<(), DriverError> {
    if snapshot::of_image(&sandbox.spec.image).is_ok_and(|named| named.is_some()) {
        return super::snapshots::unsupported();
    }
    if sandbox.spec.limits.io.is_none() {
        return Ok(());
    }
    Err(DriverError::Invalid(NO_IO.into()))
}

/// Whether the object that is there asks for the very same. The cluster adds to it, so only names are compared.
fn is_ours(there: &crd::Sandbox, asked: &crd::Sandbox) -> bool {
    let labels = |meta: &ObjectMeta| meta.labels.clone();
    labels(&there.metadata) == labels(&asked.metadata) && there.spec.recipe.image == asked.spec.recipe.image
}

fn exists(id: &SandboxId) -> DriverError {
    let problem = "one of that id exists already".to_owned();
    DriverError::Conflict { id: id.clone(), phase: Phase::Creating, problem }
}

#[cfg(test)]
mod tests {
    use super::{super::seen::tests::seen, *};

    fn journey(goal: Phase, want: DesiredState) -> Journey {
        Journey { goal, want, generation: 2, failed_since: None }
    }

    fn at(phase: crd::Phase, observed: i64) -> Seen {
        Seen { observed, generation: 2, ..seen("a", 1, 1, Some(phase)) }
    }

    #[test]
    fn it_ends_where_the_operator_has_looked() {
        let to = journey(Phase::Running, DesiredState::Running);
        assert!(to.ended(&at(crd::Phase::Running, 1), Duration::ZERO).is_none(), "the pod before");
        assert!(to.ended(&at(crd::Phase::Running, 2), Duration::ZERO).unwrap().is_ok());
        assert!(to.ended(&at(crd::Phase::Creating, 2), Duration::ZERO).is_none());
        let gone = to.ended(&at(crd::Phase::Terminating, 2), Duration::ZERO).unwrap();
        assert!(matches!(gone, Err(DriverError::Conflict { phase: Phase::Terminating, .. })));
    }

    #[test]
    fn an_old_failure_is_no_answer_to_a_new_start() {
        let mut to = journey(Phase::Running, DesiredState::Running);
        let mut failed = at(crd::Phase::Failed, 2);
        failed.sandbox.reason = Reason::new("quota_exceeded", "m");
        assert!(matches!(to.ended(&failed, Duration::ZERO), Some(Err(DriverError::Exhausted(_)))));
        to.failed_since = Some(failed.sandbox.since);
        assert!(to.ended(&failed, Duration::ZERO).is_none());
        assert!(to.ended(&failed, SETTLE * 2).is_some(), "it failed in the same moment again");
        let stop = journey(Phase::Stopped, DesiredState::Stopped);
        assert!(stop.ended(&failed, Duration::ZERO).is_none(), "a failed one can still be stopped");
    }

    #[test]
    fn whoever_is_overruled_or_ignored_hears_it() {
        let to = journey(Phase::Running, DesiredState::Running);
        let other = Seen { generation: 3, wanted: DesiredState::Stopped, ..at(crd::Phase::Creating, 2) };
        let Some(Err(DriverError::Conflict { problem, .. })) = to.ended(&other, Duration::ZERO) else {
            panic!()
        };
        assert!(problem.contains("Stopped"), "{problem}");
        let ignored = at(crd::Phase::Creating, 0);
        assert!(to.ended(&ignored, Duration::ZERO).is_none());
        let Some(Err(DriverError::Internal(text))) = to.ended(&ignored, TAKE_UP * 2) else { panic!() };
        assert!(text.contains("operator"), "{text}");
    }

    #[test]
    fn limits_that_a_cluster_does_not_know_are_refused() {
        let mut asked = atoll_core::testing::sandbox(1);
        assert!(can_be_had(&asked).is_ok());
        asked.spec.limits.io.read_rate = Some(atoll_core::quantity::Bytes(1 << 20));
        assert!(matches!(can_be_had(&asked), Err(DriverError::Invalid(why)) if why.starts_with("io:")));
    }

    #[test]
    fn one_that_no_node_takes_is_a_matter_of_room() {
        let mut waiting = at(crd::Phase::Creating, 2);
        waiting.sandbox.reason = Reason::new("unschedulable", "0/2 nodes");
        assert!(matches!(late(&waiting), DriverError::Exhausted(_)));
        waiting.sandbox.reason.code = "pulling".into();
        assert!(matches!(late(&waiting), DriverError::Internal(_)));
    }
}
