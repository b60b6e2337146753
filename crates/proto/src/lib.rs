//! What travels between Atoll's programs: the native HTTP API's types ([`api`]), the agent's protocol ([`agent`],
//! [`init`], [`sign`]), what executors speak ([`executor`]) and what HTTP says of parts of files ([`range`]).
//! It must not know how anything is done: no I/O, no behaviour beyond conversion and validation of the wire form.

pub mod agent;
pub mod api;
pub mod executor;
pub mod init;
pub mod range;
pub mod sign;
