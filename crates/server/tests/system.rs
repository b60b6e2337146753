//! What is around every route: keys, request ids, unknown routes, metrics, the description, images, templates, keys.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::testing::FakeDriver;
use atoll_server::ServerConfig;
use common::{ADMIN, MEMBER, STRANGER, events, read, start, start_with};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn each_way_to_send_a_key_and_no_key() {
    let server = start().await;
    let ask = async |headers: &[(&str, &str)]| {
        let call = server.client.get(server.url("/api/v1/sandboxes"));
        let call = headers.iter().fold(call, |call, (name, value)| call.header(*name, *value));
        let response = call.send().await.unwrap();
        (response.status().as_u16(), response.headers().contains_key("www-authenticate"))
    };
    let (bearer, lower) = (format!("Bearer {ADMIN}"), format!("bearer {MEMBER}"));
    assert_eq!(ask(&[("x-api-key", ADMIN)]).await, (200, false));
    assert_eq!(ask(&[("authorization", &bearer)]).await, (200, false));
    assert_eq!(ask(&[("authorization", &lower)]).await, (200, false));
    for headers in [
        &[][..],
        &[("x-api-key", "wrong")],
        &[("x-api-key", "")],
        &[("authorization", "Basic YTpi")],
        &[("authorization", "Bearer")],
        &[("x-api-key", "wrong"), ("authorization", bearer.as_str())],
    ] {
        assert_eq!(ask(headers).await, (401, true), "{headers:?}");
    }
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs"] {
        assert_eq!(server.client.get(server.url(path)).send().await.unwrap().status(), 200, "{path}");
    }
}

#[tokio::test]
async fn members_may_not_do_what_is_for_admins() {
    let server = start().await;
    for (method, path, body) in [
        (Method::POST, "/api/v1/keys", json!({"name": "x"})),
        (Method::DELETE, "/api/v1/keys/admin", json!({})),
        (Method::POST, "/api/v1/images", json!({"reference": "x"})),
        (Method::DELETE, "/api/v1/images?reference=x", json!({})),
        (Method::POST, "/api/v1/images/prune", json!({})),
        (Method::GET, "/api/v1/doctor", json!({})),
        (Method::GET, "/metrics", json!({})),
    ] {
        let (status, refused) =
            read(server.call_as(MEMBER, method.clone(), path).json(&body).send().await.unwrap()).await;
        assert_eq!((status, refused["code"].as_str()), (403, Some("forbidden")), "{method} {path}");
    }
    assert_eq!(server.client.get(server.url("/metrics")).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn keys_are_made_used_and_revoked_at_once() {
    let server = start().await;
    let (status, key) = server.post("/api/v1/keys", json!({"name": "ci", "tenant": "team"})).await;
    assert_eq!((status, &key["role"], &key["tenant"]), (201, &json!("member"), &json!("team")));
    let secret = key["secret"].as_str().unwrap();
    let me = async || server.call_as(secret, Method::GET, "/api/v1/sandboxes").send().await.unwrap().status();
    assert_eq!(me().await, 200);
    let (_, list) = server.get("/api/v1/keys").await;
    assert!(!list.to_string().contains(secret));
    assert_eq!(list["items"].as_array().unwrap().len(), 4);
    let theirs = read(server.call_as(secret, Method::GET, "/api/v1/keys").send().await.unwrap()).await.1;
    assert_eq!(theirs["items"].as_array().unwrap().len(), 1);
    let one = format!("/api/v1/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(server.delete(&one).await.0, 204);
    assert_eq!(me().await, 401);
    assert_eq!(server.delete(&one).await.0, 404);
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": "x", "tenant": "Not A Name"}), "tenant"),
        (json!({"name": "x", "role": "king"}), "role"),
    ] {
        let (status, refused) = server.post("/api/v1/keys", body).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)), "{refused}");
    }
}

