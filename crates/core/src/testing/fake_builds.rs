//! [`Builds`] in memory, as a part of the fake store.

use async_trait::async_trait;
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::fake_store::{FakeStore, check_all, kept};
use crate::{
    build::{Begun, Build, BuildState, Builds, LogLine, Tag},
    store::StoreError,
};

/// What the fake store knows of builds.
#[derive(Debug, Default)]
pub(super) struct FakeBuilds(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    builds: Vec<Build>,
    logs: BTreeMap<String, Vec<LogLine>>,
    /// By tenant, template and name.
    tags: BTreeMap<(String, String, String), Tag>,
}

impl FakeBuilds {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn find(&mut self, tenant: &str, id: &str) -> Option<&mut Build> {
        self.builds.iter_mut().find(|build| build.tenant == tenant && build.id == id)
    }

    fn under_way(&mut self, tenant: &str, id: &str) -> Option<&mut Build> {
        self.find(tenant, id).filter(|build| build.state == BuildState::Building)
    }
}

#[async_trait]
impl Builds for FakeStore {
    async fn put_build(&self, build: &Build) -> Result<(), StoreError> {
        check_all(&[&build.id, &build.tenant, &build.template])?;
        let mut rows = self.builds.rows();
        if rows.builds.iter().any(|known| known.id == build.id) {
            return Err(StoreError::Exists(format!("build {}", build.id)));
        }
        let times = (kept(build.created_at), kept(build.updated_at));
        rows.builds.push(Build { created_at: times.0, updated_at: times.1, ..build.clone() });
        Ok(())
    }

    async fn build(&self, tenant: &str, id: &str) -> Result<Build, StoreError> {
        check_all(&[tenant, id])?;
        let found = self.builds.rows().find(tenant, id).cloned();
        found.ok_or_else(|| StoreError::NotFound(format!("build {id}")))
    }

    async fn builds_of(&self, tenant: &str, template: &str, limit: u64) -> Result<Vec<Build>, StoreError> {
        check_all(&[tenant, template])?;
        let theirs = |build: &&Build| build.tenant == tenant && build.template == template;
        let mut found: Vec<Build> = self.builds.rows().builds.iter().filter(theirs).cloned().collect();
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(found)
    }

    async fn built_templates(&self, tenant: &str) -> Result<Vec<String>, StoreError> {
        check_all(&[tenant])?;
        let rows = self.builds.rows();
        let theirs = rows.builds.iter().filter(|build| build.tenant == tenant);
        let names: BTreeSet<String> = theirs.map(|build| build.template.clone()).collect();
        Ok(names.into_iter().collect())
    }

    async fn begin_build(
        &self,
        tenant: &str,
        id: &str,
        most: u64,
        now: Timestamp,
    ) -> Result<Begun, StoreError> {
        check_all(&[tenant, id])?;
        let mut rows = self.builds.rows();
        let going = |build: &&Build| build.tenant == tenant && build.state == BuildState::Building;
        let under_way = rows.builds.iter().filter(going).count() as u64;
        let build = rows.find(tenant, id).ok_or_else(|| StoreError::NotFound(format!("build {id}")))?;
        if build.state != BuildState::Waiting {
            return Ok(Begun::NotWaiting);
        }
        if under_way >= most {
            return Ok(Begun::TooMany);
        }
        (build.state, build.updated_at) = (BuildState::Building, kept(now));
        Ok(Begun::Yes)
    }

    async fn touch_build(&self, tenant: &str, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        check_all(&[tenant, id])?;
        let mut rows = self.builds.rows();
        Ok(rows.under_way(tenant, id).map(|build| build.updated_at = kept(now)).is_some())
    }

    async fn end_build(
        &self,
        tenant: &str,
        id: &str,
        end: &BuildState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        check_all(&[tenant, id])?;
        let mut rows = self.builds.rows();
        let ended = rows.under_way(tenant, id);
        Ok(ended.map(|build| (build.state, build.updated_at) = (end.clone(), kept(now))).is_some())
    }

    async fn end_silent_builds(
        &self,
        state: &BuildState,
        before: Timestamp,
        end: &BuildState,
    ) -> Result<u64, StoreError> {
        let mut rows = self.builds.rows();
        let silent =
            |build: &&mut Build| build.state.name() == state.name() && build.updated_at < kept(before);
        let ended = rows.builds.iter_mut().filter(silent).map(|build| build.state = end.clone());
        Ok(ended.count() as u64)
    }

    async fn sweep_builds(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut rows = self.builds.rows();
        let old = |build: &Build| build.state.is_over() && build.updated_at < kept(before);
        let over: Vec<String> =
            rows.builds.iter().filter(|build| old(build)).map(|build| build.id.clone()).collect();
        rows.logs.retain(|build, _| !over.contains(build));
        let known = rows.builds.len();
        rows.builds.retain(|build| !old(build) || matches!(build.state, BuildState::Ready { .. }));
        Ok((known - rows.builds.len()) as u64)
    }

    async fn delete_builds(&self, tenant: &str, template: &str) -> Result<(), StoreError> {
        check_all(&[tenant, template])?;
        let mut rows = self.builds.rows();
        let theirs = |build: &Build| build.tenant == tenant && build.template == template;
        let gone: Vec<String> =
            rows.builds.iter().filter(|build| theirs(build)).map(|build| build.id.clone()).collect();
        rows.logs.retain(|build, _| !gone.contains(build));
        rows.builds.retain(|build| !theirs(build));
        rows.tags.retain(|(owner, name, _), _| owner != tenant || name != template);
        Ok(())
    }

    async fn append_log(&self, build: &str, first: u64, lines: &[LogLine]) -> Result<(), StoreError> {
        check_all(&[build])?;
        let mut rows = self.builds.rows();
        let log = rows.logs.entry(build.to_owned()).or_default();
        if !lines.is_empty() && first != log.len() as u64 {
            return Err(StoreError::Database(format!("line {first} is not the next one")));
        }
        log.extend_from_slice(lines);
        Ok(())
    }

    async fn log(&self, build: &str, first: u64) -> Result<Vec<LogLine>, StoreError> {
        check_all(&[build])?;
        let log = self.builds.rows().logs.get(build).cloned().unwrap_or_default();
        Ok(log.into_iter().skip(usize::try_from(first).unwrap_or(usize::MAX)).collect())
    }

    async fn put_tags(
        &self,
        tenant: &str,
        template: &str,
        tags: &[String],
        build: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        check_all(&[tenant, template, build])?;
        let mut rows = self.builds.rows();
        for tag in tags {
            check_all(&[tag])?;
            let made = Tag { tag: tag.clone(), build: build.to_owned(), at: kept(now) };
            rows.tags.insert((tenant.to_owned(), template.to_owned(), tag.clone()), made);
        }
        Ok(())
    }

    async fn remove_tags(&self, tenant: &str, template: &str, tags: &[String]) -> Result<u64, StoreError> {
        check_all(&[tenant, template])?;
        let mut rows = self.builds.rows();
        let key = |tag: &String| (tenant.to_owned(), template.to_owned(), tag.clone());
        Ok(tags.iter().filter(|tag| rows.tags.remove(&key(tag)).is_some()).count() as u64)
    }

    async fn tags(&self, tenant: &str, template: &str) -> Result<Vec<Tag>, StoreError> {
        check_all(&[tenant, template])?;
        let rows = self.builds.rows();
        let theirs = rows.tags.iter().filter(|((owner, name, _), _)| owner == tenant && name == template);
        Ok(theirs.map(|(_, tag)| tag.clone()).collect())
    }
}
