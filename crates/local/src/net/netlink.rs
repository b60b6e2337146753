//! Route netlink over a plain blocking socket: batches of requests, acknowledgements, dumps. Knows links, addresses,
//! routes and neighbours, and nothing of sandboxes. No async: a launcher that is a forked helper uses it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use atoll_core::network::Cidr;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::{
    AddressFamily as Family, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, netlink,
};

use atoll_core::ranges;

/// The kernel writes no more of a listing at once.
const BUFFER: usize = 32 * 1024;

pub(super) type Mac = [u8; 6];

/// One request of a batch, with the words to say when it fails.
pub(super) struct Request {
    what: &'static str,
    message: RouteNetlinkMessage,
    flags: u16,
}

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub(super) struct Refused {
    pub(super) what: &'static str,
    pub(super) source: io::Error,
}

/// One end of a veth pair.
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    /// 0 lets the kernel choose.
    pub(super) index: u32,
    pub(super) mac: Mac,
    /// `None`: the namespace of the socket.
    pub(super) netns: Option<BorrowedFd<'a>>,
}

/// A route as far as we look at one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: Cidr,
    pub(super) link: Option<u32>,
}

/// A route netlink socket of one network namespace. The lock keeps one thread's answers from another's.
#[derive(Debug)]
pub(super) struct Netlink(Mutex<OwnedFd>);

impl Netlink {
    /// A socket in the calling thread's namespace; it stays there wherever the thread goes.
    pub(super) fn open() -> io::Result<Netlink> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(Family::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
        Ok(Netlink(Mutex::new(fd)))
    }

    /// Sends all requests in one message and waits for each answer. The kernel tries them all, whatever became of
    /// those before; the first refusal is reported.
    pub(super) fn run(&self, requests: Vec<Request>) -> Result<(), Refused> {
        let whats: Vec<&'static str> = requests.iter().map(|r| r.what).collect();
        let refused = |at: usize, source| Refused { what: whats.get(at).copied().unwrap_or("ask"), source };
        let mut bytes = Vec::with_capacity(1024);
        for (seq, request) in requests.into_iter().enumerate() {
            emit(&mut bytes, request.message, request.flags | NLM_F_REQUEST | NLM_F_ACK, seq);
        }
        let fd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::net::send(&*fd, &bytes, SendFlags::empty()).map_err(|err| refused(0, err.into()))?;
        let (mut answered, mut first) = (0, None);
        let mut buffer = vec![0; BUFFER];
        while answered < whats.len() {
            receive(&fd, &mut buffer, |header, payload| {
                if let Answer::Status(code) = Answer::of(header, payload) {
                    answered += 1;
                    let at = usize::try_from(header.sequence_number).unwrap_or(0);
                    if code != 0 && first.is_none() {
                        first = Some(refused(at, io::Error::from_raw_os_error(-code)));
                    }
                }
            })
            .map_err(|err| refused(answered, err))?;
        }
        first.map_or(Ok(()), Err)
    }

    /// The number of the link called `name`, if there is one.
    pub(super) fn index(&self, name: &str) -> io::Result<Option<u32>> {
        let fd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match netdevice::name_to_index(&*fd, name) {
            Ok(index) => Ok(Some(index)),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// The names of all links. Read without the typed decoder, which refuses whole messages over one new attribute.
    pub(super) fn link_names(&self) -> io::Result<Vec<String>> {
        const IFNAME: u16 = 3;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut names = Vec::new();
        self.dump(RouteNetlinkMessage::GetLink(message), |payload| {
            names.extend(attribute(payload, 16, IFNAME).and_then(|v| {
                String::from_utf8(v.split(|b| *b == 0).next().unwrap_or_default().to_vec()).ok()
            }));
        })?;
        Ok(names)
    }

    /// All IPv4 routes of all tables.
    pub(super) fn routes(&self) -> io::Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let mut routes = Vec::new();
        self.dump(RouteNetlinkMessage::GetRoute(message), |payload| routes.extend(route_of(payload)))?;
        Ok(routes)
    }

    /// The largest packet that the link `index` carries.
    pub(super) fn mtu(&self, index: u32) -> io::Result<Option<u32>> {
        const MTU: u16 = 4;
        let mut mtu = None;
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |payload| {
            if payload.get(4..8) == Some(&index.to_ne_bytes()) {
                mtu = attribute(payload, 16, MTU).and_then(number);
            }
        })?;
        Ok(mtu)
    }

    fn dump(&self, message: RouteNetlinkMessage, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut bytes = Vec::new();
        emit(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP, 0);
        let fd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::net::send(&*fd, &bytes, SendFlags::empty())?;
        let mut end = None;
        let mut buffer = vec![0; BUFFER];
        while end.is_none() {
            receive(&fd, &mut buffer, |header, payload| match Answer::of(header, payload) {
                Answer::Data => each(payload),
                Answer::Done => end = Some(0),
                Answer::Status(code) => end = Some(code),
            })?;
        }
        match end {
            Some(code) if code != 0 => Err(io::Error::from_raw_os_error(-code)),
            _ => Ok(()),
        }
    }
}

