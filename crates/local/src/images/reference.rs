//! Names of images: what people write, and the one spelling under which the store keeps it. No I/O.

use oci_client::Reference;

use super::error::ImageError;

/// Reads what a person wrote: `python:3.11-slim` is `docker.io/library/python:3.11-slim`.
pub(super) fn parse(text: &str) -> Result<Reference, ImageError> {
    text.parse().map_err(|error: oci_client::ParseError| ImageError::InvalidReference {
        reference: text.to_owned(),
        reason: error.to_string(),
    })
}

/// The one spelling of a reference; where there is a digest, it alone decides.
pub(super) fn key(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{}@{digest}", repository(reference)),
        (None, tag) => format!("{}:{}", repository(reference), tag.unwrap_or("latest")),
    }
}

/// Registry and repository, without tag or digest.
pub(super) fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// Whether a name may be given to an image that is made here: it must never look like a registry's.
pub(super) fn is_local(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

/// Whether a text is a complete sha256 digest, safe to become a file name.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A digest as a file name.
pub(super) fn file_name(digest: &str) -> String {
    digest.replace(':', "-")
}

/// sha256 of bytes, as a digest.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_names_one_way() {
        let spelled = |text: &str| key(&parse(text).unwrap());
        assert_eq!(spelled("python"), "docker.io/library/python:latest");
        assert_eq!(spelled("python:3.11-slim"), "docker.io/library/python:3.11-slim");
        assert_eq!(spelled("docker.io/library/python:3.11-slim"), "docker.io/library/python:3.11-slim");
        assert_eq!(spelled("localhost:5000/x"), "localhost:5000/x:latest");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(spelled(&format!("localhost:5000/x:1@{digest}")), format!("localhost:5000/x@{digest}"));
    }

    #[test]
    fn refuses_what_is_no_name() {
        for text in ["", "UPPER", "a b", "x@sha256:12", "../x", "x:", ":x"] {
            assert!(matches!(parse(text), Err(ImageError::InvalidReference { .. })), "{text}");
        }
        assert!(is_local("base") && !is_local("a/b") && !is_local("a:b") && !is_local("") && !is_local(".."));
        assert!(!is_digest("sha256:zz") && !is_digest("sha256:../../x"));
    }
}
