//! What goes wrong, as clients are told it: one kind of error for RPC and plain HTTP.

use std::io;

use atoll_proto::agent::v1::NotStarted;
use atoll_proto::agent::v1::not_started::Reason;
use buffa::MessageName;
use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use http::StatusCode;

use crate::paths::PathError;
use crate::process::ProcessError;
use crate::spawn::SpawnError;
use crate::table::StartError;
use crate::users::UserError;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{path}: {}", describe(error))]
    File { path: String, error: io::Error },
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    NotTrusted(String),
    #[error("the sandbox rests")]
    Resting,
    #[error("nothing listens on port {0}")]
    PortClosed(u16),
}

impl ApiError {
    /// An error of a file operation, with the path it was about.
    pub fn file(path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |error| Self::File { path, error }
    }

    pub fn code(&self) -> ErrorCode {
        match self {
            Self::User(_) | Self::NotTrusted(_) => ErrorCode::Unauthenticated,
            Self::Path(_) | Self::BadRequest(_) => ErrorCode::InvalidArgument,
            Self::Start(error) => start_code(error),
            Self::Process(error) => process_code(error),
            Self::File { error, .. } => file_code(error),
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Busy(_) => ErrorCode::ResourceExhausted,
            Self::PortClosed(_) | Self::Resting => ErrorCode::Unavailable,
        }
    }

    /// What a plain HTTP answer calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PortClosed(_) => "port_closed",
            _ => self.code().as_str(),
        }
    }

    /// Why a command did not start, where that means more to a caller than the code.
    fn not_started(&self) -> Option<Reason> {
        let Self::Start(StartError::Spawn(error)) = self else { return None };
        match error {
            SpawnError::NotFound(_) => Some(Reason::REASON_NO_PROGRAM),
            SpawnError::Exec(..) => Some(Reason::REASON_NOT_EXECUTABLE),
            SpawnError::TooLong => Some(Reason::REASON_TOO_LONG),
            SpawnError::ProcessLimit => Some(Reason::REASON_PROCESS_LIMIT),
            _ => None,
        }
    }

    /// The status of a plain HTTP answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::File { error, .. } if is_full(error) => StatusCode::INSUFFICIENT_STORAGE,
            Self::PortClosed(_) => StatusCode::BAD_GATEWAY,
            _ => self.code().http_status(),
        }
    }
}

impl From<ApiError> for ConnectError {
    fn from(error: ApiError) -> Self {
        let said = Self::new(error.code(), error.to_string());
        match error.not_started() {
            Some(reason) => {
                let detail = NotStarted { reason: reason.into(), ..NotStarted::default() };
                said.with_detail(ErrorDetail::from_message(NotStarted::FULL_NAME, &detail))
            }
            None => said,
        }
    }
}

fn start_code(error: &StartError) -> ErrorCode {
    match error {
        StartError::Plan(_) => ErrorCode::InvalidArgument,
        StartError::Streams(error) => file_code(error),
        StartError::Spawn(error) => match error {
            SpawnError::NotFound(_) => ErrorCode::NotFound,
            SpawnError::Exec(_, error) => match error.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => ErrorCode::PermissionDenied,
                Some(libc::ENOMEM) => ErrorCode::ResourceExhausted,
                _ => ErrorCode::InvalidArgument,
            },
            SpawnError::MissingDirectory(_) | SpawnError::Directory(..) | SpawnError::TooLong => {
                ErrorCode::InvalidArgument
            }
            SpawnError::ProcessLimit => ErrorCode::ResourceExhausted,
            SpawnError::Credentials(..) => ErrorCode::PermissionDenied,
            SpawnError::System(_, error) => file_code(error),
        },
    }
}

fn process_code(error: &ProcessError) -> ErrorCode {
    match error {
        ProcessError::Ended => ErrorCode::NotFound,
        ProcessError::InputClosed | ProcessError::NoTerminal => ErrorCode::FailedPrecondition,
        ProcessError::BadSignal(_) => ErrorCode::InvalidArgument,
        ProcessError::System(error) => file_code(error),
    }
}

fn file_code(error: &io::Error) -> ErrorCode {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound => ErrorCode::NotFound,
        Kind::AlreadyExists => ErrorCode::AlreadyExists,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => ErrorCode::PermissionDenied,
        Kind::NotADirectory
        | Kind::IsADirectory
        | Kind::InvalidInput
        | Kind::InvalidData
        | Kind::InvalidFilename
        | Kind::Unsupported
        | Kind::UnexpectedEof
        | Kind::DirectoryNotEmpty => ErrorCode::InvalidArgument,
        Kind::OutOfMemory | Kind::WouldBlock => ErrorCode::ResourceExhausted,
        _ if is_full(error) || is_descriptor_limit(error) => ErrorCode::ResourceExhausted,
        _ if error.raw_os_error() == Some(libc::ELOOP) => ErrorCode::FailedPrecondition,
        _ => ErrorCode::Internal,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_descriptor_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOSPC))
}

/// The kinds people meet, in plain words; the rest as the system says it.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::AlreadyExists => "already exists".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::NotADirectory => "not a directory".into(),
        _ if is_full(error) => "no space left in the sandbox".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_its_own_status() {
        let error = ApiError::file("/x")(io::Error::from_raw_os_error(libc::EDQUOT));
        assert_eq!(error.status(), StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(error.code(), ErrorCode::ResourceExhausted);
        assert_eq!(error.to_string(), "/x: no space left in the sandbox");
    }

    #[test]
    fn why_a_command_did_not_start_is_no_matter_of_words() {
        for (error, expected) in [
            (SpawnError::NotFound("x".into()), Reason::REASON_NO_PROGRAM),
            (
                SpawnError::Exec("x".into(), io::ErrorKind::PermissionDenied.into()),
                Reason::REASON_NOT_EXECUTABLE,
            ),
            (SpawnError::TooLong, Reason::REASON_TOO_LONG),
            (SpawnError::ProcessLimit, Reason::REASON_PROCESS_LIMIT),
        ] {
            let said = ConnectError::from(ApiError::from(StartError::Spawn(error)));
            let detail = NotStarted { reason: expected.into(), ..NotStarted::default() };
            let expected = ErrorDetail::from_message("atoll.agent.v1.NotStarted", &detail);
            assert_eq!(
                (&said.details[0].type_url, &said.details[0].value),
                (&expected.type_url, &expected.value)
            );
        }
        assert!(ConnectError::from(ApiError::NotFound("x".into())).details.is_empty());
    }

    #[test]
    fn codes_follow_the_contract() {
        let code = |error: ApiError| (error.code(), error.status().as_u16());
        assert_eq!(code(UserError::Unknown("x".into()).into()), (ErrorCode::Unauthenticated, 401));
        let exists = ApiError::file("/x")(io::ErrorKind::AlreadyExists.into());
        assert_eq!(code(exists), (ErrorCode::AlreadyExists, 409));
        let missing = StartError::Spawn(SpawnError::MissingDirectory("/x".into()));
        assert_eq!(code(missing.into()), (ErrorCode::InvalidArgument, 400));
        let limit = StartError::Spawn(SpawnError::ProcessLimit);
        assert_eq!(code(limit.into()), (ErrorCode::ResourceExhausted, 429));
    }
}
