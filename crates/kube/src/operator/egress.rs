//! What pods may reach: classes of policies, and the NetworkPolicy of each. Pure.

use atoll_core::{
    network::{Cidr, NetworkMode, NetworkPolicy as Policy},
    ranges::{covers, merge},
    reach::{CLOSED, NEVER, is_mute, is_usual},
};
use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::names::{AGENT_PORT, ATOLL, EGRESS, MANAGED_BY, NAME, SANDBOX};

/// Class of the policy that sandboxes have unless they say otherwise: the public internet.
const INTERNET: &str = "internet";
/// Class of those that reach nothing.
const NOTHING: &str = "none";
const ALL: Cidr = Cidr { network: Ipv4Addr::UNSPECIFIED, prefix: 0 };

/// The class of a policy: sandboxes of one class share one NetworkPolicy.
#[must_use]
pub fn class(policy: &Policy) -> String {
    if is_mute(policy) || policy.mode == NetworkMode::None {
        return NOTHING.into();
    }
    if is_usual(policy) && policy.allow.is_empty() {
        return INTERNET.into();
    }
    let text = serde_json::to_vec(policy).unwrap_or_default();
    format!("p-{}", hex::encode(&Sha256::digest(text)[..8]))
}

/// Who answers names: pods with this label in the platform's namespace.
const RESOLVER: (&str, &str) = ("app.kubernetes.io/component", "resolver");

fn selector(pairs: &[(&str, &str)]) -> LabelSelector {
    let labels: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    LabelSelector { match_labels: (!labels.is_empty()).then_some(labels), match_expressions: None }
}

fn metadata(name: &str, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(format!("atoll-{name}")),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), ATOLL.to_owned())])),
        ..ObjectMeta::default()
    }
}

fn port(number: u16, protocol: &str) -> NetworkPolicyPort {
    let port = Some(IntOrString::Int(number.into()));
    NetworkPolicyPort { port, protocol: Some(protocol.into()), end_port: None }
}

fn platform(namespace: &str, pods: LabelSelector) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(selector(&[("kubernetes.io/metadata.name", namespace)])),
        pod_selector: Some(pods),
        ip_block: None,
    }
}

fn of_block(block: IPBlock) -> NetworkPolicyPeer {
    NetworkPolicyPeer { ip_block: Some(block), ..NetworkPolicyPeer::default() }
}

/// What every tenant's namespace has: nothing passes, but the platform reaches agents, and names resolve where anything
/// may be reached at all.
#[must_use]
pub fn ground(namespace: &str, platform_namespace: &str, ranges: &[Cidr]) -> Vec<NetworkPolicy> {
    let both = vec!["Ingress".to_owned(), "Egress".to_owned()];
    let closed = NetworkPolicySpec { policy_types: Some(both), ..NetworkPolicySpec::default() };
    let outside = ranges.iter().filter_map(|range| block(*range, &[])).map(of_block);
    let agents = NetworkPolicyIngressRule {
        from: Some([platform(platform_namespace, selector(&[]))].into_iter().chain(outside).collect()),
        ports: Some(vec![port(AGENT_PORT, "TCP")]),
    };
    let agents = NetworkPolicySpec {
        pod_selector: Some(selector(&[(NAME, SANDBOX)])),
        policy_types: Some(vec!["Ingress".into()]),
        ingress: Some(vec![agents]),
        egress: None,
    };
    [("closed", closed), ("agents", agents)]
        .into_iter()
        .map(|(name, spec)| NetworkPolicy { metadata: metadata(name, namespace), spec: Some(spec) })
        .collect()
}

/// What pods of a policy's class may reach, beside nothing. `protected` are the cluster's own addresses.
#[must_use]
pub fn policy(
    policy: &Policy,
    namespace: &str,
    platform_namespace: &str,
    protected: &[Cidr],
) -> Option<NetworkPolicy> {
    let class = class(policy);
    let blocks = blocks(policy, protected);
    if class == NOTHING || blocks.is_empty() {
        return None;
    }
    let resolvers = NetworkPolicyEgressRule {
        to: Some(vec![platform(platform_namespace, selector(&[RESOLVER]))]),
        ports: Some(vec![port(53, "UDP"), port(53, "TCP"), port(5353, "UDP"), port(5353, "TCP")]),
    };
    let to = blocks.into_iter().map(of_block);
    let out = NetworkPolicyEgressRule { to: Some(to.collect()), ports: None };
    let spec = NetworkPolicySpec {
        pod_selector: Some(selector(&[(NAME, SANDBOX), (EGRESS, &class)])),
        policy_types: Some(vec!["Egress".into()]),
        egress: Some(vec![resolvers, out]),
        ingress: None,
    };
    Some(NetworkPolicy { metadata: metadata(&format!("egress-{class}"), namespace), spec: Some(spec) })
}

