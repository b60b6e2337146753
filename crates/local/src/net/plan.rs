//! Which address block and names the network of one data directory has, chosen under a host-wide lock so that
//! several servers on one machine differ. Reads routes; makes no network object.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use atoll_core::network::Cidr;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::NetError;
use super::netlink::{Netlink, Route};
use atoll_core::ranges::{self, around, covers, overlap};

/// Where the state of networks is kept until the machine restarts.
pub const RUN_ROOT: &str = "/run/atoll";

/// The router's end of the link to the host.
pub(super) const UPLINK: &str = "uplink";
pub(super) const HOST_LINK_PREFIX: &str = "atoll";

/// 16,384 addresses to a block; less than 4,096 is not worth having.
const BLOCK_PREFIX: u8 = 18;
const SMALLEST_BLOCK: u8 = 20;
/// The first addresses of a block are the router's and the uplink's.
const FIRST_SLOT: u32 = 16;
const MAX_TAG: usize = 15 - HOST_LINK_PREFIX.len();

/// The network of one data directory. Recorded by the driver before anything is made from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetPlan {
    /// Short name of the data directory; part of every name outside the router namespace.
    pub tag: String,
    /// The addresses of the sandboxes, the router and the uplink.
    pub block: Cidr,
    /// Folder of all networks of this machine: the lock, the claims, and one folder for each tag.
    pub run_root: PathBuf,
    /// The largest packet of every link, the host's own uplink being the measure.
    pub mtu: u32,
}

/// Where to look for a block.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Ranges to take the block from, the first choice first.
    pub ranges: Vec<Cidr>,
    /// See [`NetPlan::run_root`].
    pub run_root: PathBuf,
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        let ranges =
            vec![around([10, 192, 0, 0], 10), around([172, 16, 0, 0], 12), around([100, 64, 0, 0], 10)];
        PlanOptions { ranges, run_root: RUN_ROOT.into() }
    }
}

impl NetPlan {
    /// The router's address on every sandbox's link; names are resolved there too.
    pub fn gateway(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// The host's address on the uplink.
    pub fn host_address(&self) -> Ipv4Addr {
        self.at(2)
    }

    /// The router's address on the uplink.
    pub fn router_address(&self) -> Ipv4Addr {
        self.at(3)
    }

    /// The slots that sandboxes can have.
    pub fn slots(&self) -> Range<u32> {
        let end = u32::try_from(ranges::size(self.block) - 1).unwrap_or(FIRST_SLOT);
        FIRST_SLOT..end.max(FIRST_SLOT)
    }

    /// The address of the sandbox in `slot`.
    pub fn address(&self, slot: u32) -> Ipv4Addr {
        self.at(slot)
    }

    /// The slot that has the address `addr`; `None` for the router's own and foreign ones.
    pub fn slot_of(&self, addr: Ipv4Addr) -> Option<u32> {
        ranges::offset(self.block, addr).filter(|slot| self.slots().contains(slot))
    }

    /// The host's end of the uplink.
    pub fn host_link(&self) -> String {
        format!("{HOST_LINK_PREFIX}{}", self.tag)
    }

    /// The host's nftables table.
    pub fn table(&self) -> String {
        format!("atoll_{}", self.tag)
    }

    /// Where the router namespace is pinned.
    pub fn netns_path(&self) -> PathBuf {
        self.run_dir().join("netns")
    }

    /// The folder of this network; others may keep files of the same data directory there.
    pub fn run_dir(&self) -> PathBuf {
        self.run_root.join(&self.tag)
    }

    pub(super) fn claim_path(&self) -> PathBuf {
        claims_dir(&self.run_root).join(&self.tag)
    }

    fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.block.network).wrapping_add(offset))
    }
}

/// Chooses a block for `tag` that overlaps no route of the host, none of its name servers and no other tag's block,
/// and claims it. Asking again gives the same block while it is free of others' routes.
pub fn plan(tag: &str, options: &PlanOptions) -> Result<NetPlan, NetError> {
    check_tag(tag)?;
    let _lock = HostLock::acquire(&options.run_root)?;
    let host = Netlink::open().map_err(NetError::Socket)?;
    let routes = routes(&host)?;
    let mut taken: Vec<Cidr> = Vec::new();
    let own_link = host.index(&format!("{HOST_LINK_PREFIX}{tag}")).map_err(NetError::Socket)?;
    taken.extend(routes.iter().filter(|r| is_foreign(r, own_link)).map(|r| r.to));
    taken.extend(name_servers());
    let (own, others): (Vec<_>, Vec<_>) =
        claims(&options.run_root)?.into_iter().partition(|(name, _)| name == tag);
    taken.extend(others.iter().map(|(_, block)| *block));
    let free = |block: &Cidr| block.prefix <= SMALLEST_BLOCK && !taken.iter().any(|t| overlap(*t, *block));
    let block = own
        .iter()
        .map(|(_, block)| *block)
        .find(|block| free(block) && options.ranges.iter().any(|range| covers(*range, *block)))
        .or_else(|| options.ranges.iter().find_map(|range| blocks(*range, tag).find(free)))
        .ok_or_else(|| NetError::NoFreeBlock(options.ranges.clone()))?;
    let mtu = default_mtu(&host, &routes);
    let plan = NetPlan { tag: tag.to_owned(), block, run_root: options.run_root.clone(), mtu };
    claim(&plan)?;
    Ok(plan)
}

