//! The router namespace of one data directory and the links of its sandboxes. Everything is made so that doing it
//! again after a crash finishes it. Knows slots and namespaces, not who is behind them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use atoll_core::network::{Cidr, NetworkPolicy};

use super::netlink::{self, End, Mac, Netlink, Refused};
use super::plan::{HostLock, NetPlan, UPLINK, confirm};
use super::{NetError, firewall, netns, nft, sysctl};
use atoll_core::{ranges, reach};

const LOOPBACK: u32 = 1;
/// The sandbox's end: far above the numbers that a kernel gives to the tunnels it makes in every namespace.
const INSIDE_INDEX: u32 = 4096;
/// The router's ends are numbered by slot, so that nothing has to be asked for before it can be used.
const SLOT_INDEX: u32 = 0x1_0000;
const INSIDE: &str = "eth0";
const ROUTER_MAC: Mac = [0x0a, 0x61, 0, 0, 0, 1];
const HOST_MAC: Mac = [0x0a, 0x61, 0, 0, 0, 2];
const DEFAULT_ROUTE: Cidr = ranges::around([0; 4], 0);

/// The router of one data directory. Making, joining and leaving it are safe at any instant: what a crash left half
/// made is finished by [`ensure`](Router::ensure) or taken away by [`destroy`](Router::destroy).
#[derive(Debug)]
pub struct Router {
    plan: NetPlan,
    netns: OwnedFd,
    links: Netlink,
}

impl Router {
    /// Makes the router, or adopts the one that is there. The calling thread's network namespace is the host's.
    pub fn ensure(plan: &NetPlan) -> Result<Router, NetError> {
        let _lock = HostLock::acquire(&plan.run_root)?;
        let host = Netlink::open().map_err(NetError::Socket)?;
        confirm(plan, &host)?;
        let netns = ensure_netns(plan)?;
        // Walls first, links last.
        nft::apply(Some(netns.as_fd()), "set the router's rules", &firewall::router_rules(plan))?;
        nft::apply(None, "set the host's rules", &firewall::host_rules(plan))?;
        netns::run_in(netns.as_fd(), || Ok(sysctl::write(&sysctl::ROUTER)))
            .map_err(|source| netns_error("enter", plan, source))??;
        let router = Router::with(plan, netns)?;
        router.ensure_uplink(&host)?;
        Ok(router)
    }

    /// Opens a router that `ensure` made: cheap, for the launcher. Starts no thread.
    pub fn open(plan: &NetPlan) -> Result<Router, NetError> {
        let path = plan.netns_path();
        let netns = netns::open_pinned(&path)
            .map_err(|source| netns_error("open", plan, source))?
            .ok_or(NetError::NoRouter(path))?;
        Router::with(plan, netns)
    }

    /// Takes everything away, also what is half made; nothing there is success.
    pub fn destroy(plan: &NetPlan) -> Result<(), NetError> {
        let _lock = HostLock::acquire(&plan.run_root)?;
        let host = Netlink::open().map_err(NetError::Socket)?;
        delete_link(&host, &plan.host_link())?;
        nft::apply(None, "take the host's rules away", &firewall::host_rules_gone(plan))?;
        netns::unpin(&plan.netns_path()).map_err(|source| netns_error("unpin", plan, source))?;
        remove("remove", &plan.run_dir(), remove_if_empty)?;
        remove("remove the claim", &plan.claim_path(), |path| fs::remove_file(path))
    }

    /// The plan that the router was made from.
    pub fn plan(&self) -> &NetPlan {
        &self.plan
    }

    /// The router's namespace.
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// Gives the namespace `sandbox` a link to the router with the address of `slot`. Nothing is left behind when it
    /// fails. Starts no thread: the calling one visits `sandbox` and comes back.
    pub fn attach(&self, slot: u32, sandbox: BorrowedFd<'_>) -> Result<(), NetError> {
        let block = self.plan.block;
        if !self.plan.slots().contains(&slot) {
            return Err(NetError::NoSuchSlot { slot, block });
        }
        let inside = prepare(sandbox)?;
        let attached = match self.link(slot, sandbox) {
            // The last owner's link may still be on its way out.
            Err(refused) if is_taken(&refused) => {
                self.detach(slot)?;
                self.link(slot, sandbox)
            }
            other => other,
        };
        let settle = || self.links.run(vec![netlink::settle(SLOT_INDEX + slot)]);
        attached.and_then(|()| self.address_inside(slot, &inside)).and_then(|()| settle()).map_err(
            |refused| {
                // What remains is taken away by the next sweep.
                let _ = self.detach(slot);
                refused_error(refused, link_name(slot))
            },
        )
    }

