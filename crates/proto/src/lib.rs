//! What travels between Atoll's programs: the native HTTP API's types ([`api`]) and the agent's protocol.
//! It must not know how anything is done: no I/O, no behaviour beyond conversion and validation of the wire form.

pub mod api;
