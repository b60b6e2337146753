//! The way to the agent: what of it is there, for whom, and what reaches it.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::{
    driver::{Driver, DriverError},
    id::SandboxId,
    sandbox::Reason,
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use common::{ADMIN, MEMBER, OPEN, STRANGER, World, read, world, world_with};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const START: &str = "/process.Process/Start";

fn nobody() -> SandboxId {
    SandboxId::from_entropy([9; 19])
}

fn headers(told: &Value) -> Vec<&str> {
    told["headers"].as_array().unwrap().iter().map(|header| header.as_str().unwrap()).collect()
}

fn has(told: &Value, name: &str) -> bool {
    headers(told).iter().any(|header| header.starts_with(&format!("{name}: ")))
}

/// As the clients sign.
fn signature(world: &World, id: &SandboxId, path: &str, word: &str, end: Option<i64>) -> String {
    let end = end.map(|end| format!(":{end}")).unwrap_or_default();
    let text = format!("{path}:{word}::{}{end}", world.key.agent_token(id));
    let signature = format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)));
    signature.replace('+', "%2B").replace('/', "%2F")
}

impl World {
    fn call(&self, id: &SandboxId, path: &str) -> RequestBuilder {
        self.post(&Self::agent(id), path)
    }

    fn trusted(&self, id: &SandboxId, path: &str) -> RequestBuilder {
        self.call(id, path).header("x-access-token", self.key.agent_token(id))
    }
}

#[tokio::test]
async fn the_token_opens_it_by_every_name_and_goes_no_further() {
    let world = world().await;
    let id = world.private().await;
    let (token, other) = (world.key.agent_token(&id), world.key.agent_token(&nobody()));
    let by_header = |host: &str| {
        let request = world.post(host, START).header("e2b-sandbox-id", id.as_str());
        request.header("e2b-sandbox-port", "49983")
    };
    for request in [
        world.call(&id, START),
        world.post(&World::agent(&id).to_uppercase(), START),
        by_header("sandbox.localhost"),
        by_header("127.0.0.1:3000"),
    ] {
        let signed = request.try_clone().unwrap().header("x-access-token", &token);
        let signed = signed.header("authorization", "Basic cm9vdDo=").header("atoll-signature", "forged");
        let (status, told) = read(signed.header("e2b-traffic-access-token", "x")).await;
        assert_eq!((status, &told["uri"]), (200, &START.into()), "{told}");
        for header in ["x-access-token", "atoll-signature", "e2b-traffic-access-token"] {
            assert!(!has(&told, header), "{header}: {told}");
        }
        assert!(headers(&told).contains(&"authorization: Basic cm9vdDo="), "the user inside");
        for wrong in [None, Some("".to_owned()), Some(other.clone()), Some(token.to_uppercase())] {
            let request = request.try_clone().unwrap();
            let asked = match &wrong {
                Some(wrong) => request.header("x-access-token", wrong),
                None => request,
            };
            let (status, told) = read(asked).await;
            assert_eq!((status, &told["code"]), (401, &401.into()), "{wrong:?}: {told}");
            assert!(told["message"].as_str().unwrap().starts_with("unauthorized access"), "{told}");
        }
    }
}

