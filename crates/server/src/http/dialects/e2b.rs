//! The API of E2B's clients, at the paths, in the words and with the statuses that they expect. A sandbox of theirs is one of
//! ours; they see all of their tenant's. It must not decide anything: what it lacks is a matter of the services.

mod builds;
mod connect;
mod create;
mod list;
mod logs;
mod metrics;
mod network;
mod sandboxes;
mod shape;
mod snapshots;
mod tags;
mod template_types;
mod templates;
mod types;

use atoll_core::{phase::Phase, sandbox::Sandbox};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::services::{Services, access::Caller, error::ServiceError};

pub use shape::{in_their_shape, is_theirs, reshaped};

/// The version of their agent that ours answers as. Clients ask for features by it: 0.6.4 has all that they know of.
const ENVD_VERSION: &str = "0.6.4";

/// The routes, with their whole paths.
pub fn api() -> OpenApiRouter<Arc<Services>> {
    OpenApiRouter::new()
        .routes(routes!(create::create_v1, list::list_v1))
        .routes(routes!(create::create_v2, list::list_v2))
        .routes(routes!(metrics::of_several))
        .routes(routes!(sandboxes::get, sandboxes::kill))
        .routes(routes!(sandboxes::timeout))
        .routes(routes!(sandboxes::refresh))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(network::replace))
        .routes(routes!(connect::connect_v1))
        .routes(routes!(connect::connect_v2))
        .routes(routes!(connect::resume))
        .routes(routes!(metrics::of_one))
        .routes(routes!(logs::logs_v1))
        .routes(routes!(logs::logs_v2))
        .routes(routes!(snapshots::take))
        .routes(routes!(snapshots::list))
        .routes(routes!(snapshots::fork))
        .routes(routes!(builds::request))
        .routes(routes!(builds::files))
        .routes(routes!(builds::start))
        .routes(routes!(builds::build_status))
        .routes(routes!(builds::build_logs))
        .routes(routes!(templates::list_v1))
        .routes(routes!(templates::list_v2))
        .routes(routes!(templates::find))
        .routes(routes!(templates::get, templates::change_v1, templates::delete))
        .routes(routes!(templates::change))
        .routes(routes!(tags::assign, tags::remove))
        .routes(routes!(tags::list))
}

/// Routes that need no key: their addresses are proof enough.
pub fn signed() -> OpenApiRouter<Arc<Services>> {
    OpenApiRouter::new().routes(routes!(builds::upload))
}

/// A sandbox that is there for these clients: one that failed or goes away is not.
async fn find(services: &Services, caller: &Caller, id: &str) -> Result<Sandbox, ServiceError> {
    let sandbox = services.sandbox(caller, id).await?;
    match sandbox.phase {
        Phase::Failed | Phase::Terminating => Err(ServiceError::NotFound(format!("sandbox {id}"))),
        _ => Ok(sandbox),
    }
}

/// Whether it is what these clients call paused.
fn rests(sandbox: &Sandbox) -> bool {
    matches!(sandbox.phase, Phase::Paused | Phase::Stopped)
}
