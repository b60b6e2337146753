//! Builds of templates, at the paths of E2B's clients, on a driver in memory whose sandboxes are one real agent.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use atoll_core::{
    address::ContentAddress,
    build::{Build, BuildAsk, BuildState, Builds, LogLine},
    link::{LinkKey, Upload},
    testing::{FakeDriver, FakeStore},
};
use atoll_server::{Limits, Links, ServerConfig};
use common::{MEMBER, Running, STRANGER, agent::Agent, read, restart_with, start_with, until};
use reqwest::Method;
use serde_json::{Value, json};
use std::{path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn config(uploads: &Path, limits: Limits) -> ServerConfig {
    let address = ContentAddress::new("localhost", "http://{host}").unwrap();
    let links = Some(Links { address, key: LinkKey::new([7; 32]) });
    ServerConfig { links, uploads: Some(uploads.to_owned()), limits, ..ServerConfig::default() }
}

struct Bench {
    _agent: Agent,
    dir: TempDir,
    server: Running,
}

/// With a template `plain` whose sandboxes run as the agent's own user: the sandboxes of these tests share this machine.
async fn bench_with(limits: Limits) -> Bench {
    let (agent, dir) = (Agent::start(), tempfile::tempdir().unwrap());
    let server = start_with(config(&dir.path().join("uploads"), limits), agent.driver()).await;
    let plain = json!({"image": "base", "user": "root", "workdir": dir.path(), "labels": {"kind": "plain"}});
    put_template(&server, "plain", &plain).await;
    Bench { _agent: agent, dir, server }
}

async fn bench() -> Bench {
    bench_with(Limits::default()).await
}

async fn put_template(server: &Running, name: &str, spec: &Value) {
    let put = server.call(Method::PUT, &format!("/api/v1/templates/{name}")).json(spec);
    assert_eq!(read(put.send().await.unwrap()).await.0, 200);
}

async fn requested(server: &Running, body: Value) -> (String, String) {
    let (status, made) = server.post("/v3/templates", body).await;
    assert_eq!(status, 202, "{made}");
    (made["templateID"].as_str().unwrap().to_owned(), made["buildID"].as_str().unwrap().to_owned())
}

fn build_path(template: &str, build: &str) -> String {
    format!("/templates/{template}/builds/{build}")
}

async fn begun(server: &Running, name: &str, start: Value) -> String {
    let (template, build) = requested(server, json!({"name": name})).await;
    let (status, answer) = server.post(&format!("/v2{}", build_path(&template, &build)), start).await;
    assert_eq!(status, 202, "{answer}");
    format!("{}/status", build_path(&template, &build))
}

async fn over(server: &Running, path: &str) -> Value {
    let mut last = Value::Null;
    until(async || {
        let (status, told) = server.get(path).await;
        assert_eq!(status, 200, "{told}");
        last = told;
        last["status"] != "building"
    })
    .await;
    last
}

async fn built(server: &Running, name: &str, start: Value) -> Value {
    let path = begun(server, name, start).await;
    over(server, &path).await
}

fn run(commands: &[&str]) -> Value {
    let steps: Vec<Value> =
        commands.iter().map(|command| json!({"type": "RUN", "args": [command], "force": false})).collect();
    json!({"fromTemplate": "plain", "steps": steps})
}

fn messages(status: &Value) -> Vec<String> {
    let lines = status["logEntries"].as_array().unwrap();
    lines.iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_build_is_asked_for_with_name_and_tags() {
    let bench = bench().await;
    let body =
        json!({"name": "My-Web:V1", "tags": ["stable", "v1"], "cpuCount": 1, "memoryMB": 512, "teamID": "x"});
    let (status, made) = bench.server.post("/v3/templates", body).await;
    assert_eq!(status, 202, "{made}");
    assert_eq!((&made["templateID"], &made["names"]), (&json!("my-web"), &json!(["my-web"])));
    assert_eq!((&made["tags"], &made["public"]), (&json!(["v1", "stable"]), &json!(false)));
    let id = made["buildID"].as_str().unwrap();
    assert!(id.len() == 36 && &id[14..15] == "4", "a UUID: {id}");
    let (_, status) = bench.server.get(&format!("{}/status", build_path("my-web", id))).await;
    assert_eq!(
        (&status["status"], &status["logEntries"], &status["logs"]),
        (&json!("waiting"), &json!([]), &json!([]))
    );
    let (_, plain) = bench.server.post("/v3/templates", json!({"alias": "older"})).await;
    assert_eq!((&plain["aliases"], &plain["tags"]), (&json!(["older"]), &json!(["default"])));
}

#[tokio::test]
async fn refusals_name_the_fields_that_were_sent() {
    let bench = bench().await;
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": "a b"}), "name"),
        (json!({"name": "other-tenant/web"}), "name"),
        (json!({"name": "web", "tags": ["fine", "not fine"]}), "tags[1]"),
        (json!({"name": "web", "cpuCount": 0}), "cpuCount"),
        (json!({"name": "web", "cpuCount": 1024}), "cpuCount"),
        (json!({"name": "web", "memoryMB": 64}), "memoryMB"),
        (json!({"name": "web", "memoryMB": 1001}), "memoryMB"),
        (json!({"name": "web", "memoryMB": 1 << 20}), "memoryMB"),
    ] {
        let (status, told) = bench.server.post("/v3/templates", body).await;
        assert_eq!((status, &told["code"]), (400, &json!(400)), "{told}");
        assert!(told["message"].as_str().unwrap().starts_with(&format!("{field}: ")), "{field}: {told}");
    }
    let (template, build) = requested(&bench.server, json!({"name": "web"})).await;
    let start = format!("/v2{}", build_path(&template, &build));
    let aws = json!({"fromImage": "x", "fromImageRegistry": {"type": "aws", "awsRegion": "y"}});
    for (body, field) in [
        (json!({"steps": [{"type": "ONBUILD", "args": []}]}), "steps[0].type"),
        (json!({"steps": [{"type": "COPY", "args": ["a", "b"]}]}), "steps[0].filesHash"),
        (json!({"steps": [{"type": "COPY", "args": ["a", "b"], "filesHash": HASH}]}), "steps[0].filesHash"),
        (json!({"fromImage": "a", "fromTemplate": "b"}), "fromImage"),
        (aws, "fromImageRegistry.type"),
    ] {
        let (status, told) = bench.server.post(&start, body).await;
        assert_eq!(status, 400, "{told}");
        assert!(told["message"].as_str().unwrap().starts_with(&format!("{field}: ")), "{field}: {told}");
    }
    let login = json!({"fromImage": "x", "fromImageRegistry": {"type": "registry", "username": "u", "password": "p"}});
    let member = bench.server.call_as(MEMBER, Method::POST, &start).json(&login);
    assert_eq!(read(member.send().await.unwrap()).await.0, 403, "an image is the whole machine's");
}

#[tokio::test]
async fn a_server_without_a_place_for_files_builds_nothing() {
    let server = start_with(ServerConfig::default(), FakeDriver::default()).await;
    let (status, told) = server.post("/v3/templates", json!({"name": "web"})).await;
    assert_eq!((status, &told["error_code"]), (501, &json!("unsupported")), "{told}");
}

#[tokio::test]
async fn files_are_brought_to_a_signed_address() {
    let bench = bench().await;
    requested(&bench.server, json!({"name": "web"})).await;
    let place = format!("/templates/web/files/{HASH}");
    let (status, told) = bench.server.get(&place).await;
    assert_eq!((status, &told["present"]), (201, &json!(false)), "{told}");
    let url = told["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&format!("http://{}/", bench.server.address)), "{url}");
    let archive = [&[0x1f_u8, 0x8b][..], &[0; 100]].concat();
    let put = |url: &str, body: &[u8]| bench.server.client.put(url).body(body.to_vec()).send();
    assert_eq!(put(&url, b"no archive at all").await.unwrap().status(), 400);
    assert_eq!(
        put(&url.replace("/files/0", "/files/1"), &archive).await.unwrap().status(),
        403,
        "another hash"
    );
    assert_eq!(put(&url[..url.len() - 1], &archive).await.unwrap().status(), 403, "forged");
    let expired =
        Upload { tenant: "default".into(), hash: HASH.into(), expires_at: jiff::Timestamp::UNIX_EPOCH };
    let expired = LinkKey::new([7; 32]).sign_upload(&expired);
    let late = bench.server.url(&format!("{place}?token={expired}"));
    assert_eq!(put(&late, &archive).await.unwrap().status(), 403, "expired");
    assert_eq!(put(&url, &archive).await.unwrap().status(), 200);
    assert_eq!(bench.server.get(&place).await.1["present"], true);

    assert_eq!(bench.server.get("/templates/web/files/..%2f..%2fetc").await.0, 400);
    assert_eq!(bench.server.get(&format!("/templates/none/files/{HASH}")).await.0, 404);
    let stranger = bench.server.call_as(STRANGER, Method::GET, &place);
    assert_eq!(read(stranger.send().await.unwrap()).await.0, 404, "another tenant's template");
    let proxied = bench.server.call(Method::GET, &place).header("x-forwarded-proto", "https");
    let (_, told) = read(proxied.header("x-forwarded-host", "api.example.com").send().await.unwrap()).await;
    assert!(told["url"].as_str().unwrap().starts_with("https://api.example.com/templates/"), "{told}");
}

#[tokio::test]
async fn steps_become_a_template() {
    let bench = bench().await;
    let here = bench.dir.path().to_str().unwrap().to_owned();
    let steps = json!([
        {"type": "ENV", "args": ["GREETING", "hello $USER", "PATH", "$PATH:/mine"]},
        {"type": "RUN", "args": ["echo \"$GREETING\"; echo bad >&2; echo \"${PATH##*:}\"; pwd"]},
        {"type": "WORKDIR", "args": ["inner"]},
        {"type": "USER", "args": ["root"]},
    ]);
    let status =
        built(&bench.server, "web", json!({"fromTemplate": "plain", "steps": steps, "force": true})).await;
    assert_eq!(status["status"], "ready", "{status}");
    let log = messages(&status);
    for line in [
        "hello root",
        "[stderr]: bad",
        "/mine",
        &here,
        "[base] FROM TEMPLATE plain",
        "[builder 3/4] WORKDIR inner",
    ] {
        assert!(log.iter().any(|message| message.contains(line)), "{line}: {log:#?}");
    }
    let bad = status["logEntries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["message"] == "[builder 2/4] [stderr]: bad");
    assert_eq!((&bad.unwrap()["level"], &bad.unwrap()["step"]), (&json!("error"), &json!("2")));

    let (_, template) = bench.server.get("/api/v1/templates/web").await;
    let spec = &template["spec"];
    assert!(spec["image"].as_str().unwrap().starts_with("snapshot:s"), "{spec}");
    assert_eq!((&spec["env"]["GREETING"], &spec["user"]), (&json!("hello root"), &json!("root")));
    assert_eq!(
        (&spec["workdir"], &spec["labels"]["kind"]),
        (&json!(format!("{here}/inner")), &json!("plain"))
    );
    until(async || bench.server.driver.count() == 0).await;
    let (status, made) = bench.server.post("/v2/sandboxes", json!({"templateID": "web"})).await;
    assert_eq!((status, &made["templateID"]), (201, &json!("web")), "{made}");
}

#[tokio::test]
async fn a_failing_step_is_named() {
    let bench = bench().await;
    let failing = run(&["true", "echo why it fails >&2; exit 42", "echo never"]);
    let status = built(&bench.server, "web", failing).await;
    assert_eq!((&status["status"], &status["reason"]["step"]), (&json!("error"), &json!("2")), "{status}");
    let message = status["reason"]["message"].as_str().unwrap();
    assert!(message.contains("exit status 42") && message.contains("exit 42"), "{message}");
    let lines = status["reason"]["logEntries"].as_array().unwrap();
    assert!(lines.iter().any(|line| line["message"].as_str().unwrap().ends_with("why it fails")), "{status}");
    assert!(!messages(&status).iter().any(|line| line.contains("stdout]: never")));
    until(async || bench.server.driver.count() == 0).await;
    assert_eq!(bench.server.post("/v2/sandboxes", json!({"templateID": "web"})).await.0, 404);
    let unknown = built(&bench.server, "web", json!({"fromTemplate": "no-such"})).await;
    assert_eq!(unknown["reason"]["step"], "base", "{unknown}");
}

#[tokio::test]
async fn steps_are_not_done_twice() {
    let bench = bench().await;
    let file = bench.dir.path().join("count");
    let count = || std::fs::read_to_string(&file).unwrap_or_default().len();
    let step = format!("printf x >> {}", file.display());
    let first = built(&bench.server, "one", run(&[&step, "true"])).await;
    assert_eq!((&first["status"], count()), (&json!("ready"), 1), "{first}");
    let second = built(&bench.server, "two", run(&[&step, "true"])).await;
    assert_eq!(count(), 1, "{second}");
    assert_eq!(messages(&second).iter().filter(|line| line.starts_with("CACHED [")).count(), 3, "{second}");
    let image = async |name: &str| {
        bench.server.get(&format!("/api/v1/templates/{name}")).await.1["spec"]["image"].clone()
    };
    assert_eq!(image("one").await, image("two").await);
    built(&bench.server, "three", run(&[&step, "false"])).await;
    assert_eq!(count(), 1, "the first step is known, the second failed");
    let mut forced = run(&[&step, "true"]);
    forced["steps"][0]["force"] = json!(true);
    let fourth = built(&bench.server, "four", forced).await;
    assert_eq!(count(), 2, "{fourth}");
    assert_eq!(
        messages(&fourth).iter().filter(|line| line.starts_with("CACHED [")).count(),
        1,
        "only the base"
    );

    let stranger = bench.server.call_as(STRANGER, Method::PUT, "/api/v1/templates/plain");
    let plain =
        json!({"image": "base", "user": "root", "workdir": bench.dir.path(), "labels": {"kind": "plain"}});
    assert_eq!(stranger.json(&plain).send().await.unwrap().status(), 200);
    let call = |method: Method, path: &str| bench.server.call_as(STRANGER, method, path);
    let (_, made) =
        read(call(Method::POST, "/v3/templates").json(&json!({"name": "one"})).send().await.unwrap()).await;
    let path = build_path("one", made["buildID"].as_str().unwrap());
    let start = call(Method::POST, &format!("/v2{path}")).json(&run(&[&step, "true"]));
    assert_eq!(start.send().await.unwrap().status(), 202);
    until(async || {
        let told = call(Method::GET, &format!("{path}/status")).send().await.unwrap();
        read(told).await.1["status"] == "ready"
    })
    .await;
    assert_eq!(count(), 3, "what another tenant made is theirs");
}

#[tokio::test]
async fn the_result_is_tried_before_it_is_a_template() {
    let bench = bench().await;
    let start = |ready: &str| json!({"fromTemplate": "plain", "startCmd": "sleep 100", "readyCmd": ready});
    let tries = bench.dir.path().join("tries");
    let ready = format!("printf x >> {0}; [ $(wc -c < {0}) -ge 3 ]", tries.display());
    let status = built(&bench.server, "web", start(&ready)).await;
    assert_eq!(status["status"], "ready", "{status}");
    let (_, template) = bench.server.get("/api/v1/templates/web").await;
    let command = |name: &str| template["spec"][name].as_array().unwrap().last().unwrap().clone();
    assert_eq!((command("start_command"), command("ready_command")), (json!("sleep 100"), json!(ready)));

    let child = built(&bench.server, "child", json!({"fromTemplate": "web"})).await;
    assert_eq!(child["status"], "ready", "{child}");
    let (_, inherited) = bench.server.get("/api/v1/templates/child").await;
    assert_eq!(inherited["spec"]["ready_command"], template["spec"]["ready_command"]);
}

#[tokio::test]
async fn what_never_gets_ready_fails() {
    let limits = Limits { build_ready_for: Duration::from_millis(300), ..Limits::default() };
    let bench = bench_with(limits).await;
    let status = built(&bench.server, "web", json!({"fromTemplate": "plain", "readyCmd": "exit 3"})).await;
    assert_eq!(
        (&status["status"], &status["reason"]["step"]),
        (&json!("error"), &json!("finalize")),
        "{status}"
    );
    assert!(status["reason"]["message"].as_str().unwrap().contains("exit status 3"), "{status}");
    assert_eq!(bench.server.get("/api/v1/templates/web").await.0, 404);
    until(async || bench.server.driver.count() == 0).await;
}

#[tokio::test]
async fn a_creation_waits_until_the_sandbox_is_ready() {
    let limits = Limits { ready_for: Duration::from_secs(30), ..Limits::default() };
    let bench = bench_with(limits).await;
    let tries = bench.dir.path().join("tries");
    let line = format!("printf x >> {0}; [ $(wc -c < {0}) -ge 4 ]", tries.display());
    let spec = json!({"image": "base", "user": "root", "ready_command": ["sh", "-c", line]});
    put_template(&bench.server, "slow", &spec).await;
    let (status, made) = bench.server.post("/v2/sandboxes", json!({"templateID": "slow"})).await;
    assert_eq!((status, std::fs::read_to_string(&tries).unwrap().as_str()), (201, "xxxx"), "{made}");

    let never = json!({"image": "base", "ready_command": ["false"]});
    put_template(&bench.server, "never", &never).await;
    let short = Limits { ready_for: Duration::from_millis(200), ..Limits::default() };
    let (driver, store) = (bench.server.driver.clone(), bench.server.store.clone());
    let impatient = restart_with(config(&bench.dir.path().join("uploads"), short), driver, store).await;
    let (status, made) = impatient.post("/v2/sandboxes", json!({"templateID": "never"})).await;
    assert_eq!(status, 201, "it is there all the same: {made}");
}

#[tokio::test]
async fn a_build_is_its_tenants_and_begins_once() {
    let bench = bench_with(Limits { builds_at_once: 1, ..Limits::default() }).await;
    let server = &bench.server;
    let (template, build) = requested(server, json!({"name": "web"})).await;
    let (status, start) = (build_path(&template, &build), format!("/v2{}", build_path(&template, &build)));
    for path in [format!("/templates/api/builds/{build}/status"), "/templates/web/builds/none/status".into()]
    {
        assert_eq!(server.get(&path).await.0, 404, "{path}");
    }
    let theirs = server.call_as(STRANGER, Method::GET, &format!("{status}/status"));
    assert_eq!(theirs.send().await.unwrap().status(), 404);
    assert_eq!(server.post(&start, run(&["sleep 30"])).await.0, 202);
    assert_eq!(server.post(&start, run(&["true"])).await.0, 409);
    let (other, second) = requested(server, json!({"name": "other"})).await;
    let (code, told) = server.post(&format!("/v2{}", build_path(&other, &second)), run(&["true"])).await;
    assert_eq!((code, &told["error_code"]), (503, &json!("too_many_builds")), "{told}");

    assert_eq!(server.delete("/templates/web").await.0, 204);
    assert_eq!(server.get(&format!("{status}/status")).await.0, 404);
    until(async || server.driver.count() == 0).await;
    assert_eq!(server.get("/api/v1/templates/web").await.0, 404, "a build that was taken away makes nothing");
}

#[tokio::test]
async fn the_log_is_read_in_pieces_and_by_level() {
    let bench = bench().await;
    let path =
        begun(&bench.server, "web", run(&["for n in $(seq 150); do echo line $n; done; echo wrong >&2"]))
            .await;
    over(&bench.server, &path).await;
    let all = async |query: &str| messages(&bench.server.get(&format!("{path}?{query}")).await.1);
    let (first, second) = (all("logsOffset=0").await, all("logsOffset=100").await);
    assert_eq!((first.len(), second.len() < 100), (100, true));
    let lines = [first, second].concat();
    let numbered: Vec<_> = lines.iter().filter(|line| line.contains("line ")).collect();
    assert!(numbered.len() >= 150 && numbered[numbered.len() - 1].ends_with("line 150"), "{numbered:?}");
    assert_eq!(all("level=error").await.len(), 1);
    assert_eq!(all("logsOffset=3&limit=2").await, lines[3..5]);
    let logs = path.replace("/status", "/logs");
    let (_, newest) = bench.server.get(&format!("{logs}?direction=backward&limit=1")).await;
    assert!(newest["logs"][0]["message"].as_str().unwrap().starts_with("Build finished"), "{newest}");
    for bad in ["level=loud", "logsOffset=-1"] {
        assert_eq!(bench.server.get(&format!("{path}?{bad}")).await.0, 400, "{bad}");
    }
    assert_eq!(bench.server.get(&format!("{logs}?direction=up")).await.0, 400);
}

#[tokio::test]
async fn a_template_is_found_by_name_and_tag() {
    let bench = bench().await;
    let server = &bench.server;
    built(server, "web:v1", run(&["echo 1"])).await;
    let alias = async |name: &str| server.get(&format!("/templates/aliases/{name}")).await.0;
    assert_eq!((alias("web").await, alias("default%2Fweb").await, alias("web:v1").await), (200, 200, 200));
    assert_eq!((alias("web:v2").await, alias("none").await, alias("a%20b").await), (404, 404, 400));
    assert_eq!((alias("base").await, alias("plain").await), (200, 200));
    let sandbox = async |template: &str| server.post("/v2/sandboxes", json!({"templateID": template})).await;
    assert_eq!(
        (sandbox("web:v1").await.0, sandbox("web").await.0),
        (201, 404),
        "only what is tagged default needs no tag"
    );

    let (status, told) =
        server.post("/templates/tags", json!({"target": "web:v1", "tags": ["default", "web:Prod"]})).await;
    assert_eq!((status, &told["tags"]), (201, &json!(["default", "prod"])), "{told}");
    built(server, "web", run(&["echo 2"])).await;
    let image = |made: Value| made["sandboxID"].as_str().unwrap().to_owned();
    let [one, two] = [sandbox("web:prod").await.1, sandbox("web").await.1].map(image);
    let of =
        async |id: &str| server.get(&format!("/api/v1/sandboxes/{id}")).await.1["templateVersion"].clone();
    assert_eq!((of(&one).await, of(&two).await), (json!(1), json!(2)));
}

#[tokio::test]
async fn tags_are_given_and_taken() {
    let bench = bench().await;
    let server = &bench.server;
    built(server, "web:v1", run(&["echo 1"])).await;
    server.post("/templates/tags", json!({"target": "web:v1", "tags": ["default", "prod"]})).await;
    let (_, tags) = server.get("/templates/web/tags").await;
    let names: Vec<_> = tags.as_array().unwrap().iter().map(|tag| tag["tag"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "prod", "v1"]);
    for (body, code) in [
        (json!({"target": "web:none", "tags": ["x"]}), 404),
        (json!({"target": "none", "tags": ["x"]}), 404),
        (json!({"target": "web", "tags": []}), 400),
        (json!({"target": "web", "tags": ["a b"]}), 400),
        (json!({"target": "web:v1", "tags": [":x"]}), 400),
        (json!({"target": "web:v1", "tags": ["web:"]}), 400),
        (json!({"target": "web:v1", "tags": ["web:x"]}), 201),
    ] {
        assert_eq!(server.post("/templates/tags", body.clone()).await.0, code, "{body}");
    }
    let remove = async |body: Value| {
        read(server.call(Method::DELETE, "/templates/tags").json(&body).send().await.unwrap()).await.0
    };
    assert_eq!(remove(json!({"name": "web", "tags": ["prod", "gone"]})).await, 204);
    assert_eq!(remove(json!({"name": "web", "tags": ["prod"]})).await, 404);
    assert_eq!(remove(json!({"name": "web", "tags": ["default"]})).await, 400);
    assert_eq!(remove(json!({"name": "web:v1", "tags": ["v1"]})).await, 400);
    assert_eq!(remove(json!({"name": "none", "tags": ["v1"]})).await, 404);
    assert_eq!(server.post("/v2/sandboxes", json!({"templateID": "web:prod"})).await.0, 404);
}

#[tokio::test]
async fn templates_are_listed_and_deleted() {
    let bench = bench().await;
    let server = &bench.server;
    built(server, "web", run(&["echo 1"])).await;
    built(server, "web", run(&["echo 2"])).await;
    let (_, listed) = server.get("/templates").await;
    let web = listed.as_array().unwrap().iter().find(|it| it["templateID"] == "web").unwrap().clone();
    assert_eq!((&web["buildCount"], &web["buildStatus"]), (&json!(2), &json!("ready")), "{web}");
    assert!(web["cpuCount"].as_u64().unwrap() > 0 && web["createdAt"].is_string(), "{web}");
    let (_, detailed) = server.get("/templates/web").await;
    assert_eq!(detailed["builds"].as_array().unwrap().len(), 2, "{detailed}");
    let page = server.call(Method::GET, "/v2/templates?limit=1").send().await.unwrap();
    let next = page.headers()["x-next-token"].to_str().unwrap().to_owned();
    assert_eq!((next.as_str(), read(page).await.1[0]["templateID"].clone()), ("plain", json!("plain")));
    assert_eq!(server.get("/v2/templates?nextToken=plain").await.1[0]["templateID"], "web");

    let patch = async |path: &str, public: bool| {
        let call = server.call(Method::PATCH, path).json(&json!({"public": public}));
        read(call.send().await.unwrap()).await.0
    };
    assert_eq!((patch("/v2/templates/web", false).await, patch("/templates/web", false).await), (200, 200));
    assert_eq!(
        (patch("/v2/templates/web", true).await, patch("/v2/templates/none", false).await),
        (400, 404)
    );
    assert_eq!(
        (server.delete("/templates/web").await.0, server.delete("/templates/web").await.0),
        (204, 404)
    );
    assert_eq!(server.get("/templates/web/tags").await.0, 404);
}

#[tokio::test]
async fn a_server_that_stops_ends_its_builds() {
    let bench = bench().await;
    let path = begun(&bench.server, "web", run(&["sleep 60"])).await;
    until(async || messages(&bench.server.get(&path).await.1).iter().any(|line| line.contains("sleep 60")))
        .await;
    let (driver, store, uploads) =
        (bench.server.driver.clone(), bench.server.store.clone(), bench.dir.path().join("uploads"));
    bench.server.stop().await.unwrap();
    let next = restart_with(config(&uploads, Limits::default()), driver, store).await;
    let status = over(&next, &path).await;
    assert_eq!(status["status"], "error", "{status}");
    assert!(status["reason"]["message"].as_str().unwrap().contains("the server was stopped"), "{status}");
    until(async || next.driver.count() == 0).await;
}

#[tokio::test]
async fn a_build_whose_server_died_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (driver, store) = (Arc::new(FakeDriver::default()), Arc::new(FakeStore::default()));
    let long_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(60);
    let build = Build {
        id: "3f2c9a7e-0000-4000-8000-000000000000".into(),
        tenant: "default".into(),
        template: "web".into(),
        ask: BuildAsk::default(),
        state: BuildState::Building,
        created_at: long_ago,
        updated_at: long_ago,
    };
    store.put_build(&build).await.unwrap();
    let mut left = atoll_core::testing::sandbox(1);
    left.spec.labels.insert("atoll.dev/build".into(), build.id.clone());
    atoll_core::driver::Driver::create(&*driver, left, atoll_core::driver::no_progress()).await.unwrap();
    let config = ServerConfig { no_auth: true, ..config(dir.path(), Limits::default()) };
    let server = restart_with(config, driver, store).await;
    let status = over(&server, &format!("{}/status", build_path("web", &build.id))).await;
    assert!(status["reason"]["message"].as_str().unwrap().contains("went away"), "{status}");
    until(async || server.driver.count() == 0).await;
    let lines: Vec<LogLine> = server.store.log(&build.id, 0).await.unwrap();
    assert!(lines.is_empty());
}
