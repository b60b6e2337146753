//! [`Builds`] over SQL, in the same subset as the rest. Lines of a log come and go in batches, each one row: a database
//! that writes to the disk with every row would hold up whoever builds.

use async_trait::async_trait;
use atoll_core::{
    build::{Begun, Build, BuildState, Builds, LogLine, Tag},
    store::StoreError,
};
use jiff::Timestamp;

use crate::{
    rows::{Row, Value, unreadable},
    sql_store::SqlStore,
};

const PUT: &str = "INSERT INTO builds (id, tenant, template, ask, status, state, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
const ONE: &str = "SELECT id, tenant, template, ask, state, created_at, updated_at FROM builds
    WHERE tenant = $1 AND id = $2";
const OF_TEMPLATE: &str = "SELECT id, tenant, template, ask, state, created_at, updated_at FROM builds
    WHERE tenant = $1 AND template = $2 ORDER BY created_at DESC, id LIMIT $3";
const BUILT: &str = "SELECT DISTINCT template FROM builds WHERE tenant = $1 ORDER BY template";
/// Two at once may both see room for one in PostgreSQL: the bound is for fairness, not for safety.
const BEGIN: &str = "UPDATE builds SET status = 'building', state = $3, updated_at = $4
    WHERE tenant = $1 AND id = $2 AND status = 'waiting'
    AND (SELECT COUNT(*) FROM builds WHERE tenant = $1 AND status = 'building') < $5";
const TOUCH: &str = "UPDATE builds SET updated_at = $3 WHERE tenant = $1 AND id = $2 AND status = 'building'";
const END: &str = "UPDATE builds SET status = $3, state = $4, updated_at = $5
    WHERE tenant = $1 AND id = $2 AND status = 'building'";
const END_SILENT: &str = "UPDATE builds SET status = $3, state = $4 WHERE status = $1 AND updated_at < $2";
const SWEEP_LOGS: &str = "DELETE FROM build_logs WHERE build IN
    (SELECT id FROM builds WHERE status IN ('ready', 'failed') AND updated_at < $1)";
const SWEEP: &str = "DELETE FROM builds WHERE status = 'failed' AND updated_at < $1";
const DELETE_LOGS: &str = "DELETE FROM build_logs WHERE build IN
    (SELECT id FROM builds WHERE tenant = $1 AND template = $2)";
const DELETE_TAGS: &str = "DELETE FROM template_tags WHERE tenant = $1 AND template = $2";
const DELETE: &str = "DELETE FROM builds WHERE tenant = $1 AND template = $2";

const APPEND: &str = "INSERT INTO build_logs (build, first_line, next_line, lines) VALUES ($1, $2, $3, $4)";
const LOG: &str =
    "SELECT first_line, lines FROM build_logs WHERE build = $1 AND next_line > $2 ORDER BY first_line";

const PUT_TAG: &str = "INSERT INTO template_tags (tenant, template, tag, build, created_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (tenant, template, tag) DO UPDATE SET build = $4, created_at = $5";
const REMOVE_TAG: &str = "DELETE FROM template_tags WHERE tenant = $1 AND template = $2 AND tag = $3";
const TAGS: &str = "SELECT tag, build, created_at FROM template_tags
    WHERE tenant = $1 AND template = $2 ORDER BY tag";

#[async_trait]
impl Builds for SqlStore {
    async fn put_build(&self, build: &Build) -> Result<(), StoreError> {
        let ask = serde_json::to_string(&build.ask).map_err(unreadable)?;
        let values = vec![
            build.id.as_str().into(),
            build.tenant.as_str().into(),
            build.template.as_str().into(),
            ask.into(),
            build.state.name().into(),
            state_text(&build.state)?,
            build.created_at.into(),
            build.updated_at.into(),
        ];
        match self.db.write(PUT, values).await? {
            0 => Err(StoreError::Exists(format!("build {}", build.id))),
            _ => Ok(()),
        }
    }

    async fn build(&self, tenant: &str, id: &str) -> Result<Build, StoreError> {
        let row = self.db.read(ONE, vec![tenant.into(), id.into()]).await?.pop();
        build_of(row.ok_or_else(|| StoreError::NotFound(format!("build {id}")))?)
    }

    async fn builds_of(&self, tenant: &str, template: &str, limit: u64) -> Result<Vec<Build>, StoreError> {
        let values = vec![tenant.into(), template.into(), number(limit)];
        self.db.read(OF_TEMPLATE, values).await?.into_iter().map(build_of).collect()
    }

