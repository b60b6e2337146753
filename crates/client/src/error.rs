//! The one error of this crate. It must not know of any command line.

use atoll_proto::api::ErrorBody;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused it and said why.
    #[error("{message}")]
    Api {
        /// HTTP status; 0 when the refusal came inside a stream that had begun well.
        status: u16,
        /// What is wrong, for programs.
        code: String,
        /// What is wrong and what to do, for people.
        message: String,
        /// The field that is wrong, when it is one.
        field: Option<String>,
        /// Finds the call in the server's log.
        request_id: Option<String>,
    },
    /// The server could not be reached, or the connection broke.
    #[error("{url}: {}", causes(.source))]
    Transport {
        /// Where to.
        url: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// What came is no answer of this API.
    #[error("{url} gave an answer that is not Atoll's: {problem}")]
    Protocol {
        /// Who gave it.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The WebSocket broke.
    #[error("the connection to the command broke: {0}")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    /// The connection ended before the last event.
    #[error("the server ended the stream before its last event")]
    Interrupted,
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// The caller's own reader or writer failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// An error event of a stream.
    #[must_use]
    pub fn from_event(body: ErrorBody) -> Self {
        Self::from_body(0, body, None)
    }

    pub(crate) fn from_body(status: u16, body: ErrorBody, request_id: Option<String>) -> Self {
        Self::Api { status, code: body.code, message: body.error, field: body.field, request_id }
    }

    /// The machine-readable code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Api { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The HTTP status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } if *status != 0 => Some(*status),
            _ => None,
        }
    }

    /// Whether what was asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether no server could be reached at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if source.is_connect())
    }
}

/// The innermost cause says what happened; the outer ones only that something did.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
