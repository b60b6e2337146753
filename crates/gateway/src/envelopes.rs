//! Where the messages of a Connect stream begin and end, so that one that breaks off can be ended in its own words: clients
//! would otherwise see nothing but a broken connection. Each message has five bytes before it, of flags and length, and the
//! last one says how the stream ended (Connect protocol, "streaming RPCs"). Pure.

use bytes::Bytes;
use serde_json::json;

/// Flags and length.
const PREFIX: usize = 5;
/// The flag of the last message.
const END: u8 = 2;

/// How far a stream is.
#[derive(Debug, Default)]
pub struct Envelopes {
    prefix: [u8; PREFIX],
    have: usize,
    /// Bytes of the message that are still to come.
    left: u64,
    ended: bool,
}

impl Envelopes {
    /// Takes in what passes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(byte) = bytes.first() {
            if self.left > 0 {
                let now = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= now as u64;
                bytes = bytes.get(now..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.prefix.get_mut(self.have) {
                *slot = *byte;
            }
            self.have += 1;
            bytes = bytes.get(1..).unwrap_or_default();
            if self.have == PREFIX {
                let [flags, length @ ..] = self.prefix;
                self.left = u64::from(u32::from_be_bytes(length));
                self.ended = flags & END != 0;
                self.have = 0;
            }
        }
    }

    /// The last message of a stream that broke off: that its other end is not there any more. `None` in the middle of a
    /// message, where nothing more can be said, and after the end.
    pub fn end(&self, why: &str) -> Option<Bytes> {
        if self.ended || self.left > 0 || self.have > 0 {
            return None;
        }
        let text = json!({"error": {"code": "unavailable", "message": why}}).to_string();
        let length = u32::try_from(text.len()).ok()?;
        Some([&[END][..], &length.to_be_bytes(), text.as_bytes()].concat().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(flags: u8, data: &[u8]) -> Vec<u8> {
        [&[flags][..], &(data.len() as u32).to_be_bytes(), data].concat()
    }

    #[test]
    fn it_can_be_ended_between_messages() {
        let mut stream = Envelopes::default();
        let end = stream.end("gone").unwrap();
        assert_eq!((end[0], end[4] as usize), (END, end.len() - PREFIX));
        let said: serde_json::Value = serde_json::from_slice(&end[PREFIX..]).unwrap();
        assert_eq!(said, json!({"error": {"code": "unavailable", "message": "gone"}}));
        stream.pass(&message(0, b""));
        assert!(stream.end("gone").is_some());
        stream.pass(&[0, 0]);
        assert!(stream.end("gone").is_none(), "in a prefix");
        stream.pass(&[0, 0, 2, 7]);
        assert!(stream.end("gone").is_none(), "in a message");
        stream.pass(&[7]);
        assert!(stream.end("gone").is_some());
        stream.pass(&message(END, b"{}"));
        assert!(stream.end("gone").is_none(), "it has ended");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in 1_usize..50,
        ) {
            let whole: Vec<u8> = messages.iter().flat_map(|data| message(0, data)).collect();
            let mut stream = Envelopes::default();
            for piece in whole.chunks(cut) {
                stream.pass(piece);
            }
            prop_assert!(stream.end("gone").is_some());
        }

        #[test]
        fn nothing_that_passes_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = Envelopes::default();
            stream.pass(&bytes);
            let _ = stream.end("gone");
        }
    }
}
