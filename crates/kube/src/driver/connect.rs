//! Connections into sandboxes: to the agent at the pod's address, and through it to ports, since nothing else of a pod can
//! be reached and programs may listen on loopback alone.

use atoll_core::{
    driver::{BoxStream, DriverError, Target},
    id::SandboxId,
};
use atoll_proto::sign::SIGNATURE_HEADER;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};

use super::{Inner, conflict, seen::Seen};
use crate::names::AGENT_PORT;

/// How long an agent may take to accept a connection, and to lead to a port.
const PATIENCE: Duration = Duration::from_secs(5);
/// An agent that says nothing for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

impl Inner {
    pub(super) async fn connect(&self, id: &SandboxId, target: Target) -> Result<BoxStream, DriverError> {
        let seen = self.awake(id).await?;
        self.touches.touch(id, Timestamp::now());
        let address = seen.address.ok_or_else(|| conflict(&seen, "its agent has no address"))?;
        let stream = dial(address).await.map_err(|error| unreachable(&seen, &error))?;
        match target {
            Target::Agent => Ok(Box::new(stream)),
            Target::Port(port) => self.through(&seen, stream, port).await,
        }
    }

    /// Has the agent lead to a port.
    async fn through(&self, seen: &Seen, stream: TcpStream, port: u16) -> Result<BoxStream, DriverError> {
        let path = format!("/atoll/port/{port}");
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        let signature = self.agents.sign(now, seen.id().as_str(), "GET", &path);
        // The agent itself waits as long for a program that does not accept.
        let led = timeout(PATIENCE * 2, lead(stream, &path, signature)).await;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        match led.map_err(late).and_then(|led| led).map_err(|error| unreachable(seen, &error))? {
            Ok(upgraded) => Ok(Box::new(TokioIo::new(upgraded))),
            Err(StatusCode::BAD_GATEWAY) => Err(DriverError::PortClosed(port)),
            Err(status) => Err(conflict(seen, format!("its agent answered {status} to port {port}"))),
        }
    }
}

async fn dial(address: IpAddr) -> io::Result<TcpStream> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
    let stream = timeout(PATIENCE, TcpStream::connect(SocketAddr::new(address, AGENT_PORT))).await??;
    stream.set_nodelay(true)?;
    set_socket_keepalive(&stream, true)?;
    set_tcp_keepidle(&stream, KEEPALIVE)?;
    Ok(stream)
}

/// The connection to the port, or what the agent answered instead.
async fn lead(stream: TcpStream, path: &str, signature: String) -> io::Result<Result<Upgraded, StatusCode>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(path)
        .header("host", "agent")
        .header("connection", "upgrade")
        .header("upgrade", "tcp")
        .header(SIGNATURE_HEADER, signature)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            hyper::upgrade::on(response).await.map(Ok).map_err(io::Error::other)
        }
        status => Ok(Err(status)),
    }
}

fn unreachable(seen: &Seen, error: &io::Error) -> DriverError {
    conflict(seen, format!("its agent cannot be reached: {error}"))
}
