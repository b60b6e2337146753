//! Making, adopting, breaking and removing networks; connecting into sandboxes; figures.

use std::fs;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use atoll_local::net::{
    Addresses, NetError, NetPlan, PlanOptions, Router, State, attach_none, connect_in, doctor, of_process,
    plan,
};

use crate::walls::wait_until;
use crate::world::*;

#[test]
fn what_is_destroyed_leaves_nothing() {
    run(|world| {
        let traces = || (sh("ip -o link; ip route; nft list ruleset"), mounts(world), files(world));
        let before = traces();
        let plan = world.plan("aaaaaa");
        let router = Router::ensure(&plan).unwrap();
        let one = new_netns();
        router.attach(20, one.as_fd()).unwrap();
        assert_ne!(traces(), before);
        Router::destroy(&plan).unwrap();
        let after = traces();
        assert_eq!((&after.0, &after.1), (&before.0, &before.1));
        assert_eq!(files(world), ["blocks", "lock"]);
        Router::destroy(&plan).unwrap();
        assert!(matches!(Router::open(&plan), Err(NetError::NoRouter(_))));
        drop(router);
        assert!(wait_until(|| inside(&one, || sh("ip -o link show up")).lines().count() == 1));
    });
}

fn mounts(world: &World) -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let dir = world.dir.path().to_str().unwrap();
    text.lines().filter(|line| line.contains(dir)).map(str::to_owned).collect()
}

