//! The accept loop: slow peers, many peers, both protocols, TLS, and the stop.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use atoll_core::testing::FakeDriver;
use atoll_server::{Certificates, Limits, RealWorld, ServeError, ServerConfig, Tls, serve};
use common::{ADMIN, agent::Agent, ports, read, start, start_with, until};
use reqwest::{Certificate, Client, Method};
use serde_json::json;
use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn slow_peers_are_let_go() {
    let limits = Limits { header_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = start_with(ServerConfig { limits, ..ServerConfig::default() }, FakeDriver::default()).await;
    for beginning in ["", "G", "GET / HTTP/1.1\r\nhost: x\r\nx-a: ", "PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // It ends, with an answer or without: that is all that is asked.
        let _ = stream.read_to_end(&mut rest).await;
    }
    assert_eq!(server.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let server = start_with(ServerConfig { limits, ..ServerConfig::default() }, FakeDriver::default()).await;
    let idle = [
        TcpStream::connect(server.address).await.unwrap(),
        TcpStream::connect(server.address).await.unwrap(),
    ];
    let waiting = tokio::spawn(server.client.get(server.url("/healthz")).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(idle);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let server = start().await;
    let client = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let call = client.post(server.url("/api/v1/sandboxes")).header("x-api-key", ADMIN);
    let response = call.json(&json!({"image": "base"})).send().await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (reqwest::Version::HTTP_2, 201));
}

#[tokio::test]
async fn requests_finish_when_the_server_stops_and_new_ones_are_not_taken() {
    let server = start().await;
    server.driver.hold_creates();
    let call = server.call(Method::POST, "/api/v1/sandboxes").json(&json!({"image": "base"}));
    let waiting = tokio::spawn(async move { read(call.send().await.unwrap()).await });
    until(async || server.driver.count() == 1).await;
    let (address, driver) = (server.address, server.driver.clone());
    let stopping = tokio::spawn(server.stop());
    until(async || TcpStream::connect(address).await.is_err()).await;
    assert!(!stopping.is_finished());
    driver.release(1);
    assert_eq!(waiting.await.unwrap().0, 201);
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_finish_is_cut_off() {
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let agent = Agent::start();
    let server = start_with(ServerConfig { limits, ..ServerConfig::default() }, agent.driver()).await;
    let exec = format!("/api/v1/sandboxes/{}/exec", server.create().await);
    let call = server.call(Method::POST, &exec).json(&json!({"command": ["sleep", "60"]}));
    let waiting = tokio::spawn(call.send());
    until(async || agent.open.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    server.stop().await.unwrap();
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test]
async fn without_keys_it_listens_on_this_machine_only() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let config = ServerConfig { no_auth: true, ..ServerConfig::default() };
    let ports = ports(&Arc::default(), &Arc::default());
    let served = serve(config, listener, ports, Arc::new(RealWorld), std::future::pending()).await;
    assert!(matches!(served, Err(ServeError::OpenWithoutKeys(_))));
}

/// A certificate for 127.0.0.1 that signs itself; none where there is no openssl.
fn certificate(of: &str) -> Option<Tls> {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
        ])
        .args(["-subj", &format!("/CN={of}"), "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&dir)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        println!("SKIPPED: {of}: openssl is not installed");
        return None;
    }
    let read = |name| std::fs::read(dir.path().join(name)).unwrap();
    Some(Tls { certificate: read("cert.pem"), key: read("key.pem") })
}

/// What a client that trusts this certificate alone is answered, and by which protocol.
async fn asked_over(tls: &Tls, address: SocketAddr) -> Result<(u16, reqwest::Version), reqwest::Error> {
    let root = Certificate::from_pem(&tls.certificate).unwrap();
    let client = Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let url = format!("https://{address}/api/v1/sandboxes");
    let response = client.get(url).header("x-api-key", ADMIN).send().await?;
    Ok((response.status().as_u16(), response.version()))
}

#[tokio::test]
async fn tls_is_spoken_and_its_certificate_can_be_replaced() {
    let (Some(first), Some(second)) = (certificate("first"), certificate("second")) else { return };
    let certificates = Arc::new(Certificates::new(&first).unwrap());
    let config = ServerConfig { tls: Some(certificates.clone()), ..ServerConfig::default() };
    let server = start_with(config, FakeDriver::default()).await;
    let good = (200, reqwest::Version::HTTP_2);
    assert_eq!(asked_over(&first, server.address).await.unwrap(), good);
    assert!(asked_over(&second, server.address).await.is_err());
    certificates.replace(&second).unwrap();
    assert_eq!(asked_over(&second, server.address).await.unwrap(), good);
    assert!(asked_over(&first, server.address).await.is_err());
    let mixed = Tls { key: first.key, ..second.clone() };
    for bad in [
        mixed,
        Tls { certificate: Vec::new(), ..second.clone() },
        Tls { key: b"no key".to_vec(), ..second.clone() },
    ] {
        assert!(matches!(certificates.replace(&bad), Err(ServeError::Tls(_))));
        assert!(matches!(Certificates::new(&bad), Err(ServeError::Tls(_))));
    }
    assert_eq!(
        asked_over(&second, server.address).await.unwrap(),
        good,
        "what cannot be used changes nothing"
    );
}
