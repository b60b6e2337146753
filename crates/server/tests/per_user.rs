//! One sandbox for each user, and volumes, over HTTP on a driver in memory.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::{driver::DriverError, testing::FakeDriver};
use atoll_server::ServerConfig;
use common::{ADMIN, MEMBER, Running, STRANGER, read, restart_with, start, start_with, until};
use reqwest::Method;
use serde_json::{Value, json};

fn at(user: &str) -> String {
    format!("/v1/sandbox/{user}")
}

async fn call(server: &Running, who: &str, method: Method, path: &str) -> (u16, Value) {
    read(server.call_as(who, method, path).send().await.unwrap()).await
}

async fn make(server: &Running, user: &str) -> (u16, Value) {
    call(server, ADMIN, Method::POST, &at(user)).await
}

async fn made(server: &Running, user: &str) -> Value {
    let (status, made) = make(server, user).await;
    assert_eq!(status, 201, "{made}");
    made
}

async fn volumes(server: &Running) -> Vec<Value> {
    server.get("/api/v1/volumes").await.1["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_same_call_gives_the_same_sandbox() {
    let server = start().await;
    let first = made(&server, "alice").await;
    assert_eq!(first["userId"], "alice");
    assert_eq!((first["label"].as_str(), first["phase"].as_str()), (Some("alice"), Some("running")));
    assert_eq!((&first["status"], &first["template"]), (&json!("running"), &json!("desktop")));
    assert_eq!(first["ports"], json!({"api": 3000, "vnc": 6901}));
    assert_eq!(first["volumes"], json!({"home": {"path": "/home/headless", "size": "10Gi"}}));
    let (status, again) = make(&server, "alice").await;
    assert_eq!((status, &again["id"]), (200, &first["id"]));
    assert_eq!(call(&server, ADMIN, Method::GET, &at("alice")).await, (200, again));
    assert_eq!(server.driver.count(), 1);
    let (_, native) = server.get(&format!("/api/v1/sandboxes/{}", first["id"].as_str().unwrap())).await;
    assert_eq!((&native["owner"], &native["owner_label"]), (&json!("alice"), &json!("alice")));
    assert!(made(&server, "bob").await["id"] != first["id"]);
}

#[tokio::test]
async fn calls_at_the_same_time_make_one_through_whichever_server() {
    let server = start().await;
    let other = restart_with(ServerConfig::default(), server.driver.clone(), server.store.clone()).await;
    server.driver.hold_creates();
    let all = (0..16).map(|n| make(if n % 2 == 0 { &server } else { &other }, "alice"));
    let release = async {
        until(async || server.driver.count() == 1).await;
        server.driver.release(32);
    };
    let (answers, ()) = futures::future::join(futures::future::join_all(all), release).await;
    assert!(
        answers.iter().all(|(status, made)| *status < 300 && made["id"] == answers[0].1["id"]),
        "{answers:?}"
    );
    assert_eq!((server.driver.count(), server.driver.most_creating()), (1, 1));
}

#[tokio::test]
async fn one_that_rests_is_woken_and_moves_are_the_services() {
    let server = start().await;
    let id = made(&server, "alice").await["id"].as_str().unwrap().to_owned();
    for rest in ["pause", "stop"] {
        for wake in ["", "/start"] {
            let (status, _) = server.post(&format!("/api/v1/sandboxes/{id}/{rest}"), json!({})).await;
            assert_eq!(status, 200);
            let path = at("alice") + wake;
            let (status, woken) = call(&server, ADMIN, Method::POST, &path).await;
            assert_eq!((status, woken["phase"].as_str()), (200, Some("running")), "{rest} {path}: {woken}");
        }
    }
    let (status, stopped) = call(&server, ADMIN, Method::POST, "/v1/sandbox/alice/stop").await;
    assert_eq!((status, stopped["phase"].as_str()), (200, Some("stopped")));
    assert_eq!(call(&server, ADMIN, Method::GET, &at("alice")).await.1["phase"], "stopped", "only looked at");
    let (status, again) = call(&server, ADMIN, Method::POST, "/v1/sandbox/alice/restart").await;
    assert_eq!((status, again["phase"].as_str(), again["id"].as_str()), (200, Some("running"), Some(&*id)));
    for (method, path) in [
        (Method::GET, at("nobody")),
        (Method::DELETE, at("nobody")),
        (Method::POST, "/v1/sandbox/nobody/start".to_owned()),
        (Method::POST, "/v1/sandbox/nobody/stop".to_owned()),
        (Method::POST, "/v1/sandbox/nobody/restart".to_owned()),
        (Method::DELETE, "/v1/sandbox/nobody?volumes=delete".to_owned()),
    ] {
        let (status, refused) = call(&server, ADMIN, method, &path).await;
        assert_eq!((status, refused["code"].as_str()), (404, Some("not_found")), "{path}");
        assert!(refused["error"].as_str().unwrap().contains("nobody"), "{refused}");
    }
}

#[tokio::test]
async fn volumes_are_kept_unless_they_are_to_go() {
    let server = start().await;
    let first = made(&server, "alice").await;
    made(&server, "bob").await;
    assert_eq!(call(&server, ADMIN, Method::DELETE, &at("alice")).await.0, 204);
    let kept = volumes(&server).await;
    assert_eq!(kept.len(), 2);
    assert_eq!(
        (&kept[0]["owner"], &kept[0]["size"], kept[0].get("used_by")),
        (&json!("alice"), &json!("10Gi"), None)
    );
    let again = made(&server, "alice").await;
    assert_eq!(again["id"], first["id"]);
    assert_eq!(volumes(&server).await[0]["used_by"], first["id"]);
    let (status, refused) = call(&server, ADMIN, Method::DELETE, "/v1/sandbox/alice?volumes=all").await;
    assert_eq!((status, refused["field"].as_str()), (400, Some("volumes")));
    assert_eq!(call(&server, ADMIN, Method::DELETE, "/v1/sandbox/alice?volumes=delete").await.0, 204);
    assert_eq!(volumes(&server).await.len(), 1);
    // Without a sandbox, too.
    assert_eq!(call(&server, ADMIN, Method::DELETE, "/v1/sandbox/bob?volumes=keep").await.0, 204);
    assert_eq!(call(&server, ADMIN, Method::DELETE, "/v1/sandbox/bob?volumes=delete").await.0, 204);
    assert!(volumes(&server).await.is_empty());
    assert_eq!(call(&server, ADMIN, Method::DELETE, "/v1/sandbox/bob?volumes=delete").await.0, 404);
}

#[tokio::test]
async fn a_volume_that_another_sandbox_has_stays_with_everything_else() {
    let server = start().await;
    made(&server, "alice").await;
    let spec = json!({"image": "base", "volumes": {"work": {"path": "/work"}}});
    let put = server.call(Method::PUT, "/api/v1/templates/work").json(&spec).send().await.unwrap();
    assert_eq!(put.status(), 200);
    let (status, other) =
        server.post("/api/v1/sandboxes", json!({"template": "work", "owner": "alice"})).await;
    assert_eq!(status, 201, "{other}");
    let (status, refused) = call(&server, ADMIN, Method::DELETE, "/v1/sandbox/alice?volumes=delete").await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("in_use")));
    let text = refused["error"].as_str().unwrap();
    assert!(text.contains("work") && text.contains(other["id"].as_str().unwrap()), "{text}");
    assert_eq!((server.driver.count(), volumes(&server).await.len()), (2, 2));
    assert_eq!(server.delete("/api/v1/volumes/alice/work").await.0, 409);
    let second = json!({"template": "work", "owner": "alice"});
    let (status, refused) = server.post("/api/v1/sandboxes", second).await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("in_use")));
}

