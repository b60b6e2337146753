//! Whether this machine can give sandboxes a network, and how to mend what is missing. Tries the real things, in a
//! namespace that ends with the trial.

use super::netlink::{self, End, Netlink};
use super::plan::NetPlan;
use super::{NetError, firewall, netns, nft, sysctl};
use atoll_core::ranges;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// Works, with a limit that `detail` tells.
    Limited,
    /// Does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How bad it is.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// How to mend it.
    pub mend: Option<&'static str>,
}

/// Looks at everything the network needs. Changes nothing.
pub fn doctor() -> Vec<Finding> {
    vec![nftables(), links(), forwarding(), forward_chains()]
}

fn nftables() -> Finding {
    let what = "nftables";
    let tried = netns::run_in_new(|| {
        let plan = trial_plan();
        let rules = [firewall::router_rules(&plan), firewall::host_rules(&plan)];
        Ok(rules.iter().try_for_each(|rules| nft::apply(None, "set the rules", rules)))
    });
    match tried {
        Ok(Ok(())) => good(what, "the rules of a router and of a host load"),
        Ok(Err(err @ NetError::NftMissing)) => bad(what, err.to_string(), "install the package nftables"),
        Ok(Err(err)) => bad(
            what,
            err.to_string(),
            "use a kernel with nf_tables, its fib, reject, masquerade, conntrack and connlimit parts",
        ),
        Err(err) => {
            bad(what, format!("no network namespace: {err}"), "run as root on a kernel with CONFIG_NET_NS")
        }
    }
}

fn links() -> Finding {
    let what = "veth links";
    let mac = [0x0a, 0x61, 0, 0, 0, 1];
    let tried = netns::run_in_new(|| {
        let links = Netlink::open()?;
        let end = |name| End { name, index: 0, mac, netns: None };
        Ok(links.run(vec![netlink::veth(&end("trial0"), &end("trial1"), 1500)]))
    });
    match tried {
        Ok(Ok(())) => good(what, "a pair can be made"),
        Ok(Err(refused)) => bad(what, refused.to_string(), "use a kernel with CONFIG_VETH (modprobe veth)"),
        Err(err) => {
            bad(what, format!("no network namespace: {err}"), "run as root on a kernel with CONFIG_NET_NS")
        }
    }
}

fn forwarding() -> Finding {
    let what = "forwarding";
    if sysctl::forwarding() {
        return good(what, "the host passes packets on");
    }
    let detail = "the host does not pass packets on: sandboxes reach nothing outside".into();
    bad(what, detail, "sysctl -w net.ipv4.ip_forward=1 (what --fix does), and in /etc/sysctl.d to keep it")
}

/// Other people's rules that drop what is passed on; ours cannot overrule them.
fn forward_chains() -> Finding {
    let what = "other forward rules";
    let told = match nft::list(None, "list the chains", &["chains"]) {
        Ok(told) => told,
        Err(err) => return bad(what, err.to_string(), "install the package nftables"),
    };
    let objects = told["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let dropping: Vec<String> = objects.iter().filter_map(dropping_chain).collect();
    if dropping.is_empty() {
        return good(what, "none drops by default");
    }
    Finding {
        what,
        state: State::Limited,
        detail: format!("forwarded packets are dropped by default in {}", dropping.join(", ")),
        mend: Some(
            "accept links named atoll* there, e.g. iptables -I DOCKER-USER -i 'atoll+' -j ACCEPT and -o",
        ),
    }
}

fn dropping_chain(object: &serde_json::Value) -> Option<String> {
    let chain = &object["chain"];
    let drops = chain["hook"] == "forward" && chain["policy"] == "drop";
    let table = chain["table"].as_str()?;
    drops.then(|| format!("{table} {}", chain["name"].as_str().unwrap_or("?")))
}

fn trial_plan() -> NetPlan {
    let block = ranges::around([10, 192, 0, 0], 18);
    NetPlan { tag: "trial".into(), block, run_root: super::RUN_ROOT.into(), mtu: 1500 }
}

fn good(what: &'static str, detail: &str) -> Finding {
    Finding { what, state: State::Good, detail: detail.into(), mend: None }
}

fn bad(what: &'static str, detail: String, mend: &'static str) -> Finding {
    Finding { what, state: State::Bad, detail, mend: Some(mend) }
}
