//! Signed links: a token that opens the ports of one sandbox, or one of them, until a time; and the two lasting tokens
//! of a sandbox, to its agent and to its ports. Whoever holds the key can check a token without asking anybody;
//! nothing about it is remembered.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use std::fmt;

use crate::id::SandboxId;

/// Longest life of a link, in seconds: 30 days. It cannot be taken back before.
pub const LONGEST_LIFE: u64 = 30 * 24 * 60 * 60;

/// Longest token: version, id, port, seconds, 64 hex digits, and four dots.
const LONGEST_TOKEN: usize = 2 + 20 + 5 + 20 + 64 + 4;

/// The secret that links are signed with: 32 random bytes.
#[derive(Clone)]
pub struct LinkKey([u8; 32]);

impl fmt::Debug for LinkKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("LinkKey")
    }
}

/// What a link opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The only sandbox.
    pub id: SandboxId,
    /// The only port; `None` is all of them.
    pub port: Option<u16>,
    /// When it ends, to the second.
    pub expires_at: Timestamp,
}

impl Grant {
    /// Whether it opens this port at this time.
    #[must_use]
    pub fn opens(&self, id: &SandboxId, port: u16, now: Timestamp) -> bool {
        self.id == *id && self.port.is_none_or(|only| only == port) && now < self.expires_at
    }
}

/// What a token for an upload allows: to bring the files of one hash, once or again, until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Whose they are.
    pub tenant: String,
    /// How they are called.
    pub hash: String,
    /// When it ends, to the second.
    pub expires_at: Timestamp,
}

impl LinkKey {
    /// From its bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The token of a grant. It can stand in a URL, a header or a cookie as it is.
    #[must_use]
    pub fn sign(&self, grant: &Grant) -> String {
        let claim = claim(grant);
        let proof = hex(&self.mac(&claim).finalize().into_bytes());
        format!("{claim}.{proof}")
    }

    /// The grant of a token that this key signed, expired or not.
    #[must_use]
    pub fn verify(&self, token: &str) -> Option<Grant> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let (claim, proof) = token.rsplit_once('.')?;
        let grant = read(claim)?;
        let proof = unhex(proof)?;
        self.mac(claim).verify_slice(&proof).ok().map(|()| grant)
    }

    /// The token of an upload. It can stand in a URL as it is.
    #[must_use]
    pub fn sign_upload(&self, upload: &Upload) -> String {
        // A tenant's name may have any characters.
        let claim = format!("{}.{}", upload.expires_at.as_second(), hex(upload.tenant.as_bytes()));
        let proof = hex(&self.upload_mac(&claim, &upload.hash).finalize().into_bytes());
        format!("{claim}.{}.{proof}", upload.hash)
    }

    /// The upload of a token that this key signed, expired or not.
    #[must_use]
    pub fn verify_upload(&self, token: &str) -> Option<Upload> {
        let (rest, proof) = token.rsplit_once('.')?;
        let (claim, hash) = rest.rsplit_once('.')?;
        self.upload_mac(claim, hash).verify_slice(&unhex(proof)?).ok()?;
        let (expires, tenant) = claim.split_once('.')?;
        let pairs = tenant.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        let tenant: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
        Some(Upload {
            tenant: String::from_utf8(tenant?).ok()?,
            hash: hash.to_owned(),
            expires_at: Timestamp::from_second(expires.parse().ok()?).ok()?,
        })
    }

    fn upload_mac(&self, claim: &str, hash: &str) -> Hmac<Sha256> {
        self.keyed("atoll-upload\n").chain_update(claim).chain_update(".").chain_update(hash)
    }

    /// The token that opens a sandbox's agent (the files and commands of its clients) for as long as the sandbox is
    /// there: 64 hex digits, always the same for an id.
    #[must_use]
    pub fn agent_token(&self, id: &SandboxId) -> String {
        hex(&self.keyed("atoll-agent-token\n").chain_update(id.as_str()).finalize().into_bytes())
    }

    /// The token that opens the ports of a sandbox that is not public, other than its agent's: 64 hex digits, always
    /// the same for an id.
    #[must_use]
    pub fn traffic_token(&self, id: &SandboxId) -> String {
        hex(&self.keyed("atoll-traffic-token\n").chain_update(id.as_str()).finalize().into_bytes())
    }

    /// Whether a text is [`LinkKey::agent_token`] of a sandbox; takes as long for a wrong one as for the right one.
    #[must_use]
    pub fn is_agent_token(&self, id: &SandboxId, shown: &str) -> bool {
        is_same(self.agent_token(id).as_bytes(), shown.as_bytes())
    }

    /// Whether a text is [`LinkKey::traffic_token`] of a sandbox; takes as long for a wrong one as for the right one.
    #[must_use]
    pub fn is_traffic_token(&self, id: &SandboxId, shown: &str) -> bool {
        is_same(self.traffic_token(id).as_bytes(), shown.as_bytes())
    }

    fn mac(&self, claim: &str) -> Hmac<Sha256> {
        self.keyed("atoll-link\n").chain_update(claim)
    }

    /// A proof by this key; the use that it is for comes first, so that no proof of one use is one of another.
    fn keyed(&self, purpose: &str) -> Hmac<Sha256> {
        // A key shorter than the hash's block is filled up with zeros (RFC 2104, 2).
        let mut block = [0; 64];
        block[..self.0.len()].copy_from_slice(&self.0);
        let mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        mac.chain_update(purpose)
    }
}