#[tokio::test]
async fn a_failed_creation_is_told_and_the_next_call_makes_it_anew() {
    let server = start().await;
    server.driver.fail_next("create", DriverError::Exhausted("no addresses".into()));
    let (status, refused) = make(&server, "alice").await;
    assert_eq!((status, refused["code"].as_str()), (507, Some("exhausted")));
    assert_eq!(call(&server, ADMIN, Method::GET, &at("alice")).await.1["phase"], "failed");
    made(&server, "alice").await;
    assert_eq!(server.driver.count(), 1);
}

#[tokio::test]
async fn users_may_be_called_anything() {
    let server = start().await;
    let long = "x".repeat(300);
    let users = ["alice@example.com", "Alice", "日本 の 人", "a/b", "%41", "a?b=c#d", &long, "alice"];
    let mut labels = std::collections::BTreeSet::new();
    for user in users {
        let mut url = reqwest::Url::parse(&server.url("/v1/sandbox")).unwrap();
        url.path_segments_mut().unwrap().push(user);
        let path = url.path();
        let made = made(&server, path.strip_prefix("/v1/sandbox/").unwrap()).await;
        assert_eq!(made["userId"], user);
        let label = made["label"].as_str().unwrap();
        assert!(
            label.len() <= 38
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        );
        assert!(labels.insert(label.to_owned()), "{label} twice");
        assert_eq!(call(&server, ADMIN, Method::GET, path).await.1["id"], made["id"]);
    }
    let (_, one) = server.get("/api/v1/volumes?owner=alice%40example.com").await;
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    assert_eq!(server.driver.count(), users.len());
    for bad in ["%20alice", "a%0ab", "%ff", &"x".repeat(1025)] {
        let (status, refused) = make(&server, bad).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some("userId")), "{bad}: {refused}");
    }
}

