//! What the platform does for a caller, without HTTP: every rule about who may do what, when and how much is here.
//! A service must not know of requests, headers or status codes.

pub mod access;
pub mod agent;
pub mod builds;
pub mod convert;
pub mod creation;
pub mod error;
pub mod exec;
pub mod fetches;
pub mod files;
pub mod idempotency;
pub mod images;
pub mod keys;
pub mod links;
pub mod measure;
mod ready;
pub mod sandboxes;
pub mod snapshots;
pub mod system;
pub mod templates;
pub mod text;
pub mod users;
pub mod volumes;

use atoll_core::{
    driver::Driver,
    store::{Store, Templates},
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::{config::ServerConfig, metrics::Metrics, world::World};
use access::Access;
use agent::Agents;
use creation::Creations;
use fetches::Fetches;

/// What every service stands on.
pub struct Base {
    pub config: ServerConfig,
    pub driver: Arc<dyn Driver>,
    pub store: Arc<dyn Store>,
    /// The store's, unless the driver's platform keeps them.
    pub templates: Arc<dyn Templates>,
    pub world: Arc<dyn World>,
    pub metrics: Metrics,
    /// Cancelled when the server stops: streams without an end of their own then end.
    pub stopping: CancellationToken,
}

/// All services of a server.
pub struct Services {
    pub base: Arc<Base>,
    pub access: Access,
    pub agents: Arc<Agents>,
    pub creations: Arc<Creations>,
    pub fetches: Arc<Fetches>,
    /// Held while it is looked whether a user has a sandbox already.
    one_at_a_time: tokio::sync::Mutex<()>,
    /// When this server began: what was promised before may have been left undone.
    pub started_at: jiff::Timestamp,
}

impl Services {
    pub fn new(base: Base) -> Self {
        let started_at = base.world.now();
        let base = Arc::new(base);
        let access = Access::new(base.clone());
        let agents = Arc::new(Agents::new(base.clone()));
        let creations = Arc::new(Creations::new(base.clone(), agents.clone()));
        let fetches = Arc::new(Fetches::new(base.clone()));
        Self {
            base,
            access,
            agents,
            creations,
            fetches,
            one_at_a_time: tokio::sync::Mutex::default(),
            started_at,
        }
    }
}

impl Services {
    /// Begins what goes on for as long as the server runs.
    pub fn begin_background(self: &Arc<Self>) {
        let base = self.base.clone();
        tokio::spawn(async move { base.sweep_promises().await });
        let agents = self.agents.clone();
        tokio::spawn(async move { agents.close_idle().await });
        let agents = self.agents.clone();
        tokio::spawn(async move { agents.follow_phases().await });
        if !self.base.config.gateway_only {
            let services = self.clone();
            tokio::spawn(async move { services.sweep_builds().await });
        }
    }
}
