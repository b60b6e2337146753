//! Whose a sandbox is, and the label that stands for that user in host names and in the names of their volumes.
//! The label is a function of tenant and user, so that every part of the platform finds the same one without asking.

use sha2::{Digest, Sha256};

use crate::{error::Invalid, id::SandboxId, key::DEFAULT_TENANT};

/// Longest label: with `-` and a port's name it fits into the 63 characters that DNS gives a label (RFC 1035, 2.3.4).
pub const LONGEST_LABEL: usize = 38;
/// Longest name of a port, for the same reason.
pub const LONGEST_PORT: usize = 63 - LONGEST_LABEL - 1;

/// Longest name of a user, in bytes: what databases, labels and logs can be expected to carry.
const LONGEST_USER: usize = 1024;
/// How much of a name that cannot be a label is kept, for people.
const SHOWN: usize = 20;
/// 80 bits: nobody finds a second name for somebody else's label.
const HASH: usize = 10;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Refuses what cannot be the name of a user: anything printable is fine, an e-mail address too.
///
/// # Errors
/// Names `field`.
pub fn check_owner(field: &str, user: &str) -> Result<(), Invalid> {
    let printable = !user.chars().any(char::is_control) && user.trim() == user;
    // No URL's path can carry the two.
    if (1..=LONGEST_USER).contains(&user.len()) && printable && user != "." && user != ".." {
        return Ok(());
    }
    let rule = format!(
        "1 to {LONGEST_USER} bytes without control characters or spaces around them, not `.` or `..`"
    );
    Err(Invalid::new(field, format!("is not the name of a user: {rule}")))
}

/// The label of a user: their name where that is a label already and the tenant is the default one, otherwise what is
/// readable of it and a hash. A DNS label of at most [`LONGEST_LABEL`] characters that starts with a letter. No two
/// users share one.
#[must_use]
pub fn label(tenant: &str, user: &str) -> String {
    if tenant == DEFAULT_TENANT && is_label(user) {
        return user.to_owned();
    }
    format!("{}--{}", readable(user), hash(tenant, user))
}

/// The id of the one sandbox that a user has where each user has one. It follows from the user, so that the driver itself
/// refuses a second one, whoever asks for it.
#[must_use]
pub fn sandbox_id(tenant: &str, user: &str) -> SandboxId {
    // What is hashed for labels begins with the tenant's name, which has no space.
    let digest =
        Sha256::new().chain_update("sandbox of ").chain_update(tenant).chain_update([0]).chain_update(user);
    let digest = digest.finalize();
    SandboxId::from_entropy(std::array::from_fn(|n| digest[n]))
}

/// `--` is what tells a label with a hash from a plain one.
fn is_label(user: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    user.len() <= LONGEST_LABEL
        && user.starts_with(|c: char| c.is_ascii_lowercase())
        && user.bytes().all(plain)
        && !user.ends_with('-')
        && !user.contains("--")
}

fn readable(user: &str) -> String {
    let mut text = String::from(if user.starts_with(|c: char| c.is_ascii_alphabetic()) { "" } else { "u" });
    for c in user.chars().map(|c| c.to_ascii_lowercase()) {
        if text.len() == SHOWN {
            break;
        }
        match c {
            'a'..='z' | '0'..='9' => text.push(c),
            _ if !text.ends_with('-') => text.push('-'),
            _ => {}
        }
    }
    text.trim_end_matches('-').to_owned()
}

fn hash(tenant: &str, user: &str) -> String {
    // A tenant's name has no NUL, so no two pairs are the same bytes.
    let digest = Sha256::new().chain_update(tenant).chain_update([0]).chain_update(user).finalize();
    let bits = digest[..HASH].iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..HASH * 8 / 5).rev().map(|n| char::from(BASE32[(bits >> (n * 5)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::check_name;

    #[test]
    fn plain_names_of_the_default_tenant_are_their_own_label() {
        for user in ["alice", "a", "bob-2", &"a".repeat(LONGEST_LABEL)] {
            assert_eq!(label(DEFAULT_TENANT, user), user);
        }
    }

    #[test]
    fn every_other_name_gets_a_label_of_its_own() {
        let odd = "x".repeat(300);
        let users = [
            "Alice",
            "alice@example.com",
            "alice.example.com",
            "1st",
            "ünïcödé",
            "a--b",
            "a-",
            "-",
            "日本",
            &odd,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for tenant in [DEFAULT_TENANT, "acme"] {
            for user in users.into_iter().chain(["alice"]) {
                let label = label(tenant, user);
                assert!(label.len() <= LONGEST_LABEL && label.starts_with(|c: char| c.is_ascii_lowercase()));
                check_name("label", &label).unwrap();
                assert!(seen.insert(label.clone()), "{label} twice");
            }
        }
        assert!(label("acme", "alice").starts_with("alice--"));
        assert!(label(DEFAULT_TENANT, "alice@example.com").starts_with("alice-example-com--"));
        assert_eq!(label("a", "b"), label("a", "b"), "stable");
    }

    #[test]
    fn every_user_has_an_id_for_one_sandbox() {
        let ids =
            [("a", "b"), ("ab", ""), ("a", "c"), ("b", "b")].map(|(tenant, user)| sandbox_id(tenant, user));
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
        assert_eq!(sandbox_id("a", "b"), ids[0], "stable");
        assert_eq!(SandboxId::parse(ids[0].as_str()).unwrap(), ids[0]);
    }

    #[test]
    fn names_that_no_one_has_are_refused() {
        for bad in ["", " a", "a\n", "a\0b", ".", "..", &"a".repeat(LONGEST_USER + 1)] {
            assert_eq!(check_owner("owner", bad).unwrap_err().field, "owner", "{bad:?}");
        }
        check_owner("owner", "Алиса <alice@example.com>").unwrap();
    }
}