/// The ranges, each without those parts that are closed.
fn blocks(policy: &Policy, protected: &[Cidr]) -> Vec<IPBlock> {
    let never: Vec<Cidr> = NEVER.iter().chain(protected).copied().collect();
    let usual: Vec<Cidr> = never.iter().chain(&CLOSED).copied().collect();
    let everything = (policy.mode == NetworkMode::Internet).then_some(ALL);
    let denied: Vec<Cidr> = usual.iter().chain(&policy.deny).copied().collect();
    let by_name = policy.allow.iter().filter_map(|range| {
        let inside_closed = CLOSED.iter().any(|closed| covers(*closed, *range));
        block(*range, if inside_closed { &never } else { &usual })
    });
    everything.and_then(|all| block(all, &denied)).into_iter().chain(by_name).collect()
}

/// A range without what `except` takes from it; `None` when that is all of it.
fn block(range: Cidr, except: &[Cidr]) -> Option<IPBlock> {
    if except.iter().any(|taken| covers(*taken, range)) {
        return None;
    }
    let inside: Vec<Cidr> = except.iter().copied().filter(|taken| covers(range, *taken)).collect();
    let except: Vec<String> = merge(&inside).iter().map(ToString::to_string).collect();
    Some(IPBlock { cidr: range.to_string(), except: (!except.is_empty()).then_some(except) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mode: NetworkMode, allow: &[&str], deny: &[&str]) -> Policy {
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        Policy::parse(mode, &texts(allow), &texts(deny)).unwrap()
    }

    fn api_server() -> Vec<Cidr> {
        vec!["203.0.113.10".parse().unwrap()]
    }

    #[test]
    fn policies_that_say_the_same_share_a_class() {
        assert_eq!(class(&of(NetworkMode::Internet, &[], &[])), "internet");
        assert_eq!(class(&of(NetworkMode::None, &[], &[])), "none");
        assert_eq!(class(&of(NetworkMode::Restricted, &[], &[])), "none");
        let one = class(&of(NetworkMode::Restricted, &["8.8.8.8"], &[]));
        assert_eq!(one, class(&of(NetworkMode::Restricted, &["8.8.8.8"], &[])));
        assert_ne!(one, class(&of(NetworkMode::Restricted, &["8.8.4.4"], &[])));
        assert!(one.len() <= 63);
    }

    #[test]
    fn the_internet_is_without_what_is_closed() {
        let blocks = blocks(&of(NetworkMode::Internet, &[], &["9.9.9.9"]), &api_server());
        let except = blocks[0].except.clone().unwrap();
        for closed in ["10.0.0.0/8", "169.254.0.0/16", "203.0.113.10/32", "9.9.9.9/32", "224.0.0.0/4"] {
            assert!(except.contains(&closed.to_owned()), "{closed} in {except:?}");
        }
        assert_eq!(blocks.len(), 1);
    }

    #[test]
    fn what_is_allowed_by_name_never_opens_the_cluster() {
        let policy = of(NetworkMode::Restricted, &["203.0.113.0/24", "203.0.113.10", "10.9.0.0/16"], &[]);
        let blocks = blocks(&policy, &api_server());
        let cidrs: Vec<_> = blocks.iter().map(|it| it.cidr.as_str()).collect();
        assert_eq!(cidrs, ["203.0.113.0/24", "10.9.0.0/16"]);
        assert_eq!(blocks[0].except.as_deref(), Some(&["203.0.113.10/32".to_owned()][..]));
        assert!(super::policy(&of(NetworkMode::None, &[], &[]), "t", "p", &[]).is_none());
    }
}
