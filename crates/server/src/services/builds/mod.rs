//! Builds of templates: asked for, fed with files, begun, followed; and the names and tags by which their results are found.
//! The steps run in a sandbox, whose files become the template's image: there is no builder beside.

mod found;
mod journal;
mod names;
mod plan;
mod spool;
mod stage;
mod steps;
mod sweep;
mod trial;
mod work;

use atoll_core::{
    build::{Begun, Build, BuildAsk, BuildState, Level, LogLine},
    driver::DriverError,
    link::Upload,
    request::{Birth, CreateRequest, resolve},
    snapshot::SnapshotQuery,
};
use bytes::Bytes;
use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

pub use found::Listed;
pub use plan::{Wanted, WantedStep};
pub use stage::LABEL;

use super::{Services, access::Caller, error::ServiceError};
use crate::world;
use names::{named, tags};
use plan::{Plan, check_files_hash};
use spool::{Spool, SpoolLimits};

/// Longest answer about a log.
pub const MOST_LINES: usize = 100;
/// Seconds that an upload may take to begin.
const UPLOAD_BEGINS: i64 = 60 * 60;
/// The least memory of a template's sandboxes, in MiB, as callers of this API may ask for it.
const LEAST_MEMORY: u64 = 128;

/// Why a build failed, for whoever asked for it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// See [`BuildState::Failed`].
    step: Option<String>,
    message: String,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { step: None, message: message.into() }
    }

    /// Says where, unless that is known more closely.
    fn at(self, step: &str) -> Self {
        Self { step: self.step.or_else(|| Some(step.to_owned())), ..self }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::new(error.tell().error)
    }
}

/// What is asked for before the steps are known.
#[derive(Clone, Debug, Default)]
pub struct RequestBuild {
    /// `name` or `name:tag`.
    pub name: String,
    pub tags: Vec<String>,
    pub cpu_count: Option<u64>,
    pub memory_mb: Option<u64>,
}

/// Which lines of a log are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogQuery {
    /// Only those that matter as much.
    pub level: Option<Level>,
    /// So many of those are passed over.
    pub offset: usize,
    /// At most so many; never more than [`MOST_LINES`].
    pub limit: Option<usize>,
    /// Those from this time on or, backward, up to it.
    pub from: Option<Timestamp>,
    /// Newest first.
    pub backward: bool,
}

impl LogQuery {
    fn pick(&self, lines: Vec<LogLine>) -> Vec<LogLine> {
        let wanted = |line: &LogLine| {
            self.level.is_none_or(|level| line.level >= level)
                && self.from.is_none_or(|from| if self.backward { line.at <= from } else { line.at >= from })
        };
        let limit = self.limit.unwrap_or(MOST_LINES).min(MOST_LINES);
        let picked = lines.into_iter().filter(wanted);
        if self.backward {
            picked.rev().skip(self.offset).take(limit).collect()
        } else {
            picked.skip(self.offset).take(limit).collect()
        }
    }
}

fn unsupported() -> ServiceError {
    let why = "this server keeps no files, so templates cannot be built by it: make an image elsewhere, and a template of it";
    ServiceError::Driver(DriverError::Unsupported(why.into()))
}

/// Whoever works on a tenant's builds may do what its keys may.
fn builder(caller: &Caller) -> Caller {
    Caller { key: "build".into(), tenant: caller.tenant.clone(), role: atoll_core::key::Role::Member }
}

impl Services {
    fn spool(&self) -> Result<Spool, ServiceError> {
        let root = self.base.config.uploads.clone().ok_or_else(unsupported)?;
        let limits = &self.base.config.limits;
        let limits = SpoolLimits { each: limits.upload, all: limits.uploads, keep: limits.uploads_for };
        Ok(Spool::new(root, limits))
    }

    /// Remembers that a template is to be built. Refused at once is what could never be.
    pub async fn request_build(&self, caller: &Caller, ask: RequestBuild) -> Result<Build, ServiceError> {
        self.spool()?;
        self.base.driver.snapshots().list(&SnapshotQuery { limit: 1, ..SnapshotQuery::default() }).await?;
        let name = named("name", &ask.name, &caller.tenant)?;
        let mut all: Vec<String> = name.tag.into_iter().collect();
        all.extend(tags("tags", &ask.tags)?);
        let all = tags("tags", &all)?;
        let sizes = self.sizes(caller, &ask)?;
        let now = self.base.world.now();
        let build = Build {
            id: self.new_build_id()?,
            tenant: caller.tenant.clone(),
            template: name.name,
            ask: BuildAsk { tags: all, ..sizes },
            state: BuildState::Waiting,
            created_at: now,
            updated_at: now,
        };
        self.base.store.put_build(&build).await?;
        Ok(build)
    }

    fn sizes(&self, caller: &Caller, ask: &RequestBuild) -> Result<BuildAsk, ServiceError> {
        if ask.cpu_count == Some(0) {
            return Err(ServiceError::invalid("cpuCount", "is at least 1"));
        }
        if ask.memory_mb.is_some_and(|mb| mb < LEAST_MEMORY || !mb.is_multiple_of(2)) {
            let rule = format!("is an even number of MiB, at least {LEAST_MEMORY}");
            return Err(ServiceError::invalid("memoryMB", rule));
        }
        let sizes = BuildAsk {
            tags: Vec::new(),
            cpu: ask.cpu_count.map(|cpus| cpus.to_string()),
            memory: ask.memory_mb.map(|mb| format!("{mb}Mi")),
        };
        let birth = Birth {
            id: world::new_id(&*self.base.world)?,
            tenant: caller.tenant.clone(),
            at: self.base.world.now(),
        };
        let (cpu, memory) = (sizes.cpu.clone(), sizes.memory.clone());
        let tried = CreateRequest { image: Some("base".into()), cpu, memory, ..CreateRequest::default() };
        resolve(tried, None, &self.base.driver.capacity(), birth).map_err(|mut invalid| {
            let theirs = match invalid.field.as_str() {
                "cpu" => "cpuCount",
                "memory" => "memoryMB",
                other => other,
            };
            invalid.field = theirs.to_owned();
            invalid
        })?;
        Ok(sizes)
    }

