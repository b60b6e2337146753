//! Volumes: storage of a user that outlives their sandboxes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A volume of a template or a sandbox; its name is the key it stands under.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Where it is mounted: `/home/user`.
    pub path: String,
    /// How much it holds: `10Gi`, which it also is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
}

/// A volume that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// The user whose it is.
    pub owner: String,
    /// The tenant whose it is.
    pub tenant: String,
    /// How much it holds.
    pub size: String,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Id of the sandbox that has it, also while that rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

/// Answer of `GET /api/v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeList {
    /// By tenant, owner and name.
    pub items: Vec<VolumeInfo>,
}
