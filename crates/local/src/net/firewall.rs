//! The nftables rules, as text: what the router, the host and one sandbox's policy need. Pure; `nft` applies them.
//! Every text is one transaction and may be applied again over its own result.

use std::fmt::Write as _;

use atoll_core::network::{Cidr, NetworkMode, NetworkPolicy};

use super::plan::{NetPlan, UPLINK};
use atoll_core::ranges::merge;
use atoll_core::reach::{self, CLOSED, NEVER};

/// Connections that one sandbox may have open at once, so that it cannot fill the machine's tracking table.
const FLOWS: u32 = 8192;

/// Name queries of one sandbox in a second, so that it cannot keep the forwarder from the others.
const QUERIES: u32 = 100;

const REFUSE: &str = "reject with icmp type admin-prohibited";

/// The rules of the router namespace. Policies of sandboxes that are there already stay.
pub(super) fn router_rules(plan: &NetPlan) -> String {
    let gateway = plan.gateway();
    let never: Vec<Cidr> = NEVER.iter().copied().chain([plan.block]).collect();
    format!(
        r#"add table inet atoll
add set inet atoll closed {{ type ipv4_addr; flags interval; }}
add set inet atoll never {{ type ipv4_addr; flags interval; }}
add set inet atoll mute {{ type ipv4_addr; }}
add set inet atoll flows {{ type ipv4_addr; size 65535; flags dynamic; }}
add set inet atoll askers {{ type ipv4_addr; size 65535; flags dynamic, timeout; timeout 1m; }}
add map inet atoll policies {{ type ipv4_addr : verdict; }}
add chain inet atoll early {{ type filter hook prerouting priority -300; policy accept; }}
add chain inet atoll late {{ type filter hook output priority -300; policy accept; }}
add chain inet atoll input {{ type filter hook input priority 0; policy drop; }}
add chain inet atoll forward {{ type filter hook forward priority 0; policy drop; }}
flush chain inet atoll early
flush chain inet atoll late
flush chain inet atoll input
flush chain inet atoll forward
flush set inet atoll closed
flush set inet atoll never
add element inet atoll closed {{ {closed} }}
add element inet atoll never {{ {never} }}
add rule inet atoll early meta nfproto ipv6 drop
add rule inet atoll early fib saddr . iif oif missing drop
add rule inet atoll early ip daddr {gateway} udp dport 53 notrack
add rule inet atoll late ip saddr {gateway} udp sport 53 notrack
add rule inet atoll input ct state established,related accept
add rule inet atoll input iifname "{UPLINK}" drop
add rule inet atoll input ip saddr @mute {REFUSE}
add rule inet atoll input ip daddr {gateway} udp dport 53 update @askers {{ ip saddr limit rate over {QUERIES}/second burst {QUERIES} packets }} drop
add rule inet atoll input ip daddr {gateway} udp dport 53 accept
add rule inet atoll input ip daddr {gateway} tcp dport 53 ct state new add @flows {{ ip saddr ct count over {FLOWS} }} drop
add rule inet atoll input ip daddr {gateway} tcp dport 53 accept
add rule inet atoll input ip daddr {gateway} icmp type echo-request limit rate 100/second accept
add rule inet atoll input iifname != "lo" {REFUSE}
add rule inet atoll forward iifname "{UPLINK}" ct state established,related accept
add rule inet atoll forward iifname "{UPLINK}" drop
add rule inet atoll forward oifname != "{UPLINK}" {REFUSE}
add rule inet atoll forward ct state invalid drop
add rule inet atoll forward ip daddr @never {REFUSE}
add rule inet atoll forward ct state new add @flows {{ ip saddr ct count over {FLOWS} }} {REFUSE}
add rule inet atoll forward ip saddr vmap @policies
add rule inet atoll forward ip daddr @closed {REFUSE}
add rule inet atoll forward accept
"#,
        closed = list(&CLOSED),
        never = list(&never),
    )
}

/// The rules of the host, for our uplink alone: what comes out of it is a sandbox's and may only pass through. The
/// host's addresses are found by the kernel (`fib`), before anybody's address translation could lead elsewhere.
pub(super) fn host_rules(plan: &NetPlan) -> String {
    let (table, link, block) = (plan.table(), plan.host_link(), plan.block);
    format!(
        r#"add table inet {table}
delete table inet {table}
table inet {table} {{
  chain early {{
    type filter hook prerouting priority -310; policy accept;
    iifname "{link}" meta nfproto ipv6 drop
    iifname "{link}" ip saddr != {block} drop
    iifname "{link}" fib daddr type != unicast drop
  }}
  chain input {{
    type filter hook input priority -310; policy accept;
    iifname "{link}" drop
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    oifname "{link}" ct state established,related accept
    oifname "{link}" drop
    iifname "{link}" ct state invalid drop
    iifname "{link}" ct status dnat drop
    iifname "{link}" oifname "{prefix}*" drop
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {block} oifname != "{link}" masquerade
  }}
}}
"#,
        prefix = super::plan::HOST_LINK_PREFIX,
    )
}

pub(super) fn host_rules_gone(plan: &NetPlan) -> String {
    let table = plan.table();
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// The rules of one sandbox's policy.
pub(super) fn policy_rules(plan: &NetPlan, slot: u32, policy: &NetworkPolicy) -> String {
    let (chain, addr) = (chain(slot), plan.address(slot));
    let mut text = policy_rules_gone(plan, slot);
    let _ = writeln!(text, "add chain inet atoll {chain}");
    let mut rule = |what: String| {
        let _ = writeln!(text, "add rule inet atoll {chain} {what}");
    };
    rule_for(&mut rule, &reach::opened(policy), "accept");
    rule(format!("ip daddr @closed {REFUSE}"));
    rule_for(&mut rule, &policy.allow, "accept");
    rule_for(&mut rule, &policy.deny, REFUSE);
    rule(if policy.mode == NetworkMode::Internet { "accept".into() } else { REFUSE.into() });
    let _ = writeln!(text, "add element inet atoll policies {{ {addr} : jump {chain} }}");
    if reach::is_mute(policy) {
        let _ = writeln!(text, "add element inet atoll mute {{ {addr} }}");
    }
    text
}

/// Takes one sandbox's policy away, whether or not it has one.
pub(super) fn policy_rules_gone(plan: &NetPlan, slot: u32) -> String {
    let (chain, addr) = (chain(slot), plan.address(slot));
    format!(
        "add chain inet atoll {chain}
add element inet atoll policies {{ {addr} : jump {chain} }}
delete element inet atoll policies {{ {addr} : jump {chain} }}
add element inet atoll mute {{ {addr} }}
delete element inet atoll mute {{ {addr} }}
flush chain inet atoll {chain}
delete chain inet atoll {chain}
"
    )
}

/// The slot whose policy a chain holds.
pub(super) fn slot_of_chain(chain: &str) -> Option<u32> {
    chain.strip_prefix("slot")?.parse().ok()
}

fn chain(slot: u32) -> String {
    format!("slot{slot}")
}

fn rule_for(rule: &mut impl FnMut(String), ranges: &[Cidr], verdict: &str) {
    if ranges.iter().any(|range| range.prefix == 0) {
        rule(verdict.to_owned());
    } else if !ranges.is_empty() {
        rule(format!("ip daddr {{ {} }} {verdict}", list(ranges)));
    }
}

fn list(ranges: &[Cidr]) -> String {
    merge(ranges).iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ")
}
