//! Who leads: one of the operator's replicas holds a Lease and works, the others wait. A leader that cannot renew stops
//! before another begins.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;
use tokio::time::Instant;

/// How long a leader may be silent before another takes over.
const LENGTH: Duration = Duration::from_secs(15);
/// How often it is heard.
const RENEW: Duration = Duration::from_secs(4);
/// A leader that could not renew for so long stops: well before [`LENGTH`].
const GIVE_UP: Duration = Duration::from_secs(10);
/// Name of the Lease.
pub const NAME: &str = "atoll-operator";

/// The Lease, as one replica sees it.
pub struct Leadership {
    api: Api<Lease>,
    identity: String,
}

/// What a look at the Lease says to do. Pure.
#[derive(Debug, PartialEq)]
enum Turn {
    /// Another leads.
    Wait,
    /// Ours, or nobody's, or long silent: write this.
    Take(Box<LeaseSpec>),
}

fn turn(lease: Option<&LeaseSpec>, identity: &str, now: Timestamp) -> Turn {
    let holder = lease.and_then(|it| it.holder_identity.clone()).filter(|it| !it.is_empty());
    let renewed = lease.and_then(|it| it.renew_time.as_ref()).map(|it| it.0);
    let length = lease.and_then(|it| it.lease_duration_seconds).unwrap_or_default();
    let silent = renewed.is_none_or(|at| now.duration_since(at) > SignedDuration::from_secs(length.into()));
    let ours = holder.as_deref() == Some(identity);
    if holder.is_some() && !ours && !silent {
        return Turn::Wait;
    }
    let before = lease.cloned().unwrap_or_default();
    Turn::Take(Box::new(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LENGTH.as_secs()).ok(),
        renew_time: Some(MicroTime(now)),
        acquire_time: if ours { before.acquire_time } else { Some(MicroTime(now)) },
        lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(!ours)),
        ..LeaseSpec::default()
    }))
}

impl Leadership {
    /// In the platform's namespace, as `identity`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.to_owned() }
    }

    /// Tries once; says whether this replica leads now.
    async fn renew(&self) -> Result<bool, kube::Error> {
        let there = self.api.get_opt(NAME).await?;
        let spec = there.as_ref().and_then(|it| it.spec.as_ref());
        let Turn::Take(spec) = turn(spec, &self.identity, Timestamp::now()) else { return Ok(false) };
        let metadata = ObjectMeta {
            name: Some(NAME.into()),
            resource_version: there.as_ref().and_then(|it| it.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        };
        let lease = Lease { metadata, spec: Some(*spec) };
        let written = match there {
            None => self.api.create(&PostParams::default(), &lease).await,
            Some(_) => self.api.replace(NAME, &PostParams::default(), &lease).await,
        };
        match written {
            Ok(_) => Ok(true),
            // Another was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns when this replica leads.
    pub async fn acquire(&self) {
        loop {
            match self.renew().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease cannot be read or written"),
            }
            tokio::time::sleep(RENEW).await;
        }
    }

    /// Returns when this replica leads no more.
    pub async fn lost(&self) {
        let mut heard = Instant::now();
        loop {
            tokio::time::sleep(RENEW).await;
            match tokio::time::timeout(RENEW, self.renew()).await {
                Ok(Ok(true)) => heard = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be renewed"),
                Err(_) => tracing::warn!("the lease cannot be renewed: no answer"),
            }
            if heard.elapsed() > GIVE_UP {
                return;
            }
        }
    }

    /// Lets another lead at once.
    pub async fn release(&self) {
        let patch = serde_json::json!({ "spec": { "holderIdentity": "" } });
        let released = self.api.patch(NAME, &Default::default(), &kube::api::Patch::Merge(patch)).await;
        if let Err(error) = released {
            tracing::warn!(%error, "the lease could not be given up; another takes over later");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn taken(turn: Turn) -> LeaseSpec {
        match turn {
            Turn::Take(spec) => *spec,
            Turn::Wait => panic!("it should be taken"),
        }
    }

    #[test]
    fn one_leads_until_it_is_silent() {
        let first = taken(turn(None, "a", at(0)));
        assert_eq!((first.holder_identity.as_deref(), first.lease_transitions), (Some("a"), Some(1)));
        assert_eq!(turn(Some(&first), "b", at(15)), Turn::Wait);
        let renewed = taken(turn(Some(&first), "a", at(10)));
        assert_eq!((renewed.acquire_time.clone(), renewed.lease_transitions), (first.acquire_time, Some(1)));
        let second = taken(turn(Some(&renewed), "b", at(26)));
        assert_eq!((second.holder_identity.as_deref(), second.lease_transitions), (Some("b"), Some(2)));
        let released = LeaseSpec { holder_identity: Some(String::new()), ..second };
        assert_eq!(taken(turn(Some(&released), "a", at(26))).holder_identity.as_deref(), Some("a"));
    }
}
