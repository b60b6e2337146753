//! Bytes of a command as JSON can carry them.

use atoll_proto::api::Encoding;
use base64::{Engine, engine::general_purpose::STANDARD};

use super::error::ServiceError;

/// Turns the bytes of one stream into text, piece by piece. A character that is cut by the end of a piece waits for the
/// next one.
#[derive(Debug, Default)]
pub struct Decoder {
    rest: Vec<u8>,
}

impl Decoder {
    /// The text of what is complete so far; bytes that are no UTF-8 become U+FFFD.
    pub fn feed(&mut self, piece: &[u8]) -> String {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.len() - unfinished(&self.rest);
        let text = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        self.rest.drain(..whole);
        text
    }

    /// What was left unfinished.
    pub fn end(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned()
    }
}

/// How many bytes at the end may yet become a character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    match std::str::from_utf8(&bytes[tail..]) {
        Ok(_) => 0,
        Err(_) => (1..=3.min(bytes.len())).find(|count| begins(&bytes[bytes.len() - count..])).unwrap_or(0),
    }
}

/// Whether `bytes` is the beginning of one character and not all of it.
fn begins(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Bytes, written as the caller wants them.
pub fn encode(bytes: &[u8], encoding: Encoding) -> String {
    match encoding {
        Encoding::Text => String::from_utf8_lossy(bytes).into_owned(),
        Encoding::Base64 => STANDARD.encode(bytes),
    }
}

/// What a caller wrote, as bytes.
pub fn decode(field: &str, text: String, encoding: Encoding) -> Result<Vec<u8>, ServiceError> {
    match encoding {
        Encoding::Text => Ok(text.into_bytes()),
        Encoding::Base64 => STANDARD
            .decode(text)
            .map_err(|error| ServiceError::invalid(field, format!("is no base64: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_survive_any_cut() {
        let text = "aé€😀z\u{fffd}";
        for cut in 0..=text.len() {
            for second in cut..=text.len() {
                let mut decoder = Decoder::default();
                let bytes = text.as_bytes();
                let mut read = decoder.feed(&bytes[..cut]);
                read += &decoder.feed(&bytes[cut..second]);
                read += &decoder.feed(&bytes[second..]);
                read += &decoder.end();
                assert_eq!(read, text, "cut at {cut} and {second}");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_replaced_and_never_kept_back() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(b"a\xffb\x80"), "a\u{fffd}b\u{fffd}");
        assert_eq!(decoder.feed(b"\xe2\x82"), "");
        assert_eq!(decoder.end(), "\u{fffd}");
        assert_eq!(decoder.end(), "");
    }
}
