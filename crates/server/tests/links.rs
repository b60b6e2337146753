//! URLs of ports and links to them, as the API tells them.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::{address::ContentAddress, link::LinkKey, testing::FakeDriver};
use atoll_server::{Links, ServerConfig};
use common::{Running, STRANGER, read, start, start_with};
use reqwest::Method;
use serde_json::json;

async fn with_gateway() -> Running {
    let address = ContentAddress::new("apps.example.com", "https://{host}").unwrap();
    let links = Some(Links { address, key: LinkKey::new([7; 32]) });
    start_with(ServerConfig { links, ..ServerConfig::default() }, FakeDriver::default()).await
}

async fn with_ports(server: &Running, owner: Option<&str>) -> serde_json::Value {
    let template = json!({"image": "base", "ports": {"web": 3000}});
    let put = server.call(Method::PUT, "/api/v1/templates/web").json(&template);
    assert_eq!(read(put.send().await.unwrap()).await.0, 200);
    let ask = json!({"template": "web", "owner": owner});
    let (status, made) = server.post("/api/v1/sandboxes", ask).await;
    assert_eq!(status, 201, "{made}");
    made
}

#[tokio::test]
async fn a_sandbox_tells_its_urls() {
    let server = with_gateway().await;
    let nobodys = with_ports(&server, None).await;
    let id = nobodys["id"].as_str().unwrap();
    assert_eq!(nobodys["urls"]["web"], format!("https://3000-{id}.apps.example.com"));
    assert_eq!(nobodys["port_url"], format!("https://{{port}}-{id}.apps.example.com"));
    assert_eq!(nobodys["accessUrl"], format!("https://sandbox.apps.example.com/api/v1/sandbox/{id}"));
    let token = LinkKey::new([7; 32]).traffic_token(&id.parse().unwrap());
    assert_eq!(nobodys["accessToken"], token);
    assert_eq!(with_ports(&server, Some("alice")).await["urls"]["web"], "https://alice-web.apps.example.com");
    let (_, listed) = server.get("/api/v1/sandboxes").await;
    assert!(listed["items"][0]["port_url"].is_string(), "{listed}");
}

#[tokio::test]
async fn a_link_opens_one_port_until_its_end() {
    let server = with_gateway().await;
    let made = with_ports(&server, None).await;
    let id = made["id"].as_str().unwrap();
    let path = format!("/api/v1/sandboxes/{id}/links");
    for (port, life) in [(json!(3000), None), (json!("web"), Some(60))] {
        let (status, link) = server.post(&path, json!({"port": port, "expires_in": life})).await;
        assert_eq!(status, 201, "{link}");
        let token = link["token"].as_str().unwrap();
        let grant = LinkKey::new([7; 32]).verify(token).unwrap();
        assert_eq!((grant.id.as_str(), grant.port), (id, Some(3000)));
        assert_eq!(link["expires_at"], grant.expires_at.to_string());
        assert_eq!(link["url"], format!("https://3000-{id}.apps.example.com/?atoll_token={token}"));
        let left = grant.expires_at.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((0..=life.unwrap_or(3600)).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn what_no_link_can_be_made_for_is_named() {
    let server = with_gateway().await;
    let made = with_ports(&server, None).await;
    let path = format!("/api/v1/sandboxes/{}/links", made["id"].as_str().unwrap());
    for (body, field) in [
        (json!({"port": 0}), "port"),
        (json!({"port": 65536}), "port"),
        (json!({"port": "vnc"}), "port"),
        (json!({"port": 80, "expires_in": 0}), "expires_in"),
        (json!({"port": 80, "expires_in": 2_592_001}), "expires_in"),
    ] {
        let (status, told) = server.post(&path, body.clone()).await;
        assert_eq!((status, &told["field"]), (400, &field.into()), "{body}: {told}");
    }
    let stranger = server.call_as(STRANGER, Method::POST, &path).json(&json!({"port": 80}));
    assert_eq!(read(stranger.send().await.unwrap()).await.0, 404);
}

#[tokio::test]
async fn without_a_gateway_there_are_none() {
    let server = start().await;
    let id = server.create().await;
    let (_, told) = server.get(&format!("/api/v1/sandboxes/{id}")).await;
    assert!(told.get("urls").is_none() && told.get("port_url").is_none(), "{told}");
    let (status, told) = server.post(&format!("/api/v1/sandboxes/{id}/links"), json!({"port": 80})).await;
    assert_eq!((status, &told["code"]), (400, &"no_gateway".into()));
}

#[tokio::test]
async fn a_gateway_alone_answers_for_its_health_only() {
    let config = ServerConfig { gateway_only: true, metrics_public: true, ..ServerConfig::default() };
    let server = start_with(config, FakeDriver::default()).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    for path in ["/api/v1/sandboxes", "/docs", "/openapi.json"] {
        assert_eq!(server.get(path).await.0, 404, "{path}");
    }
}
