//! Putting sandboxes to rest, waking them, changing what is wanted of them, and letting them go.

use atoll_core::{
    driver::{DriverError, no_progress},
    id::SandboxId,
    lifecycle::deadline_after_wake,
    network::NetworkPolicy,
    phase::Phase,
    sandbox::{Reason, Sandbox},
};
use jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;
use std::{sync::Arc, time::Duration};

use super::{Inner, Waited, conflict, create::Journey, refused, request::persist, seen::Seen};
use crate::{convert::network_out, crd::DesiredState, operator::WHY};

/// How long a move to rest or back may take: the grace of a stop, and a busy operator.
const MOVE: Duration = Duration::from_secs(120);
/// How long a change of the network may take to hold.
const HOLD: Duration = Duration::from_secs(30);

impl Inner {
    /// Says how a sandbox should be, and why.
    pub(super) async fn want(
        &self,
        seen: &Seen,
        state: DesiredState,
        reason: &Reason,
    ) -> Result<Arc<Seen>, DriverError> {
        let why = json!({ "code": reason.code, "message": reason.message }).to_string();
        let mut spec = json!({ "state": state });
        if state == DesiredState::Running
            && let Some(deadline) = deadline_after_wake(&seen.sandbox, Timestamp::now())
        {
            spec["deadline"] = json!(deadline);
        }
        self.patch(seen, json!({ "metadata": { "annotations": { WHY: why } }, "spec": spec })).await
    }

    async fn go(
        &self,
        seen: &Arc<Seen>,
        state: DesiredState,
        goal: Phase,
        reason: &Reason,
    ) -> Result<Sandbox, DriverError> {
        let changed = self.want(seen, state, reason).await?;
        self.travel(seen.id(), &Journey::of(goal, &changed, seen), MOVE, &no_progress()).await
    }

    pub(super) async fn stop(&self, id: &SandboxId, reason: &Reason) -> Result<Sandbox, DriverError> {
        let seen = self.get(id)?;
        match seen.phase() {
            Phase::Stopped => Ok(seen.sandbox.clone()),
            Phase::Running | Phase::Paused => {
                self.go(&seen, DesiredState::Stopped, Phase::Stopped, reason).await
            }
            _ => Err(conflict(&seen, "only a running or paused sandbox can be stopped")),
        }
    }

    pub(super) async fn pause(&self, id: &SandboxId, reason: &Reason) -> Result<Sandbox, DriverError> {
        let seen = self.get(id)?;
        match seen.phase() {
            Phase::Paused => Ok(seen.sandbox.clone()),
            Phase::Running => self.go(&seen, DesiredState::Paused, Phase::Paused, reason).await,
            _ => Err(conflict(&seen, "only a running sandbox can be paused")),
        }
    }

    pub(super) async fn resume(&self, id: &SandboxId) -> Result<Sandbox, DriverError> {
        let seen = self.get(id)?;
        match seen.phase() {
            Phase::Running => Ok(seen.sandbox.clone()),
            Phase::Paused => {
                self.touches.touch(id, Timestamp::now());
                let reason = Reason::new("requested", "its resumption was requested");
                self.go(&seen, DesiredState::Running, Phase::Running, &reason).await
            }
            _ => Err(conflict(&seen, "only a paused sandbox can be resumed; start a stopped one")),
        }
    }

    /// One that runs: a resting one is woken, one that is being made is waited for.
    pub(super) async fn awake(&self, id: &SandboxId) -> Result<Arc<Seen>, DriverError> {
        let seen = self.get(id)?;
        match seen.phase() {
            Phase::Running if seen.wanted == DesiredState::Running => return Ok(seen),
            Phase::Running | Phase::Paused | Phase::Stopped | Phase::Creating => {
                self.touches.touch(id, Timestamp::now());
                let reason = Reason::new("woken", "somebody connected to it");
                self.run(&seen, &reason, &no_progress()).await?;
            }
            _ => return Err(conflict(&seen, "nothing can be run in it")),
        }
        self.get(id)
    }

