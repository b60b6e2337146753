//! A real server on a free port of this machine, on a driver and a store in memory, and a client to talk to it.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(missing_docs, reason = "helpers of tests")]

pub mod agent;

use atoll_core::{
    driver::DriverError,
    key::{ApiKey, Role, hash},
    store::Store,
    testing::{FakeDriver, FakeStore},
};
use atoll_server::{Ports, RealWorld, ServeError, ServerConfig, serve};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

pub const ADMIN: &str = "e2b_ad";
pub const MEMBER: &str = "e2b_be";
pub const STRANGER: &str = "e2b_cf";

pub struct Running {
    pub address: SocketAddr,
    pub driver: Arc<FakeDriver>,
    pub store: Arc<FakeStore>,
    pub client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), ServeError>>>,
}

pub async fn start() -> Running {
    start_with(ServerConfig::default(), FakeDriver::default()).await
}

pub async fn start_with(config: ServerConfig, driver: FakeDriver) -> Running {
    let (driver, store) = (Arc::new(driver), Arc::new(FakeStore::default()));
    for (name, secret, tenant, role) in [
        ("admin", ADMIN, "default", Role::Admin),
        ("member", MEMBER, "default", Role::Member),
        ("stranger", STRANGER, "other", Role::Member),
    ] {
        let key = ApiKey {
            id: name.into(),
            name: name.into(),
            tenant: tenant.into(),
            role,
            hash: hash(secret),
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        store.put_key(&key).await.unwrap();
    }
    restart_with(config, driver, store).await
}

/// What a server stands on in these tests.
pub fn ports(driver: &Arc<FakeDriver>, store: &Arc<FakeStore>) -> Ports {
    Ports { driver: driver.clone(), store: store.clone(), templates: store.clone(), front: None }
}

pub async fn restart_with(config: ServerConfig, driver: Arc<FakeDriver>, store: Arc<FakeStore>) -> Running {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let world = Arc::new(RealWorld);
    let task = tokio::spawn(serve(config, listener, ports(&driver, &store), world, shutdown));
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
    Running { address, driver, store, client, stop: Some(stop), task: Some(task) }
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).header("x-api-key", ADMIN)
    }

    pub fn call_as(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).header("x-api-key", key)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        read(self.call(Method::GET, path).send().await.unwrap()).await
    }

    /// Whether the server is ready when the driver cannot list. The sweep of a server that begins lists too, once, and may be
    /// who meets the failure.
    pub async fn ready_without_lists(&self, failure: impl Fn() -> DriverError) -> (u16, Value) {
        let mut answer = (0, Value::Null);
        for _ in 0..2 {
            self.driver.fail_next("list", failure());
            answer = self.get("/readyz").await;
            if answer.0 != 200 {
                break;
            }
        }
        answer
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        read(self.call(Method::DELETE, path).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        read(self.call(Method::POST, path).json(&body).send().await.unwrap()).await
    }

    pub async fn create(&self) -> String {
        let (status, made) = self.post("/api/v1/sandboxes", serde_json::json!({"image": "base"})).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    pub async fn stop(mut self) -> Result<(), ServeError> {
        let _ = self.stop.take().unwrap().send(());
        self.task.take().unwrap().await.unwrap()
    }
}

pub async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Waits until `done` holds; the test's own time-out is what ends it otherwise.
pub async fn until(mut done: impl AsyncFnMut() -> bool) {
    while !done().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The events of a stream, as `(name, data)`.
pub fn events(text: &str) -> Vec<(String, Value)> {
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
    };
    let event = |block: &str| {
        let data = field(block, "data:")?;
        Some((field(block, "event:").unwrap_or_default(), serde_json::from_str(&data).unwrap()))
    };
    text.split("\n\n").filter_map(event).collect()
}
