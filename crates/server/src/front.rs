//! What may stand in front of the API on the same port. The server must not know what it is.

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{Request, Response, body::Incoming};
use prometheus_client::registry::Registry;
use std::{error::Error, net::SocketAddr, ops::ControlFlow};

/// An answer whose body is streamed.
pub type Answer = Response<UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>>;

/// Looks at every request before the API does.
pub trait Front: Send + Sync + 'static {
    /// The answer to a request from `peer`, or the request itself when it is the API's. That is decided at once.
    fn answer(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> ControlFlow<BoxFuture<'static, Answer>, Request<Incoming>>;

    /// Adds its metrics to those of the server.
    fn register(&self, registry: &mut Registry);
}
