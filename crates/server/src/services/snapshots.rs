//! Snapshots of sandboxes' files, and forks: new sandboxes like one that is there, which begin with its files. Processes,
//! memory and volumes are in neither.

use atoll_core::{
    driver::DriverError,
    id::SnapshotId,
    request::Ttl,
    sandbox::{Sandbox, SandboxSpec},
    snapshot::{NewSnapshot, Snapshot, SnapshotPage, SnapshotQuery, check_snapshot_name},
};
use futures::future::join_all;
use jiff::Timestamp;
use std::sync::Arc;

use super::{
    Services,
    access::Caller,
    error::ServiceError,
    sandboxes::{deadline_in, to_the_end},
};
use crate::world;

/// Most forks of one request.
pub const MOST_FORKS: i64 = 20;
/// The tag that a name without one has in the words of other people's APIs.
const DEFAULT_TAG: &str = ":default";

/// How one fork came out.
pub type Forked = Result<Sandbox, ServiceError>;

impl Services {
    /// Keeps the files of a sandbox.
    pub async fn take_snapshot(
        &self,
        caller: &Caller,
        sandbox: &str,
        name: Option<String>,
    ) -> Result<Snapshot, ServiceError> {
        name.as_deref().map_or(Ok(()), |name| check_snapshot_name("name", name))?;
        let sandbox = self.sandbox(caller, sandbox).await?;
        let names = name.into_iter().collect();
        self.take(&sandbox, NewSnapshot { names, ..self.new_snapshot()? }).await
    }

    fn new_snapshot(&self) -> Result<NewSnapshot, ServiceError> {
        Ok(NewSnapshot::new(world::new_snapshot_id(&*self.base.world)?, self.base.world.now()))
    }

    async fn take(&self, sandbox: &Sandbox, ask: NewSnapshot) -> Result<Snapshot, ServiceError> {
        let (driver, id) = (self.base.driver.clone(), sandbox.id().clone());
        let taken = to_the_end(async move { driver.snapshots().take(&id, ask).await }).await?;
        Ok(taken.inspect_err(|error| self.base.metrics.driver_failed(error))?)
    }

    /// One snapshot that the caller may reach.
    pub async fn snapshot(&self, caller: &Caller, id: &str) -> Result<Snapshot, ServiceError> {
        let missing = || ServiceError::NotFound(format!("snapshot {id}"));
        let parsed = SnapshotId::parse(id).map_err(|_| ServiceError::NotFound(format!("snapshot {id:?}")))?;
        let found = self.base.driver.snapshots().get(&parsed).await?;
        let reached = caller.scope().is_none_or(|tenant| tenant == found.tenant);
        if reached { Ok(found) } else { Err(missing()) }
    }

    /// One page of those that people took, the caller may reach and that match.
    pub async fn snapshots(
        &self,
        caller: &Caller,
        query: SnapshotQuery,
    ) -> Result<SnapshotPage, ServiceError> {
        let tenant = caller.scope().map(str::to_owned).or(query.tenant);
        Ok(self.base.driver.snapshots().list(&SnapshotQuery { tenant, keyless: true, ..query }).await?)
    }

