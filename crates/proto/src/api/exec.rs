//! Commands: run to the end, streamed, or interactive over a WebSocket.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Body of `POST /api/v1/sandboxes/{id}/exec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments. No shell is involved.
    pub command: Vec<String>,
    /// Seconds after which its whole process group is killed; absent is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// Added to the sandbox's environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Directory; the sandbox's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// User name or `uid[:gid]`; the sandbox's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What it reads from its standard input, in `encoding`; absent is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// How `stdin`, `stdout` and `stderr` are written.
    #[serde(skip_serializing_if = "Encoding::is_text")]
    pub encoding: Encoding,
    /// Lives on when the caller goes; the answer comes at once with the pid.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

impl ExecRequest {
    /// A command in the sandbox's default environment.
    #[must_use]
    pub fn of<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self { command: command.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// How bytes are written in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As text; bytes that are no UTF-8 are replaced by U+FFFD.
    #[default]
    Text,
    /// As base64, exactly.
    Base64,
}

impl Encoding {
    /// Whether this is the default.
    #[must_use]
    pub fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ExecExit {
    /// Its exit code; 128 + the signal's number when a signal ended it, as shells say it.
    pub exit_code: i32,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether its time was up.
    pub timed_out: bool,
    /// Whether it was killed for want of memory.
    pub oom_killed: bool,
    /// From start to end.
    pub duration_ms: u64,
}

/// Answer of an exec that ran to its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ExecResponse {
    /// How it ended. A detached command's is all zero.
    #[serde(flatten)]
    pub exit: ExecExit,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Whether output beyond the server's limit for one answer was left out; stream it instead.
    pub truncated: bool,
    /// Its process id inside the sandbox.
    pub pid: u32,
}

/// One event of a streamed exec (`Accept: text/event-stream`). The event's name is the tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ExecEvent {
    /// It runs.
    Started {
        /// Process id inside the sandbox.
        pid: u32,
    },
    /// It wrote to standard output.
    Stdout {
        /// In the request's encoding.
        data: String,
    },
    /// It wrote to standard error.
    Stderr {
        /// In the request's encoding.
        data: String,
    },
    /// It ended. The last event.
    Exit(ExecExit),
    /// It could not be started, or the sandbox went away. The last event.
    Error {
        /// Why.
        error: super::ErrorBody,
    },
}

/// One process of a sandbox that was started through the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProcessInfo {
    /// Process id inside the sandbox.
    pub pid: u32,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Answer of `GET /api/v1/sandboxes/{id}/processes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProcessList {
    /// By process id.
    pub items: Vec<ProcessInfo>,
}

/// What the interactive WebSocket is to run: its first message, `start`, when the URL names no `command`. So a long
/// command line or environment never meets the limit on a URL's length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InteractiveStart {
    /// Program and arguments. No shell is involved.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Columns of that terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// Rows of that terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// Added to the sandbox's environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Directory; the sandbox's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// User name or `uid[:gid]`; the sandbox's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Seconds after which its whole process group is killed; absent is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
}

impl InteractiveStart {
    /// A command without a terminal, in the sandbox's default environment.
    #[must_use]
    pub fn of<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self { command: command.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// First byte of a server's binary frame: what follows was written to standard output, or to the terminal.
pub const FRAME_STDOUT: u8 = 1;

/// First byte of a server's binary frame: what follows was written to standard error.
pub const FRAME_STDERR: u8 = 2;

/// A text message of the interactive WebSocket, in both directions. With `binary=true` in the URL, input and output are
/// binary frames instead: raw input from the client; from the server one byte, [`FRAME_STDOUT`] or [`FRAME_STDERR`], and
/// then raw output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InteractiveMessage {
    /// From the client: what to run, when the URL names no `command`. The first message.
    Start(InteractiveStart),
    /// From the server: it runs.
    Started {
        /// Process id inside the sandbox.
        pid: u32,
    },
    /// From the client: typed input.
    Input {
        /// Text.
        data: String,
    },
    /// From the client: no more input will come. Only without a tty.
    Eof,
    /// From the server: output and errors.
    Output {
        /// Text; bytes that are no UTF-8 are replaced.
        data: String,
    },
    /// From the client: the terminal's size changed.
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// From the client: send a signal to the process group.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// From the server: it ended. The last message.
    Exit {
        /// Exit code as in [`ExecExit`].
        #[serde(rename = "exitCode")]
        exit_code: i32,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// Whether its time was up.
        #[serde(default, rename = "timedOut", skip_serializing_if = "std::ops::Not::not")]
        timed_out: bool,
        /// Whether it was killed for want of memory.
        #[serde(default, rename = "oomKilled", skip_serializing_if = "std::ops::Not::not")]
        oom_killed: bool,
    },
    /// From the server: it failed. The last message.
    Error {
        /// Why.
        message: String,
        /// The same for programs, as in [`super::ErrorBody`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
}
