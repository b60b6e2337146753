//! What is remembered of a snapshot: one JSON file each, written when its files are whole. Which sandboxes are being made
//! from it is not in there: their own records say that. It must not know where its files are.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use atoll_core::snapshot::Snapshot;

use crate::record::Base;

/// A snapshot and what on this machine belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// What everybody sees.
    pub snapshot: Snapshot,
    /// What its sandboxes stand on.
    pub base: Base,
    /// Whether it is but a means: see [`atoll_core::snapshot::NewSnapshot::passing`].
    #[serde(default)]
    pub passing: bool,
    /// Whether it was removed, and is there only for the sandboxes that are being made from it.
    #[serde(default)]
    pub going: bool,
}

/// Where a data directory keeps the records: `snapshots/ID.json`.
#[must_use]
pub fn root(data: &Path) -> PathBuf {
    data.join("snapshots")
}
