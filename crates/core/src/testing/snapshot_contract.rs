//! What every driver's [`Snapshots`] must do, as one suite to run against each of them. What is in the files is for the
//! driver's own tests: this suite must not know how they are reached.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::{
    driver::{Driver, DriverError, no_progress},
    id::{SandboxId, SnapshotId},
    phase::Phase,
    sandbox::{Reason, Sandbox, SandboxSpec},
    snapshot::{NewSnapshot, Snapshot, SnapshotQuery},
};

struct Suite<'a> {
    driver: &'a dyn Driver,
    spec: &'a (dyn Fn(u8) -> SandboxSpec + Send + Sync),
}

/// Runs the whole suite on a driver without snapshots. `spec` gives what the driver can make a sandbox of, of tenant
/// `default`, another one for each number.
///
/// # Panics
/// Where the driver does not keep the contract.
pub async fn snapshot_contract(driver: &dyn Driver, spec: impl Fn(u8) -> SandboxSpec + Send + Sync) {
    let suite = Suite { driver, spec: &spec };
    let source = suite.create(1).await;
    suite.is_found_until_removed(&source).await;
    suite.leaves_its_source_as_it_was(&source).await;
    suite.is_an_image(&source).await;
    suite.is_its_tenants_alone(&source).await;
    suite.in_passing(&source).await;
    suite.is_listed_by_age(&source).await;
    let outcome = driver.snapshots().take(&SandboxId::from_entropy([99; 19]), suite.ask(90)).await;
    assert!(matches!(outcome, Err(DriverError::NotFound(_))), "of no sandbox: {outcome:?}");
}

/// Ends the suite where a call failed that must not.
#[track_caller]
fn done<T>(outcome: Result<T, DriverError>) -> T {
    outcome.unwrap_or_else(|error| unreachable!("the driver failed: {error}"))
}

#[track_caller]
fn assert_missing<T: std::fmt::Debug>(outcome: Result<T, DriverError>) {
    assert!(matches!(outcome, Err(DriverError::NotFound(_))), "{outcome:?}");
}

fn reason() -> Reason {
    Reason::new("requested", "the suite asked for it")
}

