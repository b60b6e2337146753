//! Connects to a PostgreSQL server. Must not show the URL, which has a password in it.

use sqlx::{
    ConnectOptions, Connection, PgConnection, Postgres,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{str::FromStr, time::Duration};

use crate::{
    db::{Db, LOCK_PATIENCE, PATIENCE, Pools},
    error::{OpenError, problem},
    migrate::{POSTGRES, migrate},
};

/// Several servers may share a database whose default limit is 100 connections.
const CONNECTIONS: u32 = 10;

/// A connection that was used so recently is not probed before its next use: that would double each request's wait.
const FRESH: Duration = Duration::from_secs(1);

pub(crate) async fn open(url: &str) -> Result<Db, OpenError> {
    let options = options(url)?;
    let target = name(&options);
    let silent = |_| OpenError::Silent { target: target.clone() };
    let connected = tokio::time::timeout(PATIENCE, options.connect()).await.map_err(silent)?;
    let failed = |error| OpenError::Connect { target: target.clone(), problem: problem(&error) };
    let mut connection: PgConnection = connected.map_err(failed)?;
    migrate::<Postgres>(&mut connection, &POSTGRES, &target).await?;
    connection.close().await.map_err(failed)?;
    Ok(Db::new(target, Pools::Postgres(pool().connect_lazy_with(options))))
}

fn options(url: &str) -> Result<PgConnectOptions, OpenError> {
    check_escapes(url)?;
    let options = PgConnectOptions::from_str(url).map_err(|error| OpenError::Url(problem(&error)))?;
    Ok(options.application_name("atoll"))
}

/// A password with a bare `/`, `?` or `#` in it ends the server's name too early: its rest would be taken for the name
/// of a database and be shown.
fn check_escapes(url: &str) -> Result<(), OpenError> {
    let after_scheme = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority_end = after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len());
    if after_scheme[authority_end..].contains(['@', '#']) {
        let advice = "write `/`, `?`, `#` and `@` of a password as %2F, %3F, %23 and %40";
        return Err(OpenError::Url(advice.to_owned()));
    }
    Ok(())
}

fn pool() -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(LOCK_PATIENCE)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { Ok(meta.idle_for < FRESH || connection.ping().await.is_ok()) })
        })
}

/// The database as an error may show it.
fn name(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    match options.get_socket() {
        Some(socket) => format!("PostgreSQL database {database} at {}", socket.display()),
        None => format!("PostgreSQL database {database} at {}:{}", options.get_host(), options.get_port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_credentials() {
        let options = options("postgres://alice:s3cret@db.example:6543/atoll").unwrap();
        assert_eq!(name(&options), "PostgreSQL database atoll at db.example:6543");
        let options = super::options("postgresql://alice:s3cret@%2Frun%2Fpostgresql/atoll").unwrap();
        assert_eq!(name(&options), "PostgreSQL database atoll at /run/postgresql");
    }

    #[test]
    fn an_unescaped_password_is_refused_unseen() {
        for password in ["1/s3cret", "1?s3cret", "1#s3cret", "s3cret/1", "s3cret:/", "s3@cret/"] {
            let refused = options(&format!("postgres://alice:{password}@db.example/atoll")).unwrap_err();
            assert!(matches!(refused, OpenError::Url(_)), "{password}: {refused}");
            assert!(!refused.to_string().contains("cret"), "{refused}");
        }
        options("postgres://alice:p%2Fw%3F@db.example/atoll").unwrap();
        options("postgres://alice:s3@cret@db.example/atoll").unwrap();
    }
}
