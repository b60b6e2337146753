//! What the executor speaks: one command in, the lines that it writes out. The server's dialect of it and the agent's own
//! port share this. Knows nothing of how commands are run or sent.

use std::time::Duration;

use serde::Deserialize;

/// Seconds that a command may take when nobody says.
pub const DEFAULT_TIMEOUT: i64 = 300;
/// A longer line is cut: nobody keeps more of it in memory while it waits for its end.
const LONGEST_LINE: usize = 1 << 20;
/// Becomes bash with the command in `$0` where there is one, else the plain shell.
const SHELL: &str = r#"[ -x /bin/bash ] && exec /bin/bash -c "$0"; exec /bin/sh -c "$0""#;

/// A command to execute. Fields that are not known are ignored, as its older servers do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Execute {
    /// A line for the shell: bash, or sh where there is no bash.
    pub command: String,
    /// Seconds until its whole process group is killed.
    #[serde(default = "default_timeout")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub timeout_seconds: i64,
}

fn default_timeout() -> i64 {
    DEFAULT_TIMEOUT
}

impl Execute {
    /// Program and arguments.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        ["/bin/sh", "-c", SHELL, &self.command].map(str::to_owned).to_vec()
    }

    /// How long it may take.
    ///
    /// # Errors
    /// The field that cannot be, and what would be accepted.
    pub fn timeout(&self) -> Result<Duration, (&'static str, &'static str)> {
        if self.command.trim().is_empty() {
            return Err(("command", "is needed: a line for the shell"));
        }
        let seconds = u64::try_from(self.timeout_seconds).ok().filter(|seconds| *seconds > 0);
        seconds.map(Duration::from_secs).ok_or(("timeoutSeconds", "is a number of seconds, at least 1"))
    }
}

/// Cuts what one stream says into lines, each without its end. Bytes that are no UTF-8 become U+FFFD.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that are complete with this piece.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(piece);
        let mut lines = Vec::new();
        let mut from = 0;
        while let Some(length) = self.rest.get(from..).and_then(end_of_line) {
            lines.push(text(&self.rest[from..from + length]));
            from += length + 1;
        }
        self.rest.drain(..from);
        if self.rest.len() > LONGEST_LINE {
            lines.push(text(&std::mem::take(&mut self.rest)));
        }
        lines
    }

    /// What came after the last line's end.
    pub fn end(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| text(&rest))
    }
}

fn end_of_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_any_cut() {
        let said = "one\r\n\ntwo é\nrest".as_bytes();
        for cut in 0..=said.len() {
            let mut lines = Lines::default();
            let mut read = lines.feed(&said[..cut]);
            read.extend(lines.feed(&said[cut..]));
            assert_eq!(
                (read, lines.end()),
                (vec!["one".into(), String::new(), "two é".into()], Some("rest".into()))
            );
            assert_eq!(lines.end(), None);
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept_for_ever() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(&vec![b'x'; LONGEST_LINE + 1])[0].len(), LONGEST_LINE + 1);
        assert_eq!(lines.end(), None);
    }

    #[test]
    fn commands_are_read_with_their_defaults() {
        let read = |text: &str| serde_json::from_str::<Execute>(text);
        let plain = read(r#"{"command":"echo hi","other":1}"#).unwrap();
        assert_eq!(plain.timeout(), Ok(Duration::from_secs(300)));
        assert_eq!(plain.argv()[3], "echo hi");
        assert_eq!(read(r#"{"command":" "}"#).unwrap().timeout().unwrap_err().0, "command");
        let none = read(r#"{"command":"x","timeoutSeconds":0}"#).unwrap();
        assert_eq!(none.timeout().unwrap_err().0, "timeoutSeconds");
        assert!(read("{}").is_err());
    }
}
