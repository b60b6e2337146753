//! Signed requests, for agents that listen on TCP: an Ed25519 signature over the time, the sandbox and the request
//! line. Knows neither sockets nor clocks; callers bring the time.
//!
//! The body is not covered: it is streamed, often in both directions at once and without a known end, and what signs it
//! would have to come before it. Where such an agent listens, nothing stands between it and the server that could change
//! a body or use a header again: the connection is made to the sandbox's own network namespace, from this machine, and
//! processes in the sandbox have neither raw sockets nor power over its network. Over a network that others can read or
//! write to, a signed request would need TLS around it.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use http::{HeaderValue, Request};

/// The header that carries the signature: `v1,<unix milliseconds>,<hex>`.
pub const SIGNATURE_HEADER: &str = "atoll-signature";

/// How far the clocks of the two sides may differ, and how long a signature can be used.
pub const WINDOW_MS: u64 = 60_000;

/// Why a request is not trusted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header is missing.
    #[error("the request is not signed")]
    Missing,
    /// The header cannot be read.
    #[error("the signature is malformed")]
    Malformed,
    /// The signature is older than the window, or from the future.
    #[error("the signature was made {0} ms away from now")]
    OutsideWindow(u64),
    /// The signature is not of this request by this key.
    #[error("the signature does not match")]
    Mismatch,
    /// The public key cannot be read.
    #[error("the public key is malformed")]
    Key,
}

/// The server's half: signs requests.
pub struct RequestSigner(SigningKey);

impl RequestSigner {
    /// From the 32 secret bytes of the key.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The public key, as agents are given it.
    #[must_use]
    pub fn public_key_hex(&self) -> String {
        hex::encode(self.0.verifying_key().to_bytes())
    }

    /// The header's value for a request; `target` is path and query.
    #[must_use]
    pub fn sign(&self, now_ms: u64, sandbox_id: &str, method: &str, target: &str) -> String {
        let signature = self.0.sign(statement(now_ms, sandbox_id, method, target).as_bytes());
        format!("v1,{now_ms},{}", hex::encode(signature.to_bytes()))
    }
}

/// Adds to a request the proof that `sign` makes of the time (milliseconds since the epoch), its method, and its path with
/// its query.
pub fn prove<B>(request: &mut Request<B>, now_ms: i64, sign: impl Fn(u64, &str, &str) -> String) {
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let proof = sign(u64::try_from(now_ms).unwrap_or_default(), request.method().as_str(), target);
    // A proof is digits and letters; one that were not a header's value would be refused at the other end.
    if let Ok(proof) = HeaderValue::from_str(&proof) {
        request.headers_mut().insert(SIGNATURE_HEADER, proof);
    }
}

/// The agent's half: holds only the public key.
pub struct RequestVerifier {
    key: VerifyingKey,
    sandbox_id: String,
}

impl RequestVerifier {
    /// Trusts the owner of the key, for requests to this sandbox.
    pub fn new(public_key_hex: &str, sandbox_id: &str) -> Result<Self, SignatureError> {
        let bytes: [u8; 32] = hex::decode(public_key_hex)
            .ok()
            .and_then(|key| key.try_into().ok())
            .ok_or(SignatureError::Key)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| SignatureError::Key)?;
        Ok(Self { key, sandbox_id: sandbox_id.into() })
    }

    /// Checks the header of a request; `target` is path and query.
    pub fn verify(
        &self,
        now_ms: u64,
        header: Option<&str>,
        method: &str,
        target: &str,
    ) -> Result<(), SignatureError> {
        let (made_ms, signature) = parse(header.ok_or(SignatureError::Missing)?)?;
        let away = now_ms.abs_diff(made_ms);
        if away > WINDOW_MS {
            return Err(SignatureError::OutsideWindow(away));
        }
        let statement = statement(made_ms, &self.sandbox_id, method, target);
        self.key.verify_strict(statement.as_bytes(), &signature).map_err(|_| SignatureError::Mismatch)
    }
}

fn statement(made_ms: u64, sandbox_id: &str, method: &str, target: &str) -> String {
    format!("atoll-agent-v1\n{made_ms}\n{sandbox_id}\n{method}\n{target}")
}

fn parse(header: &str) -> Result<(u64, Signature), SignatureError> {
    let mut parts = header.splitn(3, ',');
    let (Some("v1"), Some(made), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(SignatureError::Malformed);
    };
    let made_ms = made.parse().map_err(|_| SignatureError::Malformed)?;
    let bytes: [u8; 64] = hex::decode(signature)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(SignatureError::Malformed)?;
    Ok((made_ms, Signature::from_bytes(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (RequestSigner, RequestVerifier) {
        let signer = RequestSigner::new(&[7; 32]);
        let verifier = RequestVerifier::new(&signer.public_key_hex(), "isandbox").unwrap();
        (signer, verifier)
    }

    #[test]
    fn a_signed_request_is_trusted_within_the_window() {
        let (signer, verifier) = pair();
        let header = signer.sign(1_000_000, "isandbox", "GET", "/files?path=/x");
        for now in [940_000, 1_000_000, 1_060_000] {
            assert_eq!(verifier.verify(now, Some(&header), "GET", "/files?path=/x"), Ok(()));
        }
        for now in [939_999, 1_060_001] {
            let error = verifier.verify(now, Some(&header), "GET", "/files?path=/x");
            assert_eq!(error, Err(SignatureError::OutsideWindow(60_001)));
        }
    }

    #[test]
    fn a_proof_is_of_the_whole_request_line() {
        let (signer, verifier) = pair();
        for (uri, target) in [("/files?path=/x", "/files?path=/x"), ("http://agent", "/")] {
            let mut request = Request::post(uri).header(SIGNATURE_HEADER, "forged").body(()).unwrap();
            prove(&mut request, 7, |now, method, target| signer.sign(now, "isandbox", method, target));
            assert_eq!(request.headers().get_all(SIGNATURE_HEADER).iter().count(), 1);
            let header = request.headers()[SIGNATURE_HEADER].to_str().unwrap();
            assert_eq!(verifier.verify(7, Some(header), "POST", target), Ok(()), "{uri}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let (signer, verifier) = pair();
        let header = signer.sign(5, "isandbox", "GET", "/files");
        let mismatch = Err(SignatureError::Mismatch);
        assert_eq!(verifier.verify(5, Some(&header), "POST", "/files"), mismatch);
        assert_eq!(verifier.verify(5, Some(&header), "GET", "/files?path=/etc"), mismatch);
        let other = signer.sign(5, "iother", "GET", "/files");
        assert_eq!(verifier.verify(5, Some(&other), "GET", "/files"), mismatch);
        let stranger = RequestSigner::new(&[8; 32]).sign(5, "isandbox", "GET", "/files");
        assert_eq!(verifier.verify(5, Some(&stranger), "GET", "/files"), mismatch);
        assert_eq!(verifier.verify(5, None, "GET", "/files"), Err(SignatureError::Missing));
        for bad in ["", "v1", "v2,5,00", "v1,x,00", "v1,5,zz", "v1,5,00"] {
            assert_eq!(
                verifier.verify(5, Some(bad), "GET", "/files"),
                Err(SignatureError::Malformed),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_bad_key_is_refused() {
        for key in ["", "00", "zz", &"ff".repeat(33)] {
            assert!(matches!(RequestVerifier::new(key, "i"), Err(SignatureError::Key)));
        }
    }
}
