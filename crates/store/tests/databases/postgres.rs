//! A real PostgreSQL server: shared by processes, killed, silent, newer, unreachable.

use atoll_core::{store::Store, testing::store_contract};
use futures::future::join_all;
use std::{
    net::TcpListener,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use crate::{
    server::{PASSWORD, Server},
    support::{key, open, refusal, skip},
    writer::{Writer, assert_stored},
};

async fn server() -> Option<Server> {
    or_skip(Server::start().await)
}

fn or_skip(server: Option<Server>) -> Option<Server> {
    if server.is_none() {
        skip("PostgreSQL is not installed (initdb is neither in /usr/lib/postgresql/*/bin nor in PATH)");
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_contract() {
    let Some(server) = server().await else { return };
    let made = AtomicU32::new(0);
    store_contract(async || {
        let n = made.fetch_add(1, Ordering::Relaxed);
        open(&server.database(&format!("contract{n}")).await).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_database_and_may_be_killed() {
    let Some(server) = server().await else { return };
    let url = server.database("shared").await;
    let stores = join_all((0..8).map(|_| open(&url))).await;
    assert!(stores[7].keys(None).await.unwrap().is_empty());
    drop(stores);

    let red = Writer::start(&url, "red", 100);
    let blue = Writer::start(&url, "blue", usize::MAX);
    let mut told = blue.kill_after(40);
    told.extend(red.finish());
    assert_stored(&*open(&url).await, &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_and_is_found_again() {
    let Some(mut server) = server().await else { return };
    let url = server.database("killed").await;
    let store = open(&url).await;
    let writer = {
        let url = url.clone();
        tokio::spawn(async move { write_until_refused(&*open(&url).await).await })
    };
    while store.keys(None).await.unwrap().len() < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.kill();
    let acknowledged = writer.await.unwrap();
    let refused = store.ping().await.unwrap_err().to_string();
    assert!(refused.starts_with("the database failed: PostgreSQL database killed at /"), "{refused}");

    server.start_again().await;
    answers_again(&*store).await;
    for n in 0..acknowledged {
        assert!(store.key_by_hash(&key(&n.to_string()).hash).await.unwrap().is_some(), "{n}");
    }
    store.put_key(&key("afterwards")).await.unwrap();
}

/// How many keys were acknowledged before the server went.
async fn write_until_refused(store: &dyn Store) -> usize {
    let mut written = 0;
    while store.put_key(&key(&written.to_string())).await.is_ok() {
        written += 1;
    }
    written
}

async fn answers_again(store: &dyn Store) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = store.ping().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_a_server_refuses_is_said_without_the_password() {
    let Some(server) = server().await else { return };
    let why = refusal(&server.url("wrong-passw0rd", "postgres")).await;
    assert!(why.contains("password authentication failed for user \"atoll\""), "{why}");
    assert!(!why.contains("wrong-passw0rd"), "{why}");
    let why = refusal(&server.url(PASSWORD, "nowhere")).await;
    assert!(why.contains("database \"nowhere\" does not exist") && !why.contains(PASSWORD), "{why}");

    let url = server.database("newer").await;
    open(&url).await.put_key(&key("one")).await.unwrap();
    server.sql("newer", "INSERT INTO schema_version (version) VALUES (999)".into()).await;
    let why = refusal(&url).await;
    assert!(why.contains("was written by a newer program (schema 999; this one knows up to 2)"), "{why}");

    let url = server.database("others").await;
    server.sql("others", "CREATE TABLE templates (mine TEXT)".into()).await;
    let why = refusal(&url).await;
    assert!(why.contains("to schema 1: relation \"templates\" already exists"), "{why}");
    assert_eq!(refusal(&url).await, why);
}

#[tokio::test]
async fn a_connection_is_encrypted_and_the_server_proves_itself() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl is not installed, so there is no certificate for PostgreSQL");
    }
    let port = free_port();
    let Some(server) = or_skip(Server::start_encrypted(port).await) else { return };
    let url = |host: &str, more: &str| format!("postgres://atoll:{PASSWORD}@{host}:{port}/postgres?{more}");
    let root = server.dir().join("certificate.pem").display().to_string();

    open(&url("localhost", &format!("sslmode=verify-full&sslrootcert={root}"))).await.ping().await.unwrap();
    open(&url("localhost", "sslmode=require")).await.ping().await.unwrap();
    open(&url("localhost", "")).await.ping().await.unwrap();
    let why = refusal(&url("localhost", "sslmode=verify-full")).await;
    assert!(why.contains("UnknownIssuer"), "{why}");
    let why = refusal(&url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={root}"))).await;
    assert!(why.contains("not valid for name"), "{why}");
    let why = refusal(&url("localhost", "sslmode=disable")).await;
    assert!(why.contains("no encryption") && !why.contains(PASSWORD), "{why}");
}

/// A port that nobody listens on just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_server_that_is_not_there_or_silent_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://atoll:s3cret@127.0.0.1:{port}/atoll");
    let why = refusal(&url).await;
    assert_eq!(why, format!("PostgreSQL database atoll at 127.0.0.1:{port} does not answer"));
    drop(listener);
    let why = refusal(&url).await;
    assert!(why.contains("Connection refused") && !why.contains("s3cret"), "{why}");
}
