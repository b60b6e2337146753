//! What every look at an object needs: the cluster, the settings, and what is remembered between looks.

use atoll_core::{
    id::SandboxId,
    network::{Cidr, NetworkPolicy as Policy},
    ranges::single,
};
use futures::Stream;
use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
    runtime::{
        events::{Recorder, Reporter},
        reflector::Store,
    },
};
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{
    build::Platform,
    metrics::Metrics,
    registry::{ImageAnswer, Registry},
    settings::Settings,
};
use crate::{
    agent::Agents,
    crd::{ImageMeta, Sandbox},
    names::{OPERATOR, id_of},
};

/// The shortest and the longest wait after failed looks.
const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(60);
/// So many changes may wait to be heard of; whoever comes too late for one takes it that there were some.
const STIRS: usize = 64;
/// So many pods in trouble are remembered at once.
const NOTES: usize = 256;

/// All of it.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// What was decided at the start.
    pub settings: Settings,
    /// Speaks to agents.
    pub agents: Agents,
    registry: Registry,
    /// Publishes events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Namespace and name of the service account that this is; none outside a cluster.
    pub account: Option<(String, String)>,
    known: Mutex<Known>,
    stirred: broadcast::Sender<Option<String>>,
}

#[derive(Default)]
struct Known {
    /// Addresses of nodes and of the API server.
    protected: Vec<Cidr>,
    /// The address of the resolver's Service.
    resolver: Option<IpAddr>,
    /// How often in a row looks at an object failed, by its uid.
    failures: HashMap<String, u32>,
    /// Policies that were written, by namespace and name, with the rule that each stands for.
    open: HashMap<(String, String), (Policy, NetworkPolicy)>,
    /// What the watches of tenants' namespaces show.
    stores: HashMap<String, Store<Sandbox>>,
    /// What nodes said about pods in trouble, by uid, and how often; the oldest go first.
    notes: VecDeque<(String, Note)>,
}

/// What a node said about a pod in trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its words.
    pub message: String,
    /// How often it said so: more than once is after trying again.
    pub times: u32,
}

