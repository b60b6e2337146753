//! What must be remembered, in SQLite or PostgreSQL: one SQL text for both, in the subset that they share. Only the
//! modules `sqlite`, `postgres` and the migrations know which of them it is. Must not know of sandboxes, HTTP or drivers.

mod db;
mod error;
mod migrate;
mod postgres;
mod rows;
mod sql_builds;
mod sql_store;
mod sqlite;

use atoll_core::store::{Store, StoreError};
use std::sync::Arc;

use crate::{error::OpenError, sql_store::SqlStore};

/// Opens the database at `url`, makes it when it is a SQLite file that is not there yet, and brings its tables up to
/// date: `sqlite:PATH`, where everything after the colon is the path, or `postgres://USER:PASSWORD@HOST/NAME`.
///
/// # Errors
/// Says what is wrong with the URL, the server or the file, and never shows the password. A database that a newer
/// program has written is refused.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    let opened = match url.split_once(':') {
        Some(("sqlite", path)) => sqlite::open(path).await,
        Some(("postgres" | "postgresql", _)) => postgres::open(url).await,
        _ => Err(OpenError::Scheme),
    };
    Ok(Arc::new(SqlStore::new(opened?)))
}
