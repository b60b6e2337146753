//! The executor's own API, over TCP, as a program inside the sandbox meets it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::net::TcpListener;
use std::process::Stdio;

use atoll_proto::init::AgentConfig;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use support::*;
use tokio::net::TcpStream;

struct Executor {
    agent: Sandbox,
    port: u16,
}

async fn executor() -> Executor {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let agent = Sandbox::with(&AgentConfig { executor_port: Some(port), ..config() });
    agent.get("/health").await;
    Executor { agent, port }
}

impl Executor {
    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }

    async fn execute(&self, body: Value) -> Response<Incoming> {
        let request = Request::post("/api/execute").header("host", "sandbox");
        self.send(request.body(Full::new(body.to_string().into())).unwrap()).await
    }

    /// Name and data of every event.
    async fn told(&self, body: Value) -> Vec<(String, Value)> {
        let response = self.execute(body).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (status, bytes) = answer(response).await;
        assert_eq!(status, 200);
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let event = |block: &str| {
            let (name, data) = block.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name.to_owned(), serde_json::from_str(data).unwrap()))
        };
        text.split("\n\n").filter_map(event).collect()
    }
}

#[tokio::test]
async fn commands_are_told_line_by_line() {
    let executor = executor().await;
    let events = executor.told(json!({"command": "id -un; printf 'two\\nrest'; echo err >&2; exit 3"})).await;
    let pid = events[0].1["pid"].as_i64().unwrap();
    let output = |stream: &str, data: &str| {
        let event = json!({"$type": "OutputEvent", "pid": pid, "stream": stream, "data": data});
        ("OutputEvent".to_owned(), event)
    };
    for expected in
        [output("Stdout", "root"), output("Stdout", "two"), output("Stdout", "rest"), output("Stderr", "err")]
    {
        assert!(events.contains(&expected), "{expected:?} in {events:?}");
    }
    let last = json!({"$type": "CompletedEvent", "pid": pid, "exitCode": 3, "timedOut": false});
    assert_eq!(events.last().unwrap(), &("CompletedEvent".to_owned(), last));
    let environment = executor.told(json!({"command": "echo $FROM_SANDBOX ${BASH_VERSION:+bash}"})).await;
    assert_eq!(environment[0].1["data"], "yes bash");
}

#[tokio::test]
async fn a_command_has_its_time() {
    let executor = executor().await;
    let events = executor.told(json!({"command": "echo begun; sleep 600", "timeoutSeconds": 1})).await;
    assert_eq!(events[0].1["data"], "begun");
    assert_eq!((&events[1].1["timedOut"], &events[1].1["exitCode"]), (&json!(true), &json!(137)));
}

#[tokio::test]
async fn who_leaves_ends_the_command() {
    let executor = executor().await;
    let file = executor.agent.path("pid");
    let mut response =
        executor.execute(json!({"command": format!("echo $$ > {file}; echo begun; sleep 600")})).await;
    let mut text = String::new();
    while !text.contains("begun") {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    let pid = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert!(lives(pid));
    drop(response);
    eventually("the command is gone", async || !lives(pid)).await;
}

#[tokio::test]
async fn it_answers_nothing_else() {
    let executor = executor().await;
    let get = |path: &str| Request::get(path).header("host", "sandbox").body(Full::default()).unwrap();
    let (status, body) = answer(executor.send(get("/healthz")).await).await;
    assert_eq!((status, &body[..]), (200, &b"Healthy"[..]));
    for path in ["/health", "/files?path=/etc/passwd", "/api/execute", "/envs"] {
        assert_eq!(answer(executor.send(get(path)).await).await.0, 404, "{path}");
    }
    for (body, named) in [
        (json!({}), "command"),
        (json!({"command": " "}), "command"),
        (json!({"command": "true", "timeoutSeconds": -1}), "timeoutSeconds"),
        (json!("true"), "body"),
        (json!({"command": "x".repeat(300 << 10)}), "bytes"),
    ] {
        let (status, told) = answer(executor.execute(body).await).await;
        assert!(
            status == 400 && String::from_utf8_lossy(&told).contains(named),
            "{named}: {status} {told:?}"
        );
    }
    assert_eq!(executor.agent.get("/healthz").await.0, 404, "the agent's own entrance is none");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = AgentConfig { executor_port: Some(port), ..config() };
    let mut agent = Sandbox::spawn(&config, |command| {
        command.stderr(Stdio::piped());
    });
    let output = {
        use std::io::Read;
        let mut text = String::new();
        agent.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    };
    assert!(!agent.child.wait().unwrap().success() && output.contains("the executor's port"), "{output}");
}
