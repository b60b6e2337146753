//! The names under which ports of sandboxes are reached from outside, and what such a name leads to. One place for both
//! directions: what the API tells is what the gateway understands.

use std::{fmt, net::IpAddr};

use crate::{
    error::Invalid,
    id::SandboxId,
    owner::{LONGEST_LABEL, LONGEST_PORT},
};

/// Where the host name goes in the pattern of URLs.
const HOST: &str = "{host}";
/// The label below the content domain that is the API's.
const API: &str = "api";
/// The label below it that is nobody's alone: there a sandbox is named by headers or by the path.
const SHARED: &str = "sandbox";
/// The port at which clients of E2B reach a sandbox's agent; by it, no application is reached.
pub const AGENT_PORT: u16 = 49983;
/// Longest content domain: with a label of 63 and a dot it fits into the 253 characters of a host name.
const LONGEST_DOMAIN: usize = 189;

/// What a label below the content domain leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `{port}-{id}`: a port of one sandbox.
    Port {
        /// 1 to 65535.
        port: u16,
        /// Which sandbox.
        id: SandboxId,
    },
    /// `{label}-{name}`: a named port of a user's primary sandbox.
    Named {
        /// [`crate::owner::label`] of the user.
        label: String,
        /// The port's name.
        name: String,
    },
}

impl Destination {
    /// Reads a label in lower case; `None` when it is of neither form.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        let (first, last) = label.rsplit_once('-')?;
        if first.bytes().all(|b| b.is_ascii_digit()) {
            let port = first.parse().ok().filter(|port| *port != 0 && !first.starts_with('0'))?;
            return Some(Self::Port { port, id: SandboxId::parse(last).ok()? });
        }
        let plain =
            |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let user = first.starts_with(|c: char| c.is_ascii_lowercase()) && first.len() <= LONGEST_LABEL;
        let name = (1..=LONGEST_PORT).contains(&last.len());
        let named = user && name && plain(label) && !first.ends_with('-');
        named.then(|| Self::Named { label: first.to_owned(), name: last.to_owned() })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { port, id } => write!(out, "{port}-{id}"),
            Self::Named { label, name } => write!(out, "{label}-{name}"),
        }
    }
}

/// What a host name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A port of a sandbox.
    Sandbox(Destination),
    /// A name below the content domain that cannot be any sandbox's.
    Nothing,
    /// None of the content domain's. `local`: `localhost`, an address, or `sandbox.*`; there a sandbox may be named by
    /// headers instead.
    Elsewhere {
        /// See above.
        local: bool,
    },
}

/// The domain of sandboxes' host names, and how URLs with them are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentAddress {
    domain: String,
    pattern: String,
}

impl ContentAddress {
    /// `domain` is what follows the label; `pattern` is a URL without a path and with `{host}` in it, as browsers are to
    /// use it.
    ///
    /// # Errors
    /// Names `domain` or `content_url`.
    pub fn new(domain: &str, pattern: &str) -> Result<Self, Invalid> {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        if !is_domain(&domain) {
            let problem = format!("{domain:?} is not a domain; write it as apps.example.com");
            return Err(Invalid::new("domain", problem));
        }
        let rest = pattern.strip_prefix("https://").or_else(|| pattern.strip_prefix("http://"));
        let port = rest.and_then(|rest| rest.strip_prefix(HOST)).map(|end| end.trim_end_matches('/'));
        let numbered =
            |port: &str| port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|n| n != 0));
        if !port.is_some_and(|port| port.is_empty() || numbered(port)) {
            let rule =
                "is http://{host} or https://{host}, with :PORT after it when that is not the usual one";
            return Err(Invalid::new("content_url", format!("{pattern:?} is no pattern: it {rule}")));
        }
        Ok(Self { domain, pattern: pattern.trim_end_matches('/').to_owned() })
    }

    /// The content domain, in lower case.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The content domain with the port that browsers use, when that is not the usual one.
    #[must_use]
    pub fn authority(&self) -> String {
        let port = self.pattern.split_once(HOST).map_or("", |(_, port)| port);
        format!("{}{port}", self.domain)
    }

    /// The URL, without a path, of requests that name a sandbox by path or headers: `sandbox.` below the domain, or this
    /// machine where programs resolve no names below the domain.
    #[must_use]
    pub fn shared(&self) -> String {
        match self.domain == "localhost" || self.domain.ends_with(".localhost") {
            true => self.pattern.replace(HOST, "localhost"),
            false => self.with_label(SHARED),
        }
    }

    /// Whether browsers come over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.pattern.starts_with("https://")
    }

    /// The URL of a place, without a path.
    #[must_use]
    pub fn url(&self, destination: &Destination) -> String {
        self.with_label(&destination.to_string())
    }

    /// The URL of every port of a sandbox, with `{port}` where the number goes.
    #[must_use]
    pub fn port_pattern(&self, id: &SandboxId) -> String {
        self.with_label(&format!("{{port}}-{id}"))
    }

    fn with_label(&self, label: &str) -> String {
        self.pattern.replace(HOST, &format!("{label}.{}", self.domain))
    }

    /// What a `Host` header or `:authority` means, in whatever case, with or without a port or a dot at its end.
    #[must_use]
    pub fn read(&self, authority: &str) -> Host {
        let name = host_name(authority).to_ascii_lowercase();
        let label = name.strip_suffix(&self.domain).and_then(|rest| rest.strip_suffix('.'));
        match label {
            Some(API) => Host::Elsewhere { local: false },
            Some(SHARED) => Host::Elsewhere { local: true },
            Some(label) => Destination::parse(label).map_or(Host::Nothing, Host::Sandbox),
            None => Host::Elsewhere { local: is_local(&name) },
        }
    }
}

