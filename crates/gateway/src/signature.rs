//! Signatures of single files: whoever has one reads or writes that file without any token. Their form is that of E2B's
//! clients: `v1_` and the SHA-256 of `path:operation:user:token[:expiration]` in base64 without padding. Pure.

use atoll_core::link::is_same;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// What is done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is read.
    Read,
    /// It is written.
    Write,
}

/// Why a signature opens nothing; in the words that its clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// There is none.
    #[error("missing signature query parameter")]
    Missing,
    /// It was made with another token, or for something else.
    #[error("invalid signature")]
    Forged,
    /// It was good once.
    #[error("signature is already expired")]
    Expired,
}

/// What was signed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claim<'a> {
    path: Option<Cow<'a, str>>,
    user: Option<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
    expiration: Option<Cow<'a, str>>,
}

impl<'a> Claim<'a> {
    /// `None` when something is said twice: another reader of the query could take the other one.
    fn read(query: &'a str) -> Option<Self> {
        let mut claim = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "path" => &mut claim.path,
                "username" => &mut claim.user,
                "signature" => &mut claim.signature,
                "signature_expiration" => &mut claim.expiration,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return None;
            }
        }
        Some(claim)
    }

    fn expected(&self, operation: Operation, token: &str) -> String {
        let word = match operation {
            Operation::Read => "read",
            Operation::Write => "write",
        };
        let text = |part: &Option<Cow<str>>| part.as_deref().unwrap_or_default().to_owned();
        let mut signed = format!("{}:{word}:{}:{token}", text(&self.path), text(&self.user));
        if let Some(expiration) = &self.expiration {
            signed = format!("{signed}:{expiration}");
        }
        format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(signed)))
    }

    /// Only what was signed, written anew: nobody after us reads anything else in it.
    fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("path", &self.path), ("username", &self.user)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }
}

/// Checks the signature in a query; `now` is in seconds since the epoch. Gives the query that the signature stands for.
pub fn check(query: &str, operation: Operation, token: &str, now: i64) -> Result<String, Bad> {
    let claim = Claim::read(query).ok_or(Bad::Forged)?;
    let shown = claim.signature.as_deref().ok_or(Bad::Missing)?;
    if !is_same(claim.expected(operation, token).as_bytes(), shown.as_bytes()) {
        return Err(Bad::Forged);
    }
    match claim.expiration.as_deref().map(str::parse::<i64>) {
        Some(Err(_)) => Err(Bad::Forged),
        Some(Ok(end)) if end < now => Err(Bad::Expired),
        _ => Ok(claim.query()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checked(query: &str, operation: Operation) -> Result<String, Bad> {
        check(query, operation, "token", 100)
    }

    /// As the clients do it.
    fn signed(path: &str, word: &str, user: &str, end: Option<i64>) -> String {
        let end = end.map(|end| format!(":{end}")).unwrap_or_default();
        let text = format!("{path}:{word}:{user}:token{end}");
        format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
    }

    fn query(pairs: &[(&str, &str)]) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    }

    #[test]
    fn a_good_one_stands_for_its_path_and_user() {
        // Made with e2b 2.63.0: get_signature("/a b", "read", None, "token").
        let known = "v1_tjfYa0S6gGZxITz1BilX5UtLirKYatBKVyM/AGdo2UQ";
        assert_eq!(signed("/a b", "read", "", None), known);
        let asked = query(&[("path", "/a b"), ("signature", known)]);
        assert_eq!(checked(&asked, Operation::Read).unwrap(), "path=%2Fa+b");
        let by_root = signed("/x", "write", "root", Some(100));
        let asked = query(&[
            ("path", "/x"),
            ("username", "root"),
            ("signature", &by_root),
            ("signature_expiration", "100"),
        ]);
        assert_eq!(checked(&asked, Operation::Write).unwrap(), "path=%2Fx&username=root");
        assert!(checked(&query(&[("signature", &signed("", "write", "", None))]), Operation::Write).is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        let good = signed("/x", "read", "", None);
        let with = |pairs: &[(&str, &str)]| checked(&query(pairs), Operation::Read);
        assert_eq!(with(&[("path", "/x")]), Err(Bad::Missing));
        for pairs in [
            vec![("path", "/y"), ("signature", &good)],
            vec![("path", "/x"), ("username", "root"), ("signature", &good)],
            vec![("path", "/x"), ("signature", &good), ("signature_expiration", "999")],
            vec![("path", "/x"), ("path", "/y"), ("signature", &good)],
            vec![("path", "/x"), ("signature", &good[3..])],
            vec![("path", "/x"), ("signature", "")],
        ] {
            assert_eq!(with(&pairs), Err(Bad::Forged), "{pairs:?}");
        }
        assert_eq!(
            checked(&format!("p%61th=/x&path=/y&signature={good}"), Operation::Read),
            Err(Bad::Forged)
        );
        assert_eq!(
            checked(&query(&[("path", "/x"), ("signature", &good)]), Operation::Write),
            Err(Bad::Forged)
        );
        let old = signed("/x", "read", "", Some(99));
        let asked = [("path", "/x"), ("signature", old.as_str()), ("signature_expiration", "99")];
        assert_eq!(with(&asked), Err(Bad::Expired));
    }

    proptest! {
        #[test]
        fn only_what_was_signed_is_opened(path in "\\PC{0,40}", user in "\\PC{0,10}", other in "\\PC{0,40}") {
            let signature = signed(&path, "read", &user, None);
            let asked = |path: &str| query(&[("path", path), ("username", &user), ("signature", &signature)]);
            prop_assert_eq!(checked(&asked(&path), Operation::Read).unwrap(), query(&[("path", &path), ("username", &user)]));
            prop_assert_eq!(checked(&asked(&other), Operation::Read).is_ok(), other == path);
        }

        #[test]
        fn nothing_that_is_sent_breaks_it(query in any::<String>()) {
            prop_assert!(checked(&query, Operation::Read).is_err());
            let signed = format!("path=/x&signature={}", query);
            prop_assert!(checked(&signed, Operation::Read).is_err());
        }
    }
}
