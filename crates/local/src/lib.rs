//! The driver that runs sandboxes on one Linux machine.

pub mod net;
