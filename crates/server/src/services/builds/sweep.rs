//! What is tidied up after builds, by every server, now and then: builds whose server died, sandboxes that they left, old
//! logs, uploads, and layers that no template stands on.

use atoll_core::{
    build::BuildState,
    driver::{DriverError, ListQuery},
    snapshot::{self, Snapshot, SnapshotQuery},
    store::StoreError,
};
use jiff::{SignedDuration, Timestamp};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};

use super::{LABEL, Services};
use crate::services::{access::Caller, error::ServiceError};

/// How often it is looked after builds, and after everything else.
const SOON: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(30 * 60);
/// A build that nobody was heard working on for so long is not worked on: several times what goes between two words of it.
const SILENT: SignedDuration = SignedDuration::from_secs(20);
/// A build whose steps did not come for so long is not wanted.
const WAITED: SignedDuration = SignedDuration::from_hours(24);
/// How long logs and failed builds are remembered.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Of a page.
const PAGE: usize = 500;

impl Services {
    /// Tidies up for as long as the server runs.
    pub async fn sweep_builds(&self) {
        let mut ticks = tokio::time::interval(SOON);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seldom: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.base.stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            report("builds that nobody works on", self.end_silent_builds().await);
            if seldom.is_none_or(|last| last.elapsed() >= SELDOM) {
                seldom = Some(Instant::now());
                report("sandboxes of builds", self.remove_left_sandboxes().await);
                report("old builds", self.forget_old_builds().await);
                report("layers", self.sweep_layers().await);
            }
        }
    }

    async fn end_silent_builds(&self) -> Result<(), ServiceError> {
        let (store, now) = (&self.base.store, self.base.world.now());
        let failed = |message: &str| BuildState::Failed { message: message.to_owned(), step: None };
        let lost = failed("the server that worked on it went away; build again");
        let silent = store.end_silent_builds(&BuildState::Building, before(now, SILENT), &lost).await?;
        let never = failed("it was never begun");
        store.end_silent_builds(&BuildState::Waiting, before(now, WAITED), &never).await?;
        if silent > 0 {
            tracing::warn!(builds = silent, "builds ended because nobody worked on them");
            self.remove_left_sandboxes().await?;
        }
        Ok(())
    }

    /// Sandboxes of builds that are not under way.
    async fn remove_left_sandboxes(&self) -> Result<(), ServiceError> {
        let query = ListQuery { limit: PAGE, ..ListQuery::default() };
        let mut cursor = None;
        loop {
            let page = self.base.driver.list(&ListQuery { cursor, ..query.clone() }).await?;
            for sandbox in page.items {
                let spec = &sandbox.spec;
                let Some(build) = spec.labels.get(LABEL) else { continue };
                let under_way = match self.base.store.build(&spec.tenant, build).await {
                    Ok(build) => build.state == BuildState::Building,
                    Err(StoreError::NotFound(_)) => false,
                    Err(error) => return Err(error.into()),
                };
                if !under_way && sandbox.phase != atoll_core::phase::Phase::Terminating {
                    self.delete(&sweeper(&spec.tenant), spec.id.as_str()).await?;
                }
            }
            match page.next {
                None => return Ok(()),
                next => cursor = next,
            }
        }
    }

    async fn forget_old_builds(&self) -> Result<(), ServiceError> {
        self.base.store.sweep_builds(before(self.base.world.now(), REMEMBERED)).await?;
        let Ok(spool) = self.spool() else { return Ok(()) };
        let swept = spool.sweep().await;
        swept.map_err(|error| ServiceError::Internal(format!("cannot sweep the uploads: {error}")))
    }

    /// Layers that are old, and that no version of a template has as its image. Those above one stand by themselves.
    async fn sweep_layers(&self) -> Result<(), ServiceError> {
        let keep =
            SignedDuration::try_from(self.base.config.limits.layers_for).unwrap_or(SignedDuration::MAX);
        let old = before(self.base.world.now(), keep);
        let layers = match self.old_layers(old).await {
            Err(ServiceError::Driver(DriverError::Unsupported(_))) => return Ok(()),
            layers => layers?,
        };
        if layers.is_empty() {
            return Ok(());
        }
        let kept = self.layers_of_templates().await?;
        for layer in layers.into_iter().filter(|layer| !kept.contains(&layer.reference())) {
            tracing::info!(snapshot = %layer.id, "removes a layer that nobody needs");
            match self.base.driver.snapshots().remove(&layer.id).await {
                Ok(()) | Err(DriverError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn old_layers(&self, old: Timestamp) -> Result<Vec<Snapshot>, ServiceError> {
        let mut query = SnapshotQuery { limit: PAGE, ..SnapshotQuery::default() };
        let mut layers = Vec::new();
        loop {
            let page = self.base.driver.snapshots().list(&query).await?;
            layers.extend(
                page.items
                    .into_iter()
                    .filter(|it| it.key.is_some() && it.names.is_empty() && it.created_at < old),
            );
            match page.next {
                None => return Ok(layers),
                next => query.cursor = next,
            }
        }
    }

    /// Images of every version of every template.
    async fn layers_of_templates(&self) -> Result<BTreeSet<String>, ServiceError> {
        let mut images = BTreeSet::new();
        for tenant in self.tenants().await? {
            for template in self.base.templates.templates(&tenant).await? {
                let versions = self.base.templates.template_versions(&tenant, &template.name).await?;
                images.extend(versions.into_iter().map(|version| version.spec.image));
            }
        }
        images.retain(|image| matches!(snapshot::of_image(image), Ok(Some(_))));
        Ok(images)
    }
}

fn sweeper(tenant: &str) -> Caller {
    Caller { key: "sweep".into(), tenant: tenant.to_owned(), role: atoll_core::key::Role::Member }
}

fn before(now: Timestamp, age: SignedDuration) -> Timestamp {
    now.saturating_sub(age).unwrap_or(Timestamp::MIN)
}

fn report(what: &str, outcome: Result<(), ServiceError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot tidy up {what}; tries again");
    }
}
