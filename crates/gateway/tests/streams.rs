//! Bodies, tunnels and connections: nothing is kept back, nothing is kept, and what rests wakes.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::{
    driver::{Driver, DriverError},
    id::SandboxId,
    phase::Phase,
    sandbox::Reason,
};
use common::{World, inside, read, until, whole, world};
use futures::{SinkExt, StreamExt, TryStreamExt};
use http::{Request, header};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{body::Frame, client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{convert::Infallible, sync::atomic::Ordering};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest, protocol::Role};

fn why() -> Reason {
    Reason::new("requested", "a test wants it")
}

async fn phase(world: &World, id: &SandboxId) -> Phase {
    world.driver.get(id).await.unwrap().phase
}

type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Infallible>;

/// A connection of HTTP/2 to the gateway, as browsers make one.
async fn http2_connection(world: &World) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn http2_request(id: &SandboxId, path: &str) -> http::request::Builder {
    Request::builder().uri(format!("http://{}{path}", World::host(id)))
}

#[tokio::test]
async fn events_come_as_they_are_sent() {
    let world = world().await;
    let id = world.public().await;
    let mut events = world.get(&World::host(&id), "/events").send().await.unwrap().bytes_stream();
    for n in 0..3 {
        // The next is sent only now; anything that waited for more would wait for ever.
        inside::GO_ON.add_permits(1);
        assert_eq!(events.try_next().await.unwrap().unwrap(), format!("data: {n}\n\n"));
    }
    assert_eq!(events.try_next().await.unwrap(), None);
}

