//! What the template routes are asked and answer, field by field.

use atoll_core::{
    build::{Build, BuildState, DEFAULT_TAG, Level, LogLine, Tag},
    sandbox::Limits,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ENVD_VERSION;
use crate::services::builds::Listed;

/// A template to be built, before its steps are known. Fields that are not known are ignored.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct NewBuild {
    /// `name` or `name:tag`.
    pub name: Option<String>,
    /// The older word for `name`.
    pub alias: Option<String>,
    /// Tags that will point to the build.
    pub tags: Option<Vec<String>>,
    /// CPUs of the template's sandboxes.
    #[schema(minimum = 1)]
    pub cpu_count: Option<u64>,
    /// Memory of its sandboxes, in MiB.
    #[serde(rename = "memoryMB")]
    #[schema(minimum = 128)]
    pub memory_mb: Option<u64>,
}

/// A build that waits for its steps.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestedBuild {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    public: bool,
    names: Vec<String>,
    tags: Vec<String>,
    aliases: Vec<String>,
}

impl From<Build> for RequestedBuild {
    fn from(build: Build) -> Self {
        let mut tags = build.ask.tags;
        if tags.is_empty() {
            tags.push(DEFAULT_TAG.to_owned());
        }
        let names = vec![build.template.clone()];
        Self {
            template_id: build.template,
            build_id: build.id,
            public: false,
            aliases: names.clone(),
            names,
            tags,
        }
    }
}

/// The steps of a build. Fields that are not known are ignored.
#[derive(Default, Deserialize, Serialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct StartBuild {
    /// The image to begin with; the base image when neither it nor a template is named.
    pub from_image: Option<String>,
    /// The template to begin with.
    pub from_template: Option<String>,
    /// How to log in where the image is.
    pub from_image_registry: Option<Registry>,
    /// Whether nothing is taken from earlier builds.
    pub force: Option<bool>,
    /// What to do, in order.
    pub steps: Option<Vec<NewStep>>,
    /// Runs from the start of each sandbox.
    pub start_cmd: Option<String>,
    /// Succeeds when a sandbox can be used.
    pub ready_cmd: Option<String>,
}

/// A step.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct NewStep {
    /// `RUN`, `COPY`, `ENV`, `WORKDIR` or `USER`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about.
    pub args: Option<Vec<String>>,
    /// Hash by which its files were uploaded.
    pub files_hash: Option<String>,
    /// Whether it, and what follows, is not taken from earlier builds.
    pub force: Option<bool>,
}

/// A way to log in to a registry: `registry`, with user name and password. Others are refused.
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Registry {
    /// Which way.
    #[serde(rename = "type")]
    pub kind: String,
    /// User name.
    pub username: Option<String>,
    /// Password or token.
    pub password: Option<String>,
}

/// Where files are to be brought.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadPlace {
    /// Whether they are here already.
    pub present: bool,
    /// Takes the archive by `PUT`.
    pub url: String,
}

/// How a build stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildStatus {
    /// Always empty: newer clients read `logEntries`.
    pub logs: Vec<String>,
    pub log_entries: Vec<BuildLine>,
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "buildID")]
    pub build_id: String,
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<BuildReason>,
}

/// Why a build failed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildReason {
    pub message: String,
    /// `base`, the number of a step, or `finalize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    pub log_entries: Vec<BuildLine>,
}

/// A line of a build's log.
#[derive(Debug, Serialize, ToSchema)]
pub struct BuildLine {
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    message: String,
    level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
}

impl From<LogLine> for BuildLine {
    fn from(line: LogLine) -> Self {
        let level = match line.level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        Self { timestamp: line.at, message: line.message, level, step: line.step }
    }
}

/// A log.
#[derive(Debug, Serialize, ToSchema)]
pub struct BuildLog {
    pub logs: Vec<BuildLine>,
}

/// How these clients call a state.
pub fn status(state: &BuildState) -> &'static str {
    match state {
        BuildState::Waiting => "waiting",
        BuildState::Building => "building",
        BuildState::Ready { .. } => "ready",
        BuildState::Failed { .. } => "error",
    }
}

