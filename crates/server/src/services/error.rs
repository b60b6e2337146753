//! The one error of all services, and how it reads to a caller. Each error of a port is mapped here, once.

use atoll_core::{driver::DriverError, error::Invalid, phase::Phase, store::StoreError};
use atoll_proto::api::ErrorBody;

use crate::request_id;

/// What a service refuses or fails at.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServiceError {
    /// The input cannot be accepted.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No such thing, or not the caller's.
    #[error("{0} does not exist")]
    NotFound(String),
    /// No key, or one that is not known.
    #[error("{0}")]
    Unauthorized(String),
    /// The key may not do that.
    #[error("{0}")]
    Forbidden(String),
    /// The thing is not in a state that allows it.
    #[error("{message}")]
    Conflict { code: &'static str, message: String },
    /// The idempotency key was used for something else.
    #[error("the idempotency key {0:?} was used with another body before; use a new key for a new request")]
    IdempotencyMismatch(String),
    /// The input is right in form and cannot work all the same.
    #[error("{message}")]
    Refused { code: &'static str, message: String },
    /// A body is larger than it may be.
    #[error("{0}")]
    TooLarge(String),
    /// Too much is going on; try again.
    #[error("{message}")]
    Busy { code: &'static str, message: String, retry_after: u32 },
    /// The driver said no.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something inside the sandbox is not there; the message names it.
    #[error("{0}")]
    Missing(String),
    /// The user inside the sandbox may not do that.
    #[error("{0}")]
    Denied(String),
    /// The sandbox has no room: disk, processes, descriptors.
    #[error("{0}")]
    SandboxFull(String),
    /// The sandbox has as many processes as it may have, so that nothing can be started in it.
    #[error(
        "sandbox {id} has reached its limit of {limit} processes and threads: no command can start in it; restarting it \
         ends all of them, and a new sandbox may have more (`pids`)"
    )]
    ProcessLimit { id: String, limit: u64 },
    /// The agent failed at something inside the sandbox; says at what.
    #[error("{0}")]
    AgentFailed(String),
    /// Nobody answers inside the sandbox.
    #[error("the agent of sandbox {id} does not answer: {problem}")]
    AgentSilent { id: String, problem: String },
    /// Something broke that should not have.
    #[error("{0}")]
    Internal(String),
}

/// How an error is to be answered, in the words of HTTP without its types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    BadInput,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    Unprocessable,
    TooLarge,
    Unsupported,
    Busy,
    BadGateway,
    NoRoom,
    Internal,
}

impl ServiceError {
    /// Refuses `field` of the input.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid(Invalid::new(field, problem))
    }

    /// The kind of answer, and the machine-readable code.
    pub fn classify(&self) -> (Kind, &str) {
        match self {
            Self::Invalid(_) => (Kind::BadInput, "invalid"),
            Self::Refused { code, .. } => (Kind::BadInput, code),
            Self::NotFound(_) => (Kind::NotFound, "not_found"),
            Self::Unauthorized(_) => (Kind::Unauthorized, "unauthorized"),
            Self::Forbidden(_) => (Kind::Forbidden, "forbidden"),
            Self::Conflict { code, .. } => (Kind::Conflict, code),
            Self::IdempotencyMismatch(_) => (Kind::Unprocessable, "idempotency_mismatch"),
            Self::TooLarge(_) => (Kind::TooLarge, "too_large"),
            Self::Busy { code, .. } => (Kind::Busy, code),
            Self::Driver(error) => classify_driver(error),
            Self::Store(error) => classify_store(error),
            Self::Missing(_) => (Kind::NotFound, "not_found"),
            Self::Denied(_) => (Kind::Forbidden, "permission_denied"),
            Self::SandboxFull(_) => (Kind::NoRoom, "sandbox_full"),
            Self::ProcessLimit { .. } => (Kind::NoRoom, "process_limit"),
            Self::AgentFailed(_) => (Kind::BadGateway, "agent_failed"),
            Self::AgentSilent { .. } => (Kind::BadGateway, "agent_unreachable"),
            Self::Internal(_) => (Kind::Internal, "internal"),
        }
    }

    /// The error as callers are told it. What broke inside the server goes to the log instead: it may name paths and
    /// addresses that are none of theirs.
    pub fn tell(&self) -> ErrorBody {
        let (kind, code) = self.classify();
        let (error, field) = match self {
            _ if kind == Kind::Internal => {
                tracing::error!(error = %self, code, "a request failed");
                (broken(), None)
            }
            Self::Invalid(invalid) => (self.to_string(), Some(invalid.field.clone())),
            _ => (self.to_string(), None),
        };
        ErrorBody { error, code: code.to_owned(), field }
    }

    /// Seconds after which a caller may try again.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Busy { retry_after, .. } => Some(*retry_after),
            Self::Driver(DriverError::Exhausted(_)) => Some(30),
            _ => None,
        }
    }
}

/// What is said when the server itself is at fault.
pub fn broken() -> String {
    let request = request_id::current().filter(|id| !id.is_empty());
    let under = request.map_or_else(String::new, |id| format!(" under request {id}"));
    format!("the server failed; its log has the details{under}")
}

fn classify_driver(error: &DriverError) -> (Kind, &str) {
    match error {
        DriverError::NotFound(_) => (Kind::NotFound, "not_found"),
        DriverError::Exists(_) => (Kind::Conflict, "exists"),
        DriverError::Conflict { phase: Phase::Terminating, .. } => (Kind::Conflict, "terminating"),
        DriverError::Conflict { .. } => (Kind::Conflict, "conflict"),
        DriverError::Invalid(_) => (Kind::BadInput, "invalid"),
        DriverError::Image { code, .. } => (image_kind(code), code),
        DriverError::Exhausted(_) => (Kind::NoRoom, "exhausted"),
        DriverError::InUse(_) => (Kind::Conflict, "in_use"),
        DriverError::PortClosed(_) => (Kind::BadGateway, "port_closed"),
        DriverError::Unsupported(_) => (Kind::Unsupported, "unsupported"),
        DriverError::Internal(_) => (Kind::Internal, "internal"),
    }
}

/// A registry that is down is not the caller's mistake; everything else about an image is.
fn image_kind(code: &str) -> Kind {
    if code == "registry_unreachable" { Kind::BadGateway } else { Kind::BadInput }
}

fn classify_store(error: &StoreError) -> (Kind, &str) {
    match error {
        StoreError::NotFound(_) => (Kind::NotFound, "not_found"),
        StoreError::Exists(_) => (Kind::Conflict, "exists"),
        StoreError::Invalid(_) => (Kind::BadInput, "invalid"),
        StoreError::Database(_) => (Kind::Internal, "internal"),
    }
}

impl From<std::io::Error> for ServiceError {
    fn from(error: std::io::Error) -> Self {
        Self::Internal(format!("the system has no randomness to give: {error}"))
    }
}
