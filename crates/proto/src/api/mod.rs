//! Request and response types of the native API, `/api/v1`. JSON, snake_case but for the fields whose spelling older
//! clients know (`templateVersion`, `accessUrl`, `exitCode` in WebSocket messages). Sizes and CPU are text as Kubernetes
//! writes them, times RFC 3339, durations whole seconds unless the name says otherwise.

mod exec;
mod files;
mod image;
mod link;
mod sandbox;
mod snapshot;
mod system;
mod template;
mod user;
mod volume;

pub use exec::*;
pub use files::*;
pub use image::*;
pub use link::*;
pub use sandbox::*;
pub use snapshot::*;
pub use system::*;
pub use template::*;
pub use user::*;
pub use volume::*;
