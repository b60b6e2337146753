//! Snapshots of sandboxes' files, and forks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ErrorBody, Sandbox, sandbox::given};

/// Body of `POST /api/v1/sandboxes/{id}/snapshots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct NewSnapshot {
    /// What to call it: `name` or `name:tag`. Several may have one name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The files of a sandbox as they were at one moment, without its volumes, memory and processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// Its identifier: `s` and 19 lowercase letters or digits.
    pub id: String,
    /// What to write as `image` to make a sandbox from it: `snapshot:ID`.
    pub reference: String,
    /// What it is called.
    pub names: Vec<String>,
    /// The sandbox that it was taken of, which may be gone.
    pub sandbox: String,
    /// The tenant whose it is.
    pub tenant: String,
    /// The image below.
    pub image: String,
    /// Bytes of its files beyond those of the image, where that is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it was taken.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// Answer of `GET /api/v1/snapshots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotList {
    /// Newest first.
    pub items: Vec<Snapshot>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Body of `POST /api/v1/sandboxes/{id}/fork`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ForkSandbox {
    /// How many: 1 to 20; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 20))]
    pub count: Option<i64>,
    /// Seconds until their hard deadline. Absent: as many as the source was given; `null`: none, where that is allowed.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>, minimum = 1))]
    pub ttl: Option<Option<i64>>,
}

/// What became of one fork: a sandbox that runs, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fork {
    /// It runs.
    Sandbox(Box<Sandbox>),
    /// It could not be made.
    Error(ErrorBody),
}

/// Answer of `POST /api/v1/sandboxes/{id}/fork`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForkList {
    /// As many as were asked for.
    pub items: Vec<Fork>,
}
