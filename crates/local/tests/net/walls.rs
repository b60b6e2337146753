//! What a sandbox can and cannot reach.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use atoll_core::network::{NetworkMode, NetworkPolicy};
use atoll_local::net::{Router, attach_none, enable_forwarding, forwarding, of_process};

use crate::world::*;

#[test]
fn the_internet_is_reachable_and_nothing_else() {
    run(|world| {
        let (plan, router) = world.router();
        let (one, two) = (sandbox(&router, 20), sandbox(&router, 21));
        for addr in PUBLIC {
            let seen = reach(&one, addr, 80).unwrap();
            assert!(seen.starts_with("192.0.2.2:"), "{addr} saw {seen}, not the host's own address");
        }
        for addr in NOT_PUBLIC {
            assert_shut(&one, addr, 80);
        }
        let own = [plan.gateway(), plan.host_address(), plan.router_address()].map(|a| a.to_string());
        for addr in HOST.iter().copied().chain(own.iter().map(String::as_str)) {
            assert_shut(&one, addr, 8080);
        }
        let neighbour = plan.address(21).to_string();
        inside(&two, || listen("0.0.0.0:8080", Default::default()));
        assert_eq!(connect_own(&two, &neighbour), Some(()));
        assert_shut(&one, &neighbour, 8080);
        Router::destroy(&plan).unwrap();
        assert!(reach(&one, PUBLIC[0], 80).is_err());
    });
}

fn connect_own(sandbox: &std::os::fd::OwnedFd, addr: &str) -> Option<()> {
    reach(sandbox, addr, 8080).ok().map(|_| ())
}

#[test]
fn a_refused_connection_fails_at_once_and_says_so() {
    run(|world| {
        let (_, router) = world.router();
        let one = sandbox(&router, 20);
        for addr in ["10.9.9.9", "169.254.169.254", "10.77.0.1"] {
            for _ in 0..20 {
                let err = reach(&one, addr, 80).unwrap_err();
                assert_eq!(err.raw_os_error(), Some(libc::EHOSTUNREACH), "{addr}: {err}");
            }
        }
    });
}

#[test]
fn two_networks_side_by_side_do_not_meet() {
    run(|world| {
        let (a, b) = (world.plan("aaaaaa"), world.plan("bbbbbb"));
        assert!(a.block != b.block && !a.block.contains(b.block.network));
        let (router_a, router_b) = (Router::ensure(&a).unwrap(), Router::ensure(&b).unwrap());
        let (one, two) = (new_netns(), new_netns());
        router_a.attach(20, one.as_fd()).unwrap();
        router_b.attach(20, two.as_fd()).unwrap();
        inside(&two, || listen("0.0.0.0:80", Default::default()));
        reach(&one, PUBLIC[0], 80).unwrap();
        reach(&two, PUBLIC[0], 80).unwrap();
        assert_shut(&one, &b.address(20).to_string(), 80);
        assert_shut(&one, &b.gateway().to_string(), 53);
        // Also when the other's block is opened by name.
        let policy = NetworkPolicy { allow: vec![b.block], ..NetworkPolicy::default() };
        router_a.set_policy(20, &policy).unwrap();
        assert_shut(&one, &b.address(20).to_string(), 80);
        Router::destroy(&a).unwrap();
        reach(&two, PUBLIC[0], 80).unwrap();
    });
}

#[test]
fn what_the_host_hands_on_is_as_closed_as_the_host() {
    run(|world| {
        // A published port, as container engines make them: the host's addresses lead to somewhere private.
        sh("nft 'table ip publish { chain pre { type nat hook prerouting priority -100; \
            fib daddr type local tcp dport 9999 dnat to 10.9.9.9:80; \
            ip daddr 203.0.113.99 tcp dport 80 dnat to 10.9.9.9:80; }; \
            chain post { type nat hook postrouting priority 90; ip daddr 10.9.9.9 masquerade; }; }'");
        inside(&world.internet, || connect("192.0.2.2", 9999)).expect("published to the outside");
        let (_, router) = world.router();
        let one = sandbox(&router, 20);
        assert_shut(&one, "192.0.2.2", 9999);
        assert_shut(&one, "198.51.100.1", 9999);
        assert_shut(&one, "203.0.113.99", 80);
        reach(&one, PUBLIC[0], 80).unwrap();
    });
}

