//! The driver of a Kubernetes cluster: writes Sandbox objects, which the operator makes pods of, answers reads from a watch
//! of them, and connects to the agents in the pods. It touches no other object of the cluster but volumes' claims and pods'
//! logs, and it must not know how a sandbox becomes a pod.

mod cache;
mod connect;
mod create;
mod doctor;
mod failure;
mod images;
mod logs;
mod moves;
mod port;
mod posting;
mod request;
mod seen;
mod snapshots;
mod templates;
mod touch;
mod volumes;
mod watch;

use atoll_core::{
    driver::{DriverError, Event},
    id::SandboxId,
    request::Capacity,
};
use atoll_proto::sign::RequestSigner;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, broadcast},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    agent::Agents,
    crd,
    names::{API, Namespaces},
};
use cache::Cache;
use failure::{conflict, missing, plain, refused};
use posting::Posting;
use request::{RequestError, persist};
use seen::Seen;
use touch::Touches;

pub use templates::KubeTemplates;

/// How many changes of phase a slow receiver may lag behind.
const EVENTS: usize = 4096;
/// How long the first list may take.
const FIRST_LIST: Duration = Duration::from_secs(60);
/// How long a look at one sandbox may take before what was seen last must do.
const GLANCE: Duration = Duration::from_secs(1);
/// How often whoever waits for a sandbox looks again without any change.
const LOOK: Duration = Duration::from_secs(1);

/// What the driver is started with.
pub struct KubeConfig {
    /// The cluster.
    pub client: Client,
    /// Which namespaces are whose.
    pub namespaces: Namespaces,
    /// Signs requests to agents, which have the public key.
    pub key: RequestSigner,
    /// What one sandbox may have.
    pub capacity: Capacity,
}

/// Why the driver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The cluster does not know our objects.
    #[error("{}", failure::NO_DEFINITIONS)]
    NoDefinitions,
    /// It cannot be reached, or does not let us.
    #[error("sandboxes cannot be read from the cluster: {0}")]
    Cluster(RequestError),
    /// The first list did not end.
    #[error("the cluster's sandboxes could not be listed within {} s", FIRST_LIST.as_secs())]
    Late,
}

/// Runs sandboxes on a Kubernetes cluster.
pub struct KubeDriver {
    inner: Arc<Inner>,
    tasks: [JoinHandle<()>; 2],
}

struct Inner {
    client: Client,
    agents: Agents,
    capacity: Capacity,
    shared: Arc<Shared>,
    touches: Arc<Touches>,
    posting: Posting,
}

/// What the watch and our own writes both feed.
struct Shared {
    namespaces: Namespaces,
    cache: Cache,
    events: broadcast::Sender<Event>,
}

impl Shared {
    fn seen(&self, object: &crd::Sandbox) -> Option<Seen> {
        Seen::of(object, &self.namespaces)
    }

    fn tell(&self, events: Vec<Event>) {
        for event in events {
            // Nobody may be listening; then there is nobody to tell.
            let _ = self.events.send(event);
        }
    }

    /// Takes the answer to a write of ours, so that whoever reads next reads what was written.
    fn wrote(&self, object: &crd::Sandbox) {
        if let Some(seen) = self.seen(object) {
            self.tell(self.cache.wrote(seen));
        }
    }
}

impl KubeDriver {
    /// Lists every sandbox, and follows them from then on.
    ///
    /// # Errors
    /// When the cluster cannot be reached, does not know our objects, or does not let us read them.
    pub async fn open(config: KubeConfig) -> Result<Self, OpenError> {
        let KubeConfig { client, namespaces, key, capacity } = config;
        can_list(&client).await?;
        let shared =
            Arc::new(Shared { namespaces, cache: Cache::default(), events: broadcast::Sender::new(EVENTS) });
        let complete = Arc::new(Notify::new());
        let touches = Arc::new(Touches::default());
        let inner = Arc::new(Inner {
            agents: Agents::new(Arc::new(key)),
            capacity,
            touches: touches.clone(),
            posting: Posting::default(),
            shared: shared.clone(),
            client: client.clone(),
        });
        let tasks = [
            tokio::spawn(watch::follow(client, shared, complete.clone())),
            tokio::spawn(touch::report(inner.clone())),
        ];
        let driver = Self { inner, tasks };
        timeout(FIRST_LIST, complete.notified()).await.map_err(|_| OpenError::Late)?;
        Ok(driver)
    }

