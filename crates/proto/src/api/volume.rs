//! Volumes: storage of a user that outlives their sandboxes.

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
