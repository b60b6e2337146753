//! The server: services that hold the rules, the native HTTP API in front of them, and the listener in front of that.
//! It must not know of pods, namespaces, overlays or SQL: it meets sandboxes and memory through core's ports.

mod certificates;
mod config;
mod front;
mod http;
mod listener;
mod metrics;
mod patience;
mod request_id;
mod services;
mod world;

pub use certificates::{Certificates, Tls};
pub use config::{KataConfig, Limits, Links, ServerConfig};
pub use front::{Answer, Front};
pub use http::openapi;
pub use listener::{Ports, ServeError, serve};
pub use world::{RealWorld, World, new_secret};
