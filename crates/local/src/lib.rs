//! The driver that runs sandboxes on one Linux machine.

pub mod images;
pub mod net;
