//! Sandboxes over HTTP: created in each way, listed, changed, deleted, refused.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::{driver::DriverError, testing::FakeDriver};
use atoll_server::{Limits, ServerConfig};
use common::{ADMIN, MEMBER, STRANGER, events, read, start, start_with, until};
use reqwest::Method;
use serde_json::{Value, json};

const ALL: &str = "/api/v1/sandboxes";

#[tokio::test]
async fn a_sandbox_is_made_found_and_deleted() {
    let server = start().await;
    let ask = json!({"image": "python:3.11-slim", "cpu": "500m", "memory": "512Mi", "ttl": 3600,
                     "env": {"A": "b"}, "labels": {"app": "x"}});
    let response = server.call(Method::POST, ALL).json(&ask).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let (status, made) = read(response).await;
    assert_eq!(
        (status, made["status"].as_str(), made["phase"].as_str()),
        (201, Some("running"), Some("running"))
    );
    assert_eq!((made["cpu"].as_str(), made["memory"].as_str()), (Some("500m"), Some("512Mi")));
    assert_eq!((made["ttl"].as_i64(), made["env"]["A"].as_str()), (Some(3600), Some("b")));
    assert_eq!(location, format!("{ALL}/{}", made["id"].as_str().unwrap()));
    assert_eq!(server.get(&location).await, (200, made.clone()));
    let (_, list) = server.get(ALL).await;
    assert_eq!(list["items"], json!([made]));
    assert_eq!(server.delete(&location).await.0, 204);
    let (status, gone) = server.get(&location).await;
    assert_eq!((status, gone["code"].as_str()), (404, Some("not_found")));
    assert_eq!(server.delete(&location).await.0, 404);
}

#[tokio::test]
async fn each_refusal_names_its_field() {
    let server = start().await;
    let cases = [
        (json!({}), "image"),
        (json!({"image": "a", "template": "b"}), "image"),
        (json!({"image": "a", "templateVersion": 1}), "templateVersion"),
        (json!({"template": "nowhere"}), "template"),
        (json!({"image": " "}), "image"),
        (json!({"image": "a", "cpu": "lots"}), "cpu"),
        (json!({"image": "a", "cpu": "64"}), "cpu"),
        (json!({"image": "a", "cpu": 1}), "cpu"),
        (json!({"image": "a", "memory": "1Mi"}), "memory"),
        (json!({"image": "a", "memory": "99Gi"}), "memory"),
        (json!({"image": "a", "disk": "1Ti"}), "disk"),
        (json!({"image": "a", "pids": 1}), "pids"),
        (json!({"image": "a", "ttl": 0}), "ttl"),
        (json!({"image": "a", "ttl": -5}), "ttl"),
        (json!({"image": "a", "ttl": "1h"}), "ttl"),
        (json!({"image": "a", "env": {"A=B": "c"}}), "env.A=B"),
        (json!({"image": "a", "labels": {"-": "c"}}), "labels.-"),
        (json!({"image": "a", "network": {"mode": "none", "allow": ["10.0.0.0/8"]}}), "network"),
        (json!({"image": "a", "network": {"allow": ["x"]}}), "network.allow[0]"),
        (json!({"image": "a", "network": {"mode": "open"}}), "network.mode"),
        (json!({"image": "a", "start_command": []}), "start_command"),
        (json!({"image": "a", "overrides": {"memory": "1x"}}), "overrides.memory"),
        (json!({"image": "a", "overrides": {"ttl": 0}}), "overrides.ttl"),
        (json!({"image": "a", "cpu": "1", "overrides": {"cpu": "1"}}), "overrides.cpu"),
        (json!({"image": "a", "nonsense": 1}), "nonsense"),
    ];
    for (ask, field) in cases {
        let (status, refused) = server.post(ALL, ask.clone()).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)), "{ask}: {refused}");
        assert_eq!(refused["code"], "invalid");
    }
    assert_eq!(server.driver.count(), 0);
    let not_json = server.call(Method::POST, ALL).header("content-type", "application/json").body("{");
    assert_eq!(read(not_json.send().await.unwrap()).await.0, 400);
    let form = server
        .call(Method::POST, ALL)
        .header("content-type", "text/plain")
        .body("image=a")
        .send()
        .await
        .unwrap();
    assert_eq!(read(form).await.1["field"], "Content-Type");
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let server = start().await;
    for number in 0..7 {
        let ask = json!({"image": "base", "labels": {"n": format!("{}", number % 2), "all": "yes"}});
        assert_eq!(server.post(ALL, ask).await.0, 201);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = server.get(&format!("{ALL}?limit=3{cursor}")).await;
        assert_eq!(status, 200);
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        assert_eq!(items.len(), 3);
        cursor = format!("&cursor={next}");
    }
    seen.dedup();
    assert_eq!(seen.len(), 7);
    let count =
        async |query: &str| server.get(&format!("{ALL}?{query}")).await.1["items"].as_array().map(Vec::len);
    assert_eq!(count("label=n=1").await, Some(3));
    assert_eq!(count("label=n%3D1&label=all=yes").await, Some(3));
    assert_eq!(count("label=n=1&label=n=1").await, Some(3));
    server.post(&format!("{ALL}/{}/pause", seen[0]), json!({})).await;
    assert_eq!((count("phase=paused").await, count("status=stopped").await), (Some(1), Some(1)));
    assert_eq!(count("phase=paused,running").await, Some(7));
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("cursor=zz", "cursor"),
        ("cursor=6162", "cursor"),
        ("phase=asleep", "phase"),
        ("status=paused", "status"),
        ("label=-=x", "label"),
        ("label=nonsense", "label"),
        ("label=", "label"),
        ("label==x", "label"),
        ("label=n=1&label=n=0", "label"),
    ] {
        let (status, refused) = server.get(&format!("{ALL}?{query}")).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)), "{query}");
    }
    let (_, refused) = server.get(&format!("{ALL}?label=nonsense")).await;
    assert_eq!(refused["error"], "label: \"nonsense\": write `key=value`");
}

