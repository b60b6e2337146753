//! Images that the driver keeps.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Body of `POST /api/v1/images`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// Image reference.
    pub reference: String,
    /// User name for the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password or token for the registry; used once, not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// An image that sandboxes can start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// The name it was asked for by.
    pub reference: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Bytes on disk.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
    /// When it came here.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// How many sandboxes use it.
    pub used_by: usize,
}

/// Answer of `GET /api/v1/images`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageList {
    /// By reference.
    pub items: Vec<Image>,
}

/// Answer of `POST /api/v1/images/prune`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pruned {
    /// Images removed.
    pub images: usize,
    /// Layers removed.
    pub layers: usize,
    /// Bytes freed.
    pub bytes: u64,
}

/// One event of a streamed pull (`Accept: text/event-stream`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PullEvent {
    /// Being fetched and unpacked.
    Pulling {
        /// 0 to 100.
        percent: u8,
    },
    /// It can be used. The last event.
    Ready {
        /// The image.
        image: Image,
    },
    /// It could not be had. The last event.
    Failed {
        /// Why.
        error: super::ErrorBody,
    },
}
