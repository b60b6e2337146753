//! The way to a sandbox's agent for those outside: what of it is public, and who may use that. Pure. What the agent does for
//! the server and the driver alone is not there for anybody else.

use atoll_core::address::AGENT_PORT;
use http::request::Parts;

use crate::{
    access::Shown,
    index::Known,
    refusal::Refusal,
    signature::{Bad, Operation},
};

/// Carries the token of a sandbox's agent.
pub const TOKEN_HEADER: &str = "x-access-token";

/// The services that anybody with a token may call.
const SERVICES: [&str; 2] = ["/process.Process/", "/filesystem.Filesystem/"];

/// What is asked of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Whether it is there.
    Health,
    /// To read or write a file, for which a signature is enough.
    File(Operation),
    /// Anything else that is public.
    Other,
}

/// On what grounds somebody is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// For whatever they ask.
    Trusted,
    /// For what this query says, which was signed.
    Signed(String),
}

/// What a request asks for, when that is public.
pub fn wish(parts: &Parts) -> Option<Wish> {
    match (parts.method.as_str(), parts.uri.path()) {
        ("GET", "/health") => Some(Wish::Health),
        ("GET" | "HEAD", "/files") => Some(Wish::File(Operation::Read)),
        ("POST", "/files") => Some(Wish::File(Operation::Write)),
        ("GET", "/metrics" | "/envs") | ("POST", "/files/compose") => Some(Wish::Other),
        ("POST", path) if is_method(path) => Some(Wish::Other),
        _ => None,
    }
}

