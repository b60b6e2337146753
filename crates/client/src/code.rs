//! Code run by the code interpreter of a sandbox, where it has one: the service on port 49999 of E2B's clients. Its kernels
//! keep their state between calls; results come as they are made.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::{Error, Sandbox, client::transport};

/// Where the service listens.
const PORT: u16 = 49999;
/// No line comes near this but from a peer that is no code interpreter.
const MAX_LINE: usize = 64 << 20;

/// What is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunCode {
    /// The code.
    pub code: String,
    /// `python`, `javascript`, `bash` or what else the service has kernels for; its default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// A context of the service's, in place of the language's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_id: Option<String>,
    /// Added to the environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
}

/// What happens while code runs. Kinds that this version does not know are left out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CodeEvent {
    /// It wrote to standard output.
    Stdout {
        /// What.
        text: String,
    },
    /// It wrote to standard error.
    Stderr {
        /// What.
        text: String,
    },
    /// It showed something, or its last expression has a value: by form (`text`, `html`, `png` in base64, ...).
    Result {
        /// Every form, by name.
        #[serde(flatten)]
        forms: BTreeMap<String, Value>,
    },
    /// It failed.
    Error {
        /// The kind of failure, e.g. `NameError`.
        name: String,
        /// What it says.
        value: String,
        /// Where it happened.
        #[serde(default)]
        traceback: String,
    },
    /// How often this kernel has run something.
    NumberOfExecutions {
        /// So often.
        execution_count: u64,
    },
}

impl Sandbox {
    /// Runs code in the sandbox's code interpreter. `None` where nothing listens on its port.
    ///
    /// # Errors
    /// The sandbox or the server refuses. Failures of the code come as [`CodeEvent::Error`].
    pub async fn run_code(
        &self,
        request: &RunCode,
    ) -> Result<Option<impl Stream<Item = Result<CodeEvent, Error>> + Send + Unpin + use<>>, Error> {
        let port = self.port(PORT).await?;
        let response = match port.send(port.request(Method::POST, "execute")?.json(request)).await {
            Err(error) if error.code() == Some("port_closed") => return Ok(None),
            response => response?,
        };
        let url = response.url().to_string();
        let mut lines = Lines::default();
        let pieces = response.bytes_stream().map(Some).chain(stream::iter([None]));
        let events = pieces.map(move |piece| {
            let whole = match piece {
                Some(Ok(piece)) => lines.push(&piece),
                Some(Err(error)) => return vec![Err(transport(&url, error))],
                None => Ok(lines.end()),
            };
            let protocol = |problem: String| Error::Protocol { url: url.clone(), problem };
            match whole {
                Ok(whole) => {
                    whole.iter().filter_map(|line| event(line)).map(|it| it.map_err(protocol)).collect()
                }
                Err(problem) => vec![Err(protocol(problem))],
            }
        });
        Ok(Some(Box::pin(events.flat_map(stream::iter))))
    }
}

/// One line's event, unless it is empty or of a kind that is not known.
fn event(line: &[u8]) -> Option<Result<CodeEvent, String>> {
    const KNOWN: [&str; 5] = ["stdout", "stderr", "result", "error", "number_of_executions"];
    if line.trim_ascii().is_empty() {
        return None;
    }
    let value: Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(error) => return Some(Err(format!("a line is no JSON: {error}"))),
    };
    let kind = value["type"].as_str().unwrap_or_default();
    KNOWN
        .contains(&kind)
        .then(|| serde_json::from_value(value.clone()).map_err(|error| format!("{kind}: {error}")))
}

/// Bytes in pieces of any size, cut at the ends of lines.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, piece: &Bytes) -> Result<Vec<Vec<u8>>, String> {
        self.rest.extend_from_slice(piece);
        let mut whole = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let next = self.rest.split_off(end + 1);
            whole.push(std::mem::replace(&mut self.rest, next));
        }
        match self.rest.len() > MAX_LINE {
            true => Err(format!("a line of more than {MAX_LINE} bytes")),
            false => Ok(whole),
        }
    }

    fn end(&mut self) -> Vec<Vec<u8>> {
        vec![std::mem::take(&mut self.rest)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_are_read_and_others_left_out() {
        let known = event(br#"{"type":"result","text":"2","is_main_result":true,"png":"QQ=="}"#);
        let Some(Ok(CodeEvent::Result { forms })) = known else { panic!("{known:?}") };
        assert_eq!((forms["text"].as_str(), forms["png"].as_str()), (Some("2"), Some("QQ==")));
        let failed = event(br#"{"type":"error","name":"E","value":"v","traceback":"t"}"#);
        assert!(matches!(failed, Some(Ok(CodeEvent::Error { .. }))), "{failed:?}");
        assert_eq!(event(br#"{"type":"later"}"#), None);
        assert_eq!(event(b"  \n"), None);
        assert!(matches!(event(b"<html>"), Some(Err(_))));
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_does_not_matter(text in "[a-c\n]{0,60}", cut in 0_usize..60) {
            let bytes = text.as_bytes();
            let (one, two) = bytes.split_at(cut.min(bytes.len()));
            let mut lines = Lines::default();
            let mut all = lines.push(&Bytes::copy_from_slice(one)).unwrap();
            all.extend(lines.push(&Bytes::copy_from_slice(two)).unwrap());
            all.extend(lines.end());
            prop_assert_eq!(all.concat(), bytes);
            prop_assert!(all.iter().rev().skip(1).all(|line| line.ends_with(b"\n") && line.len() == line.iter().position(|b| *b == b'\n').unwrap() + 1));
        }
    }
}
