//! The native API over HTTP: handlers that read a request, call a service and write the answer. No rule lives here.

mod archive;
mod auth;
mod dialects;
mod docs;
mod error;
mod exec;
mod extract;
mod files;
mod form;
mod images;
mod interactive;
mod keys;
mod links;
mod logs;
mod page;
mod refusals;
mod router;
mod sandboxes;
mod snapshots;
mod sse;
mod system;
mod templates;
mod volumes;

pub use router::{openapi, router};
