//! The operator: one loop for each tenant's namespace that makes pods of Sandbox objects, and one for templates. Only the
//! replica that leads works. Each object is looked at in five steps, one file each: [`dereference`], [`validate`],
//! [`build`], [`apply`], [`status`].

mod apply;
mod build;
mod context;
mod dereference;
mod egress;
mod lease;
mod metrics;
mod registry;
mod sandbox;
mod settings;
mod status;
mod template;
mod tenant;
mod validate;

use atoll_proto::sign::RequestSigner;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Event, Namespace, Node, Pod, ResourceQuota},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        reflector::{ObjectRef, Store},
        watcher::{self, watcher},
    },
};
use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::AbortHandle, time::sleep};

pub use context::Context;
pub use lease::NAME as LEASE;
pub use sandbox::WHY;
pub use settings::{Entrance, Injection, Routing, Settings, Tls};

use crate::{
    agent::Agents,
    crd::{Sandbox, SandboxTemplate},
    names::{ATOLL, ID, MANAGED_BY, OBJECT, TENANT},
    pauses::Pauses,
};
use metrics::Metrics;

/// Why the operator cannot work.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Its own port is of no use.
    #[error("cannot listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// The cluster does not let it begin.
    #[error("the cluster does not let the operator begin: {0}")]
    Begin(#[source] kube::Error),
}

/// Why a look at an object broke off; it is looked at again.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The cluster.
    #[error("the cluster: {0}")]
    Cluster(#[from] kube::Error),
}

/// So many times sooner than after other failures is an object looked at again that was changed under our hands.
const SOONER: u32 = 5;
/// How soon a namespace is tried again that could not be prepared.
const PREPARE_AGAIN: Duration = Duration::from_secs(5);
/// How soon, and how often, where the cluster may not have heard yet of a right that was just given.
const HEARD_SOON: Duration = Duration::from_millis(200);
const HEARD_TRIES: usize = 25;
/// How often policies that nobody needs are looked for.
const SWEEP: Duration = Duration::from_secs(300);

/// Works until `stop` is ready.
///
/// # Errors
/// When it cannot begin.
pub async fn run(
    client: Client,
    settings: Settings,
    key: Arc<RequestSigner>,
    stop: impl Future<Output = ()>,
) -> Result<(), OperatorError> {
    let metrics = Arc::new(Metrics::default());
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.map_err(|error| OperatorError::Listen(settings.listen, error))?;
    tokio::spawn(metrics::serve(listener, Arc::clone(&metrics)));
    let leadership =
        lease::Leadership::new(client.clone(), &settings.namespaces.platform, &settings.identity);
    let agents = Agents::new(key);
    let context = Context::new(client, settings, agents, Arc::clone(&metrics)).await;
    let context = Arc::new(context.map_err(OperatorError::Begin)?);
    let term = async {
        loop {
            leadership.acquire().await;
            tracing::info!("leading");
            metrics.leads(true);
            tokio::select! {
                () = lead(Arc::clone(&context)) => {}
                () = leadership.lost() => tracing::warn!("another replica leads now"),
            }
            metrics.leads(false);
        }
    };
    tokio::select! {
        () = term => {}
        () = stop => leadership.release().await,
    }
    Ok(())
}

/// Everything that the leader does.
async fn lead(context: Arc<Context>) {
    if let Err(error) = context.look_around().await {
        tracing::warn!(%error, "the cluster's own addresses are not known; they are protected as private ones only");
    }
    tokio::join!(templates(Arc::clone(&context)), tenants(Arc::clone(&context)), nodes(Arc::clone(&context)),);
}

fn later<K: Resource<DynamicType = ()>>(object: Arc<K>, problem: &Problem, context: Arc<Context>) -> Action {
    let name = object.name_any();
    let Problem::Cluster(error) = problem;
    let wait = context.failed(&object.uid().unwrap_or_default());
    if is_conflict(error) {
        // Somebody wrote meanwhile; what they wrote is on its way here.
        return Action::requeue(wait / SOONER);
    }
    tracing::warn!(%name, %error, "it is looked at again");
    Action::requeue(wait)
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

async fn templates(context: Arc<Context>) {
    let api = Api::<SandboxTemplate>::all(context.client.clone());
    let controller = Controller::new(api, watcher::Config::default()).trigger_backoff(Pauses::default());
    let controller = controller.run(template::reconcile, later, context);
    controller.for_each(|_| std::future::ready(())).await;
}

/// The cluster's addresses change with its nodes; policies follow.
async fn nodes(context: Arc<Context>) {
    let api = Api::<PartialObjectMeta<Node>>::all(context.client.clone());
    let mut changes = std::pin::pin!(watcher(api, watcher::Config::default()).backoff(Pauses::default()));
    while changes.next().await.is_some() {
        match context.look_around().await {
            Ok(true) => reopen(&context).await,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the cluster's own addresses may be old"),
        }
    }
}

async fn reopen(context: &Context) {
    for (namespace, rule) in context.all_open() {
        if let Err(error) = tenant::open(&namespace, &rule, context).await {
            tracing::warn!(%namespace, %error, "a network policy does not follow the cluster's addresses yet");
        }
    }
}

/// One loop for each tenant, begun and ended with its namespace.
async fn tenants(context: Arc<Context>) {
    let api = Api::<Namespace>::all(context.client.clone());
    let labelled = watcher::Config::default().labels(TENANT);
    let mut events = std::pin::pin!(watcher(api, labelled).backoff(Pauses::default()));
    let mut running = Running { context: Arc::clone(&context), tasks: HashMap::new() };
    loop {
        match events.try_next().await {
            Ok(Some(watcher::Event::Apply(it) | watcher::Event::InitApply(it))) => running.keep(it),
            Ok(Some(watcher::Event::Delete(it))) => running.end(&it.name_any()),
            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => {}
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "tenants are not seen for a moment"),
        }
    }
}