/// The name in `name[:port]` or `[address][:port]`, without a dot at its end.
fn host_name(authority: &str) -> &str {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
    };
    name.strip_suffix('.').unwrap_or(name)
}

fn is_local(name: &str) -> bool {
    name == "localhost" || name.starts_with("sandbox.") || name.parse::<IpAddr>().is_ok()
}

fn is_domain(domain: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    domain.len() <= LONGEST_DOMAIN && domain.split('.').all(label) && domain.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn laptop() -> ContentAddress {
        ContentAddress::new("localhost", "http://{host}:8080").unwrap()
    }

    fn id() -> SandboxId {
        SandboxId::from_entropy([3; 19])
    }

    fn port(port: u16) -> Host {
        Host::Sandbox(Destination::Port { port, id: id() })
    }

    fn named(label: &str, name: &str) -> Host {
        Host::Sandbox(Destination::Named { label: label.into(), name: name.into() })
    }

    #[test]
    fn host_names_lead_to_ports_in_any_spelling() {
        let at = laptop();
        let plain = format!("3000-{}.localhost", id());
        for host in [plain.clone(), format!("{plain}:8080"), format!("{plain}."), plain.to_uppercase()] {
            assert_eq!(at.read(&host), port(3000), "{host}");
        }
        assert_eq!(at.read("alice-vnc.localhost:8080"), named("alice", "vnc"));
        assert_eq!(at.read("bob-2-api.localhost"), named("bob-2", "api"));
        assert_eq!(at.read("alice--abcdefgh-vnc.localhost"), named("alice--abcdefgh", "vnc"));
    }

    #[test]
    fn everything_else_is_somebody_elses_or_nobodys() {
        let at = ContentAddress::new("Apps.Example.com.", "https://{host}").unwrap();
        for host in ["api.apps.example.com", "apps.example.com", "example.com", "xapps.example.com", ""] {
            assert_eq!(at.read(host), Host::Elsewhere { local: false }, "{host}");
        }
        for host in
            ["localhost:1", "127.0.0.1", "[::1]:8080", "sandbox.e2b.example", "sandbox.apps.example.com"]
        {
            assert_eq!(at.read(host), Host::Elsewhere { local: true }, "{host}");
        }
        let nobodys = [
            "alice",
            "-vnc",
            "alice-",
            "a.b-c",
            "0-x",
            "00080-",
            "3000-nobody",
            "99999-",
            "1a-vnc",
            "a--vnc",
            "a_b-vnc",
        ];
        for label in nobodys {
            assert_eq!(at.read(&format!("{label}.apps.example.com")), Host::Nothing, "{label}");
        }
        assert_eq!(at.read(&format!("0-{}.apps.example.com", id())), Host::Nothing);
        assert_eq!(at.read(&format!("65536-{}.apps.example.com", id())), Host::Nothing);
        assert_eq!(at.read(&format!("080-{}.apps.example.com", id())), Host::Nothing);
    }

    #[test]
    fn urls_are_written_as_browsers_use_them() {
        let place = Destination::Named { label: "alice".into(), name: "vnc".into() };
        assert_eq!(laptop().url(&place), "http://alice-vnc.localhost:8080");
        let behind = ContentAddress::new("apps.example.com", "https://{host}/").unwrap();
        assert_eq!(behind.url(&place), "https://alice-vnc.apps.example.com");
        assert_eq!(behind.port_pattern(&id()), format!("https://{{port}}-{}.apps.example.com", id()));
        assert!(behind.is_https() && !laptop().is_https());
        assert_eq!(behind.shared(), "https://sandbox.apps.example.com");
        assert_eq!(laptop().shared(), "http://localhost:8080");
        assert_eq!(
            ContentAddress::new("atoll.localhost", "https://{host}:8443").unwrap().shared(),
            "https://localhost:8443"
        );
        assert_eq!(
            (laptop().authority(), behind.authority()),
            ("localhost:8080".into(), "apps.example.com".into())
        );
    }

    #[test]
    fn bad_domains_and_patterns_are_refused() {
        for domain in ["", "a..b", "-a", "a_b", "127.0.0.1", "http://x", &"a.".repeat(120)] {
            assert_eq!(ContentAddress::new(domain, "http://{host}").unwrap_err().field, "domain", "{domain}");
        }
        for pattern in [
            "",
            "{host}",
            "ftp://{host}",
            "http://x",
            "http://{host}:0",
            "http://{host}:99999",
            "https://{host}/x",
        ] {
            let refused = ContentAddress::new("x", pattern).unwrap_err();
            assert_eq!(refused.field, "content_url", "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_it(text in "\\PC{0,80}", odd in any::<String>()) {
            let _ = laptop().read(&text);
            let _ = laptop().read(&odd);
            let _ = laptop().read(&format!("{text}.localhost"));
        }

        #[test]
        fn what_is_written_is_read_back(number in 1_u16.., bytes in any::<[u8; 19]>()) {
            let place = Destination::Port { port: number, id: SandboxId::from_entropy(bytes) };
            prop_assert_eq!(Destination::parse(&place.to_string()), Some(place.clone()));
            let url = laptop().url(&place);
            prop_assert_eq!(laptop().read(url.strip_prefix("http://").unwrap()), Host::Sandbox(place));
        }

        #[test]
        fn every_users_label_is_read_back(tenant in "[a-z]{1,9}", user in "\\PC{1,60}", name in "[a-z0-9]{1,24}") {
            let label = crate::owner::label(&tenant, &user);
            let place = Destination::Named { label, name };
            prop_assert_eq!(Destination::parse(&place.to_string()), Some(place));
        }
    }
}
