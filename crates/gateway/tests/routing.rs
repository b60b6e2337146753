//! Who gets where, and what nobody else learns.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::{
    driver::{Driver, DriverError},
    id::SandboxId,
    sandbox::Reason,
};
use common::{ADMIN, MEMBER, OPEN, STRANGER, TLS, World, read, world, world_with};
use reqwest::header::LOCATION;
use serde_json::Value;

fn nobody() -> SandboxId {
    SandboxId::from_entropy([9; 19])
}

fn headers(told: &Value) -> Vec<String> {
    let all = told["headers"].as_array().unwrap();
    all.iter().map(|header| header.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn host_names_and_headers_lead_to_a_port_and_all_else_to_the_api() {
    let world = world().await;
    let id = world.public().await;
    for host in [World::host(&id), World::host(&id).to_uppercase(), format!("{}.:8080", World::host(&id))] {
        let (status, told) = read(world.get(&host, "/a?b=c")).await;
        assert_eq!((status, &told["uri"]), (200, &"/a?b=c".into()), "{told}");
        assert!(headers(&told).contains(&format!("host: {host}")), "{told}");
    }
    let by_header = |host: &str| {
        let request = world.get(host, "/a").header("e2b-sandbox-id", id.as_str());
        request.header("E2b-Sandbox-Port", OPEN.to_string())
    };
    for host in ["localhost:8080", "127.0.0.1", "sandbox.localhost"] {
        assert_eq!(read(by_header(host)).await.1["uri"], "/a", "{host}");
    }
    for request in [by_header("example.com"), world.get("localhost", "/"), world.get("api.localhost", "/")] {
        assert_eq!(read(request).await, (200, "the API".into()));
    }
    let (status, told) = read(world.get("what.localhost", "/")).await;
    assert_eq!((status, &told["code"]), (404, &"unknown_host".into()));
    let bad = world.get("localhost", "/").header("e2b-sandbox-id", id.as_str());
    assert_eq!(read(bad).await.0, 400);
}

#[tokio::test]
async fn a_path_leads_to_a_port_for_whoever_shows_its_token() {
    let world = world().await;
    let id = world.private().await;
    let at = |id: &SandboxId, rest: &str| format!("/api/v1/sandbox/{id}/port/{OPEN}{rest}");
    let token = world.key.traffic_token(&id);
    let (status, told) =
        read(world.get("localhost", &at(&id, "/a?b=c")).header("x-access-token", &token)).await;
    assert_eq!((status, &told["uri"]), (200, &"/a?b=c".into()), "{told}");
    let seen = headers(&told);
    assert!(seen.contains(&format!("x-forwarded-prefix: {}", at(&id, ""))), "{told}");
    assert!(!seen.iter().any(|header| header.contains(&token)), "{told}");
    for (header, value) in [("x-api-key", MEMBER), ("e2b-traffic-access-token", &token)] {
        let answer = world.get("api.localhost", &at(&id, "")).header(header, value).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{header}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("sandbox"), "a page there is not the API's: {policy}");
    }
    let wrong = world.key.traffic_token(&nobody());
    for id in [&id, &nobody()] {
        for (header, value, status) in
            [("x-access-token", wrong.as_str(), 403), ("x-api-key", STRANGER, 404), ("x-none", "", 403)]
        {
            if header == "x-access-token" && *id == nobody() {
                continue;
            }
            let (told, _) = read(world.get("localhost", &at(id, "/")).header(header, value)).await;
            assert_eq!(told, status, "{header} at {id}");
        }
    }
    assert_eq!(
        read(world.get("localhost", &at(&nobody(), "/")).header("x-access-token", &wrong)).await.0,
        404
    );
    let (status, told) = read(world.get("localhost", "/api/v1/sandbox/x/port/80/")).await;
    assert_eq!((status, &told["code"]), (404, &"not_found".into()));
    let (status, told) = read(world.get("localhost", &format!("/api/v1/sandbox/{id}/port/x/"))).await;
    assert_eq!((status, &told["code"]), (400, &"bad_request".into()));
}

#[tokio::test]
async fn named_ports_lead_to_a_users_primary_sandbox() {
    let world = world().await;
    let add = |n: u8, created: i64| {
        world.add(n, move |it| {
            it.spec.owner = Some("alice@example.com".into());
            it.spec.ports.insert("web".into(), OPEN);
            it.spec.created_at = jiff::Timestamp::from_second(created).unwrap();
        })
    };
    let (newer, older) = (add(1, 20).await, add(2, 10).await);
    let label = atoll_core::owner::label("default", "alice@example.com");
    let host = format!("{label}-web.localhost");
    let ask = || read(world.get(&host, "/").header("x-api-key", MEMBER));
    assert_eq!(ask().await.0, 200);
    let token = world.token(&older, None, 2000);
    assert_eq!(read(world.get(&host, "/").header("x-atoll-token", &token)).await.0, 200);
    world.driver.delete(&older, Reason::new("requested", "a test")).await.unwrap();
    assert_eq!(read(world.get(&host, "/").header("x-atoll-token", &token)).await.0, 404, "not of this one");
    assert_eq!(ask().await.0, 200);
    world.driver.delete(&newer, Reason::new("requested", "a test")).await.unwrap();
    let (status, told) = ask().await;
    assert_eq!((status, &told["code"]), (404, &"not_found".into()));
}

#[tokio::test]
async fn a_port_without_a_name_is_told_only_to_those_who_may_know() {
    let world = world().await;
    world.add(1, |it| it.spec.owner = Some("alice".into())).await;
    let ask = |key: &'static str| read(world.get("alice-vnc.localhost", "/").header("x-api-key", key));
    let (status, told) = ask(MEMBER).await;
    assert_eq!((status, &told["code"]), (404, &"unknown_port".into()));
    assert_eq!(ask(STRANGER).await.1["code"], "not_found");
    assert_eq!(read(world.get("alice-vnc.localhost", "/")).await.1["code"], "unauthorized");
}

#[tokio::test]
async fn keys_open_what_is_their_tenants_and_say_nothing_of_the_rest() {
    let world = world().await;
    let there = World::host(&world.private().await);
    let nowhere = World::host(&nobody());
    for key in [ADMIN, MEMBER] {
        assert_eq!(read(world.get(&there, "/").header("x-api-key", key)).await.0, 200);
        assert_eq!(read(world.get(&there, "/").bearer_auth(key)).await.0, 200);
        assert_eq!(read(world.get(&nowhere, "/").header("x-api-key", key)).await.0, 404);
    }
    for ask in [
        |world: &World, host: &str| world.get(host, "/"),
        |world: &World, host: &str| world.get(host, "/").header("x-api-key", STRANGER),
        |world: &World, host: &str| world.get(host, "/").bearer_auth("unknown"),
        |world: &World, host: &str| world.get(host, "/").header("x-atoll-token", "forged"),
        |world: &World, host: &str| world.get(host, "/").header("accept", "text/html"),
    ] {
        let (real, none) = (read(ask(&world, &there)).await, read(ask(&world, &nowhere)).await);
        assert_eq!(real, none, "the two cannot be told apart");
        assert!(matches!(real.0, 403 | 404), "{real:?}");
    }
}

#[tokio::test]
async fn applications_may_speak_https() {
    let world = world().await;
    let id = world
        .add(3, |it| {
            it.spec.public = true;
            it.spec.https_ports = vec![TLS, 3000];
        })
        .await;
    let (status, told) = read(world.get(&format!("{TLS}-{id}.localhost"), "/a")).await;
    assert_eq!((status, &told["uri"]), (200, &"/a".into()), "{told}");
    let (status, told) = read(world.get(&format!("3000-{id}.localhost"), "/a")).await;
    assert_eq!(
        (status, &told["code"]),
        (502, &"no_answer".into()),
        "what listens there speaks no TLS: {told}"
    );
}

#[tokio::test]
async fn what_was_meant_for_the_gateway_goes_no_further() {
    let world = world().await;
    let id = world.private().await;
    let token = world.token(&id, None, 2000);
    let request = world.post(&World::host(&id), "/x?atoll_token=bad&q=1").header("x-api-key", MEMBER);
    let request = request.bearer_auth(MEMBER).header("x-atoll-token", &token);
    let request = request.header("cookie", format!("a=b; atoll_token={token}; c=d"));
    let request = request.header("connection", "x-mine").header("x-mine", "1").header("te", "trailers");
    let request = request.header("x-forwarded-for", "192.0.2.1").header("x-forwarded-host", "evil");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["x-inside"], "yes");
    assert!(!response.headers().contains_key("keep-alive"));
    let told: Value = response.json().await.unwrap();
    let (all, text) = (headers(&told), told.to_string());
    assert_eq!(told["uri"], "/x?q=1");
    for secret in [MEMBER, token.as_str(), "atoll_token", "x-mine", "evil"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    for header in [
        "cookie: a=b; c=d",
        "x-forwarded-for: 192.0.2.1, 127.0.0.1",
        "x-forwarded-proto: http",
        "te: trailers",
    ] {
        assert!(all.contains(&header.to_owned()), "{header} in {all:?}");
    }
    let host = World::host(&id);
    assert!(
        all.contains(&format!("x-forwarded-host: {host}")) && all.contains(&format!("host: {host}")),
        "{all:?}"
    );
}

#[tokio::test]
async fn an_applications_own_keys_reach_it() {
    let world = world().await;
    let id = world.public().await;
    let request = world.get(&World::host(&id), "/").header("x-api-key", "theirs").bearer_auth("theirs too");
    let all = headers(&read(request).await.1);
    for header in ["x-api-key: theirs", "authorization: Bearer theirs too"] {
        assert!(all.contains(&header.to_owned()), "{all:?}");
    }
}

#[tokio::test]
async fn a_link_becomes_a_cookie_that_opens_one_sandbox_for_one_host() {
    let world = world().await;
    let id = world.private().await;
    let (host, token) = (World::host(&id), world.token(&id, Some(OPEN), 2000));
    let response =
        world.get(&host, &format!("//evil.example/p?a=1&atoll_token={token}")).send().await.unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()[LOCATION], format!("http://{host}//evil.example/p?a=1"));
    assert_eq!(response.headers()["referrer-policy"], "no-referrer");
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert_eq!(cookie, format!("atoll_token={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age=1000"));
    let cookie = cookie.split(';').next().unwrap();
    let with_cookie = |host: &str| world.get(host, "/").header("cookie", cookie);
    assert_eq!(read(with_cookie(&host)).await.0, 200);
    for other in [format!("81-{id}.localhost"), World::host(&nobody())] {
        assert_eq!(read(with_cookie(&other)).await.0, 404, "{other}");
    }
    for (name, value) in [("origin", "http://80-other.localhost"), ("sec-fetch-site", "same-site")] {
        assert_eq!(read(with_cookie(&host).header(name, value)).await.0, 403, "another site's page: {name}");
    }
    world.now.store(2000, std::sync::atomic::Ordering::SeqCst);
    let (status, told) = read(with_cookie(&host)).await;
    assert_eq!((status, &told["code"]), (401, &"expired".into()));
    let again = world.get(&host, &format!("/?atoll_token={token}"));
    assert_eq!(read(again).await.1["code"], "expired");
}

