//! What a sandbox may reach, as a person says it, checked entry by entry. Pure; how it is enforced is `firewall`'s.

use serde::{Deserialize, Serialize};

use super::cidr::{Cidr, CidrError};

/// Ranges that are closed unless an allow-list names a part of them and the server permits that: private (RFC 1918),
/// carrier-grade NAT and benchmark addresses.
pub const CLOSED: [Cidr; 5] = [
    Cidr::new([10, 0, 0, 0], 8),
    Cidr::new([172, 16, 0, 0], 12),
    Cidr::new([192, 168, 0, 0], 16),
    Cidr::new([100, 64, 0, 0], 10),
    Cidr::new([198, 18, 0, 0], 15),
];

/// Ranges that nothing opens: this network, loopback, link-local with the metadata service, protocol assignments and
/// translation, multicast, reserved and broadcast; and the metadata addresses that clouds put elsewhere.
pub const NEVER: [Cidr; 9] = [
    Cidr::new([0, 0, 0, 0], 8),
    Cidr::new([127, 0, 0, 0], 8),
    Cidr::new([169, 254, 0, 0], 16),
    Cidr::new([192, 0, 0, 0], 24),
    Cidr::new([192, 88, 99, 0], 24),
    Cidr::new([100, 100, 100, 200], 32),
    Cidr::new([168, 63, 129, 16], 32),
    Cidr::new([224, 0, 0, 0], 4),
    Cidr::new([240, 0, 0, 0], 4),
];

/// What one sandbox may reach. An allowed address wins over a denied one; the rest follows `internet`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressPolicy {
    /// Whether public addresses are reachable that no list names.
    #[serde(default = "yes")]
    pub internet: bool,
    /// Reachable whatever `deny` and `internet` say. A wide entry opens its public part; an entry that lies inside
    /// a closed range (see [`CLOSED`]) opens that part of it.
    #[serde(default)]
    pub allow: Vec<Cidr>,
    /// Not reachable, unless allowed. `0.0.0.0/0` leaves the allow-list only.
    #[serde(default)]
    pub deny: Vec<Cidr>,
}

/// Why a policy is refused. Each variant carries the entry as it was written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    /// Not a range.
    #[error("{list} entry {at}: {source}")]
    Entry {
        /// `allow` or `deny`.
        list: &'static str,
        /// Its place in the list, from 0.
        at: usize,
        /// What is wrong.
        source: CidrError,
    },
    /// An allow-list entry in a range that nothing opens.
    #[error("allow entry {entry} lies in {range}, which is never reachable from a sandbox")]
    Never {
        /// The entry.
        entry: Cidr,
        /// The range it lies in.
        range: Cidr,
    },
    /// An allow-list entry in a closed range, on a server that does not let them be opened.
    #[error("allow entry {entry} lies in the private range {range}, which this server does not open")]
    Private {
        /// The entry.
        entry: Cidr,
        /// The range it lies in.
        range: Cidr,
    },
    /// More entries than one sandbox may have.
    #[error("{count} {list} entries; at most {} are taken", EgressPolicy::MAX_ENTRIES)]
    TooMany {
        /// `allow` or `deny`.
        list: &'static str,
        /// How many there are.
        count: usize,
    },
}

impl Default for EgressPolicy {
    fn default() -> EgressPolicy {
        EgressPolicy { internet: true, allow: Vec::new(), deny: Vec::new() }
    }
}

impl EgressPolicy {
    /// Entries of one list.
    pub const MAX_ENTRIES: usize = 1000;

    /// Reads the lists and checks them; see [`check`](Self::check).
    pub fn parse<S: AsRef<str>>(
        internet: bool,
        allow: &[S],
        deny: &[S],
        private_permitted: bool,
    ) -> Result<EgressPolicy, PolicyError> {
        let policy = EgressPolicy { internet, allow: entries("allow", allow)?, deny: entries("deny", deny)? };
        policy.check(private_permitted)?;
        Ok(policy)
    }

