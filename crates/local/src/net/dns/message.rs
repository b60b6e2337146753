//! As much of the DNS message format as a forwarder needs: the header and the question. Pure.

const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const SERVFAIL: u8 = 2;

/// A well-formed query with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    bytes: Vec<u8>,
    /// Where the question ends.
    end: usize,
}

impl Query {
    /// `None` for anything that is not an ordinary query: it gets no answer.
    pub(super) fn parse(bytes: &[u8]) -> Option<Query> {
        let ordinary = bytes.get(2)? & (RESPONSE | OPCODE) == 0;
        let end = question_end(bytes)?;
        ordinary.then(|| Query { bytes: bytes.to_vec(), end })
    }

    /// The same query under another number. Whoever forges an answer has to guess it.
    pub(super) fn renumbered(&self, id: [u8; 2]) -> Query {
        let mut query = self.clone();
        if let Some(start) = query.bytes.get_mut(..2) {
            start.copy_from_slice(&id);
        }
        query
    }

    /// The bytes as they travel.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `answer` answers this very query.
    pub(super) fn is_answered_by(&self, answer: &[u8]) -> bool {
        let flagged = answer.get(2).is_some_and(|flags| flags & RESPONSE != 0);
        let same_id = answer.get(..2) == self.bytes.get(..2);
        let asked = self.bytes.get(HEADER..self.end).unwrap_or_default();
        let same_question = question_end(answer) == Some(self.end)
            && answer.get(HEADER..self.end).is_some_and(|question| question.eq_ignore_ascii_case(asked));
        flagged && same_id && same_question
    }

    /// An upstream's answer, under the number that the sandbox knows.
    pub(super) fn answer(&self, mut upstream: Vec<u8>) -> Vec<u8> {
        if let (Some(start), Some(id)) = (upstream.get_mut(..2), self.bytes.get(..2)) {
            start.copy_from_slice(id);
        }
        upstream
    }

    /// The answer when nobody upstream can be asked.
    pub(super) fn failure(&self) -> Vec<u8> {
        let mut answer = self.bytes.get(..self.end).unwrap_or_default().to_vec();
        if let Some(header) = answer.get_mut(2..HEADER) {
            let desired = header[0] & RECURSION_DESIRED;
            header.copy_from_slice(&[
                RESPONSE | desired,
                RECURSION_AVAILABLE | SERVFAIL,
                0,
                1,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
        }
        answer
    }
}

/// Where the one question of a message ends. A question's name is never compressed: nothing is before it.
fn question_end(bytes: &[u8]) -> Option<usize> {
    if bytes.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => break,
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
    let end = at + 5;
    (end <= bytes.len() && at - HEADER < 255).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(b"\x07example\x03org\x00\x00\x01\x00\x01");
        bytes
    }

    #[test]
    fn reads_queries_and_refuses_the_rest() {
        let query = query();
        assert!(Query::parse(&query).is_some());
        for cut in 0..query.len() {
            assert!(Query::parse(&query[..cut]).is_none(), "cut at {cut}");
        }
        let changed = |at: usize, to: u8| {
            let mut bytes = query.clone();
            bytes[at] = to;
            Query::parse(&bytes)
        };
        assert!(changed(2, 0x81).is_none(), "an answer");
        assert!(changed(2, 0x28).is_none(), "an update");
        assert!(changed(5, 2).is_none(), "two questions");
        assert!(changed(12, 0xc0).is_none(), "a compressed name");
    }

    #[test]
    fn knows_its_answer() {
        let asked = Query::parse(&query()).unwrap().renumbered([1, 2]);
        let mut answer = asked.bytes().to_vec();
        answer[2] = 0x81;
        assert!(asked.is_answered_by(&answer));
        answer[13] = b'E';
        assert!(asked.is_answered_by(&answer));
        answer[13] = b'x';
        assert!(!asked.is_answered_by(&answer));
        assert!(!asked.is_answered_by(asked.bytes()));
        assert!(!asked.is_answered_by(&[]));
        assert!(!Query::parse(&query()).unwrap().is_answered_by(&answer));
    }

    #[test]
    fn fails_in_the_sandboxs_own_words() {
        let asked = Query::parse(&query()).unwrap();
        let failure = asked.failure();
        assert_eq!(&failure[..4], [0xab, 0xcd, 0x81, 0x82]);
        assert!(asked.is_answered_by(&failure));
        assert_eq!(asked.answer(vec![9, 9, 0x81]), [0xab, 0xcd, 0x81]);
    }
}
