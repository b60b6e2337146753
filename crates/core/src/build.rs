//! Builds of templates: what is remembered of each, its log, and the tags that point to finished ones. Must not know how
//! a build is done.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

/// The tag of builds that name none, and of whoever asks for a template without a tag.
pub const DEFAULT_TAG: &str = "default";

/// A build as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// A UUID (RFC 9562) in its usual form.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// Name of the template that it makes a version of.
    pub template: String,
    /// What was asked for with it.
    pub ask: BuildAsk,
    /// How far it is.
    pub state: BuildState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was last heard of: whoever works on it says so now and then.
    pub updated_at: Timestamp,
}

/// What is asked for before the steps are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildAsk {
    /// Tags that will point to the build when it is finished.
    pub tags: Vec<String>,
    /// CPU limit of the template's sandboxes, e.g. `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Their memory limit, e.g. `512Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// How far a build is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum BuildState {
    /// Its steps have not come yet.
    Waiting,
    /// It is being worked on.
    Building,
    /// It is a version of its template.
    Ready {
        /// Which one.
        version: i64,
    },
    /// It ended otherwise.
    Failed {
        /// What went wrong, for people.
        message: String,
        /// Where: `base`, the number of the step from 1, or `finalize`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
    },
}

impl BuildState {
    /// Its name, as in what it is written down as.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::Ready { .. } => "ready",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Ready { .. } | Self::Failed { .. })
    }
}

/// How much a line of a build's log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// What should not be.
    Warn,
    /// What went wrong, and what commands say on their standard error.
    Error,
}

/// One line of a build's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: Level,
    /// The step that it belongs to, as in [`BuildState::Failed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What it says.
    pub message: String,
}

/// A tag of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub tag: String,
    /// The finished build that it points to.
    pub build: String,
    /// Since when.
    pub at: Timestamp,
}

/// What became of an attempt to begin a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is the caller's to work on.
    Yes,
    /// It does not wait (any more).
    NotWaiting,
    /// Its tenant has as many under way as allowed.
    TooMany,
}

/// Remembers builds, beside [`Templates`](crate::store::Templates). A build that is not there is
/// [`StoreError::NotFound`] `build ID`; those of other tenants are not there.
#[async_trait]
pub trait Builds: Send + Sync + 'static {
    /// Remembers a new build.
    async fn put_build(&self, build: &Build) -> Result<(), StoreError>;
    /// One build of a tenant.
    async fn build(&self, tenant: &str, id: &str) -> Result<Build, StoreError>;
    /// The builds of a template, newest first, at most `limit`.
    async fn builds_of(&self, tenant: &str, template: &str, limit: u64) -> Result<Vec<Build>, StoreError>;
    /// The names of a tenant's templates that have builds, in order.
    async fn built_templates(&self, tenant: &str) -> Result<Vec<String>, StoreError>;
    /// Begins a waiting build, unless `most` of its tenant are under way. Of several callers one gets it.
    async fn begin_build(
        &self,
        tenant: &str,
        id: &str,
        most: u64,
        now: Timestamp,
    ) -> Result<Begun, StoreError>;
    /// Says that a build is still worked on; `false` when it is not to be any more.
    async fn touch_build(&self, tenant: &str, id: &str, now: Timestamp) -> Result<bool, StoreError>;
    /// Ends a build that is under way; `false`, and nothing is changed, when it is not.
    async fn end_build(
        &self,
        tenant: &str,
        id: &str,
        end: &BuildState,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
    /// Ends, in the way of `end`, all builds of every tenant in state `state` that were not heard of since `before`; says
    /// how many.
    async fn end_silent_builds(
        &self,
        state: &BuildState,
        before: Timestamp,
        end: &BuildState,
    ) -> Result<u64, StoreError>;
    /// Forgets the logs of builds that were over before `before`, and the failed ones themselves; says how many of those.
    async fn sweep_builds(&self, before: Timestamp) -> Result<u64, StoreError>;
    /// Forgets all builds of a template, with logs and tags.
    async fn delete_builds(&self, tenant: &str, template: &str) -> Result<(), StoreError>;

    /// Adds lines to a log, the first as number `first` from 0. Only one writes to a log.
    async fn append_log(&self, build: &str, first: u64, lines: &[LogLine]) -> Result<(), StoreError>;
    /// The lines of a log from number `first` on.
    async fn log(&self, build: &str, first: u64) -> Result<Vec<LogLine>, StoreError>;

    /// Lets tags of a template point to a build from now on.
    async fn put_tags(
        &self,
        tenant: &str,
        template: &str,
        tags: &[String],
        build: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// Takes tags away; says how many were there.
    async fn remove_tags(&self, tenant: &str, template: &str, tags: &[String]) -> Result<u64, StoreError>;
    /// The tags of a template, by name.
    async fn tags(&self, tenant: &str, template: &str) -> Result<Vec<Tag>, StoreError>;
}