    /// The snapshot of the caller's own tenant that a name or an id leads to, of several the newest. There is none where
    /// the driver keeps none.
    pub async fn find_snapshot(&self, caller: &Caller, text: &str) -> Result<Option<Snapshot>, ServiceError> {
        let text = text.strip_suffix(DEFAULT_TAG).unwrap_or(text);
        let (driver, tenant) = (&self.base.driver, Some(caller.tenant.clone()));
        let found = match SnapshotId::parse(text) {
            Ok(id) => driver.snapshots().get(&id).await.map(|found| vec![found]),
            Err(_) => {
                let name = Some(text.to_owned());
                let query =
                    SnapshotQuery { tenant: tenant.clone(), name, limit: 1, ..SnapshotQuery::default() };
                driver.snapshots().list(&query).await.map(|page| page.items)
            }
        };
        match found {
            Ok(found) => Ok(found.into_iter().find(|it| tenant.as_ref() == Some(&it.tenant))),
            Err(DriverError::NotFound(_) | DriverError::Unsupported(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a snapshot. Sandboxes that were made from it keep their files.
    pub async fn delete_snapshot(&self, caller: &Caller, id: &str) -> Result<(), ServiceError> {
        let snapshot = self.snapshot(caller, id).await?;
        self.remove_snapshot(snapshot.id).await
    }

    /// Removes one that the caller was found to reach.
    pub async fn remove_snapshot(&self, id: SnapshotId) -> Result<(), ServiceError> {
        let driver = self.base.driver.clone();
        Ok(to_the_end(async move { driver.snapshots().remove(&id).await }).await??)
    }

    /// Makes sandboxes like one that is there, which begin with its files. One that cannot be made undoes no other.
    pub async fn fork(
        self: &Arc<Self>,
        caller: &Caller,
        sandbox: &str,
        count: i64,
        ttl: Ttl,
    ) -> Result<Vec<Forked>, ServiceError> {
        if !(1..=MOST_FORKS).contains(&count) {
            return Err(ServiceError::invalid("count", format!("is 1 to {MOST_FORKS}")));
        }
        let source = self.sandbox(caller, sandbox).await?;
        if !source.spec.volumes.is_empty() {
            let message = format!(
                "sandbox {} has volumes, and a volume is one sandbox's at a time; take a snapshot, which is without them, \
                 and make sandboxes from that",
                source.id()
            );
            return Err(ServiceError::Conflict { code: "has_volumes", message });
        }
        let at = self.base.world.now();
        let deadline = fork_deadline(&source, ttl, at)?;
        // To its end, also without the caller: the snapshot in between must go.
        let services = self.clone();
        to_the_end(async move { services.fork_to_the_end(&source, count, at, deadline).await }).await?
    }

    async fn fork_to_the_end(
        &self,
        source: &Sandbox,
        count: i64,
        at: Timestamp,
        deadline: Option<Timestamp>,
    ) -> Result<Vec<Forked>, ServiceError> {
        let between = self.take(source, NewSnapshot { passing: true, ..self.new_snapshot()? }).await?;
        let like = SandboxSpec { image: between.reference(), created_at: at, ..source.spec.clone() };
        let forks = join_all((0..count).map(|_| self.fork_one(&like, deadline))).await;
        self.remove_snapshot(between.id).await?;
        Ok(forks)
    }

    async fn fork_one(&self, like: &SandboxSpec, deadline: Option<Timestamp>) -> Forked {
        let spec = SandboxSpec { id: world::new_id(&*self.base.world)?, ..like.clone() };
        self.begin(Sandbox::new(spec, deadline))?.ended().await
    }
}

/// When forks end: where nobody says, they are given as long as their source was.
fn fork_deadline(source: &Sandbox, ttl: Ttl, now: Timestamp) -> Result<Option<Timestamp>, ServiceError> {
    match ttl {
        Ttl::Template => {
            let given = source.deadline.map(|end| end.duration_since(source.spec.created_at).as_secs());
            given.map_or(Ok(None), |seconds| deadline_in(source, Some(seconds.max(1)), now))
        }
        Ttl::Never => deadline_in(source, None, now),
        Ttl::Seconds(seconds) => deadline_in(source, Some(seconds), now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::testing::sandbox;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_fork_is_given_as_long_as_its_source_was() {
        let mut source = sandbox(1);
        assert_eq!(fork_deadline(&source, Ttl::Template, at(500)).unwrap(), None);
        source.deadline = Some(at(100));
        assert_eq!(fork_deadline(&source, Ttl::Template, at(500)).unwrap(), Some(at(600)));
        assert_eq!(fork_deadline(&source, Ttl::Never, at(500)).unwrap(), None);
        assert_eq!(fork_deadline(&source, Ttl::Seconds(5), at(500)).unwrap(), Some(at(505)));
        for bad in [0, -1, i64::MAX] {
            let refused = fork_deadline(&source, Ttl::Seconds(bad), at(500)).unwrap_err();
            assert_eq!(refused.tell().field.as_deref(), Some("ttl"), "{bad}");
        }
        source.spec.lifecycle.allow_no_ttl = false;
        assert!(fork_deadline(&source, Ttl::Never, at(500)).is_err());
    }
}