    /// Takes the link of `slot` away; none there is success. Not needed for a sandbox whose namespace ends: the
    /// kernel takes its link away with it, many at a time and in the background, where this one waits for it (20 ms).
    pub fn detach(&self, slot: u32) -> Result<(), NetError> {
        delete_link(&self.links, &link_name(slot))
    }

    /// The slots that have a link now.
    pub fn attached(&self) -> Result<Vec<u32>, NetError> {
        let names = self.links.link_names().map_err(NetError::Socket)?;
        Ok(names.iter().filter_map(|name| name.strip_prefix("slot")?.parse().ok()).collect())
    }

    /// Sets what the sandbox in `slot` may reach, from the next packet on, in one transaction. To be set before
    /// `attach` and cleared after the link is gone, so that there is no moment without it. A policy that says no more
    /// than the default leaves no rule.
    pub fn set_policy(&self, slot: u32, policy: &NetworkPolicy) -> Result<(), NetError> {
        if reach::is_usual(policy) {
            return self.clear_policy(slot);
        }
        let rules = firewall::policy_rules(&self.plan, slot, policy);
        nft::apply(Some(self.netns()), "set the sandbox's policy", &rules)
    }

    /// Back to the default policy; to be called when a slot is given back, if it had one of its own.
    pub fn clear_policy(&self, slot: u32) -> Result<(), NetError> {
        let rules = firewall::policy_rules_gone(&self.plan, slot);
        nft::apply(Some(self.netns()), "clear the sandbox's policy", &rules)
    }