    /// Whether the policy may be used; `private_permitted` is the server's word on opening closed ranges.
    pub fn check(&self, private_permitted: bool) -> Result<(), PolicyError> {
        for (list, entries) in [("allow", &self.allow), ("deny", &self.deny)] {
            if entries.len() > Self::MAX_ENTRIES {
                return Err(PolicyError::TooMany { list, count: entries.len() });
            }
        }
        for &entry in &self.allow {
            if let Some(range) = inside(entry, &NEVER) {
                return Err(PolicyError::Never { entry, range });
            }
            if let Some(range) = inside(entry, &CLOSED).filter(|_| !private_permitted) {
                return Err(PolicyError::Private { entry, range });
            }
        }
        Ok(())
    }

    /// Whether the policy is what a sandbox has anyway, so that no rule is needed for it.
    pub fn is_default(&self) -> bool {
        self.internet && self.deny.is_empty() && self.opened().is_empty()
    }

    /// Whether nothing at all can be reached. Names do not resolve then either: a query is a way out.
    pub fn is_mute(&self) -> bool {
        let shut = !self.internet || self.deny.iter().any(|range| range.prefix() == 0);
        shut && self.allow.is_empty()
    }

    /// The allow-list entries that open a part of a closed range.
    pub(super) fn opened(&self) -> Vec<Cidr> {
        self.allow.iter().copied().filter(|entry| inside(*entry, &CLOSED).is_some()).collect()
    }
}

fn inside(entry: Cidr, ranges: &[Cidr]) -> Option<Cidr> {
    ranges.iter().copied().find(|range| range.covers(entry))
}

fn entries<S: AsRef<str>>(list: &'static str, texts: &[S]) -> Result<Vec<Cidr>, PolicyError> {
    let parse = |(at, text): (usize, &S)| {
        text.as_ref().parse().map_err(|source| PolicyError::Entry { list, at, source })
    };
    texts.iter().enumerate().map(parse).collect()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(allow: &[&str], deny: &[&str], private: bool) -> Result<EgressPolicy, PolicyError> {
        EgressPolicy::parse(true, allow, deny, private)
    }

    #[test]
    fn refusals_name_the_entry() {
        let told = parse(&["8.8.8.8", "10.0.0.0/99"], &[], false).unwrap_err().to_string();
        assert!(told.contains("allow entry 1") && told.contains("10.0.0.0/99"), "{told}");
        let told = parse(&[], &["2001:db8::/32"], false).unwrap_err().to_string();
        assert!(told.contains("deny entry 0") && told.contains("2001:db8::/32"), "{told}");
        for entry in ["169.254.169.254", "127.0.0.1", "224.0.0.1", "168.63.129.16", "100.100.100.200"] {
            let told = parse(&[entry], &[], true).unwrap_err();
            assert!(matches!(told, PolicyError::Never { .. }), "{entry}: {told}");
        }
        assert!(matches!(parse(&["10.1.0.0/16"], &[], false), Err(PolicyError::Private { .. })));
        let many = vec!["8.8.8.8"; 1001];
        assert!(matches!(parse(&many, &[], false), Err(PolicyError::TooMany { count: 1001, .. })));
    }

    #[test]
    fn tells_what_needs_rules() {
        assert!(parse(&["0.0.0.0/0"], &[], false).unwrap().is_default());
        assert!(!parse(&["10.1.0.0/16"], &[], true).unwrap().is_default());
        assert!(!parse(&[], &["8.8.8.8"], false).unwrap().is_default());
        assert!(parse(&[], &["0.0.0.0/0"], false).unwrap().is_mute());
        assert!(!parse(&["8.8.8.8"], &["0.0.0.0/0"], false).unwrap().is_mute());
    }

    #[test]
    fn reads_json() {
        let policy: EgressPolicy = serde_json::from_str(r#"{"deny": ["0.0.0.0/0"]}"#).unwrap();
        assert!(policy.internet && policy.allow.is_empty());
        assert!(serde_json::from_str::<EgressPolicy>(r#"{"allowed": []}"#).is_err());
        assert!(serde_json::from_str::<EgressPolicy>(r#"{"allow": ["1.2.3.4/8"]}"#).is_err());
    }
}
