//! Other people's APIs, each a thin translation onto the same services: no behaviour and no state of its own.

pub mod e2b;
pub mod kata;
pub mod per_user;
