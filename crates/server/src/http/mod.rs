//! The native API over HTTP: handlers that read a request, call a service and write the answer. No rule lives here.

mod auth;
mod docs;
mod error;
mod extract;
mod images;
mod keys;
mod logs;
mod router;
mod sandboxes;
mod sse;
mod system;
mod templates;

pub use router::{openapi, router};