#[tokio::test]
async fn over_tls_the_cookie_is_the_hosts_alone() {
    let world = world_with(false, "https://{host}").await;
    let id = world.private().await;
    let (host, token) = (World::host(&id), world.token(&id, None, 2000));
    let response = world.get(&host, &format!("/?atoll_token={token}")).send().await.unwrap();
    assert_eq!(response.headers()[LOCATION], format!("https://{host}/"));
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-atoll=") && cookie.ends_with("; Secure"), "{cookie}");
    let with = |name: &str| read(world.get(&host, "/").header("cookie", format!("{name}={token}")));
    assert_eq!((with("__Host-atoll").await.0, with("atoll_token").await.0), (200, 403));
}

#[tokio::test]
async fn without_keys_everybody_on_this_machine_may_but_no_other_sites_pages() {
    let world = world_with(true, "http://{host}").await;
    let id = world.private().await;
    let ask = || world.get(&World::host(&id), "/");
    assert_eq!(read(ask()).await.0, 200);
    let (status, told) = read(ask().header("origin", "https://evil.example")).await;
    assert_eq!((status, &told["code"]), (403, &"foreign_origin".into()));
    assert_eq!(read(world.get(&World::host(&nobody()), "/")).await.0, 404);
}

#[tokio::test]
async fn refusals_are_in_the_words_of_whoever_asks() {
    let world = world().await;
    let id = world.public().await;
    let closed = format!("81-{id}.localhost");
    let (status, told) = read(world.get(&closed, "/")).await;
    assert_eq!((status, &told["code"]), (502, &"port_closed".into()));
    assert!(told["error"].as_str().unwrap().contains("81"), "{told}");
    assert_eq!((&told["sandboxId"], &told["port"]), (&id.as_str().into(), &81.into()));
    assert_eq!(told["message"], "The sandbox is running but port is not open");
    let page = world.get(&closed, "/").header("accept", "text/html").send().await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(page.text().await.unwrap().contains("port 81"));
    let e2b = |id: &SandboxId| {
        let request = world.get("localhost", "/").header("e2b-sandbox-id", id.as_str());
        read(request.header("e2b-sandbox-port", "81").header("x-api-key", ADMIN))
    };
    let (status, told) = e2b(&id).await;
    assert_eq!((status, &told["code"], &told["port"]), (502, &502.into(), &81.into()), "{told}");
    assert_eq!(e2b(&nobody()).await.1["message"], "The sandbox was not found");
}