#[tokio::test]
async fn templates_have_versions_and_tenants() {
    let server = start().await;
    let put = async |key: &str, body: Value| {
        read(server.call_as(key, Method::PUT, "/api/v1/templates/py").json(&body).send().await.unwrap()).await
    };
    assert_eq!(put(MEMBER, json!({"image": "a"})).await.1["version"], 1);
    assert_eq!(put(MEMBER, json!({"image": "a"})).await.1["version"], 1);
    assert_eq!(put(MEMBER, json!({"image": "b", "memory": "1Gi"})).await.1["version"], 2);
    assert_eq!(put(STRANGER, json!({"image": "c"})).await.1["version"], 1);
    let get = async |rest: &str| {
        read(server.call_as(MEMBER, Method::GET, &format!("/api/v1/templates{rest}")).send().await.unwrap())
            .await
    };
    assert_eq!(get("/py").await.1["spec"]["image"], "b");
    assert_eq!(get("/py?version=1").await.1["spec"]["image"], "a");
    assert_eq!(
        (get("/py?version=9").await.0, get("/py?version=x").await.0, get("/none").await.0),
        (404, 400, 404)
    );
    assert_eq!((get("/none/versions").await.0, get("").await.1["items"].as_array().unwrap().len()), (404, 1));
    assert_eq!(get("/py/versions").await.1["items"][0]["version"], 2);
    let back = async |key: &str, body: Value| {
        let call = server.call_as(key, Method::POST, "/api/v1/templates/py/rollback").json(&body);
        read(call.send().await.unwrap()).await
    };
    let (status, rolled) =
        back(MEMBER, json!({"targetVersion": 1, "changelog": "the newer one was worse"})).await;
    assert_eq!((status, &rolled["version"], &rolled["spec"]["image"]), (200, &json!(3), &json!("a")));
    assert_eq!(
        (back(MEMBER, json!({"targetVersion": 9})).await.0, back(MEMBER, json!({})).await.0),
        (404, 400)
    );
    for (body, field) in [
        (json!({}), "image"),
        (json!({"image": "a", "cpu": "x"}), "cpu"),
        (json!({"image": "a", "tier": "huge"}), "tier"),
        (json!({"image": "a", "lifecycle": {"ttl": "x"}}), "lifecycle.ttl"),
        (json!({"image": "a", "network": {"deny": ["x"]}}), "network.deny[0]"),
    ] {
        let (status, refused) = put(MEMBER, body).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)), "{refused}");
    }
    let call = server.call_as(MEMBER, Method::POST, "/api/v1/sandboxes");
    let ask = json!({"template": "py", "templateVersion": 1, "overrides": {"memory": "64Mi", "ttl": 60, "env": {"A": "b"}}});
    let (status, made) = read(call.json(&ask).send().await.unwrap()).await;
    assert_eq!((status, &made["template"], &made["templateVersion"]), (201, &json!("py"), &json!(1)));
    assert_eq!((&made["image"], &made["memory"], &made["ttl"]), (&json!("a"), &json!("64Mi"), &json!(60)));
    let gone = server.call_as(MEMBER, Method::DELETE, "/api/v1/templates/py").send().await.unwrap();
    assert_eq!((gone.status().as_u16(), get("/py").await.0), (204, 404));
    let theirs = server.call_as(STRANGER, Method::GET, "/api/v1/templates/py").send().await.unwrap();
    assert_eq!(theirs.status(), 200);
}