    /// Has what a failed sandbox left removed. That the operator has begun is enough.
    pub(super) async fn put_away(&self, seen: &Seen) -> Result<(), DriverError> {
        let reason = Reason::new("requested", "what is left of it is put away before it starts anew");
        let changed = self.want(seen, DesiredState::Stopped, &reason).await?;
        let begun = self.until(seen.id(), MOVE, |seen| match seen.phase() {
            Phase::Terminating => Some(Err(conflict(seen, "it is going away"))),
            _ => (seen.observed >= changed.generation).then_some(Ok(())),
        });
        begun.await.map_err(|waited| in_time(waited, "put away"))
    }

    /// Its deletion is recorded when this returns.
    pub(super) async fn delete(&self, id: &SandboxId) -> Result<(), DriverError> {
        // What is not there may be on its way, and what was on its way may be there now.
        let seen = match self.get(id) {
            Err(DriverError::NotFound(_)) if self.posting.let_go(id) => return Ok(()),
            Err(DriverError::NotFound(_)) => self.get(id)?,
            seen => seen?,
        };
        if seen.phase() == Phase::Terminating {
            return Ok(());
        }
        let this = Preconditions { uid: Some(seen.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(this), ..DeleteParams::background() };
        let api = self.api(&seen);
        let deleted = persist(|| api.delete(&seen.place.name, &params)).await;
        match deleted.map(|answer| answer.left()) {
            Ok(Some(object)) => self.shared.wrote(&object),
            // It had no finalizer yet: nothing was made of it.
            Ok(None) => self.shared.tell(self.shared.cache.gone(&seen.place, &seen.uid)),
            Err(error) if error.is_missing() => {
                self.shared.tell(self.shared.cache.gone(&seen.place, &seen.uid));
            }
            Err(error) => return Err(refused(error, id)),
        }
        Ok(())
    }

    pub(super) async fn set_deadline(
        &self,
        id: &SandboxId,
        deadline: Option<Timestamp>,
    ) -> Result<Sandbox, DriverError> {
        let seen = self.staying(id)?;
        let spec = match deadline {
            Some(at) => json!({ "deadline": at }),
            None => json!({ "deadline": null, "lifecycle": { "ttlSeconds": 0 } }),
        };
        Ok(self.patch(&seen, json!({ "spec": spec })).await?.sandbox.clone())
    }

    /// Returns when the operator has taken it up.
    pub(super) async fn set_network(
        &self,
        id: &SandboxId,
        policy: &NetworkPolicy,
    ) -> Result<Sandbox, DriverError> {
        let seen = self.staying(id)?;
        let changed = self.patch(&seen, json!({ "spec": { "network": network(policy) } })).await?;
        let holds = self
            .until(id, HOLD, |seen| (seen.observed >= changed.generation).then(|| Ok(seen.sandbox.clone())));
        holds.await.map_err(|waited| in_time(waited, "given its new network policy"))
    }

    /// One that is not going away.
    fn staying(&self, id: &SandboxId) -> Result<Arc<Seen>, DriverError> {
        let seen = self.get(id)?;
        match seen.phase() {
            Phase::Terminating => Err(conflict(&seen, "it is going away")),
            _ => Ok(seen),
        }
    }
}

fn in_time(waited: Waited, what: &str) -> DriverError {
    match waited {
        Waited::Over(error) => error,
        Waited::Late(seen) => DriverError::Internal(format!(
            "sandbox {} was not {what} in time; the operator will do it when it runs again",
            seen.id()
        )),
    }
}

/// A merge leaves a list alone that is not named, so both are.
fn network(policy: &NetworkPolicy) -> serde_json::Value {
    let it = network_out(policy);
    json!({ "mode": it.mode, "allow": it.allow, "deny": it.deny })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_policy_takes_the_place_of_all_of_the_old() {
        let text = network(&NetworkPolicy::default()).to_string();
        assert_eq!(text, r#"{"allow":[],"deny":[],"mode":"internet"}"#);
    }
}
