//! The little that the driver itself asks an agent: whether it is there, and what keeps its sandbox awake. Its process and
//! file services are not the driver's business.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::{fs::File, io, os::fd::AsRawFd, path::Path, time::Duration};
use tokio::net::UnixStream;

use atoll_core::driver::{AgentSigner, BoxStream};
use atoll_proto::sign::SIGNATURE_HEADER;

/// How long an agent may take to answer before it counts as not answering.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to an agent's socket. The path goes by its directory's descriptor: an address has room for 108 bytes only.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::other("the socket's path has no directory"));
    };
    let directory = File::open(directory)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    UnixStream::connect(short).await
}

/// Returns when the agent answers.
pub async fn health(stream: BoxStream) -> io::Result<()> {
    let answer = ask(stream, Method::GET, "/health", None).await?;
    if answer.is_empty() { Ok(()) } else { Err(io::Error::other("the agent answered something else")) }
}

/// What an agent says of its sandbox's use; the fields of `atoll.agent.v1.ActivityResponse` that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Activity {
    /// Sentences: what keeps it awake.
    pub awake_because: Vec<String>,
}

/// Asks what keeps the sandbox awake.
pub async fn activity(stream: BoxStream, signer: Option<AgentSigner>) -> io::Result<Activity> {
    let answer = ask(stream, Method::POST, "/atoll.agent.v1.Agent/Activity", signer).await?;
    serde_json::from_slice(&answer).map_err(io::Error::other)
}

async fn ask(
    stream: BoxStream,
    method: Method,
    path: &str,
    signer: Option<AgentSigner>,
) -> io::Result<Bytes> {
    let asked = tokio::time::timeout(PATIENCE, send(stream, method, path, signer)).await;
    asked.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the agent does not answer"))?
}

async fn send(
    stream: BoxStream,
    method: Method,
    path: &str,
    signer: Option<AgentSigner>,
) -> io::Result<Bytes> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let body = if method == Method::POST { "{}" } else { "" };
    let mut request = Request::builder();
    if let Some(sign) = signer {
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).map_err(io::Error::other)?;
        request = request.header(SIGNATURE_HEADER, sign(now, method.as_str(), path));
    }
    let request = request
        .method(method)
        .uri(path)
        .header("host", "agent")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if !response.status().is_success() {
        return Err(io::Error::other(format!("the agent answered {}", response.status())));
    }
    Ok(response.into_body().collect().await.map_err(io::Error::other)?.to_bytes())
}