#[test]
fn nothing_is_reachable_while_the_host_forwards_nothing() {
    run(|world| {
        let (_, router) = world.router();
        let one = sandbox(&router, 20);
        assert!(forwarding());
        set("net/ipv4/ip_forward", "0");
        assert!(!forwarding());
        assert_shut(&one, PUBLIC[0], 80);
        enable_forwarding().unwrap();
        reach(&one, PUBLIC[0], 80).unwrap();
    });
}

#[test]
fn nobody_outside_can_start_a_conversation() {
    run(|world| {
        let (plan, router) = world.router();
        let one = sandbox(&router, 20);
        inside(&one, || listen("0.0.0.0:80", Default::default()));
        let addr = plan.address(20).to_string();
        assert!(connect(&addr, 80).is_err(), "from the host");
        inside(&world.internet, || sh(&format!("ip route add {} via 192.0.2.2", plan.block)));
        assert!(inside(&world.internet, || connect(&addr, 80)).is_err(), "from outside");
    });
}

#[test]
fn lists_open_and_close_ranges() {
    run(|world| {
        let (plan, router) = world.router();
        let (one, two) = (sandbox(&router, 20), sandbox(&router, 21));
        let (open, only) = (NetworkMode::Internet, NetworkMode::Restricted);
        let cases: [(NetworkPolicy, &[&str], &[&str]); 7] = [
            (policy(open, &[], &["203.0.113.0/24"]), &["198.51.100.10"], &["203.0.113.10", "10.9.9.9"]),
            (policy(open, &["203.0.113.10"], &["0.0.0.0/0"]), &["203.0.113.10"], &["198.51.100.10"]),
            (policy(only, &["203.0.113.0/24"], &[]), &["203.0.113.10"], &["198.51.100.10", "10.9.9.9"]),
            (policy(only, &[], &[]), &[], &["203.0.113.10", "198.51.100.10"]),
            (
                policy(open, &["10.9.9.0/24"], &[]),
                &["10.9.9.9", "203.0.113.10"],
                &["192.168.5.5", "10.77.0.1"],
            ),
            (policy(only, &["10.9.9.9"], &["10.0.0.0/8"]), &["10.9.9.9"], &["203.0.113.10"]),
            (
                policy(only, &["0.0.0.0/0"], &["0.0.0.0/0"]),
                &["203.0.113.10"],
                &["10.9.9.9", "169.254.169.254", "168.63.129.16", "192.168.5.5"],
            ),
        ];
        for (policy, open, shut) in &cases {
            router.set_policy(20, policy).unwrap();
            assert_eq!(router.policies().unwrap(), [20], "{policy:?}");
            for addr in *open {
                reach(&one, addr, 80).unwrap_or_else(|err| panic!("{policy:?}: {addr}: {err}"));
            }
            for addr in *shut {
                assert_shut(&one, addr, 80);
            }
            for addr in HOST {
                assert_shut(&one, addr, 8080);
            }
            reach(&two, PUBLIC[0], 80).unwrap();
            // What a restarted server finds is kept.
            Router::ensure(&plan).unwrap();
            assert_eq!(router.policies().unwrap(), [20]);
        }
        router.set_policy(20, &NetworkPolicy::default()).unwrap();
        router.clear_policy(20).unwrap();
        assert!(router.policies().unwrap().is_empty());
        reach(&one, PUBLIC[0], 80).unwrap();
        let left = inside(router.netns(), || sh("nft list ruleset"));
        assert!(!left.contains("slot20"), "{left}");
    });
}

#[test]
fn a_policy_counts_for_connections_that_are_open() {
    run(|world| {
        use std::net::UdpSocket;
        let (_, router) = world.router();
        let one = sandbox(&router, 20);
        let socket = inside(&one, || UdpSocket::bind("0.0.0.0:0").unwrap());
        let heard = |want| wait_until(|| world.heard.lock().unwrap().len() >= want);
        socket.send_to(b"1", "203.0.113.10:9").unwrap();
        assert!(heard(1));
        let shut = policy(NetworkMode::Restricted, &[], &[]);
        router.set_policy(20, &shut).unwrap();
        socket.send_to(b"2", "203.0.113.10:9").unwrap();
        router.clear_policy(20).unwrap();
        let other = inside(&one, || UdpSocket::bind("0.0.0.0:0").unwrap());
        other.send_to(b"3", "203.0.113.10:9").unwrap();
        assert!(heard(2));
        assert_eq!(world.heard.lock().unwrap().len(), 2);
    });
}

