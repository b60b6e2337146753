//! The id of the request that is being served: what is told about a failure names it, and the log has it. It must not
//! know what the request is about.

use futures::{Stream, stream};
use std::future::Future;

tokio::task_local! {
    static ID: String;
}

/// Does the work of a request.
pub async fn scope<F: Future>(id: String, work: F) -> F::Output {
    ID.scope(id, work).await
}

/// The id, while a request is served.
pub fn current() -> Option<String> {
    ID.try_with(Clone::clone).ok()
}

/// A stream that belongs to the request that is served now, although it is read when its handler has long returned.
pub fn carried<S: Stream + Send + 'static>(stream: S) -> impl Stream<Item = S::Item> + Send + 'static {
    let (id, mut inner) = (current().unwrap_or_default(), Box::pin(stream));
    stream::poll_fn(move |context| ID.sync_scope(id.clone(), || inner.as_mut().poll_next(context)))
}