/// The loops that run; they end with this.
struct Running {
    context: Arc<Context>,
    tasks: HashMap<String, AbortHandle>,
}

impl Running {
    fn keep(&mut self, namespace: Namespace) {
        let name = namespace.name_any();
        if tenant::tenant_of(&namespace, &self.context).is_none() {
            return self.end(&name);
        }
        if self.tasks.contains_key(&name) {
            return;
        }
        tracing::info!(namespace = %name, "a tenant");
        self.context.metrics.tenants(1);
        let task = tokio::spawn(look_after(namespace, Arc::clone(&self.context)));
        self.tasks.insert(name, task.abort_handle());
    }

    fn end(&mut self, name: &str) {
        if let Some(task) = self.tasks.remove(name) {
            task.abort();
            self.context.forget(name);
            self.context.metrics.tenants(-1);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for name in self.tasks.keys().cloned().collect::<Vec<_>>() {
            self.end(&name);
        }
    }
}

/// A tenant's namespace, for as long as it is one.
async fn look_after(namespace: Namespace, context: Arc<Context>) {
    let name = namespace.name_any();
    let mut tries = 0;
    while let Err(error) = tenant::prepare(&namespace, &context).await {
        tries += 1;
        if is_forbidden(&error) && tries < HEARD_TRIES {
            tracing::debug!(namespace = %name, %error, "the cluster has not heard yet of the operator's rights");
            sleep(HEARD_SOON).await;
        } else {
            tracing::warn!(namespace = %name, %error, "the namespace is not ready for sandboxes");
            sleep(PREPARE_AGAIN).await;
        }
    }
    let sweeping = async {
        loop {
            sleep(SWEEP).await;
            if let Err(error) = tenant::sweep(&name, &context).await {
                tracing::warn!(namespace = %name, %error, "unused network policies stay for now");
            }
        }
    };
    tokio::join!(sandboxes(&name, &context), sweeping);
}

async fn sandboxes(namespace: &str, context: &Arc<Context>) {
    let client = &context.client;
    let mine = watcher::Config::default().labels(&format!("{MANAGED_BY}={ATOLL},{ID}"));
    let controller =
        Controller::new(Api::<Sandbox>::namespaced(client.clone(), namespace), watcher::Config::default());
    let store = controller.store();
    context.watched(namespace, store.clone());
    let (waiting, again) = (store.clone(), context.stirs(namespace));
    let again = again.flat_map(move |()| futures::stream::iter(refused(&waiting)));
    let (of_event, notes) = (store.clone(), Arc::clone(context));
    let events = Api::<Event>::namespaced(client.clone(), namespace);
    let quotas = Api::<ResourceQuota>::namespaced(client.clone(), namespace);
    let looks = controller
        .owns(Api::<StatefulSet>::namespaced(client.clone(), namespace), mine.clone())
        .watches(Api::<Pod>::namespaced(client.clone(), namespace), mine, of_pod)
        .watches(quotas, watcher::Config::default(), move |_| refused(&store))
        .watches(events, watcher::Config::default().fields(PODS_IN_TROUBLE), move |event| {
            trouble(&event, &of_event, &notes)
        })
        .reconcile_on(again)
        .trigger_backoff(Pauses::default())
        .run(sandbox::reconcile, later, Arc::clone(context));
    drain(looks).await;
}

/// Which events say what befalls pods; [`status::is_telling`] has which of them are heeded.
const PODS_IN_TROUBLE: &str = "type=Warning,involvedObject.kind=Pod";

/// Notes what a node says about a pod; gives the sandbox.
fn trouble(event: &Event, store: &Store<Sandbox>, context: &Context) -> Option<ObjectRef<Sandbox>> {
    let (reason, message) = (event.reason.as_deref()?, event.message.as_deref().unwrap_or_default());
    if !status::is_telling(reason) {
        return None;
    }
    let object = &event.involved_object;
    let (pod, uid) = (object.name.as_deref()?, object.uid.as_deref()?);
    let id = pod.strip_suffix("-0").unwrap_or(pod);
    let is = |it: &Sandbox| it.status.as_ref().is_some_and(|status| status.id.as_deref() == Some(id));
    let sandbox = store.find(is)?;
    context.note(uid, format!("{reason}: {message}"));
    Some(ObjectRef::from_obj(&*sandbox))
}

/// The sandboxes of a namespace that wait for something which is not theirs: room, a volume, a template.
fn refused(store: &Store<Sandbox>) -> Vec<ObjectRef<Sandbox>> {
    let waits = |it: &Sandbox| it.status.as_ref().is_some_and(status::waits_for_others);
    store.state().iter().filter(|it| waits(it)).map(|it| ObjectRef::from_obj(&**it)).collect()
}

async fn drain<T, E>(looks: impl Stream<Item = Result<T, E>>) {
    looks.for_each(|_| std::future::ready(())).await;
}

/// The sandbox that a pod belongs to, whoever made the pod.
fn of_pod(pod: Pod) -> Option<ObjectRef<Sandbox>> {
    let name = pod.annotations().get(OBJECT)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}
