//! Commands over HTTP, end to end against the real agent.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_server::{Limits, ServerConfig};
use common::{MEMBER, Running, agent::Agent, events, read, start_with, until};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

struct Bench {
    agent: Agent,
    server: Running,
    exec: String,
    one: String,
}

async fn bench() -> Bench {
    bench_with(Limits::default()).await
}

async fn bench_with(limits: Limits) -> Bench {
    let agent = Agent::start();
    let server = start_with(ServerConfig { limits, ..ServerConfig::default() }, agent.driver()).await;
    let one = format!("/api/v1/sandboxes/{}", server.create().await);
    Bench { agent, server, exec: format!("{one}/exec"), one }
}

impl Bench {
    async fn exec(&self, ask: Value) -> (u16, Value) {
        self.server.post(&self.exec, ask).await
    }

    async fn sh(&self, script: &str) -> Value {
        let (status, answer) = self.exec(json!({"command": ["sh", "-c", script]})).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn stream(&self, ask: Value) -> Vec<(String, Value)> {
        let call = self.server.call(Method::POST, &self.exec).header("accept", "text/event-stream");
        events(&call.json(&ask).send().await.unwrap().text().await.unwrap())
    }
}

#[tokio::test]
async fn a_command_runs_to_its_end() {
    let bench = bench().await;
    let answer = bench.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!(
        (&answer["exit_code"], &answer["stdout"], &answer["stderr"]),
        (&json!(3), &json!("out\n"), &json!("err\n"))
    );
    assert!(answer["pid"].as_u64().unwrap() > 0);
    assert_eq!(answer["timed_out"], false);
    let ask = json!({"command": ["sh", "-c", "echo $A; pwd; cat"], "env": {"A": "b c"}, "workdir": "/usr", "stdin": "in"});
    assert_eq!(bench.exec(ask).await.1["stdout"], "b c\n/usr\nin");
    let killed = bench.sh("kill -TERM $$").await;
    assert_eq!((&killed["exit_code"], &killed["signal"]), (&json!(143), &json!(15)));
}

#[tokio::test]
async fn bytes_come_through_exactly_when_asked_for() {
    let bench = bench().await;
    let ask = json!({"command": ["cat"], "stdin": "/wD+gA==", "encoding": "base64"});
    assert_eq!(bench.exec(ask).await.1["stdout"], "/wD+gA==");
    let ask = json!({"command": ["printf", "\\377a"]});
    assert_eq!(bench.exec(ask).await.1["stdout"], "\u{fffd}a");
    let (status, refused) = bench.exec(json!({"command": ["cat"], "stdin": "?", "encoding": "base64"})).await;
    assert_eq!((status, refused["field"].as_str()), (400, Some("stdin")));
}

#[tokio::test]
async fn what_cannot_run_ends_as_in_a_shell() {
    let bench = bench().await;
    let (status, missing) = bench.exec(json!({"command": ["no-such-program"]})).await;
    assert_eq!((status, &missing["exit_code"], &missing["pid"]), (200, &json!(127), &json!(0)));
    assert!(missing["stderr"].as_str().unwrap().contains("no-such-program"));
    std::fs::write(bench.agent.path("data"), "no program").unwrap();
    let (status, denied) = bench.exec(json!({"command": [bench.agent.path("data")]})).await;
    assert_eq!((status, &denied["exit_code"]), (200, &json!(126)), "{denied}");
    let names: Vec<_> = bench
        .stream(json!({"command": ["no-such-program"]}))
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["stderr", "exit"]);
}