/// Checks that nobody else took the block since it was planned, and claims it again (claims end with a restart of
/// the machine). The caller holds the lock.
pub(super) fn confirm(plan: &NetPlan, host: &Netlink) -> Result<(), NetError> {
    check_tag(&plan.tag)?;
    let taken = |by: String| NetError::BlockTaken { block: plan.block, by };
    for (tag, block) in claims(&plan.run_root)? {
        if tag != plan.tag && overlap(block, plan.block) {
            return Err(taken(format!("the network {tag}")));
        }
    }
    let own_link = host.index(&plan.host_link()).map_err(NetError::Socket)?;
    match routes(host)?.iter().find(|r| is_foreign(r, own_link) && overlap(r.to, plan.block)) {
        Some(route) => Err(taken(format!("the route {}", route.to))),
        None => claim(plan),
    }
}

/// One lock for the whole machine: who chooses ranges of addresses or of user numbers holds it.
#[derive(Debug)]
pub struct HostLock(#[expect(dead_code, reason = "held for its lock, which ends when it is closed")] File);

impl HostLock {
    /// Waits for the lock.
    pub fn acquire(run_root: &Path) -> Result<HostLock, NetError> {
        let path = run_root.join("lock");
        let lock = || {
            fs::create_dir_all(run_root)?;
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
            Ok(HostLock(file))
        };
        lock().map_err(|source| NetError::File { what: "lock", path: path.clone(), source })
    }
}

/// Whether a route is a use of its range by others; the one to everywhere else is not.
fn is_foreign(route: &Route, own_link: Option<u32>) -> bool {
    route.to.prefix > 0 && (route.link.is_none() || route.link != own_link)
}

fn routes(host: &Netlink) -> Result<Vec<Route>, NetError> {
    host.routes().map_err(NetError::Socket)
}

fn check_tag(tag: &str) -> Result<(), NetError> {
    let fits = !tag.is_empty() && tag.len() <= MAX_TAG;
    if fits && tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Ok(());
    }
    Err(NetError::BadTag(tag.to_owned()))
}

/// The blocks of a range, starting at a place that the tag decides: servers that do not know of each other (after a
/// restart of the machine, say) seldom meet.
fn blocks(range: Cidr, tag: &str) -> impl Iterator<Item = Cidr> {
    let prefix = range.prefix.max(BLOCK_PREFIX);
    let count = 1u64 << (prefix - range.prefix);
    let start = tag.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (0..count).filter_map(move |i| {
        let at = (start.wrapping_add(i) % count) << (32 - prefix);
        let network = range.network.to_bits() + u32::try_from(at).ok()?;
        Some(Cidr { network: network.into(), prefix })
    })
}

fn default_mtu(host: &Netlink, routes: &[Route]) -> u32 {
    const USUAL: u32 = 1500;
    let link = routes.iter().find(|r| r.to.prefix == 0).and_then(|r| r.link);
    let mtu = link.and_then(|index| host.mtu(index).ok().flatten());
    mtu.unwrap_or(USUAL).clamp(576, USUAL)
}

fn name_servers() -> Vec<Cidr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse::<Ipv4Addr>().ok();
    text.lines().filter_map(server).map(ranges::single).collect()
}

fn claims_dir(run_root: &Path) -> PathBuf {
    run_root.join("blocks")
}

/// Who claimed which block. A claim that cannot be read was cut short by a crash, before anything was made from it.
fn claims(run_root: &Path) -> Result<Vec<(String, Cidr)>, NetError> {
    let dir = claims_dir(run_root);
    let failed = |source| NetError::File { what: "read the claims in", path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(failed(err)),
    };
    let mut claims = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let block = fs::read_to_string(entry.path()).map_err(failed)?.parse();
        claims.extend(block.ok().map(|block| (entry.file_name().to_string_lossy().into_owned(), block)));
    }
    Ok(claims)
}

fn claim(plan: &NetPlan) -> Result<(), NetError> {
    let path = plan.claim_path();
    fs::create_dir_all(claims_dir(&plan.run_root))
        .and_then(|()| fs::write(&path, plan.block.to_string()))
        .map_err(|source| NetError::File { what: "write the claim", path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_thousands_and_names_fit() {
        let plan = NetPlan {
            tag: "abc123".into(),
            block: "10.192.64.0/18".parse().unwrap(),
            run_root: RUN_ROOT.into(),
            mtu: 1500,
        };
        assert!(plan.slots().len() > 16_000);
        assert_eq!(plan.address(16), Ipv4Addr::new(10, 192, 64, 16));
        assert_eq!(plan.slot_of(Ipv4Addr::new(10, 192, 65, 0)), Some(256));
        assert_eq!(plan.slot_of(plan.gateway()), None);
        assert_eq!(plan.slot_of(Ipv4Addr::new(10, 192, 127, 255)), None);
        assert!(plan.host_link().len() <= 15);
        let again: NetPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(again, plan);
    }

    #[test]
    fn every_block_of_a_range_is_tried_once() {
        let mut all: Vec<Cidr> = blocks("10.192.0.0/10".parse().unwrap(), "ab12cd").collect();
        assert_eq!(all.len(), 256);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256);
        assert!(all.iter().all(|b| covers("10.192.0.0/10".parse().unwrap(), *b)));
        assert_eq!(blocks("10.0.0.0/20".parse().unwrap(), "x").count(), 1);
    }

    #[test]
    fn odd_tags_are_refused() {
        for tag in ["", "ABC", "a b", "a;b", "abcdefghijk", "../x"] {
            assert!(check_tag(tag).is_err(), "{tag}");
        }
        assert!(check_tag("0f3a9c").is_ok());
    }
}
