//! The front door of sandboxes: tells from a request's host name or headers which port of which sandbox it is for, checks
//! that its sender may go there, wakes the sandbox and passes the request on, streaming. One port is the agent's, of which
//! it lets through what is public.
//! It must not know of the API, of the database or of what runs sandboxes: it meets those through core's ports.

mod access;
mod activity;
mod agent;
mod body;
mod cors;
mod credentials;
mod envelopes;
mod forward;
mod gateway;
mod headers;
mod index;
mod keys;
mod metrics;
mod path;
mod pool;
mod refusal;
mod route;
mod signature;
mod tls;
mod tunnel;

pub use body::Body;
pub use gateway::{Clock, Config, Gateway, Limits};