impl Context {
    /// For a cluster.
    ///
    /// # Errors
    /// When it does not say who this is.
    pub async fn new(
        client: Client,
        settings: Settings,
        agents: Agents,
        metrics: Arc<Metrics>,
    ) -> Result<Self, kube::Error> {
        let reporter = Reporter { controller: OPERATOR.into(), instance: Some(settings.identity.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let registry = Registry::new(settings.insecure_registries.clone());
        let account = account(&client).await?;
        let (known, stirred) = (Mutex::default(), broadcast::Sender::new(STIRS));
        Ok(Self { client, settings, agents, registry, recorder, metrics, account, known, stirred })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its registry says about an image, by the name that was given.
    pub async fn image(&self, reference: &str) -> ImageAnswer {
        match self.registry.resolve(&self.settings.image(reference)).await {
            ImageAnswer::Found(meta) => ImageAnswer::Found(ImageMeta { reference: reference.into(), ..meta }),
            other => other,
        }
    }

    /// How long to wait after one more failed look at an object: twice as long each time, within bounds.
    #[must_use]
    pub fn failed(&self, uid: &str) -> Duration {
        let mut known = self.known();
        let times = known.failures.entry(uid.to_owned()).or_default();
        *times = times.saturating_add(1);
        SOONEST.saturating_mul(2_u32.saturating_pow((*times - 1).min(16))).min(LATEST)
    }

    /// A look at an object ended well.
    pub fn succeeded(&self, uid: &str) {
        self.known().failures.remove(uid);
    }

    /// Ranges that nothing opens.
    #[must_use]
    pub fn protected(&self) -> Vec<Cidr> {
        self.settings.protected.iter().chain(&self.known().protected).copied().collect()
    }

    /// Whether that policy was written, just so.
    #[must_use]
    pub fn is_open(&self, policy: &NetworkPolicy) -> bool {
        let key = (policy.namespace().unwrap_or_default(), policy.name_any());
        self.known().open.get(&key).is_some_and(|(_, written)| written == policy)
    }

    /// It was written.
    pub fn opened(&self, rule: Policy, policy: NetworkPolicy) {
        let key = (policy.namespace().unwrap_or_default(), policy.name_any());
        self.known().open.insert(key, (rule, policy));
    }

    /// It was removed.
    pub fn closed(&self, namespace: &str, name: &str) {
        self.known().open.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// What was written, by namespace.
    #[must_use]
    pub fn all_open(&self) -> Vec<(String, Policy)> {
        self.known()
            .open
            .iter()
            .map(|((namespace, _), (rule, _))| (namespace.clone(), rule.clone()))
            .collect()
    }

    /// Forgets what was written in a namespace that is gone.
    pub fn forget(&self, namespace: &str) {
        let mut known = self.known();
        known.open.retain(|(of, _), _| of != namespace);
        known.stores.remove(namespace);
    }

    /// A node said something about a pod in trouble.
    pub fn note(&self, uid: &str, message: String) {
        let notes = &mut self.known().notes;
        let before = notes.iter().position(|(of, _)| of == uid).and_then(|at| notes.remove(at));
        let times = before.map_or(0, |(_, note)| note.times).saturating_add(1);
        notes.push_back((uid.to_owned(), Note { message, times }));
        let surplus = notes.len().saturating_sub(NOTES);
        notes.drain(..surplus);
    }

    /// What was said about a pod.
    #[must_use]
    pub fn noted(&self, uid: Option<&str>) -> Option<Note> {
        let uid = uid?;
        self.known().notes.iter().find(|(of, _)| of == uid).map(|(_, note)| note.clone())
    }

    /// A namespace's sandboxes are watched, and stand there.
    pub fn watched(&self, namespace: &str, store: Store<Sandbox>) {
        self.known().stores.insert(namespace.to_owned(), store);
    }

    /// Whether an older sandbox, of whatever tenant, has the identifier that this one's name is. Nobody can choose any
    /// other identifier.
    #[must_use]
    pub fn has_rival(&self, sandbox: &Sandbox) -> bool {
        let Ok(id) = SandboxId::parse(&sandbox.name_any()) else { return false };
        let age = |it: &Sandbox| (it.creation_timestamp().map(|at| at.0), it.uid());
        let known = self.known();
        let mut all = known.stores.values().flat_map(Store::state);
        all.any(|it| id_of(&it) == id && it.uid() != sandbox.uid() && age(&it) < age(sandbox))
    }

    /// Something changed that refused sandboxes may have waited for, in a namespace or everywhere.
    pub fn stir(&self, namespace: Option<&str>) {
        // Nobody listens where there is no tenant.
        let _ = self.stirred.send(namespace.map(str::to_owned));
    }

    /// Whenever something changes that refused sandboxes of a namespace may wait for.
    pub fn stirs(&self, namespace: &str) -> impl Stream<Item = ()> + Send + use<> {
        let namespace = namespace.to_owned();
        futures::stream::unfold((self.stirred.subscribe(), namespace), async |(mut stirred, namespace)| {
            loop {
                match stirred.recv().await {
                    Ok(Some(other)) if other != namespace => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return Some(((), (stirred, namespace))),
                    Err(RecvError::Closed) => return None,
                }
            }
        })
    }

    /// Looks up the addresses of nodes and of the API server; says whether they are others than before.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn look_around(&self) -> Result<bool, kube::Error> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?;
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), "default");
        let selected = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        let servers = slices.list(&selected).await?;
        let of_nodes = nodes.items.iter().filter_map(|node| node.status.as_ref()?.addresses.as_ref());
        let of_nodes = of_nodes.flatten().map(|it| it.address.clone());
        let of_servers = servers
            .items
            .iter()
            .flat_map(|it| it.endpoints.iter().flatten().flat_map(|it| it.addresses.clone()));
        let mut all: Vec<Cidr> =
            of_nodes.chain(of_servers).filter_map(|it| it.parse().ok()).map(single).collect();
        all.sort_unstable();
        all.dedup();
        let mut known = self.known();
        let new = known.protected != all;
        known.protected = all;
        Ok(new)
    }

    /// What pods are told of the platform.
    pub async fn platform(&self) -> Platform {
        let mut resolvers = self.settings.resolvers.clone();
        resolvers.extend(self.resolver().await);
        Platform { public_key: self.agents.public_key(), resolvers }
    }

    async fn resolver(&self) -> Option<IpAddr> {
        let name = self.settings.resolver_service.as_ref()?;
        if let Some(known) = self.known().resolver {
            return Some(known);
        }
        let api = Api::<Service>::namespaced(self.client.clone(), &self.settings.namespaces.platform);
        let found = api
            .get_opt(name)
            .await
            .inspect_err(|error| tracing::warn!(%error, name, "the resolver is not known"));
        let address = found.ok()??.spec?.cluster_ip?.parse().ok();
        self.known().resolver = address;
        address
    }

    /// The sandbox with that identifier in a namespace.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn sandbox_of(&self, namespace: &str, id: &str) -> Result<Option<Sandbox>, kube::Error> {
        let api = Api::<Sandbox>::namespaced(self.client.clone(), namespace);
        if let Some(found) = api.get_opt(id).await? {
            return Ok(Some(found));
        }
        let all = api.list(&ListParams::default()).await?;
        Ok(all.items.into_iter().find(|it| id_of(it).as_str() == id))
    }
}

/// Who this is, where it is a service account.
async fn account(client: &Client) -> Result<Option<(String, String)>, kube::Error> {
    let api = Api::<SelfSubjectReview>::all(client.clone());
    let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let name = review.status.and_then(|it| it.user_info?.username).unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|it| it.split_once(':'));
    Ok(account.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())))
}
