//! A gateway on a real port of this machine, in front of a driver in memory whose sandboxes are real servers.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(missing_docs, reason = "helpers of tests")]

pub mod inside;

use atoll_core::{
    address::ContentAddress,
    driver::{Driver, DriverError, Target, no_progress},
    id::SandboxId,
    key::{ApiKey, Role, hash},
    link::{Grant, LinkKey},
    sandbox::Sandbox,
    store::Store,
    testing::{FakeDriver, FakeStore, sandbox},
};
use atoll_gateway::{Config, Gateway, Limits};
use http::Response;
use http_body_util::{BodyExt, Either, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use jiff::Timestamp;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use std::{
    convert::Infallible,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

pub const ADMIN: &str = "e2b_ad";
pub const MEMBER: &str = "e2b_be";
pub const STRANGER: &str = "e2b_cf";
/// The port on which something listens inside.
pub const OPEN: u16 = 3000;
/// A port on which something listens that speaks HTTPS.
pub const TLS: u16 = 3443;

pub struct World {
    pub address: SocketAddr,
    pub driver: Arc<FakeDriver>,
    pub gateway: Gateway,
    pub client: Client,
    pub key: LinkKey,
    /// Seconds since the epoch.
    pub now: Arc<AtomicI64>,
    /// How often something inside was connected to.
    pub connects: Arc<AtomicUsize>,
    /// So often yet nothing listens.
    pub closed: Arc<AtomicUsize>,
}

pub async fn world() -> World {
    world_with(false, "http://{host}").await
}

pub async fn world_with(no_auth: bool, pattern: &str) -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (inside, over_tls) = (inside::serve().await, inside::serve_tls().await);
    let (connects, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, holding) = (connects.clone(), closed.clone());
    let driver = Arc::new(FakeDriver::new(Box::new(move |_, target| {
        let held = holding.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        match target {
            Target::Port(OPEN | TLS) | Target::Agent if !held => {
                counted.fetch_add(1, Ordering::SeqCst);
                let to = if matches!(target, Target::Port(TLS)) { over_tls } else { inside };
                let stream = std::net::TcpStream::connect(to).unwrap();
                stream.set_nonblocking(true).unwrap();
                Ok(Box::new(TcpStream::from_std(stream).unwrap()))
            }
            Target::Port(port) => Err(DriverError::PortClosed(port)),
            Target::Agent => Err(DriverError::Internal("the agent is held".into())),
        }
    })));
    let (key, now) = (LinkKey::new([7; 32]), Arc::new(AtomicI64::new(1000)));
    let config = Config {
        address: ContentAddress::new("localhost", pattern).unwrap(),
        link_key: key.clone(),
        no_auth,
        limits: Limits { tunnels: 2, key_cache_for: Duration::ZERO, ..Limits::default() },
    };
    let clock = now.clone();
    let clock = Arc::new(move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap());
    let gateway = Gateway::new(config, driver.clone(), store().await, clock);
    let address = listen(gateway.clone()).await;
    let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    World { address, driver, gateway, client, key, now, connects, closed }
}

async fn store() -> Arc<FakeStore> {
    let store = Arc::new(FakeStore::default());
    for (name, secret, tenant, role) in [
        ("admin", ADMIN, "other", Role::Admin),
        ("member", MEMBER, "default", Role::Member),
        ("stranger", STRANGER, "other", Role::Member),
    ] {
        let (id, created_at) = (name.into(), Timestamp::UNIX_EPOCH);
        let (name, tenant) = (name.into(), tenant.into());
        let key = ApiKey { id, name, tenant, role, hash: hash(secret), created_at };
        store.put_key(&key).await.unwrap();
    }
    store
}

async fn listen(gateway: Gateway) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let gateway = gateway.clone();
            tokio::spawn(async move {
                let mut http = auto::Builder::new(TokioExecutor::new());
                http.http2().enable_connect_protocol();
                let service = service_fn(move |request| answer(gateway.clone(), peer, request));
                let _ = http.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn answer(
    gateway: Gateway,
    peer: SocketAddr,
    request: hyper::Request<Incoming>,
) -> Result<Response<Either<atoll_gateway::Body, Full<bytes::Bytes>>>, Infallible> {
    Ok(match gateway.answer(peer, request) {
        ControlFlow::Break(answer) => answer.await.map(Either::Left),
        ControlFlow::Continue(_) => Response::new(Either::Right(Full::new("the API".into()))),
    })
}

impl World {
    /// Adds a running sandbox.
    pub async fn add(&self, n: u8, change: impl FnOnce(&mut Sandbox)) -> SandboxId {
        let mut it = sandbox(n);
        change(&mut it);
        self.driver.create(it, no_progress()).await.unwrap().spec.id
    }

    pub async fn private(&self) -> SandboxId {
        self.add(1, |_| ()).await
    }

    pub async fn public(&self) -> SandboxId {
        self.add(1, |it| it.spec.public = true).await
    }

    /// The host name of the open port.
    pub fn host(id: &SandboxId) -> String {
        format!("{OPEN}-{id}.localhost")
    }

    /// The host name of the agent.
    pub fn agent(id: &SandboxId) -> String {
        format!("49983-{id}.localhost")
    }

    pub fn get(&self, host: &str, path: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{path}", self.address)).header("host", host)
    }

    pub fn post(&self, host: &str, path: &str) -> RequestBuilder {
        self.client.post(format!("http://{}{path}", self.address)).header("host", host)
    }

    pub fn token(&self, id: &SandboxId, port: Option<u16>, expires: i64) -> String {
        let expires_at = Timestamp::from_second(expires).unwrap();
        self.key.sign(&Grant { id: id.clone(), port, expires_at })
    }

    pub fn connects(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }

    pub fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.gateway.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

pub async fn read(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub async fn whole(body: Incoming) -> Vec<u8> {
    body.collect().await.unwrap().to_bytes().to_vec()
}

/// Waits until `done` holds; the test's own time-out is what ends it otherwise.
pub async fn until(mut done: impl AsyncFnMut() -> bool) {
    while !done().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