fn is_method(path: &str) -> bool {
    let method = SERVICES.iter().find_map(|service| path.strip_prefix(service));
    method.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

/// Lets somebody in, or says why not. `token` tells whether one was shown and is the right one. That a sandbox is there is
/// told to whoever knows its id, as E2B tells it, because ids are random; not where it is somebody's own, for such an id may
/// follow from a name, and not to the keys of others.
pub fn admit(
    known: &Known,
    wish: Wish,
    shown: &Shown,
    token: Option<bool>,
    signature: impl FnOnce(Operation) -> Result<String, Bad>,
) -> Result<Entry, Refusal> {
    if shown.everybody || known.agent_open || token == Some(true) || shown.has_key_of(known) {
        return Ok(Entry::Trusted);
    }
    let signed = match wish {
        Wish::File(operation) if token.is_none() => signature(operation),
        _ => Err(Bad::Missing),
    };
    match (wish, signed) {
        (_, Ok(query)) => Ok(Entry::Signed(query)),
        _ if known.owned || !shown.keys.is_empty() => Err(Refusal::NotFound),
        (Wish::Health, _) => Ok(Entry::Trusted),
        (Wish::File(_), Err(bad)) if token.is_none() => Err(Refusal::Unsigned(bad)),
        _ => Err(Refusal::Untrusted),
    }
}

/// Whether a port leads to the agent.
pub fn is_agent(port: Option<u16>) -> bool {
    port == Some(AGENT_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::{
        key::{ApiKey, Role},
        sandbox::Sandbox,
        testing::sandbox,
    };
    use http::Request;
    use jiff::Timestamp;

    fn asked(method: &str, path: &str) -> Option<Wish> {
        wish(&Request::builder().method(method).uri(path).body(()).unwrap().into_parts().0)
    }

    fn known(change: impl FnOnce(&mut Sandbox)) -> Known {
        let mut it = sandbox(1);
        change(&mut it);
        Known::of(&it)
    }

    fn key(tenant: &str, role: Role) -> Shown {
        let (created_at, text) = (Timestamp::UNIX_EPOCH, || "k".to_owned());
        let key = ApiKey { id: text(), name: text(), tenant: tenant.into(), role, hash: text(), created_at };
        Shown { keys: vec![key], ..Shown::default() }
    }

    /// In a word.
    fn entry(
        known: &Known,
        wish: Wish,
        shown: &Shown,
        token: Option<bool>,
        signed: Option<Bad>,
    ) -> &'static str {
        let signature = |_| signed.map_or(Ok("path=x".to_owned()), Err);
        match admit(known, wish, shown, token, signature) {
            Ok(Entry::Trusted) => "trusted",
            Ok(Entry::Signed(_)) => "signed",
            Err(refusal) => refusal.classify().1,
        }
    }

    const READ: Wish = Wish::File(Operation::Read);

    #[test]
    fn only_what_is_public_is_there() {
        assert_eq!(asked("GET", "/health"), Some(Wish::Health));
        assert_eq!(asked("GET", "/files?path=x"), Some(READ));
        assert_eq!(asked("POST", "/files"), Some(Wish::File(Operation::Write)));
        for path in ["/process.Process/Start", "/filesystem.Filesystem/ListDir", "/files/compose"] {
            assert_eq!(asked("POST", path), Some(Wish::Other), "{path}");
            assert_eq!(asked("DELETE", path), None, "{path}");
        }
        for path in [
            "/init",
            "/freeze",
            "/thaw",
            "/dirs",
            "/atoll/port/80",
            "/atoll.agent.v1.Agent/Freeze",
            "/atoll.agent.v1.Exec/Run",
            "/process.Process/",
            "/process.Process/../atoll.agent.v1.Agent/Freeze",
            "/process.Process/%2e%2e/x",
            "//process.Process/Start",
            "/files/",
            "/",
        ] {
            for method in ["GET", "POST", "PUT", "PATCH", "OPTIONS", "CONNECT"] {
                assert_eq!(asked(method, path), None, "{method} {path}");
            }
        }
    }

    #[test]
    fn tokens_and_keys_open_it() {
        let (one, nobody) = (known(|_| ()), Shown::default());
        assert_eq!(entry(&one, Wish::Other, &nobody, Some(true), Some(Bad::Missing)), "trusted");
        assert_eq!(
            entry(&one, Wish::Other, &key("default", Role::Member), None, Some(Bad::Missing)),
            "trusted"
        );
        assert_eq!(entry(&one, Wish::Other, &key("other", Role::Admin), None, Some(Bad::Missing)), "trusted");
        let everybody = Shown { everybody: true, ..Shown::default() };
        assert_eq!(entry(&one, Wish::Other, &everybody, None, Some(Bad::Missing)), "trusted");
        let open = known(|it| it.spec.agent_open = true);
        assert_eq!(entry(&open, Wish::Other, &nobody, Some(false), Some(Bad::Missing)), "trusted");
        let public = known(|it| it.spec.public = true);
        assert_eq!(
            entry(&public, Wish::Other, &nobody, None, None),
            "untrusted",
            "that is about other ports"
        );
    }

    #[test]
    fn a_signature_opens_a_file_and_nothing_else() {
        let (one, nobody) = (known(|_| ()), Shown::default());
        assert_eq!(entry(&one, READ, &nobody, None, None), "signed");
        assert_eq!(entry(&one, Wish::Other, &nobody, None, None), "untrusted");
        assert_eq!(
            entry(&one, READ, &nobody, Some(false), None),
            "untrusted",
            "a wrong token is no signature"
        );
        for bad in [Bad::Missing, Bad::Forged, Bad::Expired] {
            assert_eq!(entry(&one, READ, &nobody, None, Some(bad)), "unsigned");
        }
    }

    #[test]
    fn health_is_for_everybody_but_for_users_own_sandboxes() {
        let (one, nobody) = (known(|_| ()), Shown::default());
        assert_eq!(entry(&one, Wish::Health, &nobody, None, Some(Bad::Missing)), "trusted");
        assert_eq!(entry(&one, Wish::Health, &key("other", Role::Member), None, None), "not_found");
        let owned = known(|it| it.spec.owner = Some("alice".into()));
        for wish in [Wish::Health, Wish::Other, READ] {
            assert_eq!(entry(&owned, wish, &nobody, Some(false), Some(Bad::Forged)), "not_found");
        }
        assert_eq!(entry(&owned, READ, &nobody, None, None), "signed");
    }
}