#[tokio::test]
async fn what_everybody_could_see_is_told_to_be_gone() {
    let world = world().await;
    let (seen, hidden) = (world.public().await, world.add(2, |_| ()).await);
    let ask = |id: &SandboxId| read(world.get(&World::host(id), "/"));
    assert_eq!(ask(&seen).await.0, 200);
    let closed = || read(world.get(&format!("81-{seen}.localhost"), "/"));
    world.driver.fail_next("get", DriverError::NotFound("it".into()));
    assert_eq!(closed().await.1["code"], 502, "its ports close first");
    assert_eq!(closed().await.1["code"], "port_closed");
    for id in [&seen, &hidden] {
        world.driver.delete(id, Reason::new("requested", "a test")).await.unwrap();
    }
    let (status, told) = ask(&seen).await;
    assert_eq!((status, &told["code"], &told["sandboxId"]), (502, &502.into(), &seen.as_str().into()));
    assert_eq!(told["message"], "The sandbox was not found");
    assert_eq!(ask(&hidden).await, ask(&nobody()).await, "nobody knew of it");
    for id in [&seen, &hidden, &nobody()] {
        assert_eq!(read(world.get(&World::host(id), "/").header("x-api-key", MEMBER)).await.0, 404);
    }
}

#[tokio::test]
async fn everything_is_counted() {
    let world = world().await;
    let id = world.public().await;
    let sent = world.post(&World::host(&id), "/").body(vec![1; 1000]);
    read(sent).await;
    read(world.get("x.localhost", "/")).await;
    let text = world.metrics();
    for line in [
        "gateway_requests_total{outcome=\"answered\"} 1",
        "gateway_requests_total{outcome=\"unknown_host\"} 1",
        "gateway_connections_total 1",
        "gateway_open 0",
        "gateway_body_bytes_total{direction=\"in\"} 1000",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
