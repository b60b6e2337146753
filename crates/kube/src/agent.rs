//! What driver and operator ask an agent in a pod: whether it is there, what its sandbox uses and does, to hold its
//! processes and to let them go on. Its process and file services are not their business. Requests are signed; the pod
//! has the public key only.

use atoll_proto::sign::{RequestSigner, SIGNATURE_HEADER};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;

use crate::names::AGENT_PORT;

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody can be reached there, or the connection broke.
    #[error("the agent at {0} cannot be reached: {1}")]
    Unreachable(IpAddr, io::Error),
    /// It answered something else.
    #[error("the agent at {0} answered {1}")]
    Refused(IpAddr, StatusCode),
}

/// What an agent says of its sandbox's use (`atoll.agent.v1.ActivityResponse`): a hint, as all that it says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Activity {
    /// Milliseconds since the epoch of the last request that did something.
    #[serde(deserialize_with = "number")]
    pub last_activity_ms: u64,
    /// Sentences: what keeps it awake.
    pub awake_because: Vec<String>,
}

/// What an agent says its sandbox uses (`atoll.agent.v1.MetricsResponse`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metrics {
    /// CPU time since the start, in microseconds.
    #[serde(deserialize_with = "number")]
    pub cpu_micros: u64,
    /// Bytes of memory.
    #[serde(deserialize_with = "number")]
    pub memory_bytes: u64,
    /// Most bytes of memory so far; 0 where the kernel does not tell it.
    #[serde(deserialize_with = "number")]
    pub memory_peak_bytes: u64,
    /// Processes that were killed for want of memory.
    #[serde(deserialize_with = "number")]
    pub oom_kills: u64,
    /// Processes.
    pub pids: u64,
}

/// In protobuf's JSON, 64-bit numbers are text.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Plain(u64),
        Text(String),
    }
    match Number::deserialize(deserializer)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// Speaks to agents, as the one server that they trust.
#[derive(Clone)]
pub struct Agents {
    key: Arc<RequestSigner>,
}

impl Agents {
    /// With the platform's key.
    #[must_use]
    pub fn new(key: Arc<RequestSigner>) -> Self {
        Self { key }
    }

    /// What pods are given to check requests with, as hex.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.key.public_key_hex()
    }

    /// The proof that a request to a sandbox's agent comes from here.
    #[must_use]
    pub fn sign(&self, now_ms: u64, id: &str, method: &str, target: &str) -> String {
        self.key.sign(now_ms, id, method, target)
    }

    /// Holds every process but the agent.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn freeze(&self, address: IpAddr, id: &str) -> Result<(), AgentError> {
        self.call::<serde_json::Value>(address, id, "Freeze").await.map(drop)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn thaw(&self, address: IpAddr, id: &str) -> Result<(), AgentError> {
        self.call::<serde_json::Value>(address, id, "Thaw").await.map(drop)
    }

    /// What keeps the sandbox awake.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn activity(&self, address: IpAddr, id: &str) -> Result<Activity, AgentError> {
        self.call(address, id, "Activity").await
    }

    /// What it uses.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn metrics(&self, address: IpAddr, id: &str) -> Result<Metrics, AgentError> {
        self.call(address, id, "Metrics").await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        address: IpAddr,
        id: &str,
        name: &str,
    ) -> Result<T, AgentError> {
        let broken = |error| AgentError::Unreachable(address, error);
        let asked = tokio::time::timeout(PATIENCE, self.ask(address, id, name)).await;
        let late = |_| broken(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        let (status, body) = asked.map_err(late)?.map_err(broken)?;
        if !status.is_success() {
            return Err(AgentError::Refused(address, status));
        }
        serde_json::from_slice(&body).map_err(|error| broken(io::Error::other(error)))
    }

    async fn ask(&self, address: IpAddr, id: &str, name: &str) -> io::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(SocketAddr::new(address, AGENT_PORT)).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let target = format!("/atoll.agent.v1.Agent/{name}");
        let now = u64::try_from(Timestamp::now().as_millisecond()).map_err(io::Error::other)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(&target)
            .header("host", "agent")
            .header("content-type", "application/json")
            .header(SIGNATURE_HEADER, self.sign(now, id, "POST", &target))
            .body(Full::new(Bytes::from_static(b"{}")))
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        Ok((status, response.into_body().collect().await.map_err(io::Error::other)?.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_be_text() {
        let text = r#"{"cpuMicros":"18446744073709551615","memoryBytes":7,"pids":3,"more":1}"#;
        let metrics: Metrics = serde_json::from_str(text).unwrap();
        assert_eq!((metrics.cpu_micros, metrics.memory_bytes, metrics.pids), (u64::MAX, 7, 3));
        assert!(serde_json::from_str::<Metrics>(r#"{"cpuMicros":"x"}"#).is_err());
    }
}
