//! Whether a request may go where it wants to. Pure. Whoever has no right learns nothing: a sandbox that is not there and
//! one that is another's get the same answer.

use atoll_core::{
    id::SandboxId,
    key::{ApiKey, Role},
    link::Grant,
};
use jiff::Timestamp;

use crate::{index::Known, refusal::Refusal};

/// What a request has shown.
#[derive(Debug, Default)]
pub struct Shown {
    /// Keys that are ours.
    pub keys: Vec<ApiKey>,
    /// What its tokens grant, expired or not.
    pub grants: Vec<Grant>,
    /// Whether nobody is asked for anything, and it comes from where that may be so.
    pub everybody: bool,
    /// Whether it has a token for the ports of one sandbox, and that is the right one.
    pub traffic: Option<bool>,
    /// Whether it comes from a client of E2B, which must be told in its words.
    pub e2b: bool,
}

impl Shown {
    /// Whether one of the keys opens a sandbox.
    pub fn has_key_of(&self, sandbox: &Known) -> bool {
        self.keys.iter().any(|key| key.role == Role::Admin || key.tenant == sandbox.tenant)
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub enum Sought<'a> {
    /// A sandbox.
    There(&'a Known),
    /// One that everybody could see while it was there.
    Gone,
    /// None that anybody could tell of.
    Unknown,
}

/// Lets a request go on to `port` of the sandbox that was found, or says why not. A port that the sandbox does not name
/// is `None`. E2B's clients learn by an id alone that its sandbox is there, because ids are random; not where it is a user's
/// own, for such an id may follow from a name.
pub fn decide<'a>(
    sought: Sought<'a>,
    port: Option<u16>,
    shown: &Shown,
    now: Timestamp,
) -> Result<&'a Known, Refusal> {
    let known_sender = shown.everybody
        || !shown.keys.is_empty()
        || shown.traffic == Some(true)
        || shown.grants.iter().any(|grant| now < grant.expires_at);
    match sought {
        Sought::There(sandbox) if sandbox.public || is_open(sandbox, port, shown, now) => Ok(sandbox),
        _ if known_sender => Err(Refusal::NotFound),
        Sought::Gone => Err(Refusal::Gone),
        Sought::There(sandbox) if shown.e2b && !sandbox.owned => {
            Err(Refusal::NoTraffic { wrong: shown.traffic.is_some() })
        }
        _ if shown.e2b => Err(Refusal::NotFound),
        _ if !shown.grants.is_empty() => Err(Refusal::Expired),
        _ => Err(Refusal::Unauthorized),
    }
}

fn is_open(sandbox: &Known, port: Option<u16>, shown: &Shown, now: Timestamp) -> bool {
    shown.everybody
        || shown.has_key_of(sandbox)
        || shown.traffic == Some(true)
        || shown.grants.iter().any(|grant| grants(grant, &sandbox.id, port, now))
}

fn grants(grant: &Grant, id: &SandboxId, port: Option<u16>, now: Timestamp) -> bool {
    match port {
        Some(port) => grant.opens(id, port, now),
        None => grant.port.is_none() && grant.id == *id && now < grant.expires_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::testing::sandbox;

    fn found(public: bool) -> Known {
        let mut it = sandbox(1);
        it.spec.public = public;
        Known::of(&it)
    }

    fn key(tenant: &str, role: Role) -> ApiKey {
        ApiKey {
            id: "k".into(),
            name: "n".into(),
            tenant: tenant.into(),
            role,
            hash: "h".into(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn grant(n: u8, port: Option<u16>) -> Grant {
        Grant { id: sandbox(n).id().clone(), port, expires_at: Timestamp::from_second(100).unwrap() }
    }

    fn at(found: Option<&Known>, shown: &Shown, second: i64) -> Result<(), Refusal> {
        let sought = found.map_or(Sought::Unknown, Sought::There);
        decide(sought, Some(80), shown, Timestamp::from_second(second).unwrap()).map(drop)
    }

    fn with_keys(keys: Vec<ApiKey>) -> Shown {
        Shown { keys, ..Shown::default() }
    }

    fn with_grant(grant: Grant) -> Shown {
        Shown { grants: vec![grant], ..Shown::default() }
    }

    #[test]
    fn public_ports_and_the_tenants_keys_are_open() {
        assert!(at(Some(&found(true)), &Shown::default(), 0).is_ok());
        for key in [key("default", Role::Member), key("other", Role::Admin)] {
            assert!(at(Some(&found(false)), &with_keys(vec![key]), 0).is_ok());
        }
        assert!(at(Some(&found(false)), &Shown { everybody: true, ..Shown::default() }, 0).is_ok());
    }

    #[test]
    fn what_is_anothers_is_as_if_it_were_not_there() {
        let private = found(false);
        let all = [
            with_keys(vec![key("other", Role::Member)]),
            with_grant(grant(2, None)),
            with_grant(grant(1, Some(81))),
        ];
        for shown in all {
            for found in [Some(&private), None] {
                assert!(matches!(at(found, &shown, 0), Err(Refusal::NotFound)), "{shown:?}");
            }
        }
        for found in [Some(&private), None] {
            assert!(matches!(at(found, &Shown::default(), 0), Err(Refusal::Unauthorized)));
            assert!(matches!(at(found, &with_grant(grant(1, None)), 100), Err(Refusal::Expired)));
        }
        assert!(matches!(
            at(None, &Shown { everybody: true, ..Shown::default() }, 0),
            Err(Refusal::NotFound)
        ));
    }

    #[test]
    fn what_everybody_saw_is_gone_for_everybody_but_keys() {
        let gone = |shown: &Shown| decide(Sought::Gone, Some(80), shown, Timestamp::UNIX_EPOCH).unwrap_err();
        let mut e2b = Shown { e2b: true, ..Shown::default() };
        for traffic in [None, Some(false)] {
            e2b.traffic = traffic;
            assert!(matches!(gone(&e2b), Refusal::Gone));
        }
        assert!(matches!(gone(&Shown::default()), Refusal::Gone));
        assert!(matches!(gone(&with_keys(vec![key("default", Role::Member)])), Refusal::NotFound));
    }

    #[test]
    fn clients_of_e2b_show_a_token_of_the_sandbox() {
        let (private, e2b) = (found(false), |traffic| Shown { traffic, e2b: true, ..Shown::default() });
        assert!(at(Some(&private), &e2b(Some(true)), 0).is_ok());
        for traffic in [None, Some(false)] {
            let refused = at(Some(&private), &e2b(traffic), 0).unwrap_err();
            assert!(matches!(refused, Refusal::NoTraffic { wrong } if wrong == traffic.is_some()));
            assert!(matches!(at(None, &e2b(traffic), 0), Err(Refusal::NotFound)));
        }
        let mut owned = found(false);
        owned.owned = true;
        assert!(matches!(at(Some(&owned), &e2b(None), 0), Err(Refusal::NotFound)), "as if it were not there");
        let plain = Shown { traffic: Some(false), ..Shown::default() };
        assert!(matches!(at(Some(&private), &plain, 0), Err(Refusal::Unauthorized)));
    }

    #[test]
    fn a_link_opens_what_it_says() {
        let private = found(false);
        for good in [grant(1, None), grant(1, Some(80))] {
            assert!(at(Some(&private), &with_grant(good), 99).is_ok());
        }
        let nameless =
            |shown: &Shown| decide(Sought::There(&private), None, shown, Timestamp::UNIX_EPOCH).is_ok();
        assert!(nameless(&with_grant(grant(1, None))) && !nameless(&with_grant(grant(1, Some(80)))));
    }
}
