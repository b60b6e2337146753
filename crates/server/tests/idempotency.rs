//! Requests that promise to be made once.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::{
    driver::DriverError,
    key::hash,
    store::{IdempotencyKey, IdempotencyRecord, Store},
    testing::FakeDriver,
};
use atoll_server::{Limits, ServerConfig};
use common::{ADMIN, MEMBER, Running, read, restart_with, start, start_with, until};
use reqwest::Method;
use serde_json::{Value, json};

const ALL: &str = "/api/v1/sandboxes";

async fn create(server: &Running, who: &str, key: &str, body: Value) -> (u16, Value) {
    let call = server.call_as(who, Method::POST, ALL).header("idempotency-key", key).json(&body);
    read(call.send().await.unwrap()).await
}

#[tokio::test]
async fn a_repetition_gives_the_same_sandbox() {
    let server = start().await;
    let base = json!({"image": "base"});
    let (status, first) = create(&server, ADMIN, "k", base.clone()).await;
    let (again, second) = create(&server, ADMIN, "k", base.clone()).await;
    assert_eq!((status, again, &first["id"]), (201, 201, &second["id"]));
    let (status, refused) = create(&server, ADMIN, "k", json!({"image": "other"})).await;
    assert_eq!((status, refused["code"].as_str()), (422, Some("idempotency_mismatch")));
    let other_key = create(&server, ADMIN, "k2", base.clone()).await.1;
    let other_caller = create(&server, MEMBER, "k", base).await.1;
    assert!(first["id"] != other_key["id"] && first["id"] != other_caller["id"]);
    assert_eq!(server.driver.count(), 3);
}

#[tokio::test]
async fn repetitions_at_the_same_time_make_one() {
    let server = start().await;
    server.driver.hold_creates();
    let all = (0..32).map(|_| create(&server, ADMIN, "k", json!({"image": "base"})));
    let all = futures::future::join_all(all);
    let release = async {
        until(async || server.driver.count() == 1).await;
        server.driver.release(32);
    };
    let (answers, ()) = futures::future::join(all, release).await;
    assert!(answers.iter().all(|(status, made)| *status == 201 && made["id"] == answers[0].1["id"]));
    assert_eq!(server.driver.count(), 1);
}

#[tokio::test]
async fn a_refused_or_failed_creation_can_be_tried_again() {
    let server = start().await;
    assert_eq!(create(&server, ADMIN, "k", json!({"image": "base", "ttl": 0})).await.0, 400);
    server.driver.fail_next("create", DriverError::Exhausted("no addresses".into()));
    assert_eq!(create(&server, ADMIN, "k", json!({"image": "base"})).await.0, 507);
    let again = async || create(&server, ADMIN, "k", json!({"image": "base"})).await;
    // The key is given back when the failure is known, which its caller may be told a moment before.
    until(async || again().await.0 == 201).await;
}

#[tokio::test]
async fn a_full_queue_gives_the_key_back() {
    let limits = Limits { creates_at_once: 1, creates_waiting: 0, ..Limits::default() };
    let server = start_with(ServerConfig { limits, ..ServerConfig::default() }, FakeDriver::default()).await;
    assert_eq!(create(&server, ADMIN, "k", json!({"image": "base"})).await.0, 503);
    let record = IdempotencyRecord {
        body_hash: String::new(),
        resource_id: "x".into(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let key = IdempotencyKey { caller: "admin".into(), route: format!("POST {ALL}"), key: "k".into() };
    assert_eq!(server.store.begin_idempotent(&key, &record).await.unwrap(), None);
}

#[tokio::test]
async fn a_deleted_sandbox_is_not_made_again() {
    let server = start().await;
    let (_, made) = create(&server, ADMIN, "k", json!({"image": "base"})).await;
    server.delete(&format!("{ALL}/{}", made["id"].as_str().unwrap())).await;
    let (status, gone) = create(&server, ADMIN, "k", json!({"image": "base"})).await;
    assert_eq!((status, gone["code"].as_str()), (409, Some("idempotency_gone")));
}

#[tokio::test]
async fn what_a_server_promised_and_did_not_do_is_done_by_the_next() {
    let server = start().await;
    let body = json!({"image": "base"});
    let key = IdempotencyKey { caller: "admin".into(), route: format!("POST {ALL}"), key: "k".into() };
    let record = IdempotencyRecord {
        body_hash: hash(&body.to_string()),
        resource_id: "iaaaaaaaaaaaaaaaaaaa".into(),
        created_at: jiff::Timestamp::now(),
    };
    server.store.begin_idempotent(&key, &record).await.unwrap();
    let (driver, store) = (server.driver.clone(), server.store.clone());
    server.stop().await.unwrap();
    let server = restart_with(ServerConfig::default(), driver, store).await;
    let both = [create(&server, ADMIN, "k", body.clone()), create(&server, ADMIN, "k", body.clone())];
    for (status, made) in futures::future::join_all(both).await {
        assert_eq!((status, made["id"].as_str()), (201, Some("iaaaaaaaaaaaaaaaaaaa")), "{made}");
    }
    assert_eq!(server.driver.count(), 1);
}

#[tokio::test]
async fn keys_that_cannot_be_are_refused() {
    let server = start().await;
    for key in ["", &*"x".repeat(256)] {
        let (status, refused) = create(&server, ADMIN, key, json!({"image": "base"})).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some("Idempotency-Key")));
    }
}
