//! The API of a manager of Kata containers, `/api/kata`, on a driver in memory and, for commands, the real agent.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::{driver::DriverError, template::TemplateSpec, testing::FakeDriver};
use atoll_server::{KataConfig, ServerConfig};
use common::{ADMIN, MEMBER, Running, STRANGER, agent::Agent, events, read, start, start_with, until};
use futures::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

const ALL: &str = "/api/kata";

/// The data of a stream's events, which have no names.
async fn told(server: &Running, path: &str, body: Value) -> Vec<Value> {
    let response = server.call(Method::POST, path).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    assert!(!text.contains("event:"), "{text}");
    events(&text).into_iter().map(|(_, data)| data).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["eventType"].as_str().unwrap()).collect()
}

async fn create(server: &Running, body: Value) -> String {
    let events = told(server, ALL, body).await;
    let last = events.last().unwrap();
    assert_eq!(last["eventType"], "ready", "{last}");
    last["podName"].as_str().unwrap().to_owned()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_creation_is_told_step_by_step() {
    let server = start().await;
    let body = json!({
        "labels": {"environment": "sandbox", "project": "test"},
        "environmentVariables": {"KEY": "value"},
        "command": ["/bin/sh"],
        "args": ["-c", "echo Hello && sleep 3600"],
        "resources": {
            "requests": {"memoryMi": 256, "cpuMillicores": 500},
            "limits": {"memoryMi": 1024, "cpuMillicores": 2000}
        },
        "waitForReady": true
    });
    let events = told(&server, ALL, body).await;
    let kinds = kinds(&events);
    assert_eq!(kinds[0], "created");
    assert!(kinds[1..kinds.len() - 2].iter().all(|kind| *kind == "waiting") && kinds.len() > 3, "{kinds:?}");
    assert_eq!(kinds[kinds.len() - 2..], ["healthcheck", "ready"]);
    let name = events[0]["podName"].as_str().unwrap();
    assert!(name.starts_with("kata-sandbox-i") && events.iter().all(|event| event["podName"] == name));
    assert_eq!(events[0], json!({"eventType": "created", "podName": name, "phase": "Pending"}));
    let first = json!({"eventType": "waiting", "podName": name, "attemptNumber": 1, "phase": "Pending",
        "message": "Waiting for pod to be ready"});
    assert_eq!(events[1], first);
    let ready = events.last().unwrap();
    assert!(ready["elapsedSeconds"].as_f64().unwrap() >= 0.0);
    let info = &ready["containerInfo"];
    let fields =
        ["createdAt", "image", "isReady", "labels", "lastActivity", "name", "nodeName", "phase", "podIP"];
    assert_eq!(keys(info), fields);
    assert_eq!(
        (&info["phase"], &info["isReady"], &info["image"]),
        (&json!("Running"), &json!(true), &json!("base"))
    );
    assert!(info["nodeName"].is_null() && info["podIP"].is_null(), "the fake is nowhere");
    let labels = json!({"app": "kata-manager", "runtime": "kata", "environment": "sandbox", "project": "test",
        "atoll.dev/dialect": "kata"});
    assert_eq!(info["labels"], labels);
    let id = name.strip_prefix("kata-sandbox-").unwrap();
    let (_, sandbox) = server.get(&format!("/api/v1/sandboxes/{id}")).await;
    assert_eq!((&sandbox["memory"], &sandbox["cpu"]), (&json!("1Gi"), &json!("2")));
    assert_eq!(sandbox["requests"], json!({"cpu": "500m", "memory": "256Mi"}));
    assert_eq!((&sandbox["env"]["KEY"], &sandbox["template"]), (&json!("value"), &json!("executor")));
}

#[tokio::test]
async fn without_waiting_it_ends_with_the_record() {
    let server = start().await;
    server.driver.hold_creates();
    let events = told(&server, ALL, json!({"waitForReady": false})).await;
    assert_eq!(kinds(&events), ["created"]);
    let name = events[0]["podName"].as_str().unwrap();
    let (status, one) = server.get(&format!("{ALL}/{name}")).await;
    assert_eq!((status, &one["phase"], &one["isReady"]), (200, &json!("Pending"), &json!(false)));
    server.driver.release(1);
    until(async || server.get(&format!("{ALL}/{name}")).await.1["isReady"] == true).await;
}

#[tokio::test]
async fn a_failed_creation_says_why() {
    let server = start().await;
    server.driver.fail_next("create", DriverError::Exhausted("no room".into()));
    let events = told(&server, ALL, json!({})).await;
    let last = events.last().unwrap();
    assert_eq!((&last["eventType"], &last["reason"]), (&json!("failed"), &json!("no room")));
    assert_eq!(
        (&last["containerInfo"]["phase"], &last["containerInfo"]["isReady"]),
        (&json!("Failed"), &json!(false))
    );
}

#[tokio::test]
async fn a_late_one_is_told_to_be_late_and_goes_on() {
    let kata = KataConfig { ready_timeout: Duration::from_millis(50), ..KataConfig::default() };
    let server = start_with(ServerConfig { kata, ..ServerConfig::default() }, FakeDriver::default()).await;
    server.driver.hold_creates();
    let events = told(&server, ALL, json!({})).await;
    let last = events.last().unwrap();
    assert_eq!(last["eventType"], "failed");
    assert!(last["reason"].as_str().unwrap().contains("still being made"), "{last}");
    let (status, refused) = server.post("/api/kata/allocate", json!({"userId": "alice"})).await;
    assert_eq!((status, refused["code"].as_str()), (503, Some("not_ready")));
    server.driver.release(2);
    let name = last["podName"].as_str().unwrap();
    until(async || server.get(&format!("{ALL}/{name}")).await.1["isReady"] == true).await;
}

#[tokio::test]
async fn who_leaves_does_not_stop_it() {
    let server = start().await;
    server.driver.hold_creates();
    let response = server.call(Method::POST, ALL).json(&json!({})).send().await.unwrap();
    let mut body = response.bytes_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    server.driver.release(1);
    until(async || server.get(ALL).await.1[0]["isReady"] == true).await;
}

#[tokio::test]
async fn bad_bodies_are_refused_with_the_field() {
    let server = start().await;
    for (body, field) in [
        (json!({"image": "nginx:alpine"}), "image"),
        (json!({"args": ["-c", "x"]}), "args"),
        (json!({"command": "sh"}), "command"),
        (json!({"labels": {"-a": "x"}}), "labels.-a"),
        (json!({"labels": {"atoll.dev/dialect": "other"}}), "labels.atoll.dev/dialect"),
        (json!({"environmentVariables": {"A=B": "x"}}), "environmentVariables.A=B"),
        (json!({"resources": {"limits": {"memoryMi": -1}}}), "resources.limits.memoryMi"),
        (json!({"resources": {"limits": {"memoryMi": 1}}}), "resources.limits.memoryMi"),
        (json!({"resources": {"limits": {"memoryMi": 99_999_999}}}), "resources.limits.memoryMi"),
        (json!({"resources": {"limits": {"cpuMillicores": 99_999}}}), "resources.limits.cpuMillicores"),
        (json!({"resources": {"limits": {"cpuMillicores": 0}}}), "resources.limits.cpuMillicores"),
        (json!({"resources": {"limits": {"cpuMillicores": "1"}}}), "resources.limits.cpuMillicores"),
        (json!({"resources": {"requests": {"memoryMi": 0}}}), "resources.requests.memoryMi"),
        (json!({"resources": {"requests": {"memoryMi": 513}}}), "resources.requests.memoryMi"),
        (json!({"resources": {"requests": {"cpuMillicores": 1001}}}), "resources.requests.cpuMillicores"),
        (json!({"waitForReady": "yes"}), "waitForReady"),
    ] {
        let (status, refused) = server.post(ALL, body.clone()).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)), "{body}: {refused}");
    }
    assert_eq!(server.driver.count(), 0);
    let (status, _) = server.post(ALL, json!({"unknown": 1, "waitForReady": false})).await;
    assert_eq!(status, 200, "what is not known is ignored");
}