impl Suite<'_> {
    async fn create(&self, n: u8) -> Sandbox {
        done(self.driver.create(Sandbox::new((self.spec)(n), None), no_progress()).await)
    }

    fn ask(&self, n: u8) -> NewSnapshot {
        let at = Timestamp::from_second(i64::from(n)).unwrap_or(Timestamp::UNIX_EPOCH);
        NewSnapshot::new(SnapshotId::from_entropy([n; 19]), at)
    }

    async fn take(&self, source: &Sandbox, ask: NewSnapshot) -> Snapshot {
        done(self.driver.snapshots().take(source.id(), ask).await)
    }

    async fn found(&self, query: SnapshotQuery) -> Vec<SnapshotId> {
        let query = SnapshotQuery { limit: 100, ..query };
        done(self.driver.snapshots().list(&query).await).items.into_iter().map(|it| it.id).collect()
    }

    async fn is_found_until_removed(&self, source: &Sandbox) {
        let ask = NewSnapshot { names: vec!["work:v1".into()], key: Some("k".into()), ..self.ask(10) };
        let taken = self.take(source, ask).await;
        let snapshots = self.driver.snapshots();
        assert_eq!(done(snapshots.get(&taken.id).await), taken);
        assert_eq!((&taken.source, &taken.tenant), (source.id(), &source.spec.tenant));
        assert_eq!((taken.image.as_str(), taken.created_at.as_second()), (source.spec.image.as_str(), 10));
        let all = SnapshotQuery::default;
        for (query, is_there) in [
            (all(), true),
            (SnapshotQuery { tenant: Some(source.spec.tenant.clone()), ..all() }, true),
            (SnapshotQuery { tenant: Some("nobody".into()), ..all() }, false),
            (SnapshotQuery { source: Some(source.id().clone()), ..all() }, true),
            (SnapshotQuery { source: Some(SandboxId::from_entropy([99; 19])), ..all() }, false),
            (SnapshotQuery { name: Some("work".into()), ..all() }, true),
            (SnapshotQuery { name: Some("work:v2".into()), ..all() }, false),
            (SnapshotQuery { key: Some("k".into()), ..all() }, true),
            (SnapshotQuery { key: Some("l".into()), ..all() }, false),
            (SnapshotQuery { keyless: true, ..all() }, false),
        ] {
            let found = self.found(query.clone()).await;
            assert_eq!(found.contains(&taken.id), is_there, "{query:?}");
        }
        done(snapshots.remove(&taken.id).await);
        assert_missing(snapshots.get(&taken.id).await);
        assert_missing(snapshots.remove(&taken.id).await);
        assert_eq!(self.found(all()).await, []);
    }

    async fn leaves_its_source_as_it_was(&self, source: &Sandbox) {
        let driver = self.driver;
        done(driver.pause(source.id(), reason()).await);
        let paused = self.take(source, self.ask(20)).await;
        assert_eq!(done(driver.get(source.id()).await).phase, Phase::Paused);
        done(driver.resume(source.id()).await);
        done(driver.stop(source.id(), reason()).await);
        let stopped = self.take(source, self.ask(21)).await;
        assert_eq!(done(driver.get(source.id()).await).phase, Phase::Stopped);
        done(driver.start(source.id(), no_progress()).await);
        for taken in [paused, stopped] {
            done(driver.snapshots().remove(&taken.id).await);
        }
    }

    async fn is_an_image(&self, source: &Sandbox) {
        let env = BTreeMap::from([("FROM".to_owned(), "snapshot".to_owned())]);
        let ask = NewSnapshot { env: Some(env.clone()), workdir: Some("/tmp".into()), ..self.ask(30) };
        let taken = self.take(source, ask).await;
        let spec = SandboxSpec { image: taken.reference(), ..(self.spec)(2) };
        let copy = done(self.driver.create(Sandbox::new(spec, None), no_progress()).await);
        assert_eq!((copy.phase, &copy.spec.image), (Phase::Running, &taken.reference()));
        done(self.driver.snapshots().remove(&taken.id).await);
        done(self.driver.stop(copy.id(), reason()).await);
        let again = done(self.driver.start(copy.id(), no_progress()).await);
        assert_eq!(again.phase, Phase::Running, "without its snapshot");
        done(self.driver.delete(copy.id(), reason()).await);
        self.inherits(source, env).await;
    }

    /// What a snapshot says of how to run is said of a snapshot of its sandbox.
    async fn inherits(&self, source: &Sandbox, env: BTreeMap<String, String>) {
        let ask = NewSnapshot { env: Some(env.clone()), workdir: Some("/tmp".into()), ..self.ask(31) };
        let first = self.take(source, ask).await;
        let spec = SandboxSpec { image: first.reference(), ..(self.spec)(3) };
        let copy = done(self.driver.create(Sandbox::new(spec, None), no_progress()).await);
        let second = self.take(&copy, self.ask(32)).await;
        assert_eq!((&second.image, &second.source), (&source.spec.image, copy.id()), "the image below both");
        assert_eq!((second.defaults.env, second.defaults.workdir.as_deref()), (env, Some("/tmp")));
        done(self.driver.delete(copy.id(), reason()).await);
        for id in [&first.id, &second.id] {
            done(self.driver.snapshots().remove(id).await);
        }
    }

    async fn is_its_tenants_alone(&self, source: &Sandbox) {
        let taken = self.take(source, self.ask(40)).await;
        let other = SandboxSpec { image: taken.reference(), tenant: "other".into(), ..(self.spec)(4) };
        let nobodys = crate::snapshot::reference(&SnapshotId::from_entropy([98; 19]));
        let unknown = SandboxSpec { image: nobodys, ..(self.spec)(4) };
        for spec in [other, unknown] {
            let id = spec.id.clone();
            let outcome = self.driver.create(Sandbox::new(spec, None), no_progress()).await;
            let refused =
                matches!(&outcome, Err(DriverError::Image { code, .. }) if code == "snapshot_not_found");
            assert!(refused, "{outcome:?}");
            assert_missing(self.driver.get(&id).await);
        }
        done(self.driver.snapshots().remove(&taken.id).await);
    }

    async fn in_passing(&self, source: &Sandbox) {
        let taken = self.take(source, NewSnapshot { passing: true, ..self.ask(50) }).await;
        assert_eq!(self.found(SnapshotQuery::default()).await, []);
        let spec = SandboxSpec { image: taken.reference(), ..(self.spec)(5) };
        let copy = done(self.driver.create(Sandbox::new(spec, None), no_progress()).await);
        done(self.driver.delete(copy.id(), reason()).await);
        done(self.driver.snapshots().remove(&taken.id).await);
    }

    async fn is_listed_by_age(&self, source: &Sandbox) {
        let mut taken = Vec::new();
        for n in [62, 60, 61] {
            taken.push(self.take(source, self.ask(n)).await);
        }
        let mut query = SnapshotQuery { limit: 2, ..SnapshotQuery::default() };
        let first = done(self.driver.snapshots().list(&query).await);
        query.cursor.clone_from(&first.next);
        let second = done(self.driver.snapshots().list(&query).await);
        let ages = |items: &[Snapshot]| items.iter().map(|it| it.created_at.as_second()).collect::<Vec<_>>();
        assert_eq!((ages(&first.items), ages(&second.items)), (vec![62, 61], vec![60]));
        assert!(first.next.is_some() && second.next.is_none());
        for it in taken {
            done(self.driver.snapshots().remove(&it.id).await);
        }
    }
}
