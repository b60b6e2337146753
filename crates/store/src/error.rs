//! Why a database cannot be opened, in words for whoever starts the server. Must not show passwords.

use atoll_core::store::StoreError;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("a database is named as `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/NAME`")]
    Scheme,
    #[error("the URL of the PostgreSQL database cannot be read: {0}")]
    Url(String),
    #[error("cannot open {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot open {target}: {problem}")]
    Connect { target: String, problem: String },
    #[error("{target} does not answer")]
    Silent { target: String },
    #[error("{target} is damaged ({problem}): put a backup in its place, or move it away to begin anew")]
    Damaged { target: String, problem: String },
    #[error(
        "{target} was written by a newer program (schema {found}; this one knows up to {known}): run that one"
    )]
    Newer { target: String, found: i64, known: i64 },
    #[error("cannot bring {target} to schema {version}: {problem}")]
    Migrate { target: String, version: i64, problem: String },
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        Self::Database(error.to_string())
    }
}

/// What went wrong, without the values of the row that a server adds as detail.
pub(crate) fn problem(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(answer) => answer.message().to_owned(),
        sqlx::Error::Configuration(error) => error.to_string(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::PoolTimedOut => "no connection became free in time".to_owned(),
        other => other.to_string(),
    }
}
