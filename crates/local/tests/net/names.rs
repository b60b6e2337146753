//! The name forwarder, between sandboxes and a small upstream on the host's loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use atoll_core::network::NetworkMode;
use atoll_local::net::{NetPlan, Router, dns::Forwarder};
use tokio::runtime::{Builder, Runtime};

use crate::walls::wait_until;
use crate::world::*;

/// A router with its forwarder, run by a thread that belongs to the host.
struct Names {
    plan: NetPlan,
    router: Router,
    resolv_conf: PathBuf,
    _runtime: Runtime,
}

fn names(world: &World, servers: &str) -> Names {
    let plan = world.plan("aaaaaa");
    let router = Router::ensure(&plan).unwrap();
    let resolv_conf = world.dir.path().join("resolv.conf");
    fs::write(&resolv_conf, servers).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    runtime.spawn(Forwarder::bind(&router, &resolv_conf).unwrap().run());
    drop(_inside);
    Names { plan, router, resolv_conf, _runtime: runtime }
}

fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The answer to any query: 203.0.113.10.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 10]);
    bytes
}

/// An upstream in the caller's namespace. Before each true answer it sends two forged ones.
fn upstream(at: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let udp = UdpSocket::bind(at).unwrap();
    let tcp = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let mut forged = answer(query);
            forged[0] ^= 1;
            udp.send_to(&forged, from).unwrap();
            let mut other = answer(query);
            other[13] ^= 1;
            udp.send_to(&other, from).unwrap();
            udp.send_to(&answer(query), from).unwrap();
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut framed = [0; 512];
            let length = stream.read(&mut framed).unwrap();
            let answer = answer(&framed[2..length]);
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
}

fn ask_udp(server: Ipv4Addr, query: &[u8], wait: Duration) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(wait))?;
    socket.connect((server, 53))?;
    socket.send(query)?;
    let mut buffer = vec![0; 512];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn ask_tcp(server: Ipv4Addr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&(server, 53).into(), WAIT)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&(query.len() as u16).to_be_bytes())?;
    stream.write_all(query)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

const PATIENT: Duration = Duration::from_secs(8);

#[test]
fn names_resolve_over_both_transports() {
    run(|world| {
        upstream("127.0.0.1:53");
        // The first server refuses: nobody listens there.
        let names = names(world, "nameserver 127.0.0.9\nnameserver 127.0.0.1\n");
        let one = new_netns();
        names.router.attach(20, one.as_fd()).unwrap();
        let gateway = names.plan.gateway();
        let asked = query("example.org");
        inside(&one, || {
            assert_eq!(ask_udp(gateway, &asked, PATIENT).unwrap(), answer(&asked));
            assert_eq!(ask_tcp(gateway, &asked).unwrap(), answer(&asked));
        });
        assert!(ask_udp(gateway, &asked, WAIT).is_err(), "the host is not a sandbox");
    });
}

#[test]
fn without_an_upstream_the_answer_is_a_failure() {
    run(|world| {
        let names = names(world, "");
        let one = new_netns();
        names.router.attach(20, one.as_fd()).unwrap();
        let gateway = names.plan.gateway();
        let asked = query("example.org");
        let failed = |answer: Vec<u8>| answer[..2] == asked[..2] && answer[3] & 15 == 2;
        inside(&one, || {
            assert!(failed(ask_udp(gateway, &asked, PATIENT).unwrap()));
            assert!(failed(ask_tcp(gateway, &asked).unwrap()));
            assert!(ask_udp(gateway, b"not a query at all", WAIT).is_err());
        });
        // A server that refuses is the same, and one that comes later is found.
        fs::write(&names.resolv_conf, "nameserver 127.0.0.1\n").unwrap();
        assert!(failed(inside(&one, || ask_udp(gateway, &asked, PATIENT)).unwrap()));
        upstream("127.0.0.1:53");
        assert!(wait_until(|| inside(&one, || ask_udp(gateway, &asked, PATIENT).unwrap()) == answer(&asked)));
    });
}

#[test]
fn who_reaches_nothing_resolves_nothing() {
    run(|world| {
        upstream("127.0.0.1:53");
        let names = names(world, "nameserver 127.0.0.1\n");
        let one = new_netns();
        names.router.attach(20, one.as_fd()).unwrap();
        let ask = || inside(&one, || ask_udp(names.plan.gateway(), &query("a.b"), WAIT));
        names.router.set_policy(20, &policy(NetworkMode::Restricted, &[], &[])).unwrap();
        assert!(ask().is_err());
        names.router.set_policy(20, &policy(NetworkMode::Restricted, &["203.0.113.10"], &[])).unwrap();
        assert!(ask().is_ok());
    });
}

#[test]
fn one_sandbox_cannot_fill_the_forwarder() {
    run(|world| {
        let silent = UdpSocket::bind("127.0.0.1:53").unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = silent.recv_from(&mut buffer) {
                if buffer[..length].windows(4).any(|w| w == b"slow") {
                    counted.fetch_add(1, Ordering::SeqCst);
                } else {
                    silent.send_to(&answer(&buffer[..length]), from).unwrap();
                }
            }
        });
        let names = names(world, "nameserver 127.0.0.1\n");
        let (one, two) = (new_netns(), new_netns());
        names.router.attach(20, one.as_fd()).unwrap();
        names.router.attach(21, two.as_fd()).unwrap();
        let gateway = names.plan.gateway();
        inside(&one, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..500 {
                socket.send_to(&query("slow"), (gateway, 53)).unwrap();
            }
        });
        let other = inside(&two, || ask_udp(gateway, &query("quick"), PATIENT)).unwrap();
        assert_eq!(other, answer(&query("quick")));
        let seen = asked.load(Ordering::SeqCst);
        // Each of the 64 may have been asked again by now.
        assert!((1..=3 * 64).contains(&seen), "{seen} queries went upstream");
    });
}
