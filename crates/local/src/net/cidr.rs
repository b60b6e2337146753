//! IPv4 ranges in CIDR notation: parsing with errors that name the entry, containment, merging.
//! Pure; knows nothing of sandboxes or of the kernel.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 range such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

/// Why a text is not a range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidrError {
    /// Sandboxes have no IPv6, so a range of it means nothing.
    #[error("'{0}' is an IPv6 range; sandboxes have IPv4 only")]
    Ipv6(String),
    /// Neither an address nor a range.
    #[error("'{0}' is not an IPv4 address or range such as 203.0.113.0/24")]
    Malformed(String),
    /// Bits are set after the prefix: probably a typing error, so it is not guessed.
    #[error("'{0}' has bits set after its prefix; did you mean '{1}'?")]
    HostBits(String, Cidr),
}

impl Cidr {
    /// The range that starts at `a.b.c.d`, for ranges known at compile time; bits after the prefix are cleared.
    pub const fn new(octets: [u8; 4], prefix: u8) -> Cidr {
        Cidr { base: u32::from_be_bytes(octets) & mask(prefix), prefix }
    }

    /// The first address.
    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// The number of leading bits that are fixed.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// How many addresses the range has (the whole of IPv4 does not fit 32 bits).
    pub fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The address `offset` after the first, when it is inside.
    pub fn nth(self, offset: u32) -> Option<Ipv4Addr> {
        (u64::from(offset) < self.size()).then(|| Ipv4Addr::from(self.base + offset))
    }

    /// How far `addr` is from the first address, when it is inside.
    pub fn offset(self, addr: Ipv4Addr) -> Option<u32> {
        self.contains(addr).then(|| u32::from(addr) - self.base)
    }

    /// Whether the address is inside.
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        u32::from(addr) & mask(self.prefix) == self.base
    }

    /// Whether `other` lies wholly inside.
    pub fn covers(self, other: Cidr) -> bool {
        self.prefix <= other.prefix && self.contains(other.base())
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Cidr) -> bool {
        self.covers(other) || other.covers(self)
    }
}

/// The same addresses as a list without overlaps, sorted: ranges either nest or are disjoint.
pub fn merge(ranges: &[Cidr]) -> Vec<Cidr> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<Cidr> = Vec::with_capacity(sorted.len());
    for range in sorted {
        if !merged.last().is_some_and(|last| last.covers(range)) {
            merged.push(range);
        }
    }
    merged
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl From<Ipv4Addr> for Cidr {
    fn from(addr: Ipv4Addr) -> Cidr {
        Cidr { base: addr.into(), prefix: 32 }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let text = text.trim();
        if text.contains(':') {
            return Err(CidrError::Ipv6(text.to_owned()));
        }
        let malformed = || CidrError::Malformed(text.to_owned());
        let (addr, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let addr: Ipv4Addr = addr.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(malformed)?;
        let range = Cidr::new(addr.octets(), prefix);
        if range.base() != addr {
            return Err(CidrError::HostBits(text.to_owned(), range));
        }
        Ok(range)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Cidr, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> String {
        range.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("1.2.3.4", "1.2.3.4/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            (" 8.8.8.8/32 ", "8.8.8.8/32"),
        ] {
            assert_eq!(cidr(text).to_string(), shown);
        }
    }

    #[test]
    fn refuses_with_the_entry_named() {
        for text in ["", "x", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8", "1.2.3.4/"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Malformed(text.to_owned())));
        }
        assert_eq!("::/0".parse::<Cidr>(), Err(CidrError::Ipv6("::/0".into())));
        let told = "10.1.2.3/8".parse::<Cidr>().unwrap_err().to_string();
        assert!(told.contains("10.1.2.3/8") && told.contains("10.0.0.0/8"), "{told}");
    }

    #[test]
    fn contains_and_overlaps() {
        assert!(cidr("10.0.0.0/8").covers(cidr("10.255.0.0/16")));
        assert!(!cidr("10.255.0.0/16").covers(cidr("10.0.0.0/8")));
        assert!(cidr("10.255.0.0/16").overlaps(cidr("10.0.0.0/8")));
        assert!(!cidr("10.0.0.0/9").overlaps(cidr("10.128.0.0/9")));
        assert!(cidr("0.0.0.0/0").contains(Ipv4Addr::BROADCAST));
        assert_eq!(cidr("10.0.0.0/30").nth(3), Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(cidr("10.0.0.0/30").nth(4), None);
        assert_eq!(cidr("10.0.0.0/30").offset(Ipv4Addr::new(10, 0, 0, 2)), Some(2));
    }

    #[test]
    fn merges_nested_ranges() {
        let merged = merge(&[cidr("10.1.0.0/16"), cidr("9.9.9.9"), cidr("10.0.0.0/8"), cidr("9.9.9.9")]);
        assert_eq!(merged, [cidr("9.9.9.9"), cidr("10.0.0.0/8")]);
    }
}
