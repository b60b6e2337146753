//! The API of one sandbox for each user, `/v1/sandbox/{userId}`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Phase, Reason, Status, Volume};

/// A user's sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UserSandbox {
    /// The user, as the caller names them.
    pub user_id: String,
    /// The label that stands for them in host names: always the same one for the same user, and nobody else's.
    pub label: String,
    /// Id of the sandbox.
    pub id: String,
    /// Status in the words of older clients.
    pub status: Status,
    /// Phase in our own.
    pub phase: Phase,
    /// Why it is in that phase.
    pub reason: Reason,
    /// The template that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Ports by name.
    pub ports: BTreeMap<String, u16>,
    /// URLs of the named ports, where there is a gateway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub urls: BTreeMap<String, String>,
    /// The user's volumes that it has, by name.
    pub volumes: BTreeMap<String, Volume>,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// The hard deadline.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}
