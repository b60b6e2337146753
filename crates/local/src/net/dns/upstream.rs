//! The host's name servers: which they are, and asking them one after another. Knows no sandbox.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::Query;
use super::{PORT, read_framed, write_framed};

/// For one server, and for all together: below the five seconds after which a resolver gives up.
const ATTEMPT: Duration = Duration::from_millis(1500);
const TOGETHER: Duration = Duration::from_millis(4500);
/// How old the knowledge of the servers may be.
const FRESH: Duration = Duration::from_secs(1);
const MAX_ANSWER: usize = 65_535;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug)]
pub(super) struct Upstream {
    resolv_conf: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    servers: Arc<[SocketAddr]>,
}

/// What tells one state of a file from another.
type Stamp = (u64, u64, i64, i64);

impl Upstream {
    pub(super) fn new(resolv_conf: &Path) -> Upstream {
        Upstream { resolv_conf: resolv_conf.into(), known: Mutex::default() }
    }

    /// The first answer of any server, each asked in turn and then once more; a failure when none gives one.
    pub(super) async fn resolve(&self, query: &Query, transport: Transport) -> Vec<u8> {
        let servers = self.servers();
        let attempts = async {
            for server in servers.iter().chain(servers.iter()) {
                if let Ok(Ok(answer)) = timeout(ATTEMPT, ask(query, *server, transport)).await {
                    return Some(answer);
                }
            }
            None
        };
        match timeout(TOGETHER, attempts).await {
            Ok(Some(answer)) => query.answer(answer),
            _ => query.failure(),
        }
    }

    /// The servers that the file names now; it is looked at once a second at most, and read when it changed.
    fn servers(&self) -> Arc<[SocketAddr]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|at| at.elapsed() > FRESH) {
            known.looked = Some(Instant::now());
            let stamp =
                fs::metadata(&self.resolv_conf).ok().map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
            if stamp != known.stamp {
                known.stamp = stamp;
                known.servers = parse(&fs::read_to_string(&self.resolv_conf).unwrap_or_default()).into();
            }
        }
        Arc::clone(&known.servers)
    }
}

async fn ask(query: &Query, server: SocketAddr, transport: Transport) -> io::Result<Vec<u8>> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let query = query.renumbered(id);
    match transport {
        Transport::Udp => ask_udp(&query, server).await,
        Transport::Tcp => ask_tcp(&query, server).await,
    }
}

/// A socket for each query: the kernel gives it a port that is hard to guess.
async fn ask_udp(query: &Query, server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query.bytes()).await?;
    let mut buffer = vec![0; MAX_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if query.is_answered_by(answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn ask_tcp(query: &Query, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, query.bytes()).await?;
    let answer = read_framed(&mut stream).await?;
    if query.is_answered_by(&answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn parse(resolv_conf: &str) -> Vec<SocketAddr> {
    const MOST: usize = 3;
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        address.parse::<IpAddr>().ok().map(|ip| SocketAddr::from((ip, PORT)))
    };
    resolv_conf.lines().filter_map(server).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_servers() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 127.0.0.53\n nameserver\t::1\nnameserver x\noptions y";
        let expected: Vec<SocketAddr> = vec!["127.0.0.53:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(parse(text), expected);
        assert_eq!(parse(&"nameserver 1.1.1.1\n".repeat(9)).len(), 3);
    }
}
