//! Arithmetic on IPv4 ranges. Pure.

use core::net::Ipv4Addr;

use crate::network::Cidr;

/// The range around an address; bits after the prefix are cleared.
#[must_use]
pub const fn around(octets: [u8; 4], prefix: u8) -> Cidr {
    let network = u32::from_be_bytes(octets) & mask(prefix);
    Cidr { network: Ipv4Addr::from_bits(network), prefix }
}

/// The range of one address.
#[must_use]
pub fn single(addr: Ipv4Addr) -> Cidr {
    Cidr { network: addr, prefix: 32 }
}

/// How many addresses there are (all of IPv4 do not fit 32 bits).
#[must_use]
pub fn size(range: Cidr) -> u64 {
    1 << (32 - u32::from(range.prefix))
}

/// How far `addr` is from the first address, when it is inside.
#[must_use]
pub fn offset(range: Cidr, addr: Ipv4Addr) -> Option<u32> {
    range.contains(addr).then(|| addr.to_bits() - range.network.to_bits())
}

/// Whether `inner` lies wholly inside `outer`.
#[must_use]
pub fn covers(outer: Cidr, inner: Cidr) -> bool {
    outer.prefix <= inner.prefix && outer.contains(inner.network)
}

/// Whether the two share an address.
#[must_use]
pub fn overlap(a: Cidr, b: Cidr) -> bool {
    covers(a, b) || covers(b, a)
}

/// The same addresses as a list without overlaps, sorted: ranges either nest or are disjoint.
#[must_use]
pub fn merge(ranges: &[Cidr]) -> Vec<Cidr> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<Cidr> = Vec::with_capacity(sorted.len());
    for range in sorted {
        if !merged.last().is_some_and(|last| covers(*last, range)) {
            merged.push(range);
        }
    }
    merged
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn covers_and_overlaps() {
        assert!(covers(cidr("10.0.0.0/8"), cidr("10.255.0.0/16")));
        assert!(!covers(cidr("10.255.0.0/16"), cidr("10.0.0.0/8")));
        assert!(overlap(cidr("10.255.0.0/16"), cidr("10.0.0.0/8")));
        assert!(!overlap(cidr("10.0.0.0/9"), cidr("10.128.0.0/9")));
        assert!(covers(cidr("0.0.0.0/0"), single(Ipv4Addr::BROADCAST)));
        assert_eq!(size(cidr("0.0.0.0/0")), 1 << 32);
        assert_eq!(offset(cidr("10.0.0.0/30"), Ipv4Addr::new(10, 0, 0, 2)), Some(2));
        assert_eq!(offset(cidr("10.0.0.0/30"), Ipv4Addr::new(10, 0, 0, 4)), None);
        assert_eq!(around([10, 1, 2, 3], 8), cidr("10.0.0.0/8"));
    }

    #[test]
    fn merges_nested_ranges() {
        let merged = merge(&[cidr("10.1.0.0/16"), cidr("9.9.9.9"), cidr("10.0.0.0/8"), cidr("9.9.9.9")]);
        assert_eq!(merged, [cidr("9.9.9.9"), cidr("10.0.0.0/8")]);
    }
}