#[tokio::test]
async fn only_what_is_public_is_there_even_for_admins() {
    let world = world().await;
    let id = world.add(1, |it| it.spec.agent_open = true).await;
    for (method, path) in [
        ("POST", "/init"),
        ("POST", "/freeze"),
        ("GET", "/dirs?path=/"),
        ("GET", "/atoll/port/80"),
        ("POST", "/atoll.agent.v1.Exec/Run"),
        ("PUT", "/files?path=/x"),
        ("GET", START),
        ("POST", "/health"),
    ] {
        let request =
            world.client.request(method.parse().unwrap(), format!("http://{}{path}", world.address));
        let (status, told) = read(request.header("host", World::agent(&id)).header("x-api-key", ADMIN)).await;
        assert_eq!((status, &told["code"]), (404, &404.into()), "{method} {path}: {told}");
    }
    assert_eq!(world.connects(), 0);
    for path in ["/health", "/metrics", "/envs", "/files?path=/x"] {
        assert_eq!(read(world.get(&World::agent(&id), path)).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn keys_of_the_tenant_open_it_and_those_of_others_find_nothing() {
    let world = world().await;
    let id = world.private().await;
    for key in [MEMBER, ADMIN] {
        let (status, told) = read(world.call(&id, START).header("x-api-key", key)).await;
        assert!(status == 200 && !has(&told, "x-api-key"), "{told}");
        let (status, told) =
            read(world.call(&id, START).header("authorization", format!("Bearer {key}"))).await;
        assert!(status == 200 && !has(&told, "authorization"), "{told}");
    }
    for path in ["/health", "/metrics"] {
        let ask = |id: &SandboxId| read(world.get(&World::agent(id), path).header("x-api-key", STRANGER));
        let (real, none) = (ask(&id).await, ask(&nobody()).await);
        assert_eq!((real.0, none.0), (502, 502), "{path}");
        assert_eq!(real.1["message"], none.1["message"]);
    }
}

#[tokio::test]
async fn a_file_is_opened_by_its_signature_alone() {
    let world = world().await;
    let id = world.private().await;
    let get = |query: String| read(world.get(&World::agent(&id), &format!("/files?{query}")));
    let reads = |path: &str, end| signature(&world, &id, path, "read", end);
    let good = reads("/a b", None);
    let (status, told) = get(format!("path=/a%20b&signature={good}&x=y")).await;
    assert_eq!((status, &told["uri"]), (200, &"/files?path=%2Fa+b".into()));
    let with_user = world.get(&World::agent(&id), &format!("/files?path=/a%20b&signature={good}"));
    let (_, told) = read(with_user.header("authorization", "Basic cm9vdDo=")).await;
    assert!(!has(&told, "authorization"), "the signature names no user: {told}");
    let ends = |end| format!("path=/x&signature={}&signature_expiration={end}", reads("/x", Some(end)));
    assert_eq!(get(ends(1000)).await.0, 200);
    let writes = signature(&world, &id, "", "write", None);
    let form = world.call(&id, &format!("/files?signature={writes}")).body("x");
    assert_eq!(read(form).await.0, 200);
    for (query, message) in [
        ("path=/x".to_owned(), "missing signature query parameter"),
        (format!("path=/other&signature={good}"), "invalid signature"),
        (format!("path=/a%20b&username=root&signature={good}"), "invalid signature"),
        (format!("p%61th=/a%20b&path=/etc/shadow&signature={good}"), "invalid signature"),
        (ends(999), "signature is already expired"),
    ] {
        let (status, told) = get(query.clone()).await;
        assert_eq!((status, told), (401, json!({"code": 401, "message": message})), "{query}");
    }
    let compose = world.call(&id, &format!("/files/compose?path=/a%20b&signature={good}"));
    assert_eq!(read(compose).await.0, 401);
    let other = world.add(2, |_| ()).await;
    let stolen = world.get(&World::agent(&other), &format!("/files?path=/a%20b&signature={good}"));
    assert_eq!(read(stolen).await.0, 401);
}

#[tokio::test]
async fn pages_of_other_sites_are_answered() {
    let world = world().await;
    let id = world.private().await;
    let agent = World::agent(&id);
    let preflight =
        world.client.request(reqwest::Method::OPTIONS, format!("http://{}{START}", world.address));
    let preflight = preflight.header("host", &agent).header("origin", "https://app.example");
    let preflight = preflight.header("access-control-request-method", "POST");
    let preflight =
        preflight.header("access-control-request-headers", "x-access-token,connect-protocol-version");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_eq!(answer.headers()["access-control-allow-headers"], "x-access-token,connect-protocol-version");
    assert_eq!(world.connects(), 0, "nothing is asked inside");
    let page = |request: RequestBuilder| request.header("origin", "https://app.example").send();
    for (request, status) in [
        (world.trusted(&id, START), 200),
        (world.call(&id, START), 401),
        (world.call(&nobody(), START), 502),
        (world.call(&id, "/init"), 404),
    ] {
        let answer = page(request).await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["access-control-allow-origin"], "*", "{status}");
    }
    let answer = page(world.get(&World::host(&id), "/")).await.unwrap();
    assert!(!answer.headers().contains_key("access-control-allow-origin"), "ports are the applications'");
}

#[tokio::test]
async fn without_keys_it_is_open_on_this_machine_but_not_to_other_sites() {
    let world = world_with(true, "http://{host}").await;
    let id = world.private().await;
    assert_eq!(read(world.call(&id, START)).await.0, 200);
    let page = |request: RequestBuilder| read(request.header("origin", "https://evil.example"));
    assert_eq!(page(world.call(&id, START)).await.0, 401);
    assert_eq!(page(world.trusted(&id, START)).await.0, 200);
}

#[tokio::test]
async fn a_request_is_signed_for_an_agent_that_wants_that() {
    let world = world().await;
    let id = world.private().await;
    world.driver.sign_with(Arc::new(|now, method, target| format!("proof {now} {method} {target}")));
    let (status, told) = read(world.trusted(&id, START)).await;
    assert_eq!(status, 200);
    let proof = format!("atoll-signature: proof 1000000 POST {START}");
    assert!(headers(&told).contains(&proof.as_str()), "{told}");
    let (_, told) = read(world.get(&World::host(&id), "/").header("x-api-key", MEMBER)).await;
    assert!(!has(&told, "atoll-signature"), "nothing is signed for ports");
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_unavailable() {
    let world = world().await;
    let id = world.private().await;
    let stream = |path| world.trusted(&id, path).send();
    let whole = stream("/process.Process/Whole").await.unwrap().bytes().await.unwrap();
    assert_eq!(&whole[..], b"\0\0\0\0\x02{}\x02\0\0\0\x02{}");
    let broken = stream("/process.Process/Broken").await.unwrap().bytes().await.unwrap();
    let end = broken.strip_prefix(b"\0\0\0\0\x02{}").unwrap();
    let said: Value = serde_json::from_slice(&end[5..]).unwrap();
    assert_eq!((end[0], &said["error"]["code"]), (2, &"unavailable".into()));
    assert_eq!(u32::from_be_bytes(end[1..5].try_into().unwrap()) as usize, end.len() - 5);
    assert!(
        stream("/process.Process/Torn").await.unwrap().bytes().await.is_err(),
        "nothing more can be said"
    );
}

#[tokio::test]
async fn ports_that_are_not_public_open_to_the_traffic_token() {
    let world = world().await;
    let id = world.private().await;
    let token = world.key.traffic_token(&id);
    let with = |request: RequestBuilder, token: &str| read(request.header("E2B-Traffic-Access-Token", token));
    let (status, told) = with(world.get(&World::host(&id), "/"), &token).await;
    assert!(status == 200 && !has(&told, "e2b-traffic-access-token"), "{told}");
    let e2b = |id: &SandboxId| {
        let request = world.get("localhost", "/").header("e2b-sandbox-id", id.as_str());
        request.header("e2b-sandbox-port", OPEN.to_string())
    };
    assert_eq!(with(e2b(&id), &token).await.0, 200);
    let (status, told) = read(e2b(&id)).await;
    let message = "Sandbox is secured with traffic access token. \
                   Token header 'e2b-traffic-access-token' is missing";
    assert_eq!((status, told), (403, json!({"sandboxId": id, "message": message, "code": 403})));
    let wrong = with(e2b(&id), &world.key.agent_token(&id)).await;
    assert!(wrong.0 == 403 && wrong.1["message"].as_str().unwrap().ends_with("is invalid"), "{wrong:?}");
    assert_eq!(with(world.get(&World::host(&id), "/"), "wrong").await.0, 403);
    let owned = world.add(3, |it| it.spec.owner = Some("alice".into())).await;
    let (real, none) = (read(e2b(&owned)).await, read(e2b(&nobody())).await);
    assert_eq!((real.0, &real.1["message"]), (none.0, &none.1["message"]), "a user's own is not told");
    let (_, told) =
        read(e2b(&id).header("x-api-key", MEMBER).header("x-access-token", world.key.agent_token(&id))).await;
    assert!(!has(&told, "x-access-token"), "an application does not see what opens the agent: {told}");
    let (_, told) = read(e2b(&id).header("x-api-key", MEMBER).header("x-access-token", "its own")).await;
    assert!(has(&told, "x-access-token"), "{told}");
}

#[tokio::test]
async fn applications_see_the_host_that_was_asked_for_or_the_mask() {
    let world = world().await;
    let masked = world
        .add(2, |it| {
            it.spec.public = true;
            it.spec.mask_host = Some("localhost:${PORT}".into());
        })
        .await;
    let host = World::host(&masked);
    let (_, told) = read(world.get(&host, "/")).await;
    assert!(headers(&told).contains(&"host: localhost:3000"), "{told}");
    assert!(headers(&told).contains(&format!("x-forwarded-host: {host}").as_str()), "{told}");
    let (_, told) = read(world.trusted(&masked, START)).await;
    assert!(headers(&told).contains(&format!("host: {}", World::agent(&masked)).as_str()), "{told}");
}

#[tokio::test]
async fn what_rests_and_may_not_be_woken_is_not_there() {
    let world = world().await;
    let why = || Reason::new("requested", "a test wants it");
    let id = world
        .add(1, |it| {
            it.spec.public = true;
            it.spec.lifecycle.wake_on_request = false;
        })
        .await;
    let gone = json!({"sandboxId": id, "message": "The sandbox was not found", "code": 502});
    let e2b = || {
        let request = world.get("localhost", "/").header("e2b-sandbox-id", id.as_str());
        read(request.header("e2b-sandbox-port", OPEN.to_string()))
    };
    let health = || read(world.get(&World::agent(&id), "/health"));
    assert_eq!((health().await.0, e2b().await.0), (200, 200));
    for stop in [false, true] {
        match stop {
            true => world.driver.stop(&id, why()).await.unwrap(),
            false => world.driver.pause(&id, why()).await.unwrap(),
        };
        assert_eq!(health().await, (502, gone.clone()));
        assert_eq!(read(world.trusted(&id, START)).await, (502, gone.clone()));
        assert_eq!(e2b().await, (502, gone.clone()));
        let (status, told) = read(world.get(&World::host(&id), "/")).await;
        assert_eq!((status, &told["code"]), (502, &"resting".into()));
    }
    let wakes = world.add(2, |_| ()).await;
    world.driver.pause(&wakes, why()).await.unwrap();
    assert_eq!(read(world.trusted(&wakes, START)).await.0, 200, "others are woken");
    world.driver.delete(&wakes, why()).await.unwrap();
    let (status, told) = read(world.trusted(&wakes, START)).await;
    assert_eq!((status, &told["message"]), (502, &"The sandbox was not found".into()));
    let leaves = world.add(3, |_| ()).await;
    let health = || read(world.get(&World::agent(&leaves), "/health"));
    assert_eq!(health().await.0, 200);
    world.driver.fail_next("get", DriverError::NotFound("it".into()));
    assert_eq!(health().await.0, 502, "its agent still answers while it goes");
}
