//! Files of a sandbox.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What something in the filesystem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

/// One entry of the filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileInfo {
    /// Last part of the path.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner's name, or number when it has none.
    pub owner: String,
    /// Group's name, or number when it has none.
    pub group: String,
    /// Last change of its content.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub modified_at: Option<Timestamp>,
    /// Where it points, when it is a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
}

/// Answer of `GET /api/v1/sandboxes/{id}/files/list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileList {
    /// Entries below the path, by path.
    pub items: Vec<FileInfo>,
}

/// Body of `POST /api/v1/sandboxes/{id}/files/move`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MoveFile {
    /// From.
    pub source: String,
    /// To.
    pub destination: String,
    /// As whom; the sandbox's default user when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Answer of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Uploaded {
    /// What was done, for people.
    pub message: String,
    /// Absolute path of what was written.
    pub path: String,
    /// Bytes written.
    pub size: u64,
}

/// One event of `GET /api/v1/sandboxes/{id}/files/watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WatchEvent {
    /// Path below the watched directory.
    pub name: String,
    /// `create`, `write`, `remove`, `rename` or `chmod`.
    pub kind: String,
}