#[tokio::test]
async fn each_refusal_says_why() {
    let bench = bench().await;
    for (ask, field) in [
        (json!({}), "command"),
        (json!({"command": []}), "command"),
        (json!({"command": [""]}), "command"),
        (json!({"command": ["a\0b"]}), "command"),
        (json!({"command": "ls"}), "command"),
        (json!({"command": ["true"], "timeout": 0}), "timeout"),
        (json!({"command": ["true"], "timeout": -1}), "timeout"),
        (json!({"command": ["true"], "timeout": 1e300}), "timeout"),
        (json!({"command": ["true"], "env": {"A=B": ""}}), "env.A=B"),
        (json!({"command": ["true"], "user": "nobody-here"}), "user"),
        (json!({"command": ["true"], "cwd": "/"}), "cwd"),
    ] {
        let (status, refused) = bench.exec(ask.clone()).await;
        assert_eq!((status, refused["field"].as_str()), (400, Some(field)), "{ask}: {refused}");
    }
    let (status, refused) = bench.exec(json!({"command": ["true"], "workdir": "/no/such"})).await;
    assert_eq!((status, refused["code"].as_str()), (400, Some("invalid")), "{refused}");
    let mut many = vec!["x".repeat(1000); 5000];
    many[0] = "true".into();
    for command in [json!(["echo", "x".repeat(10 << 20)]), json!(many)] {
        let (status, refused) = bench.exec(json!({"command": command})).await;
        assert_eq!((status, refused["code"].as_str()), (400, Some("argument_list_too_long")), "{refused}");
    }
    let (status, refused) = bench.exec(json!({"command": ["echo", "x".repeat(17 << 20)]})).await;
    assert_eq!((status, refused["code"].as_str()), (413, Some("too_large")));
    let (status, _) =
        bench.server.post("/api/v1/sandboxes/inowhere/exec", json!({"command": ["true"]})).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_timeout_kills_the_whole_group() {
    let bench = bench().await;
    let mark = bench.agent.path("mark");
    let script = format!("trap '' TERM; (trap '' TERM; sleep 2; touch {mark}) & sleep 60");
    let (status, answer) = bench.exec(json!({"command": ["sh", "-c", script], "timeout": 0.3})).await;
    assert_eq!((status, &answer["timed_out"], &answer["signal"]), (200, &json!(true), &json!(9)), "{answer}");
    assert_eq!(bench.server.get(&format!("{}/processes", bench.one)).await.1["items"], json!([]));
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(!std::path::Path::new(&mark).exists());
}

#[tokio::test]
async fn output_beyond_the_limit_is_left_out_and_said_so() {
    let bench = bench_with(Limits { exec_output: 1000, ..Limits::default() }).await;
    let answer = bench.sh("head -c 1000 /dev/zero | tr '\\0' a; printf b >&2").await;
    assert_eq!(
        (answer["truncated"].as_bool(), answer["stdout"].as_str().unwrap().len()),
        (Some(false), 1000)
    );
    let answer = bench.sh("head -c 1001 /dev/zero | tr '\\0' a; printf b >&2").await;
    assert_eq!((answer["truncated"].as_bool(), answer["stdout"].as_str().unwrap().len()), (Some(true), 1000));
    assert_eq!(answer["stderr"], "b");
}

#[tokio::test]
async fn a_stream_tells_everything_in_order() {
    let bench = bench().await;
    let all = bench.stream(json!({"command": ["sh", "-c", "echo a; sleep 0.1; echo b >&2; exit 4"]})).await;
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["started", "stdout", "stderr", "exit"]);
    assert_eq!(
        (&all[1].1["data"], &all[2].1["data"], &all[3].1["exit_code"]),
        (&json!("a\n"), &json!("b\n"), &json!(4))
    );
    let large =
        bench.stream(json!({"command": ["head", "-c", "10000000", "/dev/zero"], "encoding": "base64"})).await;
    let bytes: usize =
        large.iter().filter(|(name, _)| name == "stdout").map(|(_, it)| unpadded(&it["data"])).sum();
    assert_eq!(bytes, 10_000_000);
}

/// How many bytes base64 text stands for.
fn unpadded(text: &Value) -> usize {
    let text = text.as_str().unwrap();
    text.len() / 4 * 3 - text.bytes().rev().take_while(|byte| *byte == b'=').count()
}