    async fn built_templates(&self, tenant: &str) -> Result<Vec<String>, StoreError> {
        self.db.read(BUILT, vec![tenant.into()]).await?.into_iter().map(|mut row| row.text()).collect()
    }

    async fn begin_build(
        &self,
        tenant: &str,
        id: &str,
        most: u64,
        now: Timestamp,
    ) -> Result<Begun, StoreError> {
        let state = state_text(&BuildState::Building)?;
        let values = vec![tenant.into(), id.into(), state, now.into(), number(most)];
        if self.db.write(BEGIN, values).await? == 1 {
            return Ok(Begun::Yes);
        }
        let waits = self.build(tenant, id).await?.state == BuildState::Waiting;
        Ok(if waits { Begun::TooMany } else { Begun::NotWaiting })
    }

    async fn touch_build(&self, tenant: &str, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        Ok(self.db.write(TOUCH, vec![tenant.into(), id.into(), now.into()]).await? == 1)
    }

    async fn end_build(
        &self,
        tenant: &str,
        id: &str,
        end: &BuildState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let values = vec![tenant.into(), id.into(), end.name().into(), state_text(end)?, now.into()];
        Ok(self.db.write(END, values).await? == 1)
    }

    async fn end_silent_builds(
        &self,
        state: &BuildState,
        before: Timestamp,
        end: &BuildState,
    ) -> Result<u64, StoreError> {
        let values = vec![state.name().into(), before.into(), end.name().into(), state_text(end)?];
        self.db.write(END_SILENT, values).await
    }

    async fn sweep_builds(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.db.write(SWEEP_LOGS, vec![before.into()]).await?;
        self.db.write(SWEEP, vec![before.into()]).await
    }

    async fn delete_builds(&self, tenant: &str, template: &str) -> Result<(), StoreError> {
        // What is left when this breaks off in between goes with the next attempt.
        for statement in [DELETE_TAGS, DELETE_LOGS, DELETE] {
            self.db.write(statement, vec![tenant.into(), template.into()]).await?;
        }
        Ok(())
    }

    async fn append_log(&self, build: &str, first: u64, lines: &[LogLine]) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        let text = serde_json::to_string(lines).map_err(unreadable)?;
        let next = first.saturating_add(lines.len() as u64);
        self.db.write(APPEND, vec![build.into(), number(first), number(next), text.into()]).await?;
        Ok(())
    }

    async fn log(&self, build: &str, first: u64) -> Result<Vec<LogLine>, StoreError> {
        let mut log = Vec::new();
        for mut row in self.db.read(LOG, vec![build.into(), number(first)]).await? {
            let begins = u64::try_from(row.int()?).map_err(unreadable)?;
            let lines: Vec<LogLine> = serde_json::from_str(&row.text()?).map_err(unreadable)?;
            let known = usize::try_from(first.saturating_sub(begins)).map_err(unreadable)?;
            log.extend(lines.into_iter().skip(known));
        }
        Ok(log)
    }

    async fn put_tags(
        &self,
        tenant: &str,
        template: &str,
        tags: &[String],
        build: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for tag in tags {
            let values = vec![tenant.into(), template.into(), tag.as_str().into(), build.into(), now.into()];
            self.db.write(PUT_TAG, values).await?;
        }
        Ok(())
    }

    async fn remove_tags(&self, tenant: &str, template: &str, tags: &[String]) -> Result<u64, StoreError> {
        let mut removed = 0;
        for tag in tags {
            let values = vec![tenant.into(), template.into(), tag.as_str().into()];
            removed += self.db.write(REMOVE_TAG, values).await?;
        }
        Ok(removed)
    }

    async fn tags(&self, tenant: &str, template: &str) -> Result<Vec<Tag>, StoreError> {
        let rows = self.db.read(TAGS, vec![tenant.into(), template.into()]).await?;
        rows.into_iter().map(tag_of).collect()
    }
}

fn number(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn state_text(state: &BuildState) -> Result<Value, StoreError> {
    Ok(serde_json::to_string(state).map_err(unreadable)?.into())
}

fn build_of(mut row: Row) -> Result<Build, StoreError> {
    Ok(Build {
        id: row.text()?,
        tenant: row.text()?,
        template: row.text()?,
        ask: serde_json::from_str(&row.text()?).map_err(unreadable)?,
        state: serde_json::from_str(&row.text()?).map_err(unreadable)?,
        created_at: row.time()?,
        updated_at: row.time()?,
    })
}

fn tag_of(mut row: Row) -> Result<Tag, StoreError> {
    Ok(Tag { tag: row.text()?, build: row.text()?, at: row.time()? })
}