fn files(world: &World) -> Vec<String> {
    let list = fs::read_dir(world.dir.path()).unwrap();
    let mut names: Vec<_> = list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_half_made_is_finished() {
    run(|world| {
        let plan = world.plan("aaaaaa");
        Router::ensure(&plan).unwrap();
        let link = plan.host_link();
        let breaks: [(&str, String); 6] = [
            ("uplink gone", format!("ip link del {link}")),
            ("uplink down, no routes", format!("ip link set {link} down; ip addr flush dev {link}")),
            ("host rules gone", format!("nft delete table inet {}", plan.table())),
            (
                "foreign link with our name",
                format!("ip link del {link}; ip link add {link} type veth peer name other"),
            ),
            ("unmounted pin", format!("umount {}", plan.netns_path().display())),
            (
                "no files",
                format!(
                    "umount {0}; rm -r {1}/aaaaaa {1}/blocks",
                    plan.netns_path().display(),
                    world.dir.path().display()
                ),
            ),
        ];
        for (slot, (what, script)) in (20..).zip(&breaks) {
            sh(script);
            let router = Router::ensure(&plan).unwrap_or_else(|err| panic!("{what}: {err}"));
            let one = new_netns();
            router.attach(slot, one.as_fd()).unwrap();
            reach(&one, PUBLIC[0], 80).unwrap_or_else(|err| panic!("{what}: {err}"));
            assert_shut(&one, HOST[1], 8080);
        }
        for script in
            ["true".into(), format!("ip link del {link}"), format!("umount {}", plan.netns_path().display())]
        {
            Router::ensure(&plan).unwrap();
            sh(&script);
            Router::destroy(&plan).unwrap();
            assert!(mounts(world).is_empty());
            assert!(!sh("ip -o link; nft list ruleset").contains("atoll"));
        }
    });
}

#[test]
fn a_restarted_server_finds_links_and_keeps_them() {
    run(|world| {
        let plan = world.plan("aaaaaa");
        let one = new_netns();
        Router::ensure(&plan).unwrap().attach(20, one.as_fd()).unwrap();
        let recorded: NetPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        let router = Router::ensure(&recorded).unwrap();
        assert_eq!(router.attached().unwrap(), [20]);
        reach(&one, PUBLIC[0], 80).unwrap();
        router.detach(20).unwrap();
        router.detach(20).unwrap();
        assert!(router.attached().unwrap().is_empty());
        assert!(reach(&one, PUBLIC[0], 80).is_err());
        router.attach(20, one.as_fd()).unwrap();
        reach(&one, PUBLIC[0], 80).unwrap();
    });
}

#[test]
fn a_slot_whose_last_link_lingers_can_be_used() {
    run(|world| {
        let router = Router::ensure(&world.plan("aaaaaa")).unwrap();
        let (one, two) = (new_netns(), new_netns());
        router.attach(20, one.as_fd()).unwrap();
        router.attach(20, two.as_fd()).unwrap();
        assert!(reach(&one, PUBLIC[0], 80).is_err());
        reach(&two, PUBLIC[0], 80).unwrap();
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    run(|world| {
        let router = Router::ensure(&world.plan("aaaaaa")).unwrap();
        let one = new_netns();
        inside(&one, || sh("ip link add eth0 type veth peer name other"));
        let err = router.attach(20, one.as_fd()).unwrap_err();
        assert!(matches!(err, NetError::Link { .. }), "{err}");
        assert!(router.attached().unwrap().is_empty());
        for slot in [0, 3, 15, u32::MAX] {
            assert!(matches!(router.attach(slot, one.as_fd()), Err(NetError::NoSuchSlot { .. })));
        }
        let file = fs::File::open("/dev/null").unwrap();
        assert!(matches!(router.attach(20, file.as_fd()), Err(NetError::Netns { .. })));
        assert!(matches!(attach_none(file.as_fd()), Err(NetError::Netns { .. })));
    });
}

#[test]
fn blocks_avoid_routes_and_each_other() {
    run(|world| {
        let (a, b) = (world.plan("aaaaaa"), world.plan("bbbbbb"));
        assert_eq!(world.plan("aaaaaa"), a, "asking again gives the same");
        assert!(a.block != b.block && !a.block.contains(b.block.network));
        // A route that came later, when nothing runs: another block is chosen.
        sh(&format!("ip route add {} via 192.0.2.1", a.block));
        assert!(matches!(Router::ensure(&a), Err(NetError::BlockTaken { .. })));
        let moved = world.plan("aaaaaa");
        assert!(!moved.block.contains(a.block.network));
        Router::ensure(&moved).unwrap();
        // A plan from before the machine restarted, whose block somebody else has now.
        let late = NetPlan { tag: "cccccc".into(), ..moved.clone() };
        let err = Router::ensure(&late).unwrap_err();
        assert!(matches!(&err, NetError::BlockTaken { by, .. } if by.contains("aaaaaa")), "{err}");
        sh("ip route add 10.192.0.0/10 via 192.0.2.1");
        let err = plan("dddddd", &world.options()).unwrap_err();
        assert!(matches!(err, NetError::NoFreeBlock(_)), "{err}");
        let wide = PlanOptions { run_root: world.options().run_root, ..PlanOptions::default() };
        assert_eq!(plan("dddddd", &wide).unwrap().block.network.octets()[0], 172);
    });
}

#[test]
fn blocks_differ_when_many_ask_at_once() {
    run(|world| {
        // Room for eight.
        let ranges = vec!["10.192.0.0/15".parse().unwrap()];
        let options = PlanOptions { ranges, ..world.options() };
        let mut blocks: Vec<_> = thread::scope(|scope| {
            let ask = |i: u32| {
                let options = &options;
                scope.spawn(move || plan(&format!("tag{i}"), options).unwrap().block)
            };
            let asked: Vec<_> = (0..8).map(ask).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), 8);
        assert!(matches!(plan("ninth", &options), Err(NetError::NoFreeBlock(_))));
    });
}

#[test]
fn without_nft_nothing_is_opened_and_it_says_why() {
    run(|world| {
        let plan = world.plan("aaaaaa");
        let nft = sh("readlink -f $(command -v nft)");
        let found = |what| doctor().into_iter().find(|f| f.what == what).unwrap();
        sh(&format!("mount --bind /bin/false {nft}"));
        let err = Router::ensure(&plan).unwrap_err();
        assert!(matches!(&err, NetError::Nft { what: "set the router's rules", .. }), "{err}");
        assert_eq!(found("nftables").state, State::Bad);
        sh(&format!("mount --bind /dev/null {nft}"));
        assert!(matches!(Router::ensure(&plan), Err(NetError::NftMissing)));
        assert!(found("nftables").mend.unwrap().contains("nftables"));
        assert!(!sh("ip -o link").contains("atoll"), "no link without its walls");
        sh(&format!("umount {0}; umount {0}", nft.trim()));
        Router::ensure(&plan).unwrap();
    });
}

#[test]
fn killed_at_any_instant_leaves_nothing_that_a_sweep_does_not_find() {
    run(|world| {
        let plan = world.plan("aaaaaa");
        Router::ensure(&plan).unwrap();
        let sandboxes: Vec<_> = (0..4).map(|_| new_netns()).collect();
        for delay in (0..24).map(|i| Duration::from_micros(i * 150)) {
            // SAFETY: the child only makes system calls and allocates, which glibc permits after fork, and never returns.
            let child = unsafe { libc::fork() };
            if child == 0 {
                loop {
                    for (slot, sandbox) in (20..).zip(&sandboxes) {
                        let _ = Router::open(&plan).and_then(|router| router.attach(slot, sandbox.as_fd()));
                    }
                }
            }
            thread::sleep(delay);
            // SAFETY: our own child, not yet waited for.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
            let router = Router::ensure(&plan).unwrap();
            for slot in router.attached().unwrap() {
                router.detach(slot).unwrap();
            }
            assert!(router.attached().unwrap().is_empty());
            let left = inside(router.netns(), || sh("ip -o link; ip route; ip neigh"));
            assert!(!left.contains("slot"), "{left}");
            router.attach(20, sandboxes[0].as_fd()).unwrap();
            reach(&sandboxes[0], PUBLIC[0], 80).unwrap();
            router.detach(20).unwrap();
        }
    });
}

#[test]
fn killed_while_the_router_is_made() {
    run(|world| {
        let plan = world.plan("aaaaaa");
        for delay in (0..16).map(|i| Duration::from_millis(i * 2)) {
            // SAFETY: as above; `nft`, which it may have started, ends by itself.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let _ = Router::ensure(&plan);
                // SAFETY: ends the child at once, without the parent's handlers.
                unsafe { libc::_exit(0) };
            }
            thread::sleep(delay);
            // SAFETY: our own child, not yet waited for.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
            if delay.as_millis() % 4 == 0 {
                let router = Router::ensure(&plan).unwrap();
                let one = new_netns();
                router.attach(20, one.as_fd()).unwrap();
                reach(&one, PUBLIC[0], 80).unwrap();
            }
            Router::destroy(&plan).unwrap();
            assert!(mounts(world).is_empty());
        }
    });
}

#[test]
fn connections_are_made_from_inside() {
    run(|_| {
        let one = new_netns();
        attach_none(one.as_fd()).unwrap();
        inside(&one, || {
            sh("ip addr add 10.1.1.1/32 dev lo");
            listen("10.1.1.1:80", Default::default());
            listen("127.0.0.1:81", Default::default());
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connect = |addrs: &[&str]| {
            let addrs: Vec<std::net::SocketAddr> = addrs.iter().map(|a| a.parse().unwrap()).collect();
            runtime
                .block_on(connect_in(one.as_fd(), &addrs, WAIT))
                .map(|s| s.peer_addr().unwrap().to_string())
        };
        assert_eq!(connect(&["127.0.0.1:81", "10.1.1.1:81"]).unwrap(), "127.0.0.1:81");
        assert_eq!(connect(&["127.0.0.1:80", "10.1.1.1:80"]).unwrap(), "10.1.1.1:80");
        assert_eq!(connect(&["127.0.0.1:82"]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(connect(&["203.0.113.10:80"]).is_err());
        let file = fs::File::open("/dev/null").unwrap();
        let addrs = ["127.0.0.1:81".parse().unwrap()];
        let nowhere = connect_in(file.as_fd(), &addrs, WAIT);
        assert!(runtime.block_on(nowhere).is_err());
        assert!(of_process(u32::MAX).is_err());
    });
}

#[test]
fn the_doctor_sees_what_is_there() {
    run(|_| {
        let state = |what| doctor().into_iter().find(|f| f.what == what).unwrap();
        for finding in doctor() {
            assert_eq!(finding.state, State::Good, "{finding:?}");
        }
        set("net/ipv4/ip_forward", "0");
        assert_eq!(state("forwarding").state, State::Bad);
        assert!(state("forwarding").mend.unwrap().contains("ip_forward"));
        sh(
            "nft add table ip filter && nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
        );
        let found = state("other forward rules");
        assert!(found.state == State::Limited && found.detail.contains("filter FORWARD"), "{found:?}");
    });
}

#[test]
fn a_thousand_links() {
    const COUNT: usize = 1000;
    run(|world| {
        let plan = world.plan("aaaaaa");
        let router = Router::ensure(&plan).unwrap();
        let mut slots = Addresses::new(plan.slots());
        let sandboxes: Vec<_> = (0..COUNT).map(|_| (slots.allocate().unwrap(), new_netns())).collect();
        let mut times = Vec::new();
        for (slot, sandbox) in &sandboxes {
            let start = Instant::now();
            router.attach(*slot, sandbox.as_fd()).unwrap();
            times.push(start.elapsed());
        }
        print_times("attach", &mut times);
        let start = Instant::now();
        assert_eq!(router.attached().unwrap().len(), COUNT);
        println!("attached() of {COUNT}: {:?}", start.elapsed());
        let mut reached = Vec::new();
        for (_, sandbox) in &sandboxes {
            let start = Instant::now();
            reach(sandbox, PUBLIC[0], 80).unwrap();
            reached.push(start.elapsed());
        }
        print_times("reach the internet", &mut reached);
        let start = Instant::now();
        Router::ensure(&plan).unwrap();
        println!("ensure() with {COUNT} links: {:?}", start.elapsed());
        let mut gone = Vec::new();
        for (slot, _) in sandboxes.iter().take(50) {
            let start = Instant::now();
            router.detach(*slot).unwrap();
            gone.push(start.elapsed());
        }
        print_times("detach", &mut gone);
        let start = Instant::now();
        Router::destroy(&plan).unwrap();
        println!("destroy() with {COUNT} links: {:?}", start.elapsed());
    });
}

fn print_times(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{what}, {} times: p50 {:?}, p99 {:?}, worst {:?}", times.len(), at(50), at(99), at(100));
}
