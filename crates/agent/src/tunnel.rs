//! The way to the sandbox's ports for whoever reaches only the agent's: `GET /atoll/port/N` with `Upgrade: tcp` becomes
//! the connection itself. Only where requests are signed. It must not know what the bytes mean.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::errors::ApiError;
use crate::http::{Body, empty};

/// What comes before the number of the port.
pub const PATH: &str = "/atoll/port/";
/// What the connection becomes.
const PROTOCOL: HeaderValue = HeaderValue::from_static("tcp");
/// A program whose queue is full lets others wait; longer than this is as good as closed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A peer that says nothing for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connects to a port, loopback first, and hands the request's connection over to it.
pub async fn open(own: IpAddr, mut request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let number = request.uri().path().trim_start_matches(PATH);
    let port = number.parse().ok().filter(|port| *port != 0);
    let port: u16 = port.ok_or_else(|| ApiError::BadRequest(format!("{number:?} is no port")))?;
    if request.version() != Version::HTTP_11 || request.headers().get(UPGRADE) != Some(&PROTOCOL) {
        return Err(ApiError::BadRequest("a port is reached over HTTP/1.1 with `Upgrade: tcp`".into()));
    }
    let mut inside = dial(own, port).await.map_err(|error| refused(port, &error))?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(outside) = upgrade.await else { return };
        // Each direction ends by itself; a connection that breaks has nobody to tell.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(outside), &mut inside).await;
    });
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, PROTOCOL);
    Ok(response)
}

async fn dial(own: IpAddr, port: u16) -> io::Result<TcpStream> {
    let places = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), own];
    let places = places.map(|place| SocketAddr::new(place, port));
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(&places[..])).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn refused(port: u16, error: &io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => ApiError::PortClosed(port),
        _ => ApiError::Busy(format!("port {port} cannot be reached: {error}")),
    }
}

/// Has the kernel notice when the other end is gone without a word.
pub fn keep_alive(stream: impl AsFd) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
    // Without it a lost connection is only noticed later.
    let _ = set_socket_keepalive(&stream, true).and_then(|()| set_tcp_keepidle(&stream, KEEPALIVE));
}