#[tokio::test]
async fn a_caller_who_leaves_ends_the_command_unless_it_is_detached() {
    let bench = bench().await;
    let processes = format!("{}/processes", bench.one);
    let running = async || bench.server.get(&processes).await.1["items"].as_array().unwrap().len();
    for accept in ["application/json", "text/event-stream"] {
        let call = bench.server.call(Method::POST, &bench.exec).header("accept", accept);
        let call =
            call.json(&json!({"command": ["sh", "-c", "trap '' TERM HUP; sleep 60 & wait; sleep 60"]}));
        let waiting = tokio::spawn(async move {
            let mut response = call.send().await.unwrap();
            while response.chunk().await.unwrap().is_some() {}
        });
        until(async || running().await == 1).await;
        waiting.abort();
        until(async || running().await == 0).await;
    }
    let (status, answer) = bench.exec(json!({"command": ["sleep", "60"], "detached": true})).await;
    assert_eq!((status, answer["exit_code"].as_i64()), (200, Some(0)));
    let pid = answer["pid"].as_u64().unwrap();
    let (_, list) = bench.server.get(&processes).await;
    assert_eq!(list["items"], json!([{"pid": pid, "command": ["sleep", "60"]}]));
    assert_eq!(bench.server.delete(&format!("{processes}/{pid}?signal=999")).await.0, 400);
    assert_eq!(bench.server.delete(&format!("{processes}/{pid}?signal=9")).await.0, 204);
    until(async || running().await == 0).await;
    assert_eq!(bench.server.delete(&format!("{processes}/{pid}")).await.0, 404);
    assert_eq!(bench.server.delete(&format!("{processes}/x")).await.0, 400);
}

#[tokio::test]
async fn an_idle_sandbox_costs_no_connection_and_a_long_command_keeps_its_own() {
    let limits = Limits { agent_idle_for: std::time::Duration::from_millis(200), ..Limits::default() };
    let bench = bench_with(limits).await;
    bench.sh("true").await;
    bench.sh("true").await;
    assert_eq!(bench.agent.open.load(Ordering::SeqCst), 1, "calls share a connection");
    until(async || bench.agent.open.load(Ordering::SeqCst) == 0).await;
    let answer = bench.sh("sleep 1; echo still here").await;
    assert_eq!(answer["stdout"], "still here\n");
    until(async || bench.agent.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_paused_sandbox_wakes_and_a_dead_agent_is_said_so() {
    let mut bench = bench().await;
    bench.sh("true").await;
    bench.server.post(&format!("{}/pause", bench.one), json!({})).await;
    assert_eq!(bench.sh("echo awake").await["stdout"], "awake\n");
    assert_eq!(bench.server.get(&bench.one).await.1["phase"], "running");
    let call = bench.server.call(Method::POST, &bench.exec).json(&json!({"command": ["sleep", "60"]}));
    let waiting = tokio::spawn(async move { read(call.send().await.unwrap()).await });
    let processes = format!("{}/processes", bench.one);
    until(async || {
        bench.server.get(&processes).await.1["items"].as_array().is_some_and(|all| !all.is_empty())
    })
    .await;
    bench.agent.kill();
    let (status, lost) = waiting.await.unwrap();
    assert_eq!((status, lost["code"].as_str()), (502, Some("agent_unreachable")), "{lost}");
    assert!(bench.exec(json!({"command": ["true"]})).await.0 >= 500);
}

#[tokio::test]
async fn a_member_of_another_tenant_cannot_run_anything() {
    let bench = bench().await;
    let mine = bench.server.call_as(MEMBER, Method::POST, &bench.exec).json(&json!({"command": ["true"]}));
    assert_eq!(mine.send().await.unwrap().status(), 200);
    let theirs =
        bench.server.call_as(common::STRANGER, Method::POST, &bench.exec).json(&json!({"command": ["true"]}));
    assert_eq!(theirs.send().await.unwrap().status(), 404);
}
