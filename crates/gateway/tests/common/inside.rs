//! What listens inside a sandbox: a server that says what it was sent, and streams in every way.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
};

/// Lets `/events` say the next thing.
pub static GO_ON: Semaphore = Semaphore::const_new(0);
/// Bytes of `/flood` that somebody took.
pub static FLOODED: AtomicU64 = AtomicU64::new(0);
/// Bytes of `/endless` that somebody took.
pub static TAKEN: AtomicU64 = AtomicU64::new(0);

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

pub async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            tokio::spawn(serve_one(listener.accept().await.unwrap().0));
        }
    });
    address
}

/// The same over TLS, with a certificate that nobody knows, for another name.
pub async fn serve_tls() -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(["elsewhere.example".into()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move { serve_one(acceptor.accept(stream).await.unwrap()).await });
        }
    });
    address
}

async fn serve_one(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades();
    let _ = serving.await;
}

fn text(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync())
}

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(match request.uri().path() {
        "/events" => events(),
        "/endless" => endless(),
        "/last" => text("and no more")
            .map_headers(|headers| headers.insert("connection", HeaderValue::from_static("close"))),
        "/trailers" => trailers(),
        "/upgrade" => upgrade(request, echo),
        "/flood" => upgrade(request, flood),
        "/process.Process/Broken" => stream_of(&[b"\0\0\0\0\x02{}"], true),
        "/process.Process/Torn" => stream_of(&[b"\0\0\0\0\x02{"], true),
        "/process.Process/Whole" => stream_of(&[b"\0\0\0\0\x02{}", b"\x02\0\0\0\x02{}"], false),
        _ => told(request).await,
    })
}

/// Messages of a stream, which then ends or breaks off.
fn stream_of(messages: &[&'static [u8]], breaks: bool) -> Answer {
    let mut frames: Vec<_> = messages.iter().map(|data| Ok(Frame::data(Bytes::from_static(data)))).collect();
    frames.extend(breaks.then(|| Err(io::Error::other("gone"))));
    // Each is sent before the next one comes.
    let frames = stream::iter(frames).then(|frame| async move {
        tokio::task::yield_now().await;
        frame
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(frames))).map_headers(|headers| {
        headers.insert("content-type", HeaderValue::from_static("application/connect+json"))
    })
}

trait MapHeaders {
    fn map_headers<T>(self, change: impl FnOnce(&mut HeaderMap) -> T) -> Self;
}

impl MapHeaders for Answer {
    fn map_headers<T>(mut self, change: impl FnOnce(&mut HeaderMap) -> T) -> Self {
        change(self.headers_mut());
        self
    }
}

/// Says what it was sent.
async fn told(request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let trailers: Vec<_> =
        body.trailers().into_iter().flatten().map(|(name, value)| shown(name.as_str(), value)).collect();
    let headers: Vec<_> = parts.headers.iter().map(|(name, value)| shown(name.as_str(), value)).collect();
    let told = json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "headers": headers,
        "trailers": trailers,
        "bytes": body.to_bytes().len(),
    });
    text(told.to_string()).map_headers(|headers| {
        headers.insert("x-inside", HeaderValue::from_static("yes"));
        headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
    })
}

fn shown(name: &str, value: &HeaderValue) -> String {
    format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
}

/// One event each time somebody lets it go on.
fn events() -> Answer {
    let events = stream::iter(0..3).then(|n| async move {
        GO_ON.acquire().await.unwrap().forget();
        Ok(Frame::data(Bytes::from(format!("data: {n}\n\n"))))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(events)))
        .map_headers(|headers| headers.insert("content-type", HeaderValue::from_static("text/event-stream")))
}

/// As much as anybody takes.
fn endless() -> Answer {
    let piece = Bytes::from(vec![7; 64 << 10]);
    let pieces = stream::repeat_with(move || {
        TAKEN.fetch_add(piece.len() as u64, Ordering::SeqCst);
        Ok(Frame::data(piece.clone()))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)))
}

fn trailers() -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    let frames = stream::iter([Ok(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))]);
    Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
        .map_headers(|headers| headers.insert("trailer", HeaderValue::from_static("x-sum")))
}

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Gives back what it gets.
async fn echo(mut stream: Upgraded) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// Sends as much as anybody takes.
async fn flood(mut stream: Upgraded) {
    while stream.write_all(&[7; 4096]).await.is_ok() {
        FLOODED.fetch_add(4096, Ordering::SeqCst);
    }
}

/// Changes to a protocol.
fn upgrade<F: Future<Output = ()> + Send>(
    request: Request<Incoming>,
    speak: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Answer {
    let Some(protocol) = request.headers().get("upgrade").cloned() else {
        let mut refused = text("upgrade");
        *refused.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return refused;
    };
    let key = request.headers().get("sec-websocket-key").cloned();
    tokio::spawn(async move {
        speak(TokioIo::new(hyper::upgrade::on(request).await.unwrap())).await;
    });
    let mut response = text("");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.map_headers(|headers| {
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        headers.insert("upgrade", protocol);
        if let Some(key) = key {
            headers.insert("sec-websocket-accept", key);
        }
    })
}