/// A template.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedTemplate {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    cpu_count: u64,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u64,
    public: bool,
    aliases: Vec<String>,
    names: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[schema(value_type = Option<Object>)]
    created_by: Option<()>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_spawned_at: Option<()>,
    spawn_count: u64,
    build_count: usize,
    envd_version: &'static str,
    build_status: &'static str,
}

/// A template with its builds.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetailedTemplate {
    #[serde(flatten)]
    template: ListedTemplate,
    builds: Vec<ListedBuild>,
}

/// A build of a template.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedBuild {
    #[serde(rename = "buildID")]
    build_id: String,
    status: &'static str,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    cpu_count: u64,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    envd_version: &'static str,
}

/// Bytes in a MiB, as these clients count.
const MB: u64 = 1 << 20;

impl ListedTemplate {
    /// What was never built has no build; these clients want a UUID all the same.
    const NO_BUILD: &str = "00000000-0000-0000-0000-000000000000";

    pub fn of(listed: &Listed) -> Self {
        let (newest, oldest) = (listed.builds.first(), listed.builds.last());
        let ready = listed.builds.iter().find(|build| matches!(build.state, BuildState::Ready { .. }));
        let made = listed.template.as_ref().map(|template| template.created_at);
        let created_at = oldest.map(|build| build.created_at).or(made).unwrap_or_default();
        let (cpu_count, memory_mb, disk_size_mb) = sizes(&listed.limits);
        Self {
            template_id: listed.name.clone(),
            build_id: ready.or(newest).map_or_else(|| Self::NO_BUILD.into(), |build| build.id.clone()),
            cpu_count,
            memory_mb,
            disk_size_mb,
            public: false,
            aliases: vec![listed.name.clone()],
            names: vec![listed.name.clone()],
            created_at,
            updated_at: made.unwrap_or(created_at).max(created_at),
            created_by: None,
            last_spawned_at: None,
            spawn_count: 0,
            build_count: listed.builds.len(),
            envd_version: ENVD_VERSION,
            build_status: newest.map_or("ready", |build| status(&build.state)),
        }
    }
}

impl DetailedTemplate {
    pub fn of(listed: Listed) -> Self {
        let template = ListedTemplate::of(&listed);
        let (cpu_count, memory_mb, _) = sizes(&listed.limits);
        let builds = listed.builds.into_iter().map(|build| ListedBuild {
            status: status(&build.state),
            created_at: build.created_at,
            updated_at: build.updated_at,
            finished_at: build.state.is_over().then_some(build.updated_at),
            build_id: build.id,
            cpu_count,
            memory_mb,
            envd_version: ENVD_VERSION,
        });
        Self { builds: builds.collect(), template }
    }
}

fn sizes(limits: &Limits) -> (u64, u64, u64) {
    (limits.cpu.0.div_ceil(1000), limits.memory.0 / MB, limits.disk.0 / MB)
}

/// Which template a name means.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundTemplate {
    #[serde(rename = "templateID")]
    pub template_id: String,
    pub public: bool,
}

/// A change of a template.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct ChangeTemplate {
    /// Whether other tenants may use it; that cannot be.
    pub public: Option<bool>,
}

/// A template's names.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedTemplate {
    pub names: Vec<String>,
}

/// Tags for a build.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct AssignTags {
    /// `name:tag` of the build.
    pub target: String,
    /// More tags for it.
    pub tags: Vec<String>,
}

/// Tags to take away.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct RemoveTags {
    /// The template.
    pub name: String,
    /// Its tags that are not wanted any more.
    pub tags: Vec<String>,
}

/// Tags that a build was given.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssignedTags {
    pub tags: Vec<String>,
    #[serde(rename = "buildID")]
    pub build_id: String,
}

/// A tag of a template.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedTag {
    tag: String,
    #[serde(rename = "buildID")]
    build_id: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<Tag> for ListedTag {
    fn from(tag: Tag) -> Self {
        Self { tag: tag.tag, build_id: tag.build, created_at: tag.at }
    }
}