#[tokio::test]
async fn tenants_do_not_meet() {
    let server = start().await;
    let ours = call(&server, MEMBER, Method::POST, &at("alice")).await.1;
    assert_eq!(call(&server, STRANGER, Method::GET, &at("alice")).await.0, 404);
    let theirs = call(&server, STRANGER, Method::POST, &at("alice")).await.1;
    assert!(ours["id"] != theirs["id"] && ours["label"] != theirs["label"]);
    let (_, seen) = call(&server, STRANGER, Method::GET, "/api/v1/volumes").await;
    assert_eq!(seen["items"].as_array().unwrap().len(), 1);
    assert_eq!(seen["items"][0]["tenant"], "other");
    assert_eq!(call(&server, STRANGER, Method::DELETE, "/v1/sandbox/alice?volumes=delete").await.0, 204);
    assert_eq!(call(&server, MEMBER, Method::GET, &at("alice")).await.0, 200);
    assert_eq!(call(&server, STRANGER, Method::DELETE, "/api/v1/volumes/alice/home").await.0, 404);
    assert_eq!(call(&server, "wrong", Method::POST, &at("alice")).await.0, 401);
}

#[tokio::test]
async fn the_template_is_the_servers_and_a_tenants_own_goes_before_the_built_in() {
    let server = start().await;
    let (status, builtin) = server.get("/api/v1/templates/desktop").await;
    assert_eq!((status, builtin["version"].as_i64()), (200, Some(0)));
    assert_eq!(builtin["spec"]["image"], "accetto/ubuntu-vnc-xfce-firefox-g3");
    let own = json!({"image": "base", "ports": {"web": 80}});
    server.call(Method::PUT, "/api/v1/templates/desktop").json(&own).send().await.unwrap();
    assert_eq!(made(&server, "alice").await["ports"], json!({"web": 80}));
    let config = ServerConfig { user_template: Some("none".into()), ..ServerConfig::default() };
    let other = start_with(config, FakeDriver::default()).await;
    let (status, refused) = make(&other, "alice").await;
    assert_eq!((status, refused["field"].as_str()), (400, Some("template")), "{refused}");
    assert_eq!(other.driver.count(), 0);
}

#[tokio::test]
async fn without_keys_a_plain_call_works() {
    let config = ServerConfig { no_auth: true, ..ServerConfig::default() };
    let server = start_with(config, FakeDriver::default()).await;
    let answer = server.client.post(server.url("/v1/sandbox/alice")).send().await.unwrap();
    assert_eq!(read(answer).await.0, 201);
    let (status, wrong) =
        read(server.client.put(server.url("/v1/sandbox/alice")).send().await.unwrap()).await;
    assert_eq!((status, wrong["code"].as_str()), (405, Some("wrong_method")));
}
