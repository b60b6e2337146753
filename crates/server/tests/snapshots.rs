//! Snapshots and forks over HTTP, natively and as E2B's clients say it, on a driver in memory.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::driver::DriverError;
use common::{ADMIN, MEMBER, Running, STRANGER, read, start};
use reqwest::Method;
use serde_json::{Value, json};

async fn take(server: &Running, sandbox: &str, body: Value) -> Value {
    let (status, taken) = server.post(&format!("/api/v1/sandboxes/{sandbox}/snapshots"), body).await;
    assert_eq!(status, 201, "{taken}");
    taken
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

async fn call(server: &Running, who: &str, method: Method, path: &str) -> (u16, Value) {
    read(server.call_as(who, method, path).send().await.unwrap()).await
}

async fn snapshots(server: &Running) -> usize {
    server.get("/api/v1/snapshots").await.1["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn one_is_taken_listed_used_and_removed() {
    let server = start().await;
    let source = server.create().await;
    let taken = take(&server, &source, json!({"name": "work:v1"})).await;
    assert_eq!((&taken["sandbox"], &taken["names"]), (&json!(source), &json!(["work:v1"])));
    assert_eq!(taken["reference"], json!(format!("snapshot:{}", text(&taken["id"]))));
    let at = format!("/api/v1/snapshots/{}", text(&taken["id"]));
    assert_eq!(server.get(&at).await, (200, taken.clone()));
    let (status, made) = server.post("/api/v1/sandboxes", json!({"image": taken["reference"]})).await;
    assert_eq!((status, &made["image"]), (201, &taken["reference"]), "{made}");
    assert_eq!(server.delete(&at).await.0, 204);
    for outcome in [server.delete(&at).await, server.get(&at).await] {
        assert_eq!(outcome.0, 404, "{}", outcome.1);
    }
}

#[tokio::test]
async fn pages_carry_on_where_the_last_one_ended() {
    let server = start().await;
    let source = server.create().await;
    for n in 0..5 {
        take(&server, &source, json!({"name": format!("n{n}")})).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = server.get(&format!("/api/v1/snapshots?limit=2&cursor={cursor}")).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|it| text(&it["names"][0]).to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    assert_eq!(seen, ["n4", "n3", "n2", "n1", "n0"]);
    let first = server.call(Method::GET, "/snapshots?limit=3").send().await.unwrap();
    let token = first.headers()["x-next-token"].to_str().unwrap().to_owned();
    assert_eq!(read(first).await.1.as_array().unwrap().len(), 3);
    let second = server.call(Method::GET, &format!("/snapshots?nextToken={token}")).send().await.unwrap();
    assert!(second.headers().get("x-next-token").is_none());
    assert_eq!(read(second).await.1[1]["names"], json!(["n0"]));
}

#[tokio::test]
async fn one_fork_that_fails_undoes_no_other() {
    let server = start().await;
    let source = server.create().await;
    let at = format!("/api/v1/sandboxes/{source}/fork");
    server.driver.fail_next("create", DriverError::Exhausted("no room".into()));
    let (status, forked) = server.post(&at, json!({"count": 3, "ttl": 60})).await;
    assert_eq!(status, 201, "{forked}");
    let items = forked["items"].as_array().unwrap();
    let failed: Vec<_> = items.iter().filter_map(|it| it.get("error")).collect();
    assert_eq!((items.len(), failed.len(), &failed[0]["code"]), (3, 1, &json!("exhausted")), "{forked}");
    assert!(items.iter().filter_map(|it| it.get("sandbox")).all(|it| it["ttl"] == 60), "{forked}");
    server.driver.fail_next("create", DriverError::Exhausted("no room".into()));
    let (status, theirs) = server.post(&format!("/sandboxes/{source}/fork"), json!({"count": 2})).await;
    assert_eq!((status, theirs.as_array().unwrap().len()), (201, 2), "{theirs}");
    let error = theirs.as_array().unwrap().iter().find_map(|it| it.get("error")).unwrap();
    assert_eq!((&error["code"], &error["message"]), (&json!(503), &json!("no room")), "{theirs}");
    assert!(theirs.as_array().unwrap().iter().any(|it| it["sandbox"]["sandboxID"].is_string()));
    server.driver.fail_next("take", DriverError::Exhausted("no room".into()));
    let before = server.driver.count();
    assert_eq!(server.post(&at, json!({})).await.0, 507);
    assert_eq!((server.driver.count(), snapshots(&server).await), (before, 0));
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let server = start().await;
    let source = server.create().await;
    for (path, body, field) in [
        ("snapshots", json!({"name": "-"}), "name"),
        ("fork", json!({"count": 0}), "count"),
        ("fork", json!({"count": 21}), "count"),
        ("fork", json!({"ttl": -1}), "ttl"),
        ("fork", json!({"cout": 1}), "cout"),
    ] {
        let (status, told) = server.post(&format!("/api/v1/sandboxes/{source}/{path}"), body).await;
        assert_eq!((status, &told["field"]), (400, &json!(field)), "{told}");
    }
    let (status, told) = server.post("/api/v1/sandboxes", json!({"image": "snapshot:latest"})).await;
    assert_eq!((status, &told["field"]), (400, &json!("image")), "{told}");
    for (path, body) in [("snapshots", json!({"name": "a b"})), ("fork", json!({"timeout": -1}))] {
        let (status, told) = server.post(&format!("/sandboxes/{source}/{path}"), body).await;
        assert_eq!((status, &told["code"]), (400, &json!(400)), "{told}");
    }
    for path in ["snapshots", "fork"] {
        let nobody = format!("/sandboxes/i{}/{path}", "x".repeat(19));
        assert_eq!(server.post(&nobody, json!({})).await.0, 404);
    }
    assert_eq!((server.driver.count(), snapshots(&server).await), (1, 0));
}

#[tokio::test]
async fn another_tenants_are_not_there() {
    let server = start().await;
    let source = server.create().await;
    let taken = take(&server, &source, json!({"name": "mine"})).await;
    let id = text(&taken["id"]);
    for (method, path) in [
        (Method::GET, format!("/api/v1/snapshots/{id}")),
        (Method::DELETE, format!("/api/v1/snapshots/{id}")),
        (Method::DELETE, format!("/templates/{id}")),
        (Method::DELETE, "/templates/mine".to_owned()),
    ] {
        assert_eq!(call(&server, STRANGER, method, &path).await.0, 404, "{path}");
    }
    assert_eq!(call(&server, STRANGER, Method::GET, "/snapshots").await, (200, json!([])));
    let body = json!({"templateID": "mine"});
    let theirs = server.call_as(STRANGER, Method::POST, "/sandboxes").json(&body).send().await.unwrap();
    assert_eq!(read(theirs).await.0, 404);
    let ask = json!({"image": taken["reference"]});
    let theirs = server.call_as(STRANGER, Method::POST, "/api/v1/sandboxes").json(&ask).send().await.unwrap();
    let (status, told) = read(theirs).await;
    assert_eq!((status, &told["code"]), (400, &json!("snapshot_not_found")), "{told}");
    assert_eq!(call(&server, MEMBER, Method::GET, "/snapshots").await.1[0]["snapshotID"], json!(id));
}

#[tokio::test]
async fn e2b_clients_make_sandboxes_by_id_and_by_name() {
    let server = start().await;
    let ask = json!({"image": "base", "cpu": "500m", "memory": "512Mi", "disk": "2Gi"});
    let (_, source) = server.post("/api/v1/sandboxes", ask).await;
    let at = format!("/sandboxes/{}/snapshots", text(&source["id"]));
    let (status, taken) = server.post(&at, json!({"name": "acme/work:v1", "memory": true})).await;
    assert_eq!((status, &taken["names"]), (201, &json!(["acme/work:v1"])), "{taken}");
    let id = text(&taken["snapshotID"]).to_owned();
    for named in [id.clone(), format!("{id}:default"), "acme/work:v1".into(), "acme/work".into()] {
        let (status, made) = server.post("/v2/sandboxes", json!({"templateID": named})).await;
        assert_eq!((status, &made["templateID"]), (201, &json!(id)), "{named}: {made}");
        let native = server.get(&format!("/api/v1/sandboxes/{}", text(&made["sandboxID"]))).await.1;
        for field in ["cpu", "memory", "disk", "pids"] {
            assert_eq!(native[field], source[field], "{field}");
        }
    }
    let unnamed = server.post(&at, json!({})).await.1;
    assert_eq!(unnamed["names"], json!([]));
    for (query, count) in
        [("name=acme/work", 1), ("name=none", 0), ("sandboxID=x", 0), ("limit=1", 1), ("", 2)]
    {
        let (status, list) = server.get(&format!("/snapshots?{query}")).await;
        assert_eq!((status, list.as_array().unwrap().len()), (200, count), "{query}: {list}");
    }
    assert_eq!(call(&server, ADMIN, Method::DELETE, &format!("/templates/{id}")).await.0, 204);
    assert_eq!(call(&server, ADMIN, Method::DELETE, &format!("/templates/{id}")).await.0, 404);
    // What is no snapshot could only be a template, and none of another tenant's.
    assert_eq!(server.post("/v2/sandboxes", json!({"templateID": "acme/work"})).await.0, 400);
    assert_eq!(server.post("/v2/sandboxes", json!({"templateID": "work:v1"})).await.0, 404);
}
