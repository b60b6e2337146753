//! Opens a SQLite file: private to its owner, one writing connection, a few that read.

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    io::Errno,
};
use sqlx::{
    Row as _, Sqlite, SqliteConnection, SqlitePool, raw_sql,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
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
    make_private(&path).map_err(|source| OpenError::File { path: path.clone(), source })?;
    let target = path.display().to_string();
    let options = options(&path);
    let failed = |error| connect_failure(&target, &error);
    let writer = connect(&options).await.map_err(failed)?;
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

/// The one connection that writes. Turning a new file's log on is refused at once while another program does the same,
/// whatever the time-out, so it is tried again.
async fn connect(options: &SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let connected = pool(1).connect_with(options.clone()).await;
        match connected {
            Err(error) if result_code(&error) == Some(BUSY) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
}

/// Makes the file, if it is not there, and closes it to all but its owner. SQLite gives its companions the same mode.
/// The file is never opened here: closing it would drop the locks that SQLite holds on it in this process.
fn make_private(path: &Path) -> io::Result<()> {
    let owner_only = Mode::RUSR | Mode::WUSR;
    match mknodat(CWD, path, FileType::RegularFile, owner_only, 0) {
        Err(Errno::EXIST) => {}
        made => return Ok(made?),
    }
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if found.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(owner_only.bits()))?;
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

const BUSY: i32 = 5;
const CORRUPT: i32 = 11;
const NOT_A_DATABASE: i32 = 26;

/// SQLite's result code, without the details that it adds in the higher bits.
fn result_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Tells damage from what an owner can mend without losing data.
fn connect_failure(target: &str, error: &sqlx::Error) -> OpenError {
    let (target, problem) = (target.to_owned(), problem(error));
    match result_code(error) {
        Some(CORRUPT | NOT_A_DATABASE) => OpenError::Damaged { target, problem },
        _ => OpenError::Connect { target, problem },
    }
}