#[tokio::test]
async fn it_sees_only_its_own() {
    let server = start().await;
    let ours = create(&server, json!({})).await;
    let other = server.create().await;
    let id = ours.strip_prefix("kata-sandbox-").unwrap();
    let (_, list) = server.get(ALL).await;
    assert_eq!(list.as_array().unwrap().len(), 1);
    for name in [ours.as_str(), id] {
        assert_eq!(server.get(&format!("{ALL}/{name}")).await.1["name"], ours);
    }
    for name in [&format!("kata-sandbox-{other}"), &other, "nobody", "kata-sandbox-a1b2c3d4"] {
        let path = format!("{ALL}/{name}");
        assert_eq!(server.get(&path).await.0, 404, "{name}");
        assert_eq!(server.delete(&path).await.0, 404, "{name}");
        let (status, refused) = server.post(&format!("{path}/execute"), json!({"command": "true"})).await;
        assert_eq!((status, refused["code"].as_str()), (404, Some("not_found")), "{name}");
    }
    let stranger = server.call_as(STRANGER, Method::GET, &format!("{ALL}/{ours}"));
    assert_eq!(read(stranger.send().await.unwrap()).await.0, 404);
    let nobody = server.client.get(server.url(ALL)).send().await.unwrap();
    assert_eq!(nobody.status(), 401);
    let (_, deleted) = server.delete(&format!("{ALL}/{ours}")).await;
    let message = format!("Container {ours} deleted successfully");
    assert_eq!(deleted, json!({"success": true, "message": message, "podName": ours}));
    assert_eq!(server.get(&format!("/api/v1/sandboxes/{other}")).await.0, 200);
}

