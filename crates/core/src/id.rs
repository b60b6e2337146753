//! Names and identifiers. Randomness comes from the caller.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

use crate::error::Invalid;

const LENGTH: usize = 20;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Declares an identifier: a letter and 19 lowercase letters or digits.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $letter:literal, $form:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Makes an identifier of 19 bytes of randomness. The bias of 256 modulo 36 costs less than a bit of the 98.
            #[must_use]
            pub fn from_entropy(bytes: [u8; LENGTH - 1]) -> Self {
                let tail = bytes.iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]));
                Self(std::iter::once($letter).chain(tail).collect())
            }

            /// Accepts only the exact form, so that an id can be used in a path or a name without further checks.
            ///
            /// # Errors
            /// When `text` is not of that form.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                let tail_is_plain = text.bytes().skip(1).all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                if text.len() == LENGTH && text.starts_with($letter) && tail_is_plain {
                    return Ok(Self(text.to_owned()));
                }
                Err(Invalid::new("id", $form))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier! {
    /// A sandbox's identifier: `i` and 19 lowercase letters or digits. It is the name of every resource of the sandbox, so it
    /// is also a valid DNS label, file name and cgroup name.
    SandboxId, 'i', "a sandbox id is `i` followed by 19 lowercase letters or digits"
}

identifier! {
    /// A snapshot's identifier: `s` and 19 lowercase letters or digits; a valid file name.
    SnapshotId, 's', "a snapshot id is `s` followed by 19 lowercase letters or digits"
}

/// Checks the name of a template: a DNS label of at most 63 characters.
///
/// # Errors
/// When it is none; the error carries `field`.
pub fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends_plain = !name.starts_with('-') && !name.ends_with('-');
    if (1..=63).contains(&name.len()) && name.bytes().all(plain) && ends_plain {
        return Ok(());
    }
    let rule = "1 to 63 lowercase letters, digits or `-`, not starting or ending with `-`";
    Err(Invalid::new(field, format!("{name:?} is not a name: {rule}")))
}

/// Checks one label as Kubernetes would: an optional DNS prefix and `/`, then a name; the value at most 63 characters.
///
/// # Errors
/// When key or value cannot be a label.
pub fn check_label(key: &str, value: &str) -> Result<(), Invalid> {
    let field = || format!("labels.{key}");
    let name = key.rsplit('/').next().unwrap_or_default();
    if key.len() > 253 || !is_label_text(name) || name.is_empty() || key.matches('/').count() > 1 {
        return Err(Invalid::new(
            field(),
            "a label's key is [prefix/]name of letters, digits, `-`, `_`, `.`",
        ));
    }
    if !is_label_text(value) {
        return Err(Invalid::new(field(), "a label's value is at most 63 letters, digits, `-`, `_`, `.`"));
    }
    Ok(())
}

fn is_label_text(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(plain) && edge(text.bytes().next()) && edge(text.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_nothing_else_parses() {
        let id = SandboxId::from_entropy([7; 19]);
        assert_eq!(SandboxId::parse(id.as_str()).unwrap(), id);
        for bad in [
            "",
            "i",
            "../../etc",
            "ihhhhhhhhhhhhhhhhhhH",
            "jhhhhhhhhhhhhhhhhhhh",
            "ihhhhhhhhhhhhhhhhhh/",
            "ihhhhhhhhhhhhhhhhhhhh",
        ] {
            assert!(SandboxId::parse(bad).is_err(), "{bad:?}");
        }
        let snapshot = SnapshotId::from_entropy([7; 19]);
        assert_eq!(SnapshotId::parse(snapshot.as_str()).unwrap(), snapshot);
        assert!(SnapshotId::parse(id.as_str()).is_err() && SandboxId::parse(snapshot.as_str()).is_err());
    }

    #[test]
    fn names_are_dns_labels() {
        assert!(check_name("name", "python-3-11").is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", &"a".repeat(64)] {
            assert!(check_name("name", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_follow_kubernetes() {
        assert!(check_label("app", "x").is_ok());
        assert!(check_label("atoll.dev/team", "").is_ok());
        for (key, value) in [("", "x"), ("a/b/c", "x"), ("-a", "x"), ("a", "-x"), ("a", &"v".repeat(64))] {
            assert!(check_label(key, value).is_err(), "{key:?}={value:?}");
        }
    }
}
