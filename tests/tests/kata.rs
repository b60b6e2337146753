//! Clients of a manager of Kata containers: the calls of its documentation, word for word, by `curl` in a shell, against a
//! server without authentication; its executor, from inside; and what goes wrong.

use anyhow::{Context, Result, bail, ensure};
use atoll_tests::{Options, Run, Server, server::wait_until, story};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::ExitCode,
};
use tokio::process::Command;
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// The port of the documented calls.
const PORT: u16 = 8668;

const CREATE: &str = r#"curl -sN -X POST http://localhost:8668/api/kata -H 'Content-Type: application/json' -d '{
  "labels": {
    "environment": "sandbox",
    "project": "test"
  },
  "environmentVariables": {
    "KEY": "value"
  },
  "command": ["/bin/sh"],
  "args": ["-c", "echo Hello && sleep 3600"],
  "resources": {
    "requests": {
      "memoryMi": 256,
      "cpuMillicores": 500
    },
    "limits": {
      "memoryMi": 1024,
      "cpuMillicores": 2000
    }
  },
  "waitForReady": true
}'"#;

fn main() -> ExitCode {
    story("kata", async |run: &mut Run| {
        let documented = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let listen = TcpListener::bind(documented).is_ok().then_some(documented);
        if listen.is_none() {
            println!("port {PORT} is taken here; the calls are made with another in its place");
        }
        let args = vec!["--no-auth".to_owned()];
        let server = Server::start(Options { args, listen, ..Options::default() }).await?;
        run.case("the_documented_calls", documented_calls(&server)).await;
        run.case("commands_are_told_line_by_line", commands(&server)).await;
        run.case("a_command_has_its_time", time_is_up(&server)).await;
        run.case("who_leaves_leaves_nothing_half_made", leaving(&server)).await;
        run.case("the_terminal", terminal(&server)).await;
        run.case("the_executor_from_inside", executor(&server)).await;
        run.case("the_executor_is_nobody_elses", walls(&server)).await;
        run.case("a_user_has_one", allocate(&server)).await;
        run.case("what_cannot_be_is_refused", refusals(&server)).await;
        run.case("health_and_documentation", documents(&server)).await;
        run.case("all_are_deleted", delete_all(&server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

/// Runs a documented call in a shell.
async fn shell(server: &Server, call: &str) -> Result<String> {
    let call = call.replace("localhost:8668", &format!("localhost:{}", server.address().port()));
    let output = Command::new("bash").args(["-c", &call]).output().await?;
    ensure!(output.status.success(), "{call}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The events of a stream: nothing but lines of data.
fn events(text: &str) -> Result<Vec<Value>> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let data = line.strip_prefix("data: ").with_context(|| format!("{line:?} is no data"))?;
            Ok(serde_json::from_str(data)?)
        })
        .collect()
}

async fn create(server: &Server) -> Result<String> {
    let call = "curl -sN -X POST http://localhost:8668/api/kata -H 'Content-Type: application/json' -d '{}'";
    let last = events(&shell(server, call).await?)?.pop().context("no event")?;
    ensure!(last["eventType"] == "ready", "{last}");
    Ok(last["podName"].as_str().context("no name")?.to_owned())
}

fn id(name: &str) -> &str {
    name.trim_start_matches("kata-sandbox-")
}

async fn execute(server: &Server, name: &str, body: Value) -> Result<Vec<Value>> {
    let request = server.http()?.request(reqwest::Method::POST, &format!("/api/kata/{name}/execute"));
    let response = request.json(&body).send().await?;
    ensure!(response.status() == 200, "{}", response.text().await?);
    events(&response.text().await?)
}

/// What a command writes to its standard output, when it ends well.
async fn output(server: &Server, name: &str, command: &str) -> Result<String> {
    let events = execute(server, name, json!({"command": command})).await?;
    let last = events.last().context("no end")?;
    ensure!(last["exitCode"] == 0, "{command}: {events:?}");
    let lines = events.iter().filter(|event| event["stream"] == "Stdout");
    Ok(lines.filter_map(|event| event["data"].as_str()).collect::<Vec<_>>().join("\n"))
}

async fn documented_calls(server: &Server) -> Result<()> {
    let events = events(&shell(server, CREATE).await?)?;
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["eventType"].as_str()).collect();
    ensure!(kinds.len() >= 4 && kinds[0] == "created" && kinds[1] == "waiting", "{kinds:?}");
    ensure!(kinds.ends_with(&["healthcheck", "ready"]), "{kinds:?}");
    let (check, ready) = (&events[events.len() - 2], &events[events.len() - 1]);
    let name = ready["podName"].as_str().context("no name")?;
    let info = &ready["containerInfo"];
    ensure!(info["podIP"].is_string() && info["podIP"] == check["podIP"], "{check} {info}");
    let node = match server.cluster() {
        Some(cluster) => cluster.get("tenant-default", "pod", id(name))?["spec"]["nodeName"].clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().into(),
    };
    ensure!(info["nodeName"] == node, "{info}");
    ensure!(ready["elapsedSeconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{ready}");
    let listed: Value =
        serde_json::from_str(&shell(server, "curl -s http://localhost:8668/api/kata").await?)?;
    ensure!(listed.as_array().is_some_and(|all| all.len() == 1) && listed[0]["name"] == name, "{listed}");
    ensure!(listed[0]["labels"]["app"] == "kata-manager" && listed[0]["labels"]["project"] == "test");
    for name in [name, id(name)] {
        let one = shell(server, &format!("curl -s http://localhost:8668/api/kata/{name}")).await?;
        let one: Value = serde_json::from_str(&one)?;
        ensure!(
            one["phase"] == "Running" && one["isReady"] == true && one["podIP"] == info["podIP"],
            "{one}"
        );
    }
    ensure!(output(server, name, "echo $KEY").await? == "value");
    let sandbox = server.client()?.sandbox(id(name)).get().await?;
    ensure!((sandbox.memory.as_str(), sandbox.cpu.as_str()) == ("1Gi", "2"), "{sandbox:?}");
    let logs = server.http()?.get(&format!("/api/v1/sandboxes/{}/logs", id(name))).await?.expect(200)?;
    ensure!(logs["logs"].as_str().is_some_and(|logs| logs.contains("Hello")), "{logs}");
    let deleted = shell(server, &format!("curl -s -X DELETE http://localhost:8668/api/kata/{name}")).await?;
    let message = format!("Container {name} deleted successfully");
    let expected = json!({"success": true, "message": message, "podName": name});
    ensure!(serde_json::from_str::<Value>(&deleted)? == expected, "{deleted}");
    gone(server, name).await
}

async fn gone(server: &Server, name: &str) -> Result<()> {
    let path = format!("/api/kata/{name}");
    wait_until("it is gone", async || Ok(server.http()?.get(&path).await?.status == 404)).await
}

async fn commands(server: &Server) -> Result<()> {
    let name = create(server).await?;
    let line = "echo ${BASH_VERSION:+bash}; id -un; printf 'no end'; echo err >&2; exit 3";
    let events = execute(server, &name, json!({"command": line, "timeoutSeconds": 300})).await?;
    let of = |stream: &str| {
        let theirs = events.iter().filter(|event| event["stream"] == stream);
        theirs.filter_map(|event| event["data"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    ensure!(of("Stdout") == ["bash", "user", "no end"] && of("Stderr") == ["err"], "{events:?}");
    let last = events.last().context("no end")?;
    let expected = json!({"eventType": "completed", "pid": last["pid"], "exitCode": 3, "timedOut": false});
    ensure!(*last == expected && last["pid"].as_u64() > Some(1), "{last}");
    let many = output(server, &name, "seq 1 100000").await?;
    ensure!(many.lines().count() == 100_000 && many.ends_with("\n100000"), "{} bytes", many.len());
    server.delete(id(&name)).await
}

async fn time_is_up(server: &Server) -> Result<()> {
    let name = create(server).await?;
    let events =
        execute(server, &name, json!({"command": "sleep 1234 & sleep 1234", "timeoutSeconds": 1})).await?;
    ensure!(events.len() == 1 && events[0]["timedOut"] == true && events[0]["exitCode"] == 137, "{events:?}");
    let left = output(server, &name, "pgrep -f 'sleep 123[4]' || true").await?;
    ensure!(left.is_empty(), "left: {left}");
    server.delete(id(&name)).await
}

async fn leaving(server: &Server) -> Result<()> {
    let http = server.http()?;
    let request = http.request(reqwest::Method::POST, "/api/kata").json(&json!({}));
    let mut body = request.send().await?.bytes_stream();
    let first = body.next().await.context("no event")??;
    drop(body);
    let created = events(std::str::from_utf8(&first)?)?;
    let name = created[0]["podName"].as_str().context("no name")?.to_owned();
    let path = format!("/api/kata/{name}");
    wait_until("it is ready", async || Ok(http.get(&path).await?.body["isReady"] == true)).await?;
    let request = http.request(reqwest::Method::POST, &format!("{path}/execute"));
    let request = request.json(&json!({"command": "echo begun; sleep 4321"}));
    let mut body = request.send().await?.bytes_stream();
    body.next().await.context("no event")??;
    drop(body);
    wait_until("the command is gone", async || {
        Ok(output(server, &name, "pgrep -f 'sleep 432[1]' || true").await?.is_empty())
    })
    .await?;
    let call = "curl -sN -X POST http://localhost:8668/api/kata -H 'Content-Type: application/json' \
                -d '{\"waitForReady\": false}'";
    let events = events(&shell(server, call).await?)?;
    ensure!(events.len() == 1 && events[0]["phase"] == "Pending", "{events:?}");
    let second = events[0]["podName"].as_str().context("no name")?;
    server.delete(id(second)).await?;
    server.delete(id(&name)).await
}

async fn terminal(server: &Server) -> Result<()> {
    let name = create(server).await?;
    let url = format!("ws://{}/api/kata/{name}/terminal", server.address());
    let (mut socket, _) = connect_async(&url).await?;
    let mut shown = String::new();
    let resize = json!({"type": "resize", "cols": 101, "rows": 41}).to_string();
    let said = [
        Message::text(resize),
        Message::text("stty size; echo $((40 + 2)) $TERM\n"),
        Message::binary(&b"tty; exit 7\n"[..]),
    ];
    for message in said {
        socket.send(message).await?;
    }
    let close = loop {
        match socket.next().await.context("no end")?? {
            Message::Binary(bytes) => shown += &String::from_utf8_lossy(&bytes),
            Message::Close(close) => break close.context("no reason")?,
            Message::Text(text) => bail!("said {text}"),
            _ => {}
        }
    };
    ensure!(u16::from(close.code) == 1000, "{close}");
    for part in ["41 101", "42 xterm", "/dev/pts/"] {
        ensure!(shown.contains(part), "{part} is not in {shown:?}");
    }
    let refused = connect_async(format!("ws://{}/api/kata/nobody/terminal", server.address())).await;
    ensure!(refused.is_err_and(|error| error.to_string().contains("404")));
    server.delete(id(&name)).await
}

/// What a program inside says to the executor, as older ones do.
const INSIDE: &str = r#"
import json, sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8666/healthz").read().decode())
body = json.dumps({"command": sys.argv[1], "timeoutSeconds": int(sys.argv[2])}).encode()
request = urllib.request.Request("http://127.0.0.1:8666/api/execute", body, {"Content-Type": "application/json"})
for line in urllib.request.urlopen(request):
    if line.strip() and not line.startswith(b":"):
        print(line.decode().strip())
"#;

async fn inside(server: &Server, name: &str, command: &str, seconds: &str) -> Result<Vec<String>> {
    let told = server.output(id(name), &["python3", "-c", INSIDE, command, seconds]).await?;
    Ok(told.lines().map(str::to_owned).collect())
}

async fn executor(server: &Server) -> Result<()> {
    let name = create(server).await?;
    let told = inside(server, &name, "id -un; echo err >&2; exit 5", "30").await?;
    ensure!(told[0] == "Healthy" && told[1] == "event: OutputEvent", "{told:?}");
    let data = |line: &str| -> Result<Value> {
        Ok(serde_json::from_str(line.strip_prefix("data: ").with_context(|| line.to_owned())?)?)
    };
    let events = told[1..].chunks(2).map(|pair| data(&pair[1])).collect::<Result<Vec<_>>>()?;
    let last = events.last().context("no end")?;
    let pid = &last["pid"];
    for (stream, text) in [("Stdout", "user"), ("Stderr", "err")] {
        let expected = json!({"$type": "OutputEvent", "pid": pid, "stream": stream, "data": text});
        ensure!(events.contains(&expected), "{events:?}");
    }
    let expected = json!({"$type": "CompletedEvent", "pid": pid, "exitCode": 5, "timedOut": false});
    ensure!(*last == expected && told[told.len() - 2] == "event: CompletedEvent", "{told:?}");
    let late = inside(server, &name, "sleep 600", "1").await?;
    ensure!(late.last().is_some_and(|line| line.contains(r#""timedOut":true"#)), "{late:?}");
    server.delete(id(&name)).await
}

/// Tries whether something listens there.
const PROBE: &str = r#"
import socket, sys
probe = socket.socket()
probe.settimeout(2)
print("open" if probe.connect_ex((sys.argv[1], 8666)) == 0 else "closed")
"#;

async fn walls(server: &Server) -> Result<()> {
    let (one, other) = (create(server).await?, create(server).await?);
    let info = server.http()?.get(&format!("/api/kata/{one}")).await?.expect(200)?;
    let address = info["podIP"].as_str().context("no address")?;
    let probe = async |id: &str, address: &str| server.output(id, &["python3", "-c", PROBE, address]).await;
    ensure!(probe(id(&one), address).await? == "open", "its own address");
    ensure!(probe(id(&other), address).await? == "closed", "another sandbox reaches it");
    let plain = server.create().await?;
    ensure!(probe(&plain.id, "127.0.0.1").await? == "closed", "a sandbox that did not ask for it");
    for id in [id(&one), id(&other), &plain.id] {
        server.delete(id).await?;
    }
    Ok(())
}

async fn allocate(server: &Server) -> Result<()> {
    server.clear().await?;
    let http = server.http()?;
    let ask = async |user: &str| http.post("/api/kata/allocate", json!({"userId": user})).await?.expect(200);
    let (one, same) = tokio::try_join!(ask("alice"), ask("alice"))?;
    let other = ask("bob@example.com").await?;
    ensure!(one["name"] == same["name"] && one["name"] != other["name"], "{one} {same} {other}");
    ensure!(one["isReady"] == true, "{one}");
    create(server).await?;
    let status = http.get("/api/kata/pool/status").await?.expect(200)?;
    let told = ["warm", "targetSize", "allocated", "manual", "total"].map(|key| status[key].as_u64());
    ensure!(told == [0, 0, 2, 1, 3].map(Some), "{status}");
    server.clear().await
}

async fn refusals(server: &Server) -> Result<()> {
    let http = server.http()?;
    for (body, field) in [
        (json!({"image": "nginx:alpine"}), "image"),
        (json!({"resources": {"limits": {"memoryMi": -5}}}), "resources.limits.memoryMi"),
        (json!({"resources": {"limits": {"memoryMi": 999_999_999}}}), "resources.limits.memoryMi"),
        (json!({"resources": {"requests": {"cpuMillicores": 1001}}}), "resources.requests.cpuMillicores"),
    ] {
        let refused = http.post("/api/kata", body).await?;
        refused.refusal(400)?;
        ensure!(refused.body["field"] == field, "{}", refused.body);
    }
    http.post("/api/kata", json!("text")).await?.refusal(400)?;
    let plain = server.create().await?;
    for name in ["nobody", &plain.id] {
        let path = format!("/api/kata/{name}");
        http.get(&path).await?.refusal(404)?;
        http.delete(&path).await?.refusal(404)?;
        http.post(&format!("{path}/execute"), json!({"command": "true"})).await?.refusal(404)?;
    }
    server.delete(&plain.id).await?;
    ensure!(http.get("/api/kata").await?.expect(200)? == json!([]));
    let done = server.cli()?.run(&["serve", "--kata-ready-timeout", "20"]).await?;
    ensure!(done.code != 0 && done.stderr.contains("--kata-ready-timeout"), "{done:?}");
    Ok(())
}

async fn documents(server: &Server) -> Result<()> {
    let code = "curl -s -o /dev/null -w '%{http_code}' http://localhost:8668";
    ensure!(shell(server, &format!("{code}/healthz")).await? == "200");
    let page = shell(server, "curl -s http://localhost:8668/scalar/v1").await?;
    ensure!(page.contains("Atoll API"), "{page}");
    let api = shell(server, "curl -s http://localhost:8668/openapi.json").await?;
    ensure!(api.contains("/api/kata/{podName}/execute"));
    Ok(())
}

async fn delete_all(server: &Server) -> Result<()> {
    let (one, two) = (create(server).await?, create(server).await?);
    let deleted = shell(server, "curl -s -X DELETE http://localhost:8668/api/kata").await?;
    let deleted: Value = serde_json::from_str(&deleted)?;
    ensure!(deleted["deletedCount"] == 2 && deleted["failedCount"] == 0, "{deleted}");
    gone(server, &one).await?;
    gone(server, &two).await
}