#[tokio::test]
async fn phases_change_and_conflicts_say_so() {
    let server = start().await;
    let one = format!("{ALL}/{}", server.create().await);
    for (act, phase, status) in [
        ("pause", "paused", "stopped"),
        ("resume", "running", "running"),
        ("stop", "stopped", "stopped"),
        ("start", "running", "running"),
        ("restart", "running", "running"),
    ] {
        let (code, now) = server.post(&format!("{one}/{act}"), json!({})).await;
        assert_eq!((code, &now["phase"], &now["status"]), (200, &json!(phase), &json!(status)), "{act}");
    }
    server.post(&format!("{one}/stop"), json!({})).await;
    let (code, refused) = server.post(&format!("{one}/pause"), json!({})).await;
    assert_eq!((code, refused["code"].as_str()), (409, Some("conflict")));
    assert_eq!(server.get(&format!("{one}/usage")).await.1["memory_bytes"], 4096);
}

#[tokio::test]
async fn deadline_and_network_can_be_changed() {
    let server = start().await;
    let one = format!("{ALL}/{}", server.create().await);
    let patch =
        async |body: Value| read(server.call(Method::PATCH, &one).json(&body).send().await.unwrap()).await;
    let (status, now) = patch(json!({"ttl": 600})).await;
    assert_eq!((status, now["expires_at"].is_string()), (200, true));
    assert_eq!(patch(json!({"network": {"mode": "none"}})).await.1["network"]["mode"], "none");
    assert_eq!(patch(json!({"ttl": null})).await.1["expires_at"], Value::Null);
    for (body, field) in [
        (json!({"ttl": 0}), "ttl"),
        (json!({"cpu": "1"}), "cpu"),
        (json!({"network": {"deny": ["x"]}}), "network.deny[0]"),
    ] {
        let (status, refused) = patch(body).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)));
    }
}

#[tokio::test]
async fn a_streamed_creation_tells_its_steps() {
    let server = start().await;
    let call = server.call(Method::POST, ALL).header("accept", "text/event-stream");
    let text = call.json(&json!({"image": "base"})).send().await.unwrap().text().await.unwrap();
    let all = events(&text);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["queued", "preparing", "starting", "ready"]);
    assert_eq!(all[0].1["id"], all[3].1["sandbox"]["id"]);

    let missing = DriverError::Image { code: "image_not_found".into(), message: "no registry has x".into() };
    server.driver.fail_next("create", missing);
    let call = server.call(Method::POST, ALL).header("accept", "text/event-stream");
    let text = call.json(&json!({"image": "x"})).send().await.unwrap().text().await.unwrap();
    let (name, last) = events(&text).pop().unwrap();
    assert_eq!((name.as_str(), last["error"]["code"].as_str()), ("failed", Some("image_not_found")));
}

