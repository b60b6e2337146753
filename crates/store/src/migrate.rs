//! Brings a database's tables up to date, or refuses it. Knows each dialect's scripts, not what the tables are for.

use sqlx::{ColumnIndex, Database, Decode, Executor, Row, Type, raw_sql};

use crate::error::{OpenError, problem};

/// What differs between the databases. Each script ends by recording its own version.
pub(crate) struct Dialect {
    /// Opens the transaction in which nobody else migrates.
    begin: &'static str,
    /// From schema 0 to 1, from 1 to 2, and so on.
    scripts: &'static [&'static str],
}

pub(crate) const SQLITE: Dialect = Dialect {
    begin: "BEGIN IMMEDIATE",
    scripts: &[include_str!("../migrations/sqlite/0001.sql"), include_str!("../migrations/sqlite/0002.sql")],
};

pub(crate) const POSTGRES: Dialect = Dialect {
    // Tables cannot be locked before they exist; the number is `atoll` in ASCII.
    begin: "BEGIN; SELECT pg_advisory_xact_lock(418565287020)",
    scripts: &[
        include_str!("../migrations/postgres/0001.sql"),
        include_str!("../migrations/postgres/0002.sql"),
    ],
};

const VERSION_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)";
const VERSION: &str = "SELECT COALESCE(MAX(version), 0) FROM schema_version";

/// Applies what is missing, all or nothing. After an error the connection is inside a transaction: drop it.
pub(crate) async fn migrate<DB: Database>(
    connection: &mut DB::Connection,
    dialect: &Dialect,
    target: &str,
) -> Result<(), OpenError>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'r> i64: Decode<'r, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    let known = i64::try_from(dialect.scripts.len()).unwrap_or(i64::MAX);
    let failed = |version| move |error| failure(target, version, &error);
    raw_sql(dialect.begin).execute(&mut *connection).await.map_err(failed(known))?;
    raw_sql(VERSION_TABLE).execute(&mut *connection).await.map_err(failed(known))?;
    let row = raw_sql(VERSION).fetch_one(&mut *connection).await.map_err(failed(known))?;
    let found: i64 = row.try_get(0).map_err(failed(known))?;
    if found > known {
        return Err(OpenError::Newer { target: target.to_owned(), found, known });
    }
    for (version, script) in (1..).zip(dialect.scripts).filter(|(version, _)| *version > found) {
        raw_sql(*script).execute(&mut *connection).await.map_err(failed(version))?;
        tracing::info!(target_database = target, version, "brought the database up to date");
    }
    raw_sql("COMMIT").execute(&mut *connection).await.map_err(failed(known))?;
    Ok(())
}

fn failure(target: &str, version: i64, error: &sqlx::Error) -> OpenError {
    OpenError::Migrate { target: target.to_owned(), version, problem: problem(error) }
}
