//! A connected database of either kind: runs a statement, gives rows or counts. Must not know what they mean.

use atoll_core::store::StoreError;
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool};
use std::time::Duration;

use crate::{
    error::problem,
    rows::{Row, Value, check, statement},
};

/// Longer than any healthy answer takes; a caller who waits for a dead server is told so instead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What waits for a lock or a free connection gives up before [`PATIENCE`] ends, so that the error tells which it was.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) enum Pools {
    /// SQLite has one writer at a time anyway; readers are never in its way.
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

pub(crate) struct Db {
    /// The database's name for errors, without credentials.
    target: String,
    pools: Pools,
}

impl Db {
    pub(crate) fn new(target: String, pools: Pools) -> Self {
        Self { target, pools }
    }

    /// The rows that `sql` selects.
    pub(crate) async fn read(&self, sql: &'static str, values: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        check(&values)?;
        let answer = async {
            match &self.pools {
                Pools::Sqlite { readers, .. } => {
                    let rows = statement::<Sqlite>(sql, values).fetch_all(readers).await?;
                    rows.iter().map(Row::decode::<Sqlite>).collect()
                }
                Pools::Postgres(pool) => {
                    let rows = statement::<Postgres>(sql, values).fetch_all(pool).await?;
                    rows.iter().map(Row::decode::<Postgres>).collect()
                }
            }
        };
        self.in_time(answer).await
    }

    /// Runs `sql`, which changes rows, and says how many it changed. Each change is one statement: it takes the write
    /// lock as it begins (in SQLite what BEGIN IMMEDIATE does), and is committed when it returns.
    pub(crate) async fn write(&self, sql: &'static str, values: Vec<Value>) -> Result<u64, StoreError> {
        check(&values)?;
        let answer = async {
            Ok(match &self.pools {
                Pools::Sqlite { writer, .. } => {
                    statement::<Sqlite>(sql, values).execute(writer).await?.rows_affected()
                }
                Pools::Postgres(pool) => {
                    statement::<Postgres>(sql, values).execute(pool).await?.rows_affected()
                }
            })
        };
        self.in_time(answer).await
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let failed = |why: String| StoreError::Database(format!("{}: {why}", self.target));
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer.map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?;
        answer.map_err(|error| failed(problem(&error)))
    }
}
