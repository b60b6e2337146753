//! The start command's log: what the pod's container wrote, as long as the cluster keeps the pod.

use atoll_core::{
    driver::{DriverError, LogStream},
    id::SandboxId,
};
use futures::{AsyncBufRead, AsyncReadExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use std::{collections::VecDeque, pin::Pin};

use super::{
    Inner, plain,
    request::{RequestError, causes, persist},
    seen::Seen,
};

/// Name of the container that the sandbox is.
const CONTAINER: &str = "sandbox";
const CHUNK: usize = 64 << 10;

type Source = Pin<Box<dyn AsyncBufRead + Send>>;

impl Inner {
    /// The last `tail` bytes, and with `follow` what comes. A sandbox without a pod has no log.
    pub(super) async fn logs(
        &self,
        id: &SandboxId,
        tail: u64,
        follow: bool,
    ) -> Result<LogStream, DriverError> {
        let seen = self.get(id)?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), &seen.place.namespace);
        for pod in pods_of(&seen) {
            match open(&pods, &pod, false).await {
                Ok(source) => return from(&pods, &pod, source, tail, follow).await,
                Err(error) if has_no_log(&error) => {}
                Err(error) => return Err(plain(error)),
            }
        }
        Ok(stream::empty().boxed())
    }
}

/// A sandbox with volumes has the pod of a StatefulSet.
fn pods_of(seen: &Seen) -> [String; 2] {
    let (plain, stateful) = (seen.id().to_string(), format!("{}-0", seen.id()));
    if seen.sandbox.spec.volumes.is_empty() { [plain, stateful] } else { [stateful, plain] }
}

/// No such pod, or one whose container has not begun.
fn has_no_log(error: &RequestError) -> bool {
    matches!(error, RequestError::Refused(status) if status.code == 404 || status.code == 400)
}

async fn open(pods: &Api<Pod>, pod: &str, follow: bool) -> Result<Source, RequestError> {
    let params = LogParams { container: Some(CONTAINER.into()), follow, ..LogParams::default() };
    let source = persist(|| pods.log_stream(pod, &params)).await?;
    Ok(Box::pin(source))
}

/// The cluster counts lines, callers count bytes: the whole log is read once to know where its last bytes begin. A log
/// only grows, so that a second reader finds the same place.
async fn from(
    pods: &Api<Pod>,
    pod: &str,
    source: Source,
    tail: u64,
    follow: bool,
) -> Result<LogStream, DriverError> {
    let (length, last) = last(source, tail).await?;
    if !follow {
        return Ok(stream::iter((!last.is_empty()).then_some(Ok(last))).boxed());
    }
    let source = open(pods, pod, true).await.map_err(plain)?;
    let skip = length.saturating_sub(tail);
    Ok(stream::try_unfold((source, skip), next).boxed())
}

/// How long it is, and its last `tail` bytes.
async fn last(mut source: Source, tail: u64) -> Result<(u64, Vec<u8>), DriverError> {
    let keep = usize::try_from(tail).unwrap_or(usize::MAX);
    let (mut length, mut kept, mut chunk) = (0, VecDeque::new(), vec![0; CHUNK]);
    loop {
        let count = source.read(&mut chunk).await.map_err(|error| broken(&error))?;
        if count == 0 {
            return Ok((length, kept.into()));
        }
        length += count as u64;
        kept.extend(&chunk[..count]);
        kept.drain(..kept.len().saturating_sub(keep));
    }
}

async fn next(
    (mut source, mut skip): (Source, u64),
) -> Result<Option<(Vec<u8>, (Source, u64))>, DriverError> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = source.read(&mut chunk).await.map_err(|error| broken(&error))?;
        if count == 0 {
            return Ok(None);
        }
        let before = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
        skip -= before as u64;
        if before < count {
            chunk.truncate(count);
            return Ok(Some((chunk.split_off(before), (source, skip))));
        }
    }
}

fn broken(error: &std::io::Error) -> DriverError {
    DriverError::Internal(format!("the log broke off: {}", causes(error)))
}

#[cfg(test)]
mod tests {
    use super::{super::seen::tests::seen, *};
    use futures::io::Cursor;

    fn source(text: &str) -> Source {
        Box::pin(Cursor::new(text.as_bytes().to_vec()))
    }

    #[tokio::test]
    async fn the_last_bytes_are_kept() {
        assert_eq!(last(source("one\ntwo\n"), 4).await.unwrap(), (8, b"two\n".to_vec()));
        assert_eq!(last(source("one"), 99).await.unwrap(), (3, b"one".to_vec()));
        let long = "x".repeat(3 * CHUNK) + "end";
        assert_eq!(last(source(&long), 4).await.unwrap(), (long.len() as u64, b"xend".to_vec()));
    }

    #[tokio::test]
    async fn a_follower_begins_where_the_last_bytes_do() {
        let text = "x".repeat(CHUNK) + "tail";
        let (chunk, _) = next((source(&text), CHUNK as u64)).await.unwrap().unwrap();
        assert_eq!(chunk, b"tail");
        assert!(next((source("old"), 3)).await.unwrap().is_none());
    }

    #[test]
    fn a_persistent_sandbox_has_the_pod_of_a_set() {
        let mut it = seen("a", 1, 1, None);
        assert_eq!(pods_of(&it)[0], it.id().as_str());
        it.sandbox.spec.volumes = vec![atoll_core::volume::Volume {
            name: "home".into(),
            path: "/h".into(),
            size: atoll_core::quantity::Bytes(1),
        }];
        assert_eq!(pods_of(&it)[0], format!("{}-0", it.id()));
    }
}