enum Answer {
    Data,
    Done,
    Status(i32),
}

impl Answer {
    fn of(header: &NetlinkHeader, payload: &[u8]) -> Answer {
        match header.message_type {
            2 => Answer::Status(payload.first_chunk().map_or(-libc::EBADMSG, |b| i32::from_ne_bytes(*b))),
            3 => Answer::Done,
            _ => Answer::Data,
        }
    }
}

fn emit(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, seq: usize) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = u32::try_from(seq).unwrap_or(0);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

/// Reads one datagram and shows each message in it.
fn receive(fd: &OwnedFd, buffer: &mut [u8], mut each: impl FnMut(&NetlinkHeader, &[u8])) -> io::Result<()> {
    const HEADER: usize = 16;
    let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(fd, &mut *buffer, RecvFlags::TRUNC))?;
    let mut rest = buffer.get(..length).ok_or_else(|| io::Error::other("netlink answer too large"))?;
    while let Some(header) = header_of(rest) {
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let payload = rest.get(HEADER..length).ok_or_else(|| io::Error::other("netlink answer cut short"))?;
        each(&header, payload);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

fn header_of(bytes: &[u8]) -> Option<NetlinkHeader> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(number);
    let mut header = NetlinkHeader::default();
    header.length = word(0)?;
    header.message_type = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    header.sequence_number = word(8)?;
    word(12)?;
    Some(header)
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// The value of one attribute after a fixed header.
fn attribute(payload: &[u8], header: usize, kind: u16) -> Option<&[u8]> {
    const KIND: u16 = 0x3fff;
    let mut rest = payload.get(header..)?;
    loop {
        let half = |at: usize| rest.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
        let length = usize::from(half(0)?);
        if half(2)? & KIND == kind {
            return rest.get(4..length);
        }
        rest = rest.get(length.next_multiple_of(4).max(4)..)?;
    }
}

fn route_of(payload: &[u8]) -> Option<Route> {
    const DST: u16 = 1;
    const OIF: u16 = 4;
    let prefix = *payload.get(1)?;
    let to: [u8; 4] = match attribute(payload, 12, DST) {
        Some(value) => value.try_into().ok()?,
        None => [0; 4],
    };
    Some(Route { to: ranges::around(to, prefix), link: attribute(payload, 12, OIF).and_then(number) })
}

/// A veth pair, each end made straight in its own namespace. The first is up; a peer cannot be before it is joined.
pub(super) fn veth(end: &End<'_>, peer: &End<'_>, mtu: u32) -> Request {
    let mut message = link_end(end, mtu);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(link_end(peer, mtu)))),
    ]));
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Request { what: "make the veth pair", message: RouteNetlinkMessage::NewLink(message), flags }
}

fn link_end(end: &End<'_>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = end.index;
    message.attributes = vec![
        LinkAttribute::IfName(end.name.to_owned()),
        LinkAttribute::Address(end.mac.to_vec()),
        LinkAttribute::Mtu(mtu),
        // One queue each: the default is one per processor, which costs memory in thousands of pairs.
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    message.attributes.extend(end.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
    message
}

pub(super) fn delete_link(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request { what: "delete the link", message: RouteNetlinkMessage::DelLink(message), flags: 0 }
}

/// Brings a link up, by number.
pub(super) fn link_up(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request { what: "bring the link up", message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Waits until a link whose other end came up after it carries packets. The kernel does that in the background, and
/// drops what is sent before: a first connection would wait a second for its second try.
pub(super) fn settle(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Request { what: "look at the link", message: RouteNetlinkMessage::GetLink(message), flags: 0 }
}

/// Gives a link one address, alone (/32).
pub(super) fn address(index: u32, addr: Ipv4Addr) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(IpAddr::V4(addr)), AddressAttribute::Address(IpAddr::V4(addr))];
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request { what: "set the address", message: RouteNetlinkMessage::NewAddress(message), flags }
}

/// A route over a link: straight to it, or through `gateway`, taken to be on the link whatever the addresses say.
pub(super) fn route(to: Cidr, link: u32, gateway: Option<Ipv4Addr>, source: Option<Ipv4Addr>) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = to.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    if gateway.is_some() {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(to.network)));
    message.attributes.push(RouteAttribute::Oif(link));
    message.attributes.extend(gateway.map(|addr| RouteAttribute::Gateway(RouteAddress::Inet(addr))));
    message.attributes.extend(source.map(|addr| RouteAttribute::PrefSource(RouteAddress::Inet(addr))));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request { what: "set the route", message: RouteNetlinkMessage::NewRoute(message), flags }
}

/// A neighbour that never changes: no ARP, and no place in the kernel's table of 1,024 for the whole machine.
pub(super) fn neighbour(link: u32, addr: Ipv4Addr, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request { what: "set the neighbour", message: RouteNetlinkMessage::NewNeighbour(message), flags }
}
