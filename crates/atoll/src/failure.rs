//! What goes wrong on the way from a command line to its answer: as one line for people and one code for scripts.

use std::{io, path::Path};

/// Exit code of `run`, `exec` and `shell` when Atoll itself failed, as Docker has it: no program's code is mistaken for it.
pub const OWN: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const BROKEN_PIPE: u8 = 128 + 13;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server refused, or could not be reached.
    #[error("{0}")]
    Client(#[from] atoll_client::Error),
    /// What was asked for makes no sense; says what would.
    #[error("{0}")]
    Wrong(String),
    /// Something on this machine could not be read or written.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What happened.
        source: io::Error,
    },
    /// Some of several things failed; each was complained about already.
    #[error("{failed} of {all} failed")]
    Some {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
    /// The person at the keyboard, or whoever started this, ended it.
    #[error("ended by signal {0}")]
    Interrupted(i32),
    /// Nobody reads the output any more.
    #[error("nobody reads the output")]
    BrokenPipe,
    /// Findings were printed; some of them are bad.
    #[error("something is wrong")]
    Findings,
}

impl Failure {
    /// Names what was tried beside what happened.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Io { what: what.into(), source },
        }
    }

    /// A file that could not be used.
    pub fn file(verb: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { what: format!("{verb} {}", path.display()), source }
    }

    /// The one line that says what happened and what to do; nothing when that was said or needs no saying.
    pub fn line(&self) -> Option<String> {
        match self {
            Self::BrokenPipe | Self::Interrupted(_) | Self::Findings | Self::Some { .. } => None,
            Self::Client(error) => Some(client_line(error)),
            other => Some(other.to_string()),
        }
    }

    /// The exit code; `own` is the command's code for failures of Atoll itself.
    pub fn code(&self, own: u8) -> u8 {
        match self {
            Self::Interrupted(signal) => 128_u8.saturating_add(u8::try_from(*signal).unwrap_or(0)),
            Self::BrokenPipe => BROKEN_PIPE,
            Self::Client(error) if own == OWN => match error.code() {
                Some("command_not_found") => NOT_FOUND,
                Some("not_executable") => NOT_EXECUTABLE,
                _ => own,
            },
            _ => own,
        }
    }
}

fn client_line(error: &atoll_client::Error) -> String {
    use atoll_client::Error;
    match error {
        Error::Transport { url, source } if is_refused(source) => format!(
            "no server answers at {url}: start one as root with `atoll serve`, or name one with --url or ATOLL_URL"
        ),
        Error::Transport { .. } if error.is_unreachable() => one_line(&format!(
            "cannot reach {error}; check --url or ATOLL_URL, and --ca when the server's certificate is a private one"
        )),
        Error::Api { status: 401, message, .. } => format!(
            "{}: give a key with --api-key, ATOLL_API_KEY or api_key in {}; the server's admin key is in admin.key in \
             its data directory, readable by root there",
            message.trim_end_matches('.'),
            crate::config::path_for_people()
        ),
        Error::Api { status, message, request_id: Some(id), .. }
            if *status >= 500 && !message.contains(id) =>
        {
            format!("{} (request {id} in the server's log)", one_line(message))
        }
        other => one_line(&other.to_string()),
    }
}

/// Whether nothing listens there, rather than something that does not let us in.
fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> Failure {
        Failure::Client(atoll_client::Error::Api {
            status,
            code: code.into(),
            message: "no\nway".into(),
            field: None,
            request_id: Some("r1".into()),
        })
    }

    #[test]
    fn codes_of_a_missing_program_are_the_shells_where_the_code_is_the_programs() {
        assert_eq!(refused(0, "command_not_found").code(OWN), 127);
        assert_eq!(refused(0, "not_executable").code(OWN), 126);
        assert_eq!(refused(404, "not_found").code(OWN), 125);
        assert_eq!(refused(0, "command_not_found").code(1), 1);
    }

    #[test]
    fn a_refusal_is_one_line_and_a_fault_of_the_server_names_the_request() {
        assert_eq!(refused(400, "invalid").line().as_deref(), Some("no way"));
        assert_eq!(
            refused(500, "internal").line().as_deref(),
            Some("no way (request r1 in the server's log)")
        );
    }

    #[test]
    fn signals_and_closed_pipes_are_quiet_and_have_the_shells_codes() {
        assert_eq!((Failure::Interrupted(2).line(), Failure::Interrupted(2).code(OWN)), (None, 130));
        let pipe = Failure::io("write", io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((pipe.line(), pipe.code(1)), (None, 141));
    }
}