    /// The slots that have a policy of their own now.
    pub fn policies(&self) -> Result<Vec<u32>, NetError> {
        let told = nft::list(Some(self.netns()), "list the policies", &["chains"])?;
        let objects = told["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let slot = |object: &serde_json::Value| firewall::slot_of_chain(object["chain"]["name"].as_str()?);
        Ok(objects.iter().filter_map(slot).collect())
    }

    fn with(plan: &NetPlan, netns: OwnedFd) -> Result<Router, NetError> {
        let links = netns::visit(netns.as_fd(), Netlink::open)
            .map_err(|source| netns_error("enter", plan, source))?
            .map_err(NetError::Socket)?;
        Ok(Router { plan: plan.clone(), netns, links })
    }

    fn link(&self, slot: u32, sandbox: BorrowedFd<'_>) -> Result<(), Refused> {
        let (name, addr) = (link_name(slot), self.plan.address(slot));
        let index = SLOT_INDEX + slot;
        let outer = End { name: &name, index, mac: ROUTER_MAC, netns: None };
        let inner = End { name: INSIDE, index: INSIDE_INDEX, mac: inside_mac(addr), netns: Some(sandbox) };
        self.links.run(vec![
            netlink::veth(&outer, &inner, self.plan.mtu),
            netlink::route(ranges::single(addr), index, None, Some(self.plan.gateway())),
            netlink::neighbour(index, addr, inside_mac(addr)),
        ])
    }

    fn address_inside(&self, slot: u32, inside: &Netlink) -> Result<(), Refused> {
        let gateway = self.plan.gateway();
        inside.run(vec![
            netlink::link_up(LOOPBACK),
            netlink::link_up(INSIDE_INDEX),
            netlink::address(INSIDE_INDEX, self.plan.address(slot)),
            netlink::route(DEFAULT_ROUTE, INSIDE_INDEX, Some(gateway), None),
            netlink::neighbour(INSIDE_INDEX, gateway, ROUTER_MAC),
        ])
    }

    /// The link between host and router, and the addresses at both ends. An end without its other half (there is
    /// none, but a foreign link may have the name) is replaced.
    fn ensure_uplink(&self, host: &Netlink) -> Result<(), NetError> {
        let plan = &self.plan;
        let name = plan.host_link();
        let here = host.index(&name).map_err(NetError::Socket)?;
        let there = self.links.index(UPLINK).map_err(NetError::Socket)?;
        if here.is_none() || there.is_none() {
            delete_link(host, &name)?;
            delete_link(&self.links, UPLINK)?;
            let outer = End { name: &name, index: 0, mac: HOST_MAC, netns: None };
            let inner = End { name: UPLINK, index: 0, mac: ROUTER_MAC, netns: Some(self.netns()) };
            host.run(vec![netlink::veth(&outer, &inner, plan.mtu)])
                .map_err(|refused| refused_error(refused, name.clone()))?;
        }
        self.configure_uplink(host, &name).map_err(|refused| refused_error(refused, name.clone()))?;
        sysctl::silence_ipv6(&name)
    }

    fn configure_uplink(&self, host: &Netlink, name: &str) -> Result<(), Refused> {
        let missing = |source| Refused { what: "find the link", source };
        let find = |links: &Netlink, name: &str| {
            links.index(name).and_then(|i| i.ok_or_else(|| io::ErrorKind::NotFound.into())).map_err(missing)
        };
        let (outer, inner) = (find(host, name)?, find(&self.links, UPLINK)?);
        let plan = &self.plan;
        let (host_addr, router_addr) = (plan.host_address(), plan.router_address());
        host.run(vec![
            netlink::link_up(outer),
            netlink::address(outer, host_addr),
            netlink::neighbour(outer, router_addr, ROUTER_MAC),
            netlink::route(plan.block, outer, Some(router_addr), Some(host_addr)),
        ])?;
        self.links.run(vec![
            netlink::link_up(LOOPBACK),
            netlink::address(LOOPBACK, plan.gateway()),
            netlink::link_up(inner),
            netlink::address(inner, router_addr),
            netlink::neighbour(inner, host_addr, HOST_MAC),
            netlink::route(DEFAULT_ROUTE, inner, Some(host_addr), None),
            netlink::settle(inner),
        ])?;
        host.run(vec![netlink::settle(outer)])
    }
}

/// Prepares a namespace that has no network: loopback only.
pub fn attach_none(sandbox: BorrowedFd<'_>) -> Result<(), NetError> {
    prepare(sandbox)?
        .run(vec![netlink::link_up(LOOPBACK)])
        .map_err(|refused| refused_error(refused, "lo".into()))
}

/// Sets what a sandbox's namespace needs before it has a link; the socket stays in it.
fn prepare(sandbox: BorrowedFd<'_>) -> Result<Netlink, NetError> {
    let visit = || {
        sysctl::write_apart(&sysctl::SANDBOX)?;
        Netlink::open().map_err(NetError::Socket)
    };
    netns::visit(sandbox, visit).map_err(|source| NetError::Netns {
        what: "enter",
        path: "of the sandbox".into(),
        source,
    })?
}

fn ensure_netns(plan: &NetPlan) -> Result<OwnedFd, NetError> {
    let path = plan.netns_path();
    fs::create_dir_all(plan.run_dir()).map_err(|source| NetError::File {
        what: "make",
        path: plan.run_dir(),
        source,
    })?;
    let found = netns::open_pinned(&path).map_err(|source| netns_error("open", plan, source))?;
    match found {
        Some(netns) => Ok(netns),
        None => netns::create_pinned(&path).map_err(|source| netns_error("make", plan, source)),
    }
}

fn delete_link(links: &Netlink, name: &str) -> Result<(), NetError> {
    let Some(index) = links.index(name).map_err(NetError::Socket)? else { return Ok(()) };
    match links.run(vec![netlink::delete_link(index)]) {
        Err(refused) if refused.source.raw_os_error() != Some(libc::ENODEV) => {
            Err(refused_error(refused, name.to_owned()))
        }
        _ => Ok(()),
    }
}

fn remove(
    what: &'static str,
    path: &Path,
    how: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), NetError> {
    match how(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(NetError::File { what, path: path.to_owned(), source: err })
        }
        _ => Ok(()),
    }
}

/// Others may keep files of the same data directory there.
fn remove_if_empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

fn link_name(slot: u32) -> String {
    format!("slot{slot}")
}

/// A sandbox's end is numbered by its address.
fn inside_mac(addr: std::net::Ipv4Addr) -> Mac {
    let [a, b, c, d] = addr.octets();
    [0x0a, 0x62, a, b, c, d]
}

fn is_taken(refused: &Refused) -> bool {
    matches!(refused.source.raw_os_error(), Some(libc::EEXIST | libc::EBUSY))
}

fn refused_error(refused: Refused, link: String) -> NetError {
    NetError::Link { what: refused.what, link, source: refused.source }
}

fn netns_error(what: &'static str, plan: &NetPlan, source: io::Error) -> NetError {
    NetError::Netns { what, path: plan.netns_path().display().to_string(), source }
}
