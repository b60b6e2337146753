//! Commands with input over a WebSocket, end to end against the real agent.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_server::ServerConfig;
use common::{ADMIN, Running, agent::Agent, start_with, until};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Bench {
    _agent: Agent,
    server: Running,
    one: String,
}

async fn bench() -> Bench {
    let agent = Agent::start();
    let server = start_with(ServerConfig::default(), agent.driver()).await;
    let one = format!("/api/v1/sandboxes/{}", server.create().await);
    Bench { _agent: agent, server, one }
}

impl Bench {
    async fn try_open(&self, query: &str) -> Result<Socket, Error> {
        let url = format!("ws://{}{}/exec/interactive?{query}", self.server.address, self.one);
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("x-api-key", ADMIN.parse().unwrap());
        connect_async(request).await.map(|(socket, _)| socket)
    }

    async fn open(&self, query: &str) -> Socket {
        self.try_open(query).await.unwrap()
    }

    async fn running(&self) -> usize {
        self.server.get(&format!("{}/processes", self.one)).await.1["items"].as_array().unwrap().len()
    }
}

async fn say(socket: &mut Socket, message: Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

/// Everything up to the close: text messages, and binary frames as `(stream, bytes)`.
async fn rest(socket: &mut Socket) -> (Vec<Value>, Vec<(u8, Vec<u8>)>) {
    let (mut texts, mut frames) = (Vec::new(), Vec::new());
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) => texts.push(serde_json::from_str(&text).unwrap()),
            Message::Binary(frame) => frames.push((frame[0], frame[1..].to_vec())),
            _ => {}
        }
    }
    (texts, frames)
}

fn output(texts: &[Value]) -> String {
    texts.iter().filter(|it| it["type"] == "output").map(|it| it["data"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_terminal_takes_input_sizes_and_its_end() {
    let bench = bench().await;
    let mut socket = bench.open("command=sh&tty=true&cols=91&rows=31").await;
    say(&mut socket, json!({"type": "input", "data": "stty size; echo é; stty -echo\n"})).await;
    let mut texts = Vec::new();
    while !output(&texts).contains("31 91") {
        let message = socket.next().await.unwrap().unwrap();
        texts.push(serde_json::from_str(message.to_text().unwrap()).unwrap());
    }
    say(&mut socket, json!({"type": "resize", "cols": 50, "rows": 20})).await;
    say(&mut socket, json!({"type": "input", "data": "stty size; exit 7\n"})).await;
    texts.extend(rest(&mut socket).await.0);
    assert_eq!(texts[0]["type"], "started");
    let said = output(&texts);
    assert!(said.contains("31 91") && said.contains("20 50") && said.contains('é'), "{said}");
    assert_eq!(texts.last().unwrap(), &json!({"type": "exit", "exitCode": 7}));
}

#[tokio::test]
async fn without_a_terminal_streams_stay_apart_and_input_ends() {
    let bench = bench().await;
    let mut socket = bench.open("binary=true").await;
    let start = json!({"type": "start", "command": ["sh", "-c", "cat; echo $A >&2"], "env": {"A": "err"}});
    say(&mut socket, start).await;
    socket.send(Message::binary(vec![0, 255, 1])).await.unwrap();
    say(&mut socket, json!({"type": "eof"})).await;
    let (texts, frames) = rest(&mut socket).await;
    let of = |stream: u8| {
        frames.iter().filter(|it| it.0 == stream).flat_map(|it| it.1.clone()).collect::<Vec<u8>>()
    };
    assert_eq!((of(1), of(2)), (vec![0, 255, 1], b"err\n".to_vec()));
    assert_eq!(texts.last().unwrap()["exitCode"], 0);
}

#[tokio::test]
async fn much_input_meets_much_output() {
    let bench = bench().await;
    let (mut send, mut receive) = bench.open("command=cat&tty=false&binary=true").await.split();
    let sending = tokio::spawn(async move {
        for _ in 0..160 {
            send.send(Message::binary(vec![b'x'; 64 << 10])).await.unwrap();
        }
        send.send(Message::text(r#"{"type":"eof"}"#)).await.unwrap();
        send
    });
    let mut bytes = 0;
    while let Some(Ok(message)) = receive.next().await {
        if let Message::Binary(frame) = message {
            bytes += frame.len() - 1;
        }
    }
    drop(sending.await.unwrap());
    assert_eq!(bytes, 160 * (64 << 10));
}

#[tokio::test]
async fn signals_time_outs_and_missing_programs_are_told() {
    let bench = bench().await;
    let mut socket = bench.open("command=sleep%2060&tty=false").await;
    until(async || bench.running().await == 1).await;
    say(&mut socket, json!({"type": "signal", "signal": 15})).await;
    assert_eq!(
        rest(&mut socket).await.0.last().unwrap(),
        &json!({"type": "exit", "exitCode": 143, "signal": 15})
    );

    let mut socket = bench.open("").await;
    say(&mut socket, json!({"type": "start", "command": ["sleep", "60"], "timeout": 0.2})).await;
    assert_eq!(rest(&mut socket).await.0.last().unwrap()["timedOut"], true);

    let mut socket = bench.open("command=no-such-program").await;
    let (texts, _) = rest(&mut socket).await;
    assert!(output(&texts).contains("no-such-program"));
    assert_eq!(texts.last().unwrap()["exitCode"], 127);

    let mut socket = bench.open("").await;
    say(&mut socket, json!({"type": "start", "command": []})).await;
    let (texts, _) = rest(&mut socket).await;
    assert_eq!((&texts[0]["type"], &texts[0]["code"]), (&json!("error"), &json!("invalid")));

    let mut socket = bench.open("").await;
    say(&mut socket, json!({"type": "input", "data": "too soon"})).await;
    assert_eq!(rest(&mut socket).await.0[0]["type"], "error");
}

#[tokio::test]
async fn a_lost_client_ends_the_command() {
    let bench = bench().await;
    for tty in ["true", "false"] {
        let socket = bench
            .open(&format!("command=sh&command=-c&command=trap%20%27%27%20HUP;sleep%2060&tty={tty}"))
            .await;
        until(async || bench.running().await == 1).await;
        drop(socket);
        until(async || bench.running().await == 0).await;
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_before_the_upgrade() {
    let bench = bench().await;
    let status = |error: Error| match error {
        Error::Http(response) => response.status().as_u16(),
        other => unreachable!("{other}"),
    };
    assert_eq!(status(bench.try_open("cols=many&command=sh").await.unwrap_err()), 400);
    bench.server.delete(&bench.one).await;
    assert_eq!(status(bench.try_open("command=sh").await.unwrap_err()), 404);
}
