//! The API of E2B's clients, on a driver in memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use atoll_core::{
    address::ContentAddress, driver::Driver, id::SandboxId, link::LinkKey, phase::Phase,
    template::OnDeadline, testing::FakeDriver,
};
use atoll_server::{Limits, Links, ServerConfig};
use common::*;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

async fn running() -> Running {
    let address = ContentAddress::new("localhost", "http://{host}:8080").unwrap();
    let links = Links { address, key: LinkKey::new([7; 32]) };
    start_with(ServerConfig { links: Some(links), ..ServerConfig::default() }, FakeDriver::default()).await
}

async fn made(server: &Running, body: Value) -> Value {
    let (status, made) = server.post("/v2/sandboxes", body).await;
    assert_eq!(status, 201, "{made}");
    made
}

fn id_of(made: &Value) -> String {
    made["sandboxID"].as_str().unwrap().to_owned()
}

async fn at(server: &Running, id: &str) -> atoll_core::sandbox::Sandbox {
    server.driver.get(&SandboxId::parse(id).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_sandbox_is_made_as_it_is_asked_for() {
    let server = running().await;
    let made = made(
        &server,
        json!({"templateID": "base", "timeout": 60, "autoPause": true, "metadata": {"a key": "any & text"},
            "envVars": {"A": "b"}, "network": {"allowPublicTraffic": false, "denyOut": ["0.0.0.0/0"], "httpsPorts": [8443]}}),
    )
    .await;
    let (id, key) = (id_of(&made), LinkKey::new([7; 32]));
    let parsed = SandboxId::parse(&id).unwrap();
    assert_eq!(made["templateID"], "base");
    assert_eq!(made["domain"], "localhost:8080");
    assert_eq!(made["envdAccessToken"], key.agent_token(&parsed));
    assert_eq!(made["trafficAccessToken"], key.traffic_token(&parsed));
    let sandbox = at(&server, &id).await;
    assert_eq!(sandbox.deadline.unwrap().duration_since(sandbox.spec.created_at).as_secs(), 60);
    assert_eq!(sandbox.spec.metadata["a key"], "any & text");
    assert_eq!((sandbox.spec.env["A"].as_str(), sandbox.spec.env["E2B_SANDBOX"].as_str()), ("b", "true"));
    assert_eq!(sandbox.spec.env["E2B_SANDBOX_ID"], atoll_proto::init::ID_MARK, "its agent knows");
    assert_eq!((sandbox.spec.public, sandbox.spec.lifecycle.pause_after), (false, None));
    assert_eq!(sandbox.spec.lifecycle.on_deadline, OnDeadline::Pause);
    let (status, seen) = server.get(&format!("/sandboxes/{id}")).await;
    assert_eq!(
        (status, &seen["state"], &seen["metadata"]["a key"]),
        (200, &json!("running"), &json!("any & text"))
    );
    assert_eq!(seen["lifecycle"], json!({"autoResume": false, "onTimeout": "pause"}));
    assert_eq!(
        (&seen["allowInternetAccess"], &seen["network"]["denyOut"]),
        (&json!(false), &json!(["0.0.0.0/0"]))
    );
    assert_eq!(
        (&sandbox.spec.https_ports[..], &seen["network"]["httpsPorts"]),
        (&[8443][..], &json!([8443]))
    );
    for number in ["cpuCount", "memoryMB", "diskSizeMB"] {
        assert!(seen[number].as_u64().unwrap() > 0, "{seen}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn only_the_older_path_opens_a_sandbox() {
    let server = running().await;
    for (path, open) in [("/sandboxes", true), ("/v2/sandboxes", false)] {
        let (status, made) = server.post(path, json!({"templateID": "base", "secure": false})).await;
        assert_eq!(status, 201, "{made}");
        assert_eq!(
            (made["envdAccessToken"].is_null(), at(&server, &id_of(&made)).await.spec.agent_open),
            (open, open)
        );
        assert_eq!(made["trafficAccessToken"], Value::Null, "its ports are public");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn errors_have_their_shape() {
    let server = running().await;
    let (status, told) = server.post("/v2/sandboxes", json!({"templateID": "nothing"})).await;
    assert_eq!((status, &told["code"], told["message"].is_string()), (404, &json!(404), true), "{told}");
    let (status, told) = server.post("/v2/sandboxes", json!({"templateID": "base", "timeout": "long"})).await;
    assert_eq!((status, &told["code"], &told["error_code"]), (400, &json!(400), &json!("invalid")));
    let nobody = read(server.client.get(server.url("/v2/sandboxes")).send().await.unwrap()).await;
    assert_eq!((nobody.0, &nobody.1["code"]), (401, &json!(401)));
    let (status, told) = server.get("/v2/sandboxes?limit=0").await;
    assert_eq!((status, &told["code"]), (400, &json!(400)));
    for (path, expected) in
        [("/volumes", 404), ("/v3/volumes", 404), ("/teams/x", 404), ("/v2/sandboxes/x", 404)]
    {
        let (status, told) = server.get(path).await;
        assert_eq!((status, &told["code"]), (expected, &json!(expected)), "{path} {told}");
    }
    let (status, native) = server.get("/api/v1/sandboxes/nothing").await;
    assert_eq!((status, &native["code"]), (404, &json!("not_found")), "ours keep theirs");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn another_tenants_sandbox_is_as_if_it_were_not_there() {
    let server = running().await;
    let id = id_of(&made(&server, json!({"templateID": "base"})).await);
    let missing = SandboxId::from_entropy([9; 19]);
    let mut answers = Vec::new();
    for id in [id.as_str(), missing.as_str()] {
        for (method, path) in [
            (Method::GET, format!("/sandboxes/{id}")),
            (Method::DELETE, format!("/sandboxes/{id}")),
            (Method::POST, format!("/sandboxes/{id}/pause")),
            (Method::POST, format!("/v2/sandboxes/{id}/connect")),
            (Method::GET, format!("/sandboxes/{id}/logs")),
            (Method::GET, format!("/sandboxes/{id}/metrics")),
        ] {
            let answer = server.call_as(STRANGER, method, &path).json(&json!({})).send().await.unwrap();
            let (status, told) = read(answer).await;
            assert_eq!(status, 404, "{path}");
            answers.push((path.replace(id, "ID"), told.to_string().replace(id, "ID")));
        }
    }
    let (theirs, nobodys) = answers.split_at(answers.len() / 2);
    assert_eq!(theirs, nobodys);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_pause_keeps_it_until_it_is_connected_to() {
    let server = running().await;
    let id = id_of(&made(&server, json!({"templateID": "base", "timeout": 60})).await);
    let post = |path: String, body: Value| {
        let server = &server;
        async move { server.post(&path, body).await }
    };
    assert_eq!(post(format!("/sandboxes/{id}/pause"), json!({})).await.0, 204);
    let sandbox = at(&server, &id).await;
    assert_eq!((sandbox.phase, sandbox.deadline), (Phase::Paused, None), "its time-out must not end it");
    assert_eq!(post(format!("/sandboxes/{id}/pause"), json!({})).await.0, 409);
    assert_eq!(post(format!("/sandboxes/{id}/timeout"), json!({"timeout": 10})).await.0, 409);
    assert_eq!(post(format!("/sandboxes/{id}/fork"), json!({})).await.0, 409);
    let (status, woken) = post(format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 100})).await;
    assert_eq!((status, &woken["sandboxID"]), (201, &json!(id)));
    let before = at(&server, &id).await.deadline.unwrap();
    let (status, _) = post(format!("/sandboxes/{id}/connect"), json!({"timeout": 10})).await;
    assert_eq!((status, at(&server, &id).await.deadline.unwrap()), (200, before), "never shorter");
    assert_eq!(post(format!("/sandboxes/{id}/resume"), json!({})).await.0, 409, "it runs");
    let only_more = json!({"timeout": 10, "extendOnly": true});
    assert_eq!(post(format!("/sandboxes/{id}/timeout"), only_more).await.0, 204);
    assert_eq!(at(&server, &id).await.deadline.unwrap(), before);
    assert_eq!(post(format!("/sandboxes/{id}/timeout"), json!({"timeout": 10})).await.0, 204);
    assert!(at(&server, &id).await.deadline.unwrap() < before);
    assert_eq!(post(format!("/sandboxes/{id}/refreshes"), json!({"duration": 3601})).await.0, 400);
    assert_eq!(post(format!("/sandboxes/{id}/refreshes"), json!({"duration": 3600})).await.0, 204);
    assert_eq!(post(format!("/sandboxes/{id}/pause"), json!({"memory": false})).await.0, 204);
    assert_eq!(at(&server, &id).await.phase, Phase::Stopped);
    assert_eq!(post(format!("/sandboxes/{id}/connect"), json!({"memory": false})).await.0, 201);
    assert_eq!(server.delete(&format!("/sandboxes/{id}")).await.0, 204);
    assert_eq!(server.delete(&format!("/sandboxes/{id}")).await.0, 404);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let server = running().await;
    for n in 0..3 {
        made(&server, json!({"templateID": "base", "metadata": {"n": n.to_string(), "all": "a b"}})).await;
    }
    let answer = server.call(Method::GET, "/v2/sandboxes?limit=2").send().await.unwrap();
    let token = answer.headers()["x-next-token"].to_str().unwrap().to_owned();
    assert_eq!(read(answer).await.1.as_array().unwrap().len(), 2);
    let last =
        server.call(Method::GET, &format!("/v2/sandboxes?limit=2&nextToken={token}")).send().await.unwrap();
    assert!(!last.headers().contains_key("x-next-token"));
    assert_eq!(read(last).await.1.as_array().unwrap().len(), 1);
    let found = |query: &str| {
        let (server, path) = (&server, format!("/v2/sandboxes?{query}"));
        async move { server.get(&path).await.1.as_array().unwrap().len() }
    };
    assert_eq!(found("metadata=n%3D1%26all%3Da%252520b").await, 1);
    assert_eq!(found("metadata=n%3D7").await, 0);
    assert_eq!((found("state=paused").await, found("state=running,paused").await), (0, 3));
    assert_eq!(server.get("/sandboxes?metadata=n%3D1").await.1.as_array().unwrap().len(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_repeated_makes_one_sandbox() {
    let server = running().await;
    let ask = |timeout: u64| {
        let call = server.call(Method::POST, "/v2/sandboxes").header("idempotency-key", "once");
        call.json(&json!({"templateID": "base", "timeout": timeout})).send()
    };
    let (first, again) = (read(ask(60).await.unwrap()).await, read(ask(60).await.unwrap()).await);
    assert_eq!((first.0, &first.1["sandboxID"]), (201, &again.1["sandboxID"]));
    let (status, told) = read(ask(61).await.unwrap()).await;
    assert_eq!((status, &told["error_code"]), (409, &json!("idempotency_request_mismatch")));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_network_is_replaced_and_what_cannot_hold_is_refused() {
    let server = running().await;
    let id = id_of(&made(&server, json!({"templateID": "base"})).await);
    let put = |body: Value| {
        let call = server.call(Method::PUT, &format!("/sandboxes/{id}/network")).json(&body);
        async move { read(call.send().await.unwrap()).await.0 }
    };
    assert_eq!(put(json!({"denyOut": ["0.0.0.0/0"], "allowOut": ["192.0.2.0/24"]})).await, 204);
    assert_eq!(at(&server, &id).await.spec.network.allow.len(), 1);
    assert_eq!(put(json!({"allowOut": ["example.com"]})).await, 400);
    assert_eq!(put(json!({"httpsPorts": [443]})).await, 400, "that is said when it is made");
    assert_eq!(put(json!({})).await, 204);
    assert!(at(&server, &id).await.spec.network.is_default());
    server.stop().await.unwrap();
}

/// A template whose image only arrives when it is told to.
async fn waiting_for_an_image(image: &str) -> Running {
    let limits = Limits { image_for: Duration::from_millis(50), ..Limits::default() };
    let server = start_with(ServerConfig { limits, ..ServerConfig::default() }, FakeDriver::default()).await;
    let put = server.call(Method::PUT, "/api/v1/templates/first").json(&json!({"image": image}));
    let (status, body) = read(put.send().await.unwrap()).await;
    assert!([200, 201].contains(&status), "{body}");
    server
}

#[tokio::test]
async fn an_image_that_takes_long_is_told_of_and_begins_nothing() {
    let server = waiting_for_an_image("slow/image").await;
    for key in ["one", "two"] {
        let ask = server.call(Method::POST, "/v2/sandboxes").json(&json!({"templateID": "first"}));
        let answer = ask.header("idempotency-key", key).send().await.unwrap();
        let hints = ["retry-after", "should-retry"].map(|name| answer.headers()[name].clone());
        assert_eq!(hints, ["30", "true"]);
        let (status, body) = read(answer).await;
        assert_eq!((status, &body["error_code"]), (503, &json!("image_not_ready")), "{body}");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("slow/image") && message.contains("50%"), "{message}");
        assert!(message.contains("try again in a minute"), "{message}");
    }
    assert_eq!(server.driver.count(), 0);
    server.driver.image_arrives();
    until(async || server.post("/v2/sandboxes", json!({"templateID": "first"})).await.0 == 201).await;
    let ask = server.call(Method::POST, "/v2/sandboxes").json(&json!({"templateID": "first"}));
    assert_eq!(ask.header("idempotency-key", "one").send().await.unwrap().status(), 201);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_told_before_an_image_is_waited_for() {
    let server = waiting_for_an_image("slow/image").await;
    let (status, body) = server.post("/v2/sandboxes", json!({"templateID": "first", "timeout": -1})).await;
    assert_eq!(status, 400, "{body}");
    server.stop().await.unwrap();
    let server = waiting_for_an_image("missing/image").await;
    let (status, body) = server.post("/v2/sandboxes", json!({"templateID": "first"})).await;
    assert_eq!((status, &body["error_code"]), (400, &json!("image_not_found")), "{body}");
    assert_eq!(server.driver.count(), 0);
    server.stop().await.unwrap();
}