#[tokio::test]
async fn all_of_a_tenant_are_deleted() {
    let server = start().await;
    let (one, two) = (create(&server, json!({})).await, create(&server, json!({})).await);
    let theirs = server.call_as(STRANGER, Method::POST, ALL).json(&json!({})).send().await.unwrap();
    theirs.text().await.unwrap();
    let native = server.create().await;
    let (status, deleted) = server.delete(ALL).await;
    let mut names: Vec<&str> =
        deleted["deletedPods"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    names.sort_unstable();
    let mut expected = [one.as_str(), two.as_str()];
    expected.sort_unstable();
    assert_eq!((status, names), (200, expected.to_vec()));
    assert_eq!((&deleted["deletedCount"], &deleted["failedCount"]), (&json!(2), &json!(0)));
    assert_eq!(server.driver.count(), 2, "a stranger's and {native}");
    create(&server, json!({})).await;
    server.driver.fail_next("delete", DriverError::Internal("broken".into()));
    let (_, failed) = server.delete(ALL).await;
    assert_eq!((&failed["deletedCount"], &failed["failedCount"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn a_user_has_one() {
    let server = start().await;
    let ask = |user: &str| server.post("/api/kata/allocate", json!({"userId": user}));
    let (alice, again, bob) = tokio::join!(ask("alice"), ask("alice"), ask("bob@example.com"));
    assert_eq!((alice.0, again.0, bob.0), (200, 200, 200), "{alice:?}");
    assert_eq!(alice.1["name"], again.1["name"]);
    assert!(alice.1["name"] != bob.1["name"] && alice.1["isReady"] == true);
    create(&server, json!({})).await;
    let (_, status) = server.get("/api/kata/pool/status").await;
    let expected = json!({"creating": 0, "warm": 0, "allocated": 2, "manual": 1, "total": 3, "targetSize": 0,
        "readyPercentage": 0.0, "utilizationPercentage": 200.0 / 3.0, "warmCount": 0, "allocatedCount": 2,
        "totalCount": 3});
    assert_eq!(status, expected);
    for (body, field) in [(json!({}), "userId"), (json!({"userId": ""}), "userId")] {
        let (status, refused) = server.post("/api/kata/allocate", body).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)));
    }
    server.delete(&format!("{ALL}/{}", alice.1["name"].as_str().unwrap())).await;
    assert!(ask("alice").await.1["name"] != alice.1["name"], "a new one");
}

#[tokio::test]
async fn the_executor_is_a_template_that_tenants_may_replace() {
    let mut executor = KataConfig::default().executor;
    executor.memory = Some("300Mi".into());
    let kata = KataConfig { pod_name_prefix: "box".into(), executor, ..KataConfig::default() };
    let server = start_with(ServerConfig { kata, ..ServerConfig::default() }, FakeDriver::default()).await;
    let memory = async |name: &str| {
        let id = name.strip_prefix("box-").unwrap().to_owned();
        server.get(&format!("/api/v1/sandboxes/{id}")).await.1["memory"].clone()
    };
    assert_eq!(memory(&create(&server, json!({})).await).await, "300Mi");
    let (_, built_in) = server.get("/api/v1/templates/executor").await;
    assert_eq!((&built_in["version"], &built_in["spec"]["executor"]), (&json!(0), &json!(true)));
    assert_eq!(server.get("/api/v1/templates/executor?version=2").await.0, 404);
    let spec = serde_json::to_value(TemplateSpec { image: "own".into(), ..TemplateSpec::default() }).unwrap();
    let put = server.call(Method::PUT, "/api/v1/templates/executor").json(&spec).send().await.unwrap();
    assert!(put.status().is_success(), "{}", put.text().await.unwrap());
    let own = create(&server, json!({})).await;
    assert_eq!(server.get(&format!("{ALL}/{own}")).await.1["image"], "own");
    let member = server.call_as(MEMBER, Method::GET, &format!("{ALL}/{own}"));
    assert_eq!(read(member.send().await.unwrap()).await.0, 200, "the same tenant");
}

async fn with_agent() -> (Agent, Running, String) {
    let agent = Agent::start();
    let server = start_with(ServerConfig::default(), agent.driver()).await;
    let name = create(&server, json!({})).await;
    (agent, server, name)
}

#[tokio::test]
async fn commands_are_told_line_by_line() {
    let (_agent, server, name) = with_agent().await;
    let path = format!("{ALL}/{name}/execute");
    let line = "echo one; printf 'two\\nrest'; echo err >&2; exit 3";
    let events = told(&server, &path, json!({"command": line})).await;
    let pid = events[0]["pid"].as_u64().unwrap();
    let of = |stream: &str| {
        let theirs = events.iter().filter(|event| event["stream"] == stream);
        theirs.map(|event| event["data"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((of("Stdout"), of("Stderr")), (vec!["one", "two", "rest"], vec!["err"]));
    assert_eq!(keys(&events[0]), ["data", "eventType", "pid", "stream"]);
    let last = json!({"eventType": "completed", "pid": pid, "exitCode": 3, "timedOut": false});
    assert_eq!(events.last().unwrap(), &last);
    let bash = told(&server, &path, json!({"command": "echo ${BASH_VERSION:+bash} \"$0\""})).await;
    assert_eq!(bash[0]["data"], "bash /bin/bash");
}

#[tokio::test]
async fn a_command_has_its_time() {
    let (_agent, server, name) = with_agent().await;
    let path = format!("{ALL}/{name}/execute");
    let events = told(&server, &path, json!({"command": "echo begun; sleep 600", "timeoutSeconds": 1})).await;
    assert_eq!(kinds(&events), ["output", "completed"]);
    assert_eq!((&events[1]["timedOut"], &events[1]["exitCode"]), (&json!(true), &json!(137)));
    for (body, field) in [
        (json!({"command": "true", "timeoutSeconds": 0}), "timeoutSeconds"),
        (json!({"command": "true", "timeoutSeconds": 1.5}), "timeoutSeconds"),
        (json!({"command": " "}), "command"),
        (json!({}), "command"),
        (json!({"command": ["true"]}), "command"),
    ] {
        let (status, refused) = server.post(&path, body).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)));
    }
}

#[tokio::test]
async fn who_leaves_ends_the_command_and_nothing_else() {
    let (agent, server, name) = with_agent().await;
    let file = agent.path("mark");
    let command = format!("echo $$ > {file}; echo begun; sleep 600");
    let call = server.call(Method::POST, &format!("{ALL}/{name}/execute"));
    let mut body = call.json(&json!({"command": command})).send().await.unwrap().bytes_stream();
    body.next().await.unwrap().unwrap();
    let pid = std::fs::read_to_string(&file).unwrap();
    drop(body);
    until(async || !std::path::Path::new(&format!("/proc/{}", pid.trim())).exists()).await;
    assert_eq!(server.get(&format!("{ALL}/{name}")).await.1["isReady"], true);
}

#[tokio::test]
async fn an_agent_that_dies_is_told_as_an_end() {
    let (mut agent, server, name) = with_agent().await;
    let call = server.call(Method::POST, &format!("{ALL}/{name}/execute"));
    let mut body =
        call.json(&json!({"command": "echo begun; sleep 600"})).send().await.unwrap().bytes_stream();
    let mut text = String::from_utf8(body.next().await.unwrap().unwrap().to_vec()).unwrap();
    agent.kill();
    while let Some(piece) = body.next().await {
        text += std::str::from_utf8(&piece.unwrap()).unwrap();
    }
    let events: Vec<Value> = events(&text).into_iter().map(|(_, data)| data).collect();
    assert_eq!(kinds(&events), ["output", "output", "completed"], "{text}");
    assert_eq!((&events[1]["stream"], &events[2]["exitCode"]), (&json!("Stderr"), &json!(-1)));
}

#[tokio::test]
async fn a_terminal_shows_what_is_typed() {
    let (mut agent, server, name) = with_agent().await;
    let open = async |name: &str| {
        let url = format!("ws://{}{ALL}/{name}/terminal?cols=91&rows=31", server.address);
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("x-api-key", ADMIN.parse().unwrap());
        connect_async(request).await
    };
    assert!(open("nobody").await.is_err());
    let (mut socket, _) = open(&name).await.unwrap();
    let mut shown = String::new();
    let resize = json!({"type": "resize", "payload": {"cols": 50, "rows": 20}}).to_string();
    let said = [("stty size\n", "31 91"), (&resize, ""), ("stty size\n", "20 50")];
    for (typed, awaited) in said {
        socket.send(Message::text(typed)).await.unwrap();
        while !shown.contains(awaited) {
            let message = socket.next().await.unwrap().unwrap();
            assert!(message.is_binary(), "{message:?}");
            shown += std::str::from_utf8(&message.into_data()).unwrap();
        }
    }
    socket.send(Message::binary(&b"exit\n"[..])).await.unwrap();
    let close = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Close(close) => break close.unwrap(),
            message => assert!(message.is_binary(), "{message:?}"),
        }
    };
    assert_eq!(u16::from(close.code), 1000);
    agent.kill();
    let (mut socket, _) = open(&name).await.unwrap();
    let Message::Close(Some(close)) = socket.next().await.unwrap().unwrap() else { panic!("no close") };
    assert!(u16::from(close.code) == 1011 && !close.reason.is_empty(), "{close:?}");
}

#[tokio::test]
async fn the_documentation_is_where_it_is_looked_for() {
    let server = start().await;
    let page = server.client.get(server.url("/scalar/v1")).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("/docs/docs.js"));
}
