//! Links: URLs that open a port of a sandbox to whoever has them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Body of `POST /api/v1/sandboxes/{id}/links`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateLink {
    /// The port that it opens.
    pub port: Port,
    /// Seconds until it ends: at most 2592000, which is 30 days, and 3600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 2_592_000))]
    pub expires_in: Option<u64>,
}

/// A port, by its number or by the name that the sandbox gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Port {
    /// 1 to 65535.
    Number(i64),
    /// One of the sandbox's `ports`.
    Name(String),
}

/// A signed link. It cannot be taken back before its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Link {
    /// For a browser, which keeps its token in a cookie.
    pub url: String,
    /// The token alone, for programs: they send it as `X-Atoll-Token`.
    pub token: String,
    /// When it ends.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}
