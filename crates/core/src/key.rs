//! API keys: who is calling. A key's secret is shown once; only its SHA-256 is remembered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, for every tenant.
    Admin,
    /// Everything that belongs to the key's tenant.
    Member,
}

/// A key as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Public name of the key, for lists and revocation.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// The tenant whose things it reaches.
    pub tenant: String,
    /// What it may do.
    pub role: Role,
    /// [`hash`] of the secret.
    pub hash: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The tenant of a machine that has only one.
pub const DEFAULT_TENANT: &str = "default";

/// SHA-256 of a secret, in hex. Secrets are 160 random bits or more, so no salt or stretching is needed.
#[must_use]
pub fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a new secret from randomness, in the form that older E2B SDKs demand: `e2b_` and hex digits.
#[must_use]
pub fn secret(entropy: [u8; 20]) -> String {
    let hex: String = entropy.iter().map(|b| format!("{b:02x}")).collect();
    format!("e2b_{hex}")
}