pub fn wait_until(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..100 {
        if done() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    false
}

#[test]
fn a_false_source_address_goes_nowhere() {
    run(|world| {
        let (plan, router) = world.router();
        let (one, _neighbour) = (sandbox(&router, 20), sandbox(&router, 21));
        let dst: Ipv4Addr = "203.0.113.10".parse().unwrap();
        let sources = [plan.address(21), plan.gateway(), "203.0.113.77".parse().unwrap(), plan.address(20)];
        inside(&one, || {
            for source in sources {
                send_raw(source, dst);
            }
        });
        // The true one comes last: when it was heard, the others would have been.
        assert!(wait_until(|| !world.heard.lock().unwrap().is_empty()));
        assert_eq!(world.heard.lock().unwrap().len(), 1);
    });
}

/// One UDP datagram with a source address of one's choice.
fn send_raw(source: Ipv4Addr, dst: Ipv4Addr) {
    let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(dst.octets());
    packet.extend([0x30, 0x39, 0, 9, 0, 9, 0, 0, b'x']);
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::RAW,
        rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(255).unwrap()).into(),
    )
    .unwrap();
    let to = std::net::SocketAddrV4::new(dst, 9);
    rustix::net::sendto(&socket, &packet, rustix::net::SendFlags::empty(), &to).unwrap();
}

#[test]
fn there_is_no_ipv6() {
    run(|world| {
        let (plan, router) = world.router();
        let one = sandbox(&router, 20);
        assert_eq!(inside(&one, || sh("ip -6 addr; ip -6 route")), "");
        assert_eq!(inside(router.netns(), || sh("ip -6 addr; ip -6 route")), "");
        assert_eq!(sh(&format!("ip -6 addr show dev {}", plan.host_link())), "");
    });
}

#[test]
fn no_network_is_loopback_only() {
    run(|_| {
        let one = new_netns();
        attach_none(one.as_fd()).unwrap();
        let links = inside(&one, || sh("ip -o link show up"));
        assert_eq!(links.lines().count(), 1, "{links}");
        inside(&one, || listen("127.0.0.1:80", Default::default()));
        assert_eq!(connect_own_80(&one), Some(()));
        assert_eq!(reach(&one, PUBLIC[0], 80).unwrap_err().raw_os_error(), Some(libc::ENETUNREACH));
    });
}

#[test]
fn a_sandbox_with_its_own_users_is_attached_by_its_process() {
    run(|world| {
        let (_, router) = world.router();
        let script = "unshare --user --map-root-user --net sh -c 'echo ready; exec cat' ";
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let one = of_process(child.id()).unwrap();
        router.attach(20, one.as_fd()).unwrap();
        reach(&one, PUBLIC[0], 80).unwrap();
        drop(one);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(wait_until(|| router.attached().unwrap().is_empty()), "its end takes the link away");
    });
}

fn connect_own_80(sandbox: &std::os::fd::OwnedFd) -> Option<()> {
    reach(sandbox, "127.0.0.1", 80).ok().map(|_| ())
}

#[test]
fn ping_works_without_raw_sockets() {
    run(|world| {
        let (plan, router) = world.router();
        let one = sandbox(&router, 20);
        assert!(inside(&one, || ping(plan.gateway())), "the router");
        assert!(inside(&one, || ping("203.0.113.10".parse().unwrap())), "outside");
        assert!(!inside(&one, || ping("192.0.2.2".parse().unwrap())), "the host");
    });
}

/// An echo request through the unprivileged kind of socket, from a group of the sandbox's range.
fn ping(to: Ipv4Addr) -> bool {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP)).unwrap();
    let to = std::net::SocketAddrV4::new(to, 0);
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(WAIT))
        .unwrap();
    rustix::net::sendto(&socket, &[8, 0, 0, 0, 0, 0, 0, 1], SendFlags::empty(), &to).unwrap();
    let mut buffer = [0u8; 64];
    matches!(rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()), Ok((_, n)) if n >= 8)
}
