//! SQLite files: private, shared by processes, killed, damaged, newer, locked.

use atoll_core::testing::store_contract;
use futures::future::join_all;
use jiff::Timestamp;
use sqlx::{Connection, SqliteConnection, raw_sql};
use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

use crate::{
    support::{key, open, refusal, spec},
    writer::{Writer, assert_stored},
};

struct File {
    _dir: TempDir,
    path: PathBuf,
    url: String,
}

/// A path of its own, with nothing there yet.
fn file() -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("atoll data.db");
    File { _dir: dir, url: format!("sqlite:{}", path.display()), path }
}

/// A closed database with enough in it to fill many pages, all of them in the one file.
async fn filled() -> File {
    let file = file();
    let store = open(&file.url).await;
    for n in 0..200 {
        let long = format!("{n} {}", "x".repeat(2000));
        store.put_template("default", "web", &spec(&long), Timestamp::UNIX_EPOCH).await.unwrap();
    }
    drop(store);
    closed(&file.path).await;
    file
}

/// Waits until the log is gone, or empty: the last connection moves what is in it into the file and removes it, but of two that
/// go at the same time neither may be the last.
async fn closed(path: &Path) {
    let log = format!("{}-wal", path.display());
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        assert!(Instant::now() < deadline, "{log} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut other = connect(path).await;
        raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut other).await.unwrap();
        other.close().await.unwrap();
    }
}

/// Another program at the same file.
async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap()
}

async fn sql(path: &Path, text: &'static str) {
    let mut connection = connect(path).await;
    raw_sql(text).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let made = AtomicU32::new(0);
    store_contract(async || {
        let n = made.fetch_add(1, Ordering::Relaxed);
        open(&format!("sqlite://{}/{n}.db", dir.path().display())).await
    })
    .await;
}

#[tokio::test]
async fn what_was_stored_is_there_after_reopening() {
    let file = file();
    let store = open(&file.url).await;
    store.put_key(&key("one")).await.unwrap();
    drop(store);
    for _ in 0..3 {
        let store = open(&file.url).await;
        assert_eq!(store.keys(None).await.unwrap(), [key("one")]);
    }
}

#[tokio::test]
async fn the_files_are_their_owners_alone() {
    let file = file();
    let mode = |suffix: &str| {
        let path = format!("{}{suffix}", file.path.display());
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    fs::write(&file.path, "").unwrap();
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o644)).unwrap();
    let store = open(&file.url).await;
    store.put_key(&key("one")).await.unwrap();
    assert_eq!([mode(""), mode("-wal"), mode("-shm")], [0o600; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_open_a_new_file_at_once() {
    for _ in 0..10 {
        let file = file();
        let stores = join_all((0..8).map(|_| open(&file.url))).await;
        for (n, store) in stores.iter().enumerate() {
            store.put_key(&key(&n.to_string())).await.unwrap();
        }
        assert_eq!(stores[0].keys(None).await.unwrap().len(), 8);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_write_to_one_file() {
    let file = file();
    let writers = ["red", "blue"].map(|name| Writer::start(&file.url, name, 100));
    let told: Vec<_> = writers.into_iter().flat_map(Writer::finish).collect();
    assert_eq!(told.len(), 200);
    assert_stored(&*open(&file.url).await, &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_writes_loses_nothing() {
    let file = file();
    let mut told = Vec::new();
    for (name, rounds) in [("a", 1), ("b", 17), ("c", 60)] {
        told.extend(Writer::start(&file.url, name, usize::MAX).kill_after(rounds));
        assert_stored(&*open(&file.url).await, &told).await;
    }
}

#[tokio::test]
async fn a_locked_file_can_be_read_and_refuses_writes_in_the_end() {
    let file = file();
    let store = open(&file.url).await;
    store.put_key(&key("one")).await.unwrap();
    let mut other = connect(&file.path).await;
    raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = store.put_key(&key("two")).await.unwrap_err().to_string();
    assert!(refused.ends_with("atoll data.db: database is locked"), "{refused}");
    assert_eq!(store.keys(None).await.unwrap(), [key("one")]);
    raw_sql("COMMIT").execute(&mut other).await.unwrap();
    store.put_key(&key("two")).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let file = filled().await;
    sql(&file.path, "INSERT INTO schema_version (version) VALUES (999); PRAGMA wal_checkpoint(TRUNCATE)")
        .await;
    let before = fs::read(&file.path).unwrap();
    let why = refusal(&file.url).await;
    assert!(why.contains("was written by a newer program (schema 999; this one knows up to 2)"), "{why}");
    assert!(fs::read(&file.path).unwrap() == before, "the file was changed");
    sql(&file.path, "DELETE FROM schema_version WHERE version = 999").await;
    open(&file.url).await.ping().await.unwrap();
}

#[tokio::test]
async fn tables_of_others_are_not_taken_over() {
    let file = file();
    fs::write(&file.path, "").unwrap();
    sql(&file.path, "CREATE TABLE templates (mine TEXT)").await;
    let why = refusal(&file.url).await;
    assert!(why.contains("to schema 1: table templates already exists"), "{why}");
    // All or nothing: a second try finds what the first one found.
    assert_eq!(refusal(&file.url).await, why);
}

#[tokio::test]
async fn a_damaged_file_is_told_at_once() {
    let no_database = file();
    fs::write(&no_database.path, "this is no database, but it is long enough to be one".repeat(100)).unwrap();

    let lost_header = filled().await;
    write_at(&lost_header.path, 0, &[0xff; 100]);

    let lost_pages = filled().await;
    let length = fs::metadata(&lost_pages.path).unwrap().len();
    assert!(length > 200_000, "{length}");
    write_at(&lost_pages.path, length / 2, &[0xa5; 16384]);

    let lost_end = filled().await;
    let short = fs::metadata(&lost_end.path).unwrap().len() / 2;
    fs::OpenOptions::new().write(true).open(&lost_end.path).unwrap().set_len(short).unwrap();

    for file in [no_database, lost_header, lost_pages, lost_end] {
        let why = refusal(&file.url).await;
        assert!(why.contains("atoll data.db is damaged ("), "{why}");
        assert!(why.contains("put a backup in its place"), "{why}");
    }
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[tokio::test]
async fn a_path_that_cannot_be_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().display();
    let why = refusal(&format!("sqlite:{dir}/missing/atoll.db")).await;
    assert!(why.contains("missing/atoll.db: No such file"), "{why}");
    let why = refusal(&format!("sqlite:{dir}")).await;
    assert!(why.contains("is a directory"), "{why}");
    let why = refusal("sqlite:").await;
    assert!(why.contains("No such file"), "{why}");
}

#[tokio::test]
async fn an_unknown_scheme_is_refused_unseen() {
    for url in ["mysql://root:s3cret@localhost/x", "s3cret", "", "/var/lib/atoll.db", "postgres"] {
        let why = refusal(url).await;
        assert!(why.contains("sqlite:PATH") && !why.contains("cret"), "{why}");
    }
}
