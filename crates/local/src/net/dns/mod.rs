//! The name forwarder: listens on the router's address in the router namespace, asks the host's own name servers
//! from the host's namespace, and hands their answers back unread. Keeps no cache and knows no names.

mod message;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{NetError, NetPlan, Router, netns};
use message::Query;
use upstream::{Transport, Upstream};

const PORT: u16 = 53;
/// Queries (and connections) that wait at once: for all, and for one sandbox.
const LIMIT: usize = 1024;
const CLIENT_LIMIT: usize = 64;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// After a failure to receive or accept, so that a lasting one costs no processor time.
const PAUSE: Duration = Duration::from_millis(50);
/// Room for bursts of many sandboxes at once.
const RECEIVE_BUFFER: usize = 4 << 20;
const MAX_UDP_QUERY: usize = 4096;

/// A forwarder that holds its sockets and does not answer yet.
#[derive(Debug)]
pub struct Forwarder {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plan: NetPlan,
    upstream: Upstream,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    each: HashMap<Ipv4Addr, usize>,
}

/// Leave to work on one query or connection; given back when dropped.
struct Pass {
    shared: Arc<Shared>,
    client: Ipv4Addr,
}

impl Forwarder {
    /// Binds the sockets. `resolv_conf` names the host's name servers and is read again when it changes. To be called
    /// inside a Tokio runtime whose threads are in the host's namespace.
    pub fn bind(router: &Router, resolv_conf: &Path) -> Result<Forwarder, NetError> {
        let address = SocketAddr::from((router.plan().gateway(), PORT));
        let sockets = netns::run_in(router.netns(), || {
            let udp = std::net::UdpSocket::bind(address)?;
            let tcp = std::net::TcpListener::bind(address)?;
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        });
        let adopt = |(udp, tcp)| Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?));
        let (udp, tcp) = sockets.and_then(adopt).map_err(|source| NetError::Listen { address, source })?;
        let shared = Shared {
            plan: router.plan().clone(),
            upstream: Upstream::new(resolv_conf),
            waiting: Mutex::default(),
        };
        Ok(Forwarder { udp: Arc::new(udp), tcp, shared: Arc::new(shared) })
    }

    /// Answers until it is dropped; what is waiting then is dropped with it.
    pub async fn run(self) {
        tokio::join!(datagrams(self.udp, &self.shared), connections(&self.tcp, &self.shared));
    }
}

async fn datagrams(socket: Arc<UdpSocket>, shared: &Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut buffer = [0; MAX_UDP_QUERY];
    loop {
        reap(&mut tasks);
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(err) => {
                failed("receive", &err).await;
                continue;
            }
        };
        let Some(query) = buffer.get(..length).and_then(Query::parse) else { continue };
        // Above the limit nothing is said: a resolver asks again.
        let Some(pass) = Pass::of(shared, from) else { continue };
        let socket = Arc::clone(&socket);
        tasks.spawn(async move {
            let answer = pass.shared.upstream.resolve(&query, Transport::Udp).await;
            // The sandbox may be gone.
            let _ = socket.send_to(&answer, from).await;
        });
    }
}

async fn connections(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut tasks = JoinSet::new();
    loop {
        reap(&mut tasks);
        match listener.accept().await {
            Ok((stream, from)) => {
                if let Some(pass) = Pass::of(shared, from) {
                    tasks.spawn(conversation(stream, pass));
                }
            }
            Err(err) => failed("accept", &err).await,
        }
    }
}

/// Answers one connection's queries in turn. Whatever ends it, ends it quietly.
async fn conversation(mut stream: TcpStream, pass: Pass) {
    while let Ok(Ok(bytes)) = timeout(IDLE, read_framed(&mut stream)).await {
        let Some(query) = Query::parse(&bytes) else { return };
        let answer = pass.shared.upstream.resolve(&query, Transport::Tcp).await;
        if !matches!(timeout(IDLE, write_framed(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let framed = [&length.to_be_bytes()[..], bytes].concat();
    stream.write_all(&framed).await
}

impl Pass {
    /// `None` for whoever is not a sandbox of this block, or has too much waiting.
    fn of(shared: &Arc<Shared>, from: SocketAddr) -> Option<Pass> {
        let IpAddr::V4(client) = from.ip() else { return None };
        shared.plan.slot_of(client)?;
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own = waiting.each.get(&client).copied().unwrap_or(0);
        if waiting.all >= LIMIT || own >= CLIENT_LIMIT {
            return None;
        }
        waiting.all += 1;
        waiting.each.insert(client, own + 1);
        Some(Pass { shared: Arc::clone(shared), client })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.all = waiting.all.saturating_sub(1);
        match waiting.each.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                waiting.each.remove(&self.client);
            }
        }
    }
}

fn reap(tasks: &mut JoinSet<()>) {
    while tasks.try_join_next().is_some() {}
}

async fn failed(what: &str, err: &io::Error) {
    tracing::warn!(%err, "the name forwarder cannot {what}");
    tokio::time::sleep(PAUSE).await;
}