#[tokio::test]
async fn losing_the_stream_or_the_caller_does_not_stop_a_creation() {
    let server = start().await;
    server.driver.hold_creates();
    for accept in ["text/event-stream", "application/json"] {
        let call = server.call(Method::POST, ALL).header("accept", accept).json(&json!({"image": "base"}));
        let sent = tokio::spawn(async move { call.send().await.unwrap().chunk().await });
        let before = server.driver.count();
        until(async || server.driver.count() > before).await;
        sent.abort();
    }
    server.driver.release(2);
    until(async || {
        server.get(&format!("{ALL}?phase=running")).await.1["items"].as_array().unwrap().len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_polled_creation_answers_at_once() {
    let server = start().await;
    server.driver.hold_creates();
    let (status, made) = server.post(&format!("{ALL}?wait=false"), json!({"image": "base"})).await;
    assert_eq!(
        (status, made["phase"].as_str(), made["status"].as_str()),
        (202, Some("creating"), Some("pending"))
    );
    let one = format!("{ALL}/{}", made["id"].as_str().unwrap());
    assert_eq!(server.get(&one).await.1["phase"], "creating");
    server.driver.release(1);
    until(async || server.get(&one).await.1["phase"] == "running").await;
}

#[tokio::test]
async fn five_hundred_at_once_all_succeed_within_the_bound() {
    let limits = Limits { creates_at_once: 8, ..Limits::default() };
    let server = start_with(ServerConfig { limits, ..ServerConfig::default() }, FakeDriver::default()).await;
    let all = (0..500).map(|_| server.post(ALL, json!({"image": "base"})));
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(|(status, _)| *status == 201));
    assert_eq!(server.driver.count(), 500);
    assert!(server.driver.most_creating() <= 8);
}

#[tokio::test]
async fn beyond_the_queue_creations_are_refused_and_one_that_waits_can_be_deleted() {
    let limits = Limits { creates_at_once: 1, creates_waiting: 1, ..Limits::default() };
    let server = start_with(ServerConfig { limits, ..ServerConfig::default() }, FakeDriver::default()).await;
    server.driver.hold_creates();
    let begin = async || {
        server
            .call(Method::POST, &format!("{ALL}?wait=false"))
            .json(&json!({"image": "base"}))
            .send()
            .await
            .unwrap()
    };
    assert_eq!(begin().await.status(), 202);
    until(async || server.driver.count() == 1).await;
    let (status, waiting) = read(begin().await).await;
    assert_eq!(status, 202);
    let refused = begin().await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    assert_eq!(read(refused).await.1["code"], "too_many_creates");
    let one = format!("{ALL}/{}", waiting["id"].as_str().unwrap());
    assert_eq!(server.get(&one).await.1["phase"], "creating");
    let listed = async |query: &str| {
        let (_, list) = server.get(&format!("{ALL}?{query}")).await;
        list["items"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await.len(), 2, "one is being made, one waits");
    assert_eq!(listed("limit=1").await, [waiting["id"].clone()], "newest first");
    assert!(listed("phase=running").await.is_empty());
    assert_eq!(server.delete(&one).await.0, 204);
    until(async || server.get(&one).await.0 == 404).await;
    assert_eq!(listed("").await.len(), 1);
    server.driver.release(10);
    assert_eq!(server.driver.count(), 1);
}

#[tokio::test]
async fn driver_errors_keep_their_meaning() {
    let server = start().await;
    let image = |code: &str| DriverError::Image { code: code.into(), message: "m".into() };
    for (error, status, code) in [
        (image("image_not_found"), 400, "image_not_found"),
        (image("registry_unreachable"), 502, "registry_unreachable"),
        (DriverError::Exhausted("m".into()), 507, "exhausted"),
        (DriverError::Unsupported("m".into()), 501, "unsupported"),
        (DriverError::Invalid("m".into()), 400, "invalid"),
        (DriverError::InUse("m".into()), 409, "in_use"),
    ] {
        server.driver.fail_next("create", error);
        let (got, body) = server.post(ALL, json!({"image": "base"})).await;
        assert_eq!((got, body["code"].as_str(), body["error"].as_str()), (status, Some(code), Some("m")));
    }
    assert_eq!(server.get(&format!("{ALL}?phase=failed")).await.1["items"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn what_breaks_inside_is_told_by_the_log_alone() {
    let server = start().await;
    let secret = || DriverError::Internal("cannot open /srv/secret/place".into());
    let call = |accept: &str| {
        let call = server.call(Method::POST, ALL).header("x-request-id", "r-17").header("accept", accept);
        call.json(&json!({"image": "base"})).send()
    };
    server.driver.fail_next("create", secret());
    let (status, body) = read(call("application/json").await.unwrap()).await;
    let expected = "the server failed; its log has the details under request r-17";
    assert_eq!((status, &body), (500, &json!({"error": expected, "code": "internal"})));
    server.driver.fail_next("create", secret());
    let text = call("text/event-stream").await.unwrap().text().await.unwrap();
    assert_eq!(events(&text).pop().unwrap().1["error"]["error"], expected);
    let (status, body) = server.ready_without_lists(secret).await;
    assert!(status == 503 && !body.to_string().contains("/srv/secret"), "{body}");
}

#[tokio::test]
async fn an_unknown_template_is_named_once() {
    let server = start().await;
    let (_, refused) = server.post(ALL, json!({"template": "nix"})).await;
    assert_eq!(refused["error"], "template: there is no template nix");
    let spec = json!({"image": "base"});
    let put = server.call(Method::PUT, "/api/v1/templates/nix").json(&spec).send().await.unwrap();
    assert!(put.status().is_success());
    let (_, refused) = server.post(ALL, json!({"template": "nix", "templateVersion": 7})).await;
    assert_eq!(refused["error"], "template: there is no version 7 of template nix");
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let server = start().await;
    let post = async |key: &str| {
        let call = server.call_as(key, Method::POST, ALL).json(&json!({"image": "base"}));
        read(call.send().await.unwrap()).await.1["id"].as_str().unwrap().to_owned()
    };
    let (ours, theirs) = (post(MEMBER).await, post(STRANGER).await);
    let list = async |key: &str| {
        read(server.call_as(key, Method::GET, ALL).send().await.unwrap()).await.1["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((list(MEMBER).await, list(STRANGER).await, list(ADMIN).await), (1, 1, 2));
    for (method, rest) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::PATCH, ""),
        (Method::POST, "/stop"),
        (Method::POST, "/pause"),
        (Method::GET, "/logs"),
        (Method::GET, "/usage"),
    ] {
        let call = server.call_as(MEMBER, method.clone(), &format!("{ALL}/{theirs}{rest}")).json(&json!({}));
        assert_eq!(call.send().await.unwrap().status(), 404, "{method} {rest}");
    }
    assert_eq!(
        server.call_as(MEMBER, Method::GET, &format!("{ALL}/{ours}")).send().await.unwrap().status(),
        200
    );
    assert_eq!(
        server.call_as(ADMIN, Method::DELETE, &format!("{ALL}/{theirs}")).send().await.unwrap().status(),
        204
    );
}

#[tokio::test]
async fn logs_carry_the_text_and_the_history() {
    let server = start().await;
    let id = server.create().await;
    server.driver.write_log(&id_of(&id), b"hello \xff\n");
    let (_, logs) = server.get(&format!("{ALL}/{id}/logs")).await;
    assert_eq!(logs["logs"], "hello \u{fffd}\n");
    assert_eq!(logs["events"][0]["reason"]["code"], "requested");
    assert_eq!(server.get(&format!("{ALL}/{id}/logs?tail=2")).await.1["logs"], "\u{fffd}\n");
    let (_, text) = server.get(&format!("{ALL}/{id}/logs?follow=true")).await;
    assert_eq!(text, "hello \u{fffd}\n");
}

fn id_of(text: &str) -> atoll_core::id::SandboxId {
    atoll_core::id::SandboxId::parse(text).unwrap()
}
