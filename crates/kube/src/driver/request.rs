//! Requests to the cluster's API server: what may pass is tried again within a bound. It must not know what they are about.

use kube::core::Status;
use std::{future::Future, time::Duration};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::is_uncounted;

/// How long is waited for the API server.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For a restart of it, before callers are told.
    bound: Duration,
    /// For one attempt: longer than it waits for a slow etcd before it gives up on a write.
    attempt: Duration,
    /// Before the second attempt; before each further one twice as long.
    first: Duration,
    /// Before any attempt at most.
    longest: Duration,
}

const PATIENCE: Patience = Patience {
    bound: Duration::from_secs(20),
    attempt: Duration::from_secs(15),
    first: Duration::from_millis(50),
    longest: Duration::from_secs(2),
};

/// Why a request came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// The API server said no.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    /// It cannot be reached, or failed again and again.
    #[error("the cluster's API server does not answer: {0}")]
    Silent(String),
    /// Its answer cannot be understood.
    #[error("the answer of the cluster's API server cannot be read: {0}")]
    Odd(String),
}

impl RequestError {
    /// Whether the thing is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == 404)
    }
}

/// Asks until there is an answer that another attempt would not change, for a while.
///
/// # Errors
/// As [`RequestError`] says.
pub async fn persist<T, F>(ask: impl FnMut() -> F) -> Result<T, RequestError>
where
    F: Future<Output = kube::Result<T>>,
{
    patiently(&PATIENCE, ask).await
}

async fn patiently<T, F>(patience: &Patience, mut ask: impl FnMut() -> F) -> Result<T, RequestError>
where
    F: Future<Output = kube::Result<T>>,
{
    let (begun, mut pause) = (Instant::now(), patience.first);
    loop {
        let problem = match timeout(patience.attempt, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => passing(error)?,
            Err(_) => RequestError::Silent("it takes too long".to_owned()),
        };
        if begun.elapsed() + pause > patience.bound {
            return Err(problem);
        }
        sleep(pause).await;
        pause = (pause * 2).min(patience.longest);
    }
}

/// What is wrong, when that may pass.
fn passing(error: kube::Error) -> Result<RequestError, RequestError> {
    match error {
        kube::Error::Api(status) => match (status.code, status.reason.as_str()) {
            (429 | 500..=599, _) | (409, "Conflict") => Ok(RequestError::Silent(status.message.clone())),
            (403, _) if is_uncounted(&status.message) => Ok(RequestError::Refused(status)),
            _ => Err(RequestError::Refused(status)),
        },
        error @ (kube::Error::Service(_)
        | kube::Error::HyperError(_)
        | kube::Error::HttpError(_)
        | kube::Error::ReadEvents(_)) => Ok(RequestError::Silent(causes(&error))),
        other => Err(RequestError::Odd(causes(&other))),
    }
}

/// An error with what caused it: the outermost alone often says only that something failed.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u16, reason: &str) -> kube::Error {
        kube::Error::Api(Status::failure("m", reason).with_code(code).boxed())
    }

    /// As long as it may pass here.
    const SHORT: Patience = Patience {
        bound: Duration::from_millis(200),
        attempt: Duration::from_millis(20),
        first: Duration::from_millis(1),
        longest: Duration::from_millis(2),
    };

    async fn attempts(answers: &[fn() -> kube::Result<u8>]) -> (Result<u8, RequestError>, usize) {
        let mut count = 0;
        let asked = patiently(&SHORT, || {
            let answer = answers[count.min(answers.len() - 1)]();
            count += 1;
            async move { answer }
        });
        (asked.await, count)
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again() {
        let answers: [fn() -> kube::Result<u8>; 5] = [
            || Err(kube::Error::Service("connection refused".into())),
            || Err(refusal(503, "ServiceUnavailable")),
            || Err(refusal(409, "Conflict")),
            || Err(refusal(500, "etcdserver: request timed out")),
            || Ok(7),
        ];
        let (answer, count) = attempts(&answers).await;
        assert_eq!((answer.unwrap(), count), (7, 5));
    }

    #[tokio::test]
    async fn a_quota_that_is_being_counted_is_waited_for() {
        const UNCOUNTED: fn() -> kube::Result<u8> = || {
            Err(kube::Error::Api(
                Status::failure("status unknown for quota: q", "Forbidden").with_code(403).boxed(),
            ))
        };
        let (answer, count) = attempts(&[UNCOUNTED, UNCOUNTED, || Ok(7)]).await;
        assert_eq!((answer.unwrap(), count), (7, 3));
        let (refused, count) = attempts(&[UNCOUNTED]).await;
        assert!(matches!(refused, Err(RequestError::Refused(status)) if status.code == 403) && count > 1);
    }

    #[tokio::test]
    async fn what_was_decided_is_not_asked_again() {
        let answers: [fn() -> kube::Result<u8>; 4] = [
            || Err(refusal(404, "NotFound")),
            || Err(refusal(409, "AlreadyExists")),
            || Err(refusal(403, "Forbidden")),
            || Err(refusal(422, "Invalid")),
        ];
        for answer in answers {
            let (refused, count) = attempts(&[answer]).await;
            assert!(matches!(refused, Err(RequestError::Refused(_))) && count == 1);
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let (answer, count) = attempts(&[|| Err(kube::Error::Service("connection refused".into()))]).await;
        assert!(answer.unwrap_err().to_string().contains("connection refused") && count > 1);
        let hangs = patiently(&SHORT, std::future::pending::<kube::Result<()>>).await;
        assert!(matches!(hangs, Err(RequestError::Silent(_))));
    }
}