    /// A random UUID (RFC 9562, 5.4).
    fn new_build_id(&self) -> Result<String, ServiceError> {
        let mut bytes = world::bytes::<16>(&*self.base.world)?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = hex::encode(bytes);
        Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
    }

    /// A token by which an archive may be uploaded, and whether it is here already.
    pub async fn upload_token(
        &self,
        caller: &Caller,
        template: &str,
        hash: &str,
    ) -> Result<(String, bool), ServiceError> {
        let spool = self.spool()?;
        check_files_hash("hash", hash)?;
        self.must_have_builds(caller, template).await?;
        let links = self.base.config.links.as_ref().ok_or_else(unsupported)?;
        let begins = SignedDuration::from_secs(UPLOAD_BEGINS);
        let expires_at = self.base.world.now().saturating_add(begins).unwrap_or(Timestamp::MAX);
        let upload = Upload { tenant: caller.tenant.clone(), hash: hash.to_owned(), expires_at };
        Ok((links.key.sign_upload(&upload), spool.has(&caller.tenant, hash).await))
    }

    /// Takes an archive in, from whoever has a token for it.
    pub async fn receive_upload<E: std::fmt::Display>(
        &self,
        token: &str,
        hash: &str,
        data: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), ServiceError> {
        let spool = self.spool()?;
        let links = self.base.config.links.as_ref().ok_or_else(unsupported)?;
        let upload = links.key.verify_upload(token).filter(|upload| upload.hash == hash);
        let refused = |why: &str| ServiceError::Forbidden(format!("this address for an upload {why}"));
        let upload = upload.ok_or_else(|| refused("is none of ours"))?;
        if upload.expires_at <= self.base.world.now() {
            return Err(refused("has expired; ask for a new one"));
        }
        check_files_hash("hash", hash)?;
        let suffix = hex::encode(world::bytes::<8>(&*self.base.world)?);
        spool.receive(&upload.tenant, (hash, &suffix), data).await
    }

    /// Begins a build that waits. It goes on by itself.
    pub async fn start_build(
        self: &Arc<Self>,
        caller: &Caller,
        template: &str,
        id: &str,
        wanted: Wanted,
    ) -> Result<(), ServiceError> {
        let spool = self.spool()?;
        let build = self.build(caller, template, id).await?;
        if wanted.login.is_some() {
            // As for images natively: what is pulled once is the machine's.
            caller.must_be_admin()?;
        }
        let plan = Plan::new(wanted)?;
        for (field, hash) in plan.files() {
            if !spool.has(&caller.tenant, hash).await {
                return Err(ServiceError::invalid(field, "these files were not uploaded, or too long ago"));
            }
        }
        let base = &self.base;
        let most = base.config.limits.builds_at_once;
        match base.store.begin_build(&build.tenant, &build.id, most, base.world.now()).await? {
            Begun::Yes => {}
            Begun::NotWaiting => {
                let message = format!("build {id} was begun before; ask for a new one");
                return Err(ServiceError::Conflict { code: "build_begun", message });
            }
            Begun::TooMany => {
                let message = format!("{most} builds are under way already; try again when one has ended");
                return Err(ServiceError::Busy { code: "too_many_builds", message, retry_after: 10 });
            }
        }
        tokio::spawn(work::work(self.clone(), builder(caller), build, plan, spool));
        Ok(())
    }

    /// One build of a template.
    pub async fn build(&self, caller: &Caller, template: &str, id: &str) -> Result<Build, ServiceError> {
        let name = named("templateID", template, &caller.tenant)?.name;
        let build = self.base.store.build(&caller.tenant, id).await?;
        if build.template == name {
            return Ok(build);
        }
        Err(ServiceError::NotFound(format!("build {id}")))
    }

    /// Lines of its log.
    pub async fn build_log(&self, build: &Build, query: &LogQuery) -> Result<Vec<LogLine>, ServiceError> {
        let plain = query.level.is_none() && query.from.is_none() && !query.backward;
        // Where every line counts, those that are passed over need not be read.
        let (first, query) = match plain {
            true => (query.offset as u64, LogQuery { offset: 0, ..*query }),
            false => (0, *query),
        };
        Ok(query.pick(self.base.store.log(&build.id, first).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_picked() {
        let line = |n: i64, level: Level| LogLine {
            at: Timestamp::from_second(n).unwrap_or_default(),
            level,
            step: None,
            message: n.to_string(),
        };
        let lines: Vec<LogLine> =
            (0..6).map(|n| line(n, if n % 2 == 0 { Level::Debug } else { Level::Error })).collect();
        let picked = |query: LogQuery| {
            query.pick(lines.clone()).into_iter().map(|it| it.message).collect::<Vec<_>>().join("")
        };
        assert_eq!(picked(LogQuery::default()), "012345");
        assert_eq!(picked(LogQuery { offset: 4, ..LogQuery::default() }), "45");
        assert_eq!(picked(LogQuery { level: Some(Level::Warn), offset: 1, ..LogQuery::default() }), "35");
        let from = Some(Timestamp::from_second(3).unwrap_or_default());
        assert_eq!(picked(LogQuery { from, limit: Some(2), ..LogQuery::default() }), "34");
        assert_eq!(picked(LogQuery { from, backward: true, ..LogQuery::default() }), "3210");
    }
}