#[tokio::test]
async fn images_are_pulled_listed_removed_and_pruned() {
    let server = start().await;
    let (status, image) = server.post("/api/v1/images", json!({"reference": "a"})).await;
    assert_eq!((status, &image["reference"]), (201, &json!("a")));
    let call = server.call(Method::POST, "/api/v1/images").header("accept", "text/event-stream");
    let text = call.json(&json!({"reference": "b"})).send().await.unwrap().text().await.unwrap();
    let all = events(&text);
    assert_eq!(
        (all[0].0.as_str(), &all[0].1["percent"], all[1].0.as_str()),
        ("pulling", &json!(50), "ready")
    );
    let call = server.call(Method::POST, "/api/v1/images").header("accept", "text/event-stream");
    let text = call.json(&json!({"reference": "missing"})).send().await.unwrap().text().await.unwrap();
    assert_eq!(events(&text)[0].1["error"]["code"], "image_not_found");
    for (body, field) in [
        (json!({"reference": " "}), "reference"),
        (json!({"reference": "a", "username": "u"}), "password"),
        (json!({"reference": "a", "password": "p"}), "username"),
    ] {
        assert_eq!(server.post("/api/v1/images", body).await.1["field"], field);
    }
    assert_eq!(server.post("/api/v1/images", json!({"reference": "missing"})).await.0, 400);
    assert_eq!(server.get("/api/v1/images").await.1["items"].as_array().unwrap().len(), 2);
    server.call(Method::PUT, "/api/v1/templates/t").json(&json!({"image": "b"})).send().await.unwrap();
    assert_eq!(server.post("/api/v1/images/prune", json!({})).await.1["images"], 1);
    assert_eq!(server.get("/api/v1/images").await.1["items"][0]["reference"], "b");
    assert_eq!(server.delete("/api/v1/images?reference=b").await.0, 204);
    assert_eq!(server.delete("/api/v1/images?reference=b").await.0, 404);
    assert_eq!(server.delete("/api/v1/images").await.1["field"], "reference");
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_one_shape() {
    let server = start().await;
    for path in
        ["/", "/nothing", "/api", "/api/v1", "/api/v1/nothing", "/api/v2/sandboxes", "/api/v1/sandboxes/a/b"]
    {
        let (status, refused) = server.get(path).await;
        assert_eq!((status, refused["code"].as_str()), (404, Some("unknown_route")), "{path}: {refused}");
    }
    for (method, path) in [
        (Method::DELETE, "/api/v1/sandboxes"),
        (Method::PUT, "/api/v1/sandboxes/x/stop"),
        (Method::POST, "/api/v1/templates/x"),
        (Method::POST, "/healthz"),
    ] {
        let response = server.call(method.clone(), path).send().await.unwrap();
        assert!(response.headers().contains_key("allow"), "{method} {path}");
        let (status, refused) = read(response).await;
        assert_eq!((status, refused["code"].as_str()), (405, Some("wrong_method")), "{method} {path}");
    }
}

#[tokio::test]
async fn requests_have_ids() {
    let server = start().await;
    let id = async |given: Option<&str>| {
        let call = server.client.get(server.url("/nothing"));
        let call = given.map_or(call.try_clone().unwrap(), |given| call.header("x-request-id", given));
        call.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id(Some("abc-1.2_3")).await, "abc-1.2_3");
    for bad in [None, Some("with space"), Some(""), Some(&*"x".repeat(200))] {
        let made = id(bad).await;
        assert!(made.len() == 16 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{made}");
    }
}

#[tokio::test]
async fn metrics_can_be_read_and_count() {
    let config = ServerConfig { metrics_public: true, ..ServerConfig::default() };
    let server = start_with(config, FakeDriver::default()).await;
    server.create().await;
    server.get("/api/v1/sandboxes/inothere").await;
    let text = server.client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let metrics: std::collections::HashMap<&str, f64> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect();
    assert!(text.ends_with("# EOF\n"));
    for (name, value) in [
        ("atoll_sandboxes{phase=\"running\"}", 1.0),
        ("atoll_sandboxes{phase=\"paused\"}", 0.0),
        ("atoll_creates_total{outcome=\"ready\"}", 1.0),
        ("atoll_create_seconds_count", 1.0),
        ("atoll_http_requests_total{method=\"POST\",route=\"/api/v1/sandboxes\",status=\"201\"}", 1.0),
        ("atoll_http_requests_total{method=\"GET\",route=\"/api/v1/sandboxes/{id}\",status=\"404\"}", 1.0),
    ] {
        assert_eq!(metrics.get(name), Some(&value), "{name}\n{text}");
    }
    assert!(text.contains("atoll_build_info{version=\""));
}

#[tokio::test]
async fn it_is_not_ready_while_the_driver_fails() {
    let server = start().await;
    let failure = || atoll_core::driver::DriverError::Internal("the disk is gone".into());
    let (status, refused) = server.ready_without_lists(failure).await;
    assert_eq!((status, refused["code"].as_str()), (503, Some("not_ready")));
    assert_eq!(server.get("/readyz").await.0, 200);
    assert_eq!(server.get("/api/v1/doctor").await.1["checks"][0]["status"], "ok");
    assert!(server.get("/api/v1/version").await.1["version"].is_string());
}

#[tokio::test]
async fn without_keys_only_this_machine_is_served() {
    let config = ServerConfig { no_auth: true, ..ServerConfig::default() };
    let server = start_with(config, FakeDriver::default()).await;
    let ask = async |headers: &[(&str, &str)]| {
        let call = server.client.post(server.url("/api/v1/sandboxes")).json(&json!({"image": "base"}));
        let call = headers.iter().fold(call, |call, (name, value)| call.header(*name, *value));
        call.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask(&[]).await, 201);
    assert_eq!(ask(&[("host", "localhost:8080")]).await, 201);
    assert_eq!(ask(&[("origin", "http://localhost:3000")]).await, 201);
    assert_eq!(ask(&[("host", "rebound.example:8080")]).await, 403);
    assert_eq!(ask(&[("origin", "https://evil.example")]).await, 403);
    assert_eq!(server.client.get(server.url("/metrics")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_docs_page_is_ours_alone_and_keeps_everything_else_out() {
    let server = start().await;
    let page = server.client.get(server.url("/docs")).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe-eval") && !policy.contains('*')
    );
    let html = page.text().await.unwrap();
    assert!(html.contains("/docs/docs.js") && !html.contains("://"));
    let script = server.client.get(server.url("/docs/docs.js")).send().await.unwrap();
    assert_eq!(script.headers()["content-type"], "text/javascript; charset=utf-8");
    assert!(!script.text().await.unwrap().contains("innerHTML"));
}

#[tokio::test]
async fn a_broken_handler_is_answered_and_breaks_nothing_else() {
    let driver = FakeDriver::new(Box::new(|_, _| panic!("on purpose")));
    let server = start_with(ServerConfig::default(), driver).await;
    let exec = format!("/api/v1/sandboxes/{}/exec", server.create().await);
    let (status, broken) = server.post(&exec, json!({"command": ["true"]})).await;
    assert_eq!((status, broken["code"].as_str()), (500, Some("internal")));
    assert!(!broken.to_string().contains("on purpose"));
    assert_eq!(server.get("/readyz").await.0, 200);
}
