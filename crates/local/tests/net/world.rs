//! A small world for one test, inside network namespaces that end with it: a machine that plays the host, and the
//! rest of the internet behind it. Nothing leaves them, and no setting of the real machine is touched.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use atoll_core::network::{Cidr, NetworkMode, NetworkPolicy};
use atoll_core::reach::check_policy;
use atoll_local::net::{NetPlan, PlanOptions, Router, plan};
use rustix::mount::MountPropagationFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use tempfile::TempDir;

pub const WAIT: Duration = Duration::from_millis(700);

/// Addresses that the rest of the internet has; every one answers on port 80, and the host reaches them all.
pub const PUBLIC: [&str; 2] = ["203.0.113.10", "198.51.100.10"];
pub const NOT_PUBLIC: [&str; 10] = [
    "10.9.9.9",
    "172.20.0.1",
    "192.168.5.5",
    "100.64.1.1",
    "100.100.100.200",
    "169.254.169.254",
    "198.18.0.1",
    "192.0.0.192",
    "192.88.99.1",
    "168.63.129.16",
];
/// The host's own addresses, one of them public.
pub const HOST: [&str; 3] = ["192.0.2.2", "198.51.100.1", "10.77.0.1"];

/// The host's side of the test, on the thread that called `run`.
pub struct World {
    pub dir: TempDir,
    pub internet: OwnedFd,
    pub heard: Arc<Mutex<Vec<SocketAddr>>>,
}

/// Runs `test` on a thread that is the host of a new world. Everything ends with it, also when it panics: mounts
/// and links belong to its namespaces.
pub fn run(test: impl FnOnce(&World) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    if let Err(panic) = thread::spawn(move || test(&World::new())).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A sandbox's namespace, attached in a slot.
pub fn sandbox(router: &Router, slot: u32) -> OwnedFd {
    let own = new_netns();
    router.attach(slot, own.as_fd()).unwrap();
    own
}

impl World {
    /// A router for a data directory, and its plan.
    pub fn router(&self) -> (NetPlan, Router) {
        let plan = self.plan("aaaaaa");
        let router = Router::ensure(&plan).unwrap();
        (plan, router)
    }

    fn new() -> World {
        // SAFETY: a thread of its own; only its namespaces change.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .unwrap();
        let internet = new_netns();
        sh("ip link set lo up");
        sh("ip link add eth0 type veth peer name far");
        give_link("far", &internet);
        sh("ip link set eth0 up && ip addr add 192.0.2.2/24 dev eth0 && ip addr add 10.77.0.1/24 dev eth0");
        sh("ip addr add 198.51.100.1/32 dev eth0 && ip route add default via 192.0.2.1");
        let heard = Arc::new(Mutex::new(Vec::new()));
        inside(&internet, || {
            sh("ip link set lo up && ip link set far up && ip addr add 192.0.2.1/24 dev far");
            for addr in PUBLIC.iter().chain(&NOT_PUBLIC) {
                sh(&format!("ip addr add {addr}/32 dev lo"));
            }
            listen("0.0.0.0:80", Arc::default());
            hear(Arc::clone(&heard));
        });
        set("net/ipv4/ip_forward", "1");
        listen("0.0.0.0:8080", Arc::default());
        for addr in PUBLIC.iter().chain(&NOT_PUBLIC) {
            connect(addr, 80).unwrap_or_else(|err| panic!("the host cannot reach {addr}: {err}"));
        }
        World { dir: TempDir::new().unwrap(), internet, heard }
    }

    pub fn options(&self) -> PlanOptions {
        let ranges = vec!["10.192.0.0/10".parse::<Cidr>().unwrap()];
        PlanOptions { ranges, run_root: self.dir.path().into() }
    }

    pub fn plan(&self, tag: &str) -> NetPlan {
        plan(tag, &self.options()).unwrap()
    }
}

/// A policy that the driver takes.
pub fn policy(mode: NetworkMode, allow: &[&str], deny: &[&str]) -> NetworkPolicy {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let policy = NetworkPolicy::parse(mode, &list(allow), &list(deny)).unwrap();
    check_policy(&policy, true).unwrap();
    policy
}

pub fn sh(script: &str) -> String {
    let done = Command::new("sh").arg("-ec").arg(script).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

pub fn set(key: &str, value: &str) {
    fs::write(format!("/proc/sys/{key}"), value).unwrap();
}

/// A namespace with nothing in it.
pub fn new_netns() -> OwnedFd {
    let make = || {
        // SAFETY: a thread of its own; only its network namespace changes.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        own_netns()
    };
    thread::spawn(make).join().unwrap()
}

pub fn own_netns() -> OwnedFd {
    fs::File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// Runs `work` on a thread in that namespace.
pub fn inside<T: Send>(netns: impl AsFd, work: impl FnOnce() -> T + Send) -> T {
    let netns: BorrowedFd<'_> = netns.as_fd();
    thread::scope(|scope| {
        let work = || {
            rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn give_link(name: &str, netns: &OwnedFd) {
    use std::os::fd::AsRawFd;
    sh(&format!("ip link set {name} netns /proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()));
}

/// Answers each connection with the address it came from, in the caller's namespace.
pub fn listen(at: &str, seen: Arc<Mutex<Vec<SocketAddr>>>) {
    let listener = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let from = stream.peer_addr().unwrap();
            seen.lock().unwrap().push(from);
            let _ = stream.write_all(from.to_string().as_bytes());
        }
    });
}

/// Notes who sends datagrams to port 9, in the caller's namespace.
fn hear(heard: Arc<Mutex<Vec<SocketAddr>>>) {
    let socket = UdpSocket::bind("0.0.0.0:9").unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            heard.lock().unwrap().push(from);
        }
    });
}

/// Connects from the caller's namespace and reads what the listener says.
pub fn connect(addr: &str, port: u16) -> io::Result<String> {
    let addr: Ipv4Addr = addr.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((addr, port)), WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    Ok(told)
}

/// The same from inside a sandbox.
pub fn reach(sandbox: &OwnedFd, addr: &str, port: u16) -> io::Result<String> {
    inside(sandbox, || connect(addr, port))
}

pub fn assert_shut(sandbox: &OwnedFd, addr: &str, port: u16) {
    if let Ok(told) = reach(sandbox, addr, port) {
        panic!("{addr}:{port} is reachable and says {told}");
    }
}