    /// The templates of the cluster.
    #[must_use]
    pub fn templates(&self) -> KubeTemplates {
        KubeTemplates::new(self.inner.client.clone(), self.inner.shared.namespaces.clone())
    }
}

impl Drop for KubeDriver {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The watch would only try again and again; here it is told what is wrong.
async fn can_list(client: &Client) -> Result<(), OpenError> {
    let all = Api::<crd::Sandbox>::all(client.clone());
    let one = ListParams::default().limit(1);
    match persist(|| all.list(&one)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_missing() => Err(OpenError::NoDefinitions),
        Err(error) => Err(OpenError::Cluster(error)),
    }
}

impl Inner {
    fn get(&self, id: &SandboxId) -> Result<Arc<Seen>, DriverError> {
        self.shared.cache.get(id).ok_or_else(|| missing(id))
    }

    /// One sandbox as the cluster has it: another server may have changed or deleted it a moment ago, and the watch shows
    /// that a moment later. Where the cluster does not answer, it is what was seen last.
    async fn look(&self, id: &SandboxId) -> Result<Arc<Seen>, DriverError> {
        let seen = self.get(id)?;
        let api = self.api(&seen);
        match timeout(GLANCE, api.get_opt(&seen.place.name)).await {
            Ok(Ok(Some(object))) => self.shared.wrote(&object),
            Ok(Ok(None)) => self.shared.tell(self.shared.cache.gone(&seen.place, &seen.uid)),
            Ok(Err(_)) | Err(_) => {}
        }
        self.get(id)
    }

    fn api(&self, seen: &Seen) -> Api<crd::Sandbox> {
        Api::namespaced(self.client.clone(), &seen.place.namespace)
    }

    /// Changes what is wanted of a sandbox. Nothing is read before: two callers who change different things do not
    /// meet.
    async fn patch(&self, seen: &Seen, change: serde_json::Value) -> Result<Arc<Seen>, DriverError> {
        let (api, params, patch) = (self.api(seen), PatchParams::default(), only(seen, change));
        let params = PatchParams { field_manager: Some(API.to_owned()), ..params };
        let object = persist(|| api.patch(&seen.place.name, &params, &patch)).await;
        let object = object.map_err(|error| refused(error, seen.id()))?;
        self.shared.wrote(&object);
        let changed = self.shared.seen(&object).ok_or_else(|| missing(seen.id()))?;
        Ok(Arc::new(changed))
    }

    /// Waits until `decide` says what came of it, at most for `bound`; then the sandbox is given back as it is.
    async fn until<T>(
        &self,
        id: &SandboxId,
        bound: Duration,
        mut decide: impl FnMut(&Seen) -> Option<Result<T, DriverError>>,
    ) -> Result<T, Waited> {
        let end = Instant::now() + bound;
        let mut changes = self.shared.cache.changes(id).ok_or_else(|| Waited::Over(missing(id)))?;
        loop {
            let Some(seen) = changes.borrow_and_update().clone() else {
                return Err(Waited::Over(missing(id)));
            };
            if let Some(decided) = decide(&seen) {
                return decided.map_err(Waited::Over);
            }
            if Instant::now() >= end {
                return Err(Waited::Late(seen));
            }
            // A change, the sandbox's end, or a while without either: each is a reason to look again.
            let _ = timeout(LOOK, changes.changed()).await;
        }
    }
}

/// Why a wait ended without what was waited for.
enum Waited {
    /// It will not come.
    Over(DriverError),
    /// It did not come in time.
    Late(Arc<Seen>),
}

/// A patch that only this very object takes, not a later one of its name.
fn only(seen: &Seen, mut change: serde_json::Value) -> Patch<serde_json::Value> {
    if !seen.uid.is_empty() {
        change["metadata"]["uid"] = seen.uid.clone().into();
    }
    Patch::Merge(change)
}