/// Whether two secrets are the same, in a time that tells only their lengths.
#[must_use]
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differ = |all: u8, (a, b): (&u8, &u8)| all | (a ^ b);
    one.len() == other.len() && std::hint::black_box(one.iter().zip(other).fold(0, differ)) == 0
}

fn claim(grant: &Grant) -> String {
    let port = grant.port.map_or_else(|| "all".to_owned(), |port| port.to_string());
    format!("v1.{}.{port}.{}", grant.id, grant.expires_at.as_second())
}

fn read(claim: &str) -> Option<Grant> {
    let mut parts = claim.split('.');
    let (Some("v1"), Some(id), Some(port), Some(expires), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let port = match port {
        "all" => None,
        number => Some(number.parse().ok()?),
    };
    let expires_at = Timestamp::from_second(expires.parse().ok()?).ok()?;
    Some(Grant { id: SandboxId::parse(id).ok()?, port, expires_at })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut bytes = [0; 32];
    if text.len() != bytes.len() * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn grant(port: Option<u16>) -> Grant {
        Grant { id: SandboxId::from_entropy([1; 19]), port, expires_at: at(1000) }
    }

    #[test]
    fn a_token_is_what_was_granted() {
        let key = LinkKey::new([7; 32]);
        for grant in [grant(None), grant(Some(3000))] {
            assert_eq!(key.verify(&key.sign(&grant)), Some(grant));
        }
        assert!(key.sign(&grant(Some(65535))).len() <= LONGEST_TOKEN);
    }

    #[test]
    fn it_opens_one_sandbox_until_its_end() {
        let (one, other) = (SandboxId::from_entropy([1; 19]), SandboxId::from_entropy([2; 19]));
        assert!(grant(None).opens(&one, 1, at(999)) && grant(Some(80)).opens(&one, 80, at(0)));
        assert!(!grant(None).opens(&one, 1, at(1000)), "expired");
        assert!(!grant(Some(80)).opens(&one, 81, at(0)) && !grant(None).opens(&other, 1, at(0)));
    }

    #[test]
    fn a_forged_one_is_nothing() {
        let key = LinkKey::new([7; 32]);
        let token = key.sign(&grant(Some(80)));
        assert_eq!(LinkKey::new([8; 32]).verify(&token), None);
        for bad in
            [token.replace(".80.", ".81."), token.replace(".1000.", ".2000."), token.replace("v1", "v2")]
        {
            assert_eq!(key.verify(&bad), None, "{bad}");
        }
        assert_eq!(key.verify(&token[..token.len() - 2]), None);
        assert_eq!(key.verify(&format!("{token}00")), None);
        for text in ["", "zz", &"0".repeat(63), &"ü".repeat(32)] {
            assert!(unhex(text).is_none(), "{text}");
        }
        assert_eq!(format!("{key:?}"), "LinkKey", "a key is not printed");
    }

    #[test]
    fn the_tokens_of_a_sandbox_are_its_own_and_each_for_one_use() {
        let key = LinkKey::new([7; 32]);
        let (one, other) = (SandboxId::from_entropy([1; 19]), SandboxId::from_entropy([2; 19]));
        let token = key.agent_token(&one);
        assert!(token.len() == 64 && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(token, key.agent_token(&one), "always the same");
        for different in [key.agent_token(&other), key.traffic_token(&one), key.traffic_token(&other)] {
            assert_ne!(token, different);
        }
        assert_ne!(token, LinkKey::new([8; 32]).agent_token(&one));
        assert_eq!(key.verify(&token), None, "a token is not a link");
        assert!(key.is_agent_token(&one, &token) && key.is_traffic_token(&one, &key.traffic_token(&one)));
        for wrong in ["", &token[1..], &key.traffic_token(&one), &key.agent_token(&other)] {
            assert!(!key.is_agent_token(&one, wrong), "{wrong}");
        }
    }

    #[test]
    fn an_upload_is_what_was_allowed() {
        let key = LinkKey::new([7; 32]);
        let upload = Upload { tenant: "Acmé.x".into(), hash: "0a".repeat(32), expires_at: at(1000) };
        let token = key.sign_upload(&upload);
        assert_eq!(key.verify_upload(&token), Some(upload));
        assert_eq!(LinkKey::new([8; 32]).verify_upload(&token), None);
        for bad in
            [token.replacen("1000", "2000", 1), token.replace("0a0a", "0a0b"), String::new(), "..".into()]
        {
            assert_eq!(key.verify_upload(&bad), None, "{bad}");
        }
        assert_eq!(key.verify(&token), None, "an upload is no link");
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_it(text in any::<String>(), tail in "[0-9a-f.]{0,80}") {
            let key = LinkKey::new([7; 32]);
            prop_assert_eq!(key.verify(&text), None);
            prop_assert_eq!(key.verify(&format!("v1.{text}.{tail}")), None);
        }
    }
}