#[tokio::test]
async fn whoever_does_not_read_holds_back_whoever_sends() {
    let world = world().await;
    let id = world.public().await;
    let response = world.get(&World::host(&id), "/endless").send().await.unwrap();
    let mut before = 0;
    until(async || {
        let now = inside::TAKEN.load(Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        now > 0 && now == std::mem::replace(&mut before, now)
    })
    .await;
    assert!(before < 64 << 20, "{before} bytes are on their way");
    drop(response);
    until(async || world.metrics().contains("gateway_open 0")).await;
}

#[tokio::test]
async fn a_websocket_that_never_reads_holds_back_its_sender_and_nobody_else() {
    let world = world().await;
    let id = world.public().await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "GET /flood HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        World::host(&id)
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut before = 0;
    until(async || {
        let now = inside::FLOODED.load(Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        now > 0 && now == std::mem::replace(&mut before, now)
    })
    .await;
    assert!(before < 64 << 20, "{before} bytes are on their way");
    assert_eq!(read(world.get(&World::host(&id), "/")).await.0, 200);
    drop(socket);
    until(async || world.metrics().contains("gateway_open 0")).await;
}

#[tokio::test]
async fn bodies_that_trickle_hold_nobody_else_back() {
    let world = world().await;
    let id = world.public().await;
    let mut slow = Vec::new();
    for host in [World::host(&id), World::agent(&id)].iter().cycle().take(40) {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        let token = world.key.agent_token(&id);
        let head = format!(
            "POST /files HTTP/1.1\r\nhost: {host}\r\nx-access-token: {token}\r\ncontent-length: 1000\r\n\r\nx"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        slow.push(socket);
    }
    until(async || world.metrics().contains("gateway_open 40")).await;
    assert_eq!(read(world.get(&World::host(&id), "/")).await.0, 200);
    drop(slow);
    until(async || world.metrics().contains("gateway_open 0")).await;
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let world = world().await;
    let id = world.public().await;
    let mut sender = http2_connection(&world).await;
    let request = http2_request(&id, "/trailers").header("te", "trailers");
    let response = sender.send_request(request.body(Empty::new().boxed_unsync()).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "42");
    assert_eq!(body.to_bytes(), "body");

    let trailers =
        http::HeaderMap::from_iter([(header::HeaderName::from_static("x-sent"), "1".parse().unwrap())]);
    let frames = [Ok(Frame::data(bytes::Bytes::from("abc"))), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    let request = http2_request(&id, "/").method("POST").header("trailer", "x-sent");
    let response = sender.send_request(request.body(body).unwrap()).await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&whole(response.into_body()).await).unwrap();
    assert_eq!((&told["bytes"], &told["trailers"][0]), (&3.into(), &"x-sent: 1".into()), "{told}");
}

#[tokio::test]
async fn http_2_becomes_http_1_with_one_cookie_header() {
    let world = world().await;
    let id = world.public().await;
    let mut sender = http2_connection(&world).await;
    let request = http2_request(&id, "/x?y").header("cookie", "a=1").header("cookie", "b=2");
    let response = sender.send_request(request.body(Empty::new().boxed_unsync()).unwrap()).await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&whole(response.into_body()).await).unwrap();
    assert_eq!(told["uri"], "/x?y");
    let text = told["headers"].to_string();
    assert!(
        text.contains("cookie: a=1; b=2") && text.contains(&format!("host: {}", World::host(&id))),
        "{text}"
    );
}

#[tokio::test]
async fn websockets_pass_over_http_1() {
    let world = world().await;
    let id = world.public().await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let mut request = format!("ws://{}/upgrade", World::host(&id)).into_client_request().unwrap();
    // What is inside gives the key back as it is; only the raw stream is of interest here.
    let key = request.headers().get("sec-websocket-key").cloned();
    request.headers_mut().insert("x-key", key.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut response = sender.send_request(request.map(|()| Empty::<bytes::Bytes>::new())).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    drop(stream);
    until(async || world.metrics().contains("gateway_open 0")).await;
}

/// A WebSocket's stream over HTTP/2 (RFC 8441).
async fn extended_connect(
    world: &World,
    id: &SandboxId,
    path: &str,
) -> http::Response<hyper::body::Incoming> {
    let mut sender = http2_connection(world).await;
    let request = http2_request(id, path).method("CONNECT").header("sec-websocket-version", "13");
    let mut request = request.body(Empty::new().boxed_unsync()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    sender.ready().await.unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn websockets_pass_over_http_2() {
    let world = world().await;
    let id = world.public().await;
    let mut response = extended_connect(&world, &id, "/upgrade").await;
    assert_eq!(response.status(), 200);
    let stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    socket.send(Message::text("hello")).await.unwrap();
    // What is inside gives bytes back, and so a masked frame, which no client takes: that it came is enough.
    assert!(socket.next().await.unwrap().is_err());
    let refused = extended_connect(&world, &id, "/trailers").await;
    assert_eq!(refused.status(), 502, "an ordinary answer opens no tunnel");
}

#[tokio::test]
async fn more_tunnels_than_allowed_are_refused() {
    let world = world().await;
    let id = world.public().await;
    let open = async || {
        let request = world.get(&World::host(&id), "/upgrade").header("connection", "upgrade");
        request.header("upgrade", "anything").send().await.unwrap()
    };
    let (one, two, three) = (open().await, open().await, open().await);
    assert_eq!([one.status(), two.status(), three.status()].map(|it| it.as_u16()), [101, 101, 503]);
    drop((one.upgrade().await.unwrap(), two));
    until(async || open().await.status() == 101).await;
}

#[tokio::test]
async fn connections_are_used_again_where_that_does_no_harm() {
    let world = world().await;
    let id = world.public().await;
    let host = World::host(&id);
    for _ in 0..3 {
        read(world.get(&host, "/")).await;
    }
    until(async || {
        let before = world.connects();
        read(world.get(&host, "/")).await;
        world.connects() == before
    })
    .await;
    let before = world.connects();
    read(world.post(&host, "/").body("x")).await;
    assert_eq!(world.connects(), before + 1, "what cannot be repeated gets a connection of its own");
}

#[tokio::test]
async fn what_carried_a_body_is_not_used_again() {
    let world = world().await;
    let id = world.public().await;
    let host = World::host(&id);
    for _ in 0..5 {
        assert_eq!(read(world.get(&host, "/").body("GET /other HTTP/1.1\r\n\r\n")).await.0, 200);
        assert_eq!(read(world.post(&host, "/").body("x")).await.0, 200);
    }
    assert_eq!(read(world.get(&host, "/")).await.0, 200);
    assert_eq!(world.connects(), 11, "whoever did not read a body would take it for another request");
}

#[tokio::test]
async fn a_connection_that_the_sandbox_closed_is_not_used() {
    let world = world().await;
    let id = world.public().await;
    for _ in 0..10 {
        assert_eq!(read(world.get(&World::host(&id), "/last")).await.0, 200);
    }
    assert_eq!(world.connects(), 10);
}

#[tokio::test]
async fn a_request_wakes_what_rests() {
    let world = world().await;
    let id = world.public().await;
    let host = World::host(&id);
    assert_eq!(read(world.get(&host, "/")).await.0, 200, "leaves a connection that waits");
    world.driver.pause(&id, why()).await.unwrap();
    assert_eq!(read(world.get(&host, "/")).await.0, 200);
    assert_eq!((phase(&world, &id).await, world.connects()), (Phase::Running, 2));
    world.driver.stop(&id, why()).await.unwrap();
    world.closed.store(3, Ordering::SeqCst);
    assert_eq!(read(world.get(&host, "/")).await.0, 200, "waits until something listens");
    world.closed.store(1, Ordering::SeqCst);
    let (status, told) = read(world.post(&host, "/")).await;
    assert_eq!((status, &told["code"]), (502, &"port_closed".into()), "one that runs is not waited for");
}

#[tokio::test]
async fn what_cannot_be_woken_says_why() {
    let world = world().await;
    let id = world.public().await;
    let problem = "the machine has no room".to_owned();
    world.driver.fail_next("connect", DriverError::Exhausted(problem.clone()));
    let (status, told) = read(world.get(&World::host(&id), "/")).await;
    assert_eq!((status, &told["code"]), (503, &"cannot_wake".into()));
    assert!(told["error"].as_str().unwrap().contains(&problem), "{told}");
    world.driver.fail_next("connect", DriverError::NotFound("it".into()));
    let (status, told) = read(world.get(&World::host(&id), "/")).await;
    assert_eq!((status, &told["code"]), (502, &502.into()), "it went meanwhile");
    world.driver.fail_next("connect", DriverError::Internal("/secret".into()));
    let (status, told) = read(world.get(&World::host(&id), "/")).await;
    assert!(status == 500 && !told.to_string().contains("secret"), "{told}");
}

#[tokio::test]
async fn bytes_to_a_frozen_sandbox_wake_it() {
    let world = world().await;
    let id = world.public().await;
    let request = world.get(&World::host(&id), "/upgrade").header("connection", "upgrade");
    let response = request.header("upgrade", "anything").send().await.unwrap();
    let mut stream = response.upgrade().await.unwrap();
    world.driver.pause(&id, why()).await.unwrap();
    world.now.store(1234, Ordering::SeqCst);
    until(async || {
        stream.write_all(b"x").await.unwrap();
        phase(&world, &id).await == Phase::Running
    })
    .await;
    assert_eq!(world.driver.get(&id).await.unwrap().last_activity.as_second(), 1234);
}

#[tokio::test]
async fn every_request_is_use() {
    let world = world().await;
    let id = world.public().await;
    read(world.get(&World::host(&id), "/")).await;
    assert_eq!(world.driver.get(&id).await.unwrap().last_activity.as_second(), 1000);
}

#[tokio::test]
async fn a_connect_without_a_protocol_is_refused() {
    let world = world().await;
    let id = world.public().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let line = format!("CONNECT {}:80 HTTP/1.1\r\nhost: {}\r\n\r\n", World::host(&id), World::host(&id));
    stream.write_all(line.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 400");
}

#[tokio::test]
async fn what_comes_after_a_refusal_is_read_and_the_connection_goes_on() {
    let world = world().await;
    let id = world.private().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let refused = |end: &str| format!("POST /files HTTP/1.1\r\nhost: {}\r\n{end}", World::agent(&id));
    let read = async |stream: &mut TcpStream| {
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).await.unwrap();
            assert_ne!(length, 0, "the connection was closed after {text}");
            text += str::from_utf8(&piece[..length]).unwrap();
        }
        text
    };
    stream.write_all(refused("transfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    assert!(read(&mut stream).await.starts_with("HTTP/1.1 401"));
    // The client has not heard it yet, and sends what it wanted to send.
    for _ in 0..100 {
        stream.write_all(format!("1000\r\n{}\r\n", "x".repeat(4096)).as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    stream.write_all(refused("content-length: 0\r\n\r\n").as_bytes()).await.unwrap();
    assert!(read(&mut stream).await.starts_with("HTTP/1.1 401"));
}
