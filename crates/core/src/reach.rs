//! Which ranges a sandbox never reaches or reaches only by name, and what of that a policy concerns. Pure; how it is
//! enforced is the driver's.

use crate::{
    error::Invalid,
    network::{Cidr, NetworkMode, NetworkPolicy},
    ranges::{around, covers},
};

/// Ranges that are closed unless an allow-list names a part of them and the server permits that: private (RFC 1918),
/// carrier-grade NAT and benchmark addresses.
pub const CLOSED: [Cidr; 5] = [
    around([10, 0, 0, 0], 8),
    around([172, 16, 0, 0], 12),
    around([192, 168, 0, 0], 16),
    around([100, 64, 0, 0], 10),
    around([198, 18, 0, 0], 15),
];

/// Ranges that nothing opens: this network, loopback, link-local with the metadata service, protocol assignments and
/// translation, multicast, reserved and broadcast; and the metadata addresses that clouds put elsewhere.
pub const NEVER: [Cidr; 9] = [
    around([0, 0, 0, 0], 8),
    around([127, 0, 0, 0], 8),
    around([169, 254, 0, 0], 16),
    around([192, 0, 0, 0], 24),
    around([192, 88, 99, 0], 24),
    around([100, 100, 100, 200], 32),
    around([168, 63, 129, 16], 32),
    around([224, 0, 0, 0], 4),
    around([240, 0, 0, 0], 4),
];

/// Entries that one list of a sandbox may have.
pub const MAX_ENTRIES: usize = 1000;

/// Whether a driver can keep to the policy; `private_permitted` is the server's word on opening closed ranges. A
/// wide allow-list entry opens its public part; one that lies inside a closed range (see [`CLOSED`]) opens that.
///
/// # Errors
/// Names the entry that cannot be allowed, or the list that is too long.
pub fn check_policy(policy: &NetworkPolicy, private_permitted: bool) -> Result<(), Invalid> {
    for (field, list) in [("network.allow", &policy.allow), ("network.deny", &policy.deny)] {
        if list.len() > MAX_ENTRIES {
            let problem = format!("{} entries; at most {MAX_ENTRIES} are taken", list.len());
            return Err(Invalid::new(field, problem));
        }
    }
    policy.allow.iter().enumerate().try_for_each(|(at, entry)| {
        let refuse = |problem: String| Err(Invalid::new(format!("network.allow[{at}]"), problem));
        if let Some(range) = inside(*entry, &NEVER) {
            return refuse(format!("{entry} lies in {range}, which is never reachable from a sandbox"));
        }
        match inside(*entry, &CLOSED) {
            Some(range) if !private_permitted => {
                refuse(format!("{entry} lies in the private range {range}, which this server does not open"))
            }
            _ => Ok(()),
        }
    })
}

/// Whether the policy is what a sandbox has anyway, so that no rule is needed for it.
#[must_use]
pub fn is_usual(policy: &NetworkPolicy) -> bool {
    policy.mode == NetworkMode::Internet && policy.deny.is_empty() && opened(policy).is_empty()
}

/// Whether nothing at all can be reached. Names do not resolve then either: a query is a way out.
#[must_use]
pub fn is_mute(policy: &NetworkPolicy) -> bool {
    let shut = policy.mode != NetworkMode::Internet || policy.deny.iter().any(|range| range.prefix == 0);
    shut && policy.allow.is_empty()
}

/// The allow-list entries that open a part of a closed range.
#[must_use]
pub fn opened(policy: &NetworkPolicy) -> Vec<Cidr> {
    policy.allow.iter().copied().filter(|entry| inside(*entry, &CLOSED).is_some()).collect()
}

fn inside(entry: Cidr, ranges: &[Cidr]) -> Option<Cidr> {
    ranges.iter().copied().find(|range| covers(*range, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> NetworkPolicy {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        NetworkPolicy { mode: NetworkMode::Internet, allow: list(allow), deny: list(deny) }
    }

    #[test]
    fn refusals_name_the_entry() {
        for entry in ["169.254.169.254", "127.0.0.1", "224.0.0.1", "168.63.129.16", "100.100.100.200"] {
            let told = check_policy(&policy(&["8.8.8.8", entry], &[]), true).unwrap_err().to_string();
            assert!(told.contains("network.allow[1]") && told.contains(entry), "{told}");
        }
        assert!(check_policy(&policy(&["10.1.0.0/16"], &[]), false).is_err());
        assert!(check_policy(&policy(&["10.1.0.0/16"], &[]), true).is_ok());
        assert!(check_policy(&policy(&[], &["8.8.8.8"; 1001]), true).is_err());
    }

    #[test]
    fn tells_what_needs_rules() {
        assert!(is_usual(&policy(&["0.0.0.0/0"], &[])));
        assert!(!is_usual(&policy(&["10.1.0.0/16"], &[])));
        assert!(!is_usual(&policy(&[], &["8.8.8.8"])));
        assert!(is_mute(&policy(&[], &["0.0.0.0/0"])));
        assert!(!is_mute(&policy(&["8.8.8.8"], &["0.0.0.0/0"])));
        assert!(is_mute(&NetworkPolicy { mode: NetworkMode::Restricted, ..policy(&[], &[]) }));
    }
}
