//! Opens a SQLite file: private to its owner, one writing connection, a few that read.

use sqlx::{
    Row as _, Sqlite, SqliteConnection, raw_sql,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    db::{Db, LOCK_PATIENCE, Pools},
    error::{OpenError, problem},
    migrate::{SQLITE, migrate},
};

/// More readers than cores bring nothing: there is no server to wait for.
const READERS: u32 = 4;

pub(crate) async fn open(path: &str) -> Result<Db, OpenError> {
    // `sqlite:///PATH` is common; a path of ours does not begin with two slashes.
    let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
    make_private(&path).await.map_err(|source| OpenError::File { path: path.clone(), source })?;
    let target = path.display().to_string();
    let options = options(&path);
    let failed = |error| connect_failure(&target, &error);
    let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
    let mut connection = writer.acquire().await.map_err(failed)?;
    check(&mut connection, &target).await?;
    let migrated = migrate::<Sqlite>(&mut connection, &SQLITE, &target).await;
    if migrated.is_err() {
        connection.close_on_drop();
    }
    migrated?;
    drop(connection);
    let readers = pool(READERS).connect_lazy_with(options.pragma("query_only", "on"));
    Ok(Db::new(target, Pools::Sqlite { writer, readers }))
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(LOCK_PATIENCE)
        .journal_mode(SqliteJournalMode::Wal)
        // With NORMAL a power cut may undo the last commits: a revoked key would work again.
        .synchronous(SqliteSynchronous::Full)
}

/// Connections to a file neither age nor break, so they are kept and not probed before each use.
fn pool(size: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size)
        .acquire_timeout(LOCK_PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Makes the file, if it is not there, and closes it to all but its owner. SQLite gives its companions the same mode.
async fn make_private(path: &Path) -> std::io::Result<()> {
    let mut how = tokio::fs::OpenOptions::new();
    let file = how.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).await?;
    if file.metadata().await?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600)).await?;
    }
    Ok(())
}

/// Reads the whole file once: damage is told at the start, not in the middle of somebody's request.
async fn check(connection: &mut SqliteConnection, target: &str) -> Result<(), OpenError> {
    let answer = raw_sql("PRAGMA quick_check(1)").fetch_one(connection).await;
    let verdict =
        answer.and_then(|row| row.try_get::<String, _>(0)).map_err(|e| connect_failure(target, &e))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(OpenError::Damaged { target: target.to_owned(), problem: verdict })
}

/// Tells damage from what an owner can mend without losing data.
fn connect_failure(target: &str, error: &sqlx::Error) -> OpenError {
    /// SQLITE_CORRUPT and SQLITE_NOTADB.
    const DAMAGE: [&str; 2] = ["11", "26"];
    let target = target.to_owned();
    let code = error.as_database_error().and_then(|answer| answer.code());
    let problem = problem(error);
    if code.is_some_and(|code| DAMAGE.contains(&code.as_ref())) {
        return OpenError::Damaged { target, problem };
    }
    OpenError::Connect { target, problem }
}
