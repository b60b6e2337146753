//! Server-sent events: a parser of bytes in pieces of any size, and a stream of typed events made of it.
//! It must not know what the events mean.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, client::transport};

/// No event of ours comes near this; a peer that sends more without an end is not Atoll.
const MAX_EVENT: usize = 64 << 20;

/// One event: its name (empty when none was given) and its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// Takes bytes as they come and gives events as they are complete.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes the next bytes and appends what they complete to `events`. Fails when an event has no end.
    pub(crate) fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), String> {
        for &byte in bytes {
            let second_half_of_crlf = byte == b'\n' && std::mem::take(&mut self.after_cr);
            match byte {
                _ if second_half_of_crlf => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    self.end_line(events);
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                }
            }
        }
        if self.line.len() + self.event.data.len() > MAX_EVENT {
            return Err(format!("an event of more than {MAX_EVENT} bytes"));
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.end_event(events);
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments, ids, retry times and what later versions add.
            _ => {}
        }
    }

    fn end_event(&mut self, events: &mut Vec<Event>) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            events.push(event);
        }
    }
}

/// The typed events of a response. Events whose name this version does not know are skipped, so that a newer server may
/// add some.
pub(crate) fn events<T: DeserializeOwned + Send + 'static>(
    response: reqwest::Response,
    known: &'static [&'static str],
) -> impl Stream<Item = Result<T, Error>> + Send {
    let url = response.url().to_string();
    let raw = response.bytes_stream();
    let mut parser = Parser::default();
    raw.map(move |piece| pieces_to_events(&mut parser, piece, &url, known)).flat_map(stream::iter)
}

fn pieces_to_events<T: DeserializeOwned>(
    parser: &mut Parser,
    piece: Result<Bytes, reqwest::Error>,
    url: &str,
    known: &[&str],
) -> Vec<Result<T, Error>> {
    let protocol = |problem: String| Error::Protocol { url: url.to_owned(), problem };
    let mut raw = Vec::new();
    let outcome = match piece {
        Ok(bytes) => parser.push(&bytes, &mut raw).map_err(protocol),
        Err(error) => Err(transport(url, error)),
    };
    let typed = raw.into_iter().filter_map(|event| decode(event, known));
    let mut all: Vec<Result<T, Error>> = typed.map(|event| event.map_err(protocol)).collect();
    all.extend(outcome.err().map(Err));
    all
}

/// The event's name is the tag of its type, whether or not its data repeats it.
fn decode<T: DeserializeOwned>(event: Event, known: &[&str]) -> Option<Result<T, String>> {
    let mut object: Map<String, Value> = match serde_json::from_str(&event.data) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Some(Err(format!("event {:?} carries no object", event.name))),
        Err(error) => return Some(Err(format!("event {:?}: {error}", event.name))),
    };
    if !event.name.is_empty() {
        object.insert("event".into(), Value::String(event.name));
    }
    let name = object.get("event").and_then(Value::as_str).unwrap_or_default();
    if !known.is_empty() && !known.contains(&name) {
        return None;
    }
    Some(serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut events).expect("short enough");
        }
        events
    }

    #[test]
    fn reads_names_data_and_comments() {
        let events = parse(&[b": hello\n\nevent: a\ndata: 1\n\ndata:2\nid: 7\n\nevent: empty\n\n"]);
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        assert_eq!(events, [event("a", "1"), event("", "2")]);
    }

    #[test]
    fn joins_lines_and_takes_every_line_end() {
        let events = parse(&[b"data: a\r\ndata: b\rdata:  c\n\r\n"]);
        assert_eq!(events, [Event { name: String::new(), data: "a\nb\n c".into() }]);
    }

    #[test]
    fn an_event_without_its_end_is_not_given() {
        assert!(parse(&[b"data: a\n"]).is_empty());
    }

    #[test]
    fn the_name_is_the_tag() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        #[serde(tag = "event", rename_all = "snake_case")]
        enum Typed {
            One { n: u8 },
        }
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        let one = decode::<Typed>(event("one", r#"{"n":1}"#), &["one"]);
        assert_eq!(one, Some(Ok(Typed::One { n: 1 })));
        let tagged = decode::<Typed>(event("", r#"{"event":"one","n":1}"#), &["one"]);
        assert_eq!(tagged, Some(Ok(Typed::One { n: 1 })));
        assert_eq!(decode::<Typed>(event("later", "{}"), &["one"]), None);
        assert!(matches!(decode::<Typed>(event("one", "[]"), &["one"]), Some(Err(_))));
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_does_not_matter(text in "(data: ?[a-zé:]{0,5}|event: [a-z]{1,3}|:x|[a-z]{0,3})?(\n|\r\n|\r){0,3}",
                                             repeat in 1usize..8, cuts in prop::collection::vec(0usize..200, 0..12)) {
            let bytes = text.repeat(repeat).into_bytes();
            let whole = parse(&[&bytes]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(parse(&pieces), whole);
        }

        #[test]
        fn what_was_written_is_read(events in prop::collection::vec(("[a-z]{1,8}", "[^\r\n]{1,20}(\n[^\r\n]{0,10}){0,3}"), 0..6)) {
            let mut text = String::new();
            for (name, data) in &events {
                text.push_str(&format!("event: {name}\n"));
                for line in data.split('\n') {
                    text.push_str(&format!("data: {line}\n"));
                }
                text.push('\n');
            }
            let read: Vec<(String, String)> = parse(&[text.as_bytes()]).into_iter().map(|e| (e.name, e.data)).collect();
            prop_assert_eq!(read, events);
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            parse(&[&bytes]);
        }
    }
}
