//! What a sandbox may reach, as a policy; who enforces it and how is the driver's.

use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr, str::FromStr};

use crate::error::Invalid;

/// A range of IPv4 addresses. IPv6 is off inside sandboxes until it has the same rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The first address of the range.
    pub network: Ipv4Addr,
    /// How many leading bits all of its addresses share, 0 to 32.
    pub prefix: u8,
}

impl Cidr {
    /// Whether `address` lies in the range.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        u32::from(address) & mask == u32::from(self.network)
    }
}

impl FromStr for Cidr {
    type Err = String;

    /// Reads `10.1.0.0/16` or a single address. Bits beyond the prefix are refused: they are usually a slip.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("{text:?} is not an IPv4 address or range; write `203.0.113.7` or `198.51.100.0/24`");
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let network: Ipv4Addr = address.parse().map_err(|_| refuse())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(refuse)?;
        let range = Self { network, prefix };
        if range.contains(network) {
            Ok(range)
        } else {
            Err(format!("{text:?} has bits set beyond its prefix"))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a sandbox may reach. In every mode but `None` its own loopback and the platform's name server answer; the host,
/// other sandboxes and metadata addresses never do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// What is reachable when neither list says otherwise.
    #[serde(default)]
    pub mode: NetworkMode,
    /// Ranges that are reachable whatever `deny` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Cidr>,
    /// Ranges that are not reachable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Cidr>,
}

/// The ground rule of a [`NetworkPolicy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The public internet.
    #[default]
    Internet,
    /// Only what `allow` lists.
    Restricted,
    /// No interface but loopback.
    None,
}

impl NetworkPolicy {
    /// Whether this is what every sandbox gets that asks for nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the lists and refuses a policy that contradicts itself.
    ///
    /// # Errors
    /// Names the entry that is no range, or a list beside `none`.
    pub fn parse(mode: NetworkMode, allow: &[String], deny: &[String]) -> Result<Self, Invalid> {
        let policy =
            Self { mode, allow: ranges("network.allow", allow)?, deny: ranges("network.deny", deny)? };
        if mode == NetworkMode::None && !(policy.allow.is_empty() && policy.deny.is_empty()) {
            return Err(Invalid::new(
                "network",
                "`none` takes no allow or deny list; use `restricted` with `allow`",
            ));
        }
        Ok(policy)
    }
}

fn ranges(field: &str, texts: &[String]) -> Result<Vec<Cidr>, Invalid> {
    let parse = |(i, text): (usize, &String)| {
        text.parse().map_err(|problem: String| Invalid::new(format!("{field}[{i}]"), problem))
    };
    texts.iter().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_and_contain() {
        let range: Cidr = "198.51.100.0/24".parse().unwrap();
        assert!(
            range.contains("198.51.100.9".parse().unwrap())
                && !range.contains("198.51.101.9".parse().unwrap())
        );
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("8.8.8.8".parse().unwrap()));
        for bad in ["", "1.2.3", "1.2.3.4/33", "1.2.3.4/24", "::1", "a/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn none_refuses_lists_and_errors_name_the_entry() {
        let allow = ["10.0.0.0/8".to_owned(), "nonsense".to_owned()];
        assert_eq!(NetworkPolicy::parse(NetworkMode::None, &allow[..1], &[]).unwrap_err().field, "network");
        assert_eq!(
            NetworkPolicy::parse(NetworkMode::Internet, &allow, &[]).unwrap_err().field,
            "network.allow[1]"
        );
    }
}
