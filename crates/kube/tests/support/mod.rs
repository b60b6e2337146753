//! Namespaces of their own on a real cluster, and an operator that is a function: it tells of pods that are not there.

use atoll_core::{
    id::SandboxId,
    request::{Birth, CreateRequest, resolve},
    sandbox::Sandbox,
    testing::ROOM,
};
use atoll_kube::{
    crd::{self, DesiredState, Phase},
    driver::{KubeConfig, KubeDriver},
    names::{AGENT_PORT, Namespaces, OPERATOR},
};
use atoll_proto::sign::{RequestSigner, RequestVerifier, SIGNATURE_HEADER};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, task::JoinHandle};

pub const KEY: [u8; 32] = [7; 32];

/// A place on a real cluster.
pub struct Cluster {
    pub config: Config,
    pub client: Client,
    pub namespaces: Namespaces,
    operator: JoinHandle<()>,
}

/// How the test is skipped where there is no cluster.
pub async fn cluster(test: &str) -> Option<Cluster> {
    let _ = rustls_provider();
    if std::env::var_os("KUBECONFIG").is_none() {
        println!("SKIPPED: {test}: KUBECONFIG names no cluster");
        return None;
    }
    let config = Config::infer().await.unwrap();
    let client = Client::try_from(config.clone()).unwrap();
    install(&client).await;
    let mark = unique();
    let namespaces = Namespaces { prefix: format!("{mark}-"), platform: format!("{mark}-platform") };
    let operator = tokio::spawn(operate(client.clone(), namespaces.clone()));
    let cluster = Cluster { config, client, namespaces, operator };
    for tenant in ["acme", "platform"] {
        cluster.namespace(tenant).await;
    }
    Some(cluster)
}

fn rustls_provider() -> Result<(), ()> {
    rustls::crypto::ring::default_provider().install_default().map_err(drop)
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    format!("kubedriver-{:x}-{}", now ^ u64::from(std::process::id()), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Definitions are only ever added to: others use the same cluster.
async fn install(client: &Client) {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in crd::definitions() {
        let params = PatchParams::apply("atoll-tests").force();
        api.patch(&definition.name_any(), &params, &Patch::Apply(&definition)).await.unwrap();
    }
    let known = || async {
        let found = api.list(&ListParams::default()).await.unwrap();
        let ours = found.iter().filter(|it| it.spec.group == "atoll.dev").flat_map(|it| it.status.clone());
        ours.filter(|it| it.accepted_names.is_some()).count() >= 2
            && Api::<crd::Sandbox>::all(client.clone()).list(&ListParams::default()).await.is_ok()
    };
    eventually("the definitions are known", known).await;
}

pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

impl Cluster {
    async fn namespace(&self, tenant: &str) {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(self.namespaces.of(tenant));
        let api = Api::<Namespace>::all(self.client.clone());
        api.create(&PostParams::default(), &namespace).await.unwrap();
    }

    pub async fn driver(&self) -> KubeDriver {
        self.driver_through(self.client.clone()).await
    }

    pub async fn driver_through(&self, client: Client) -> KubeDriver {
        let config = KubeConfig {
            client,
            namespaces: self.namespaces.clone(),
            key: RequestSigner::new(&KEY),
            capacity: ROOM,
        };
        KubeDriver::open(config).await.unwrap()
    }

    pub fn sandboxes(&self) -> Api<crd::Sandbox> {
        Api::namespaced(self.client.clone(), &self.namespaces.of("acme"))
    }
}

/// Takes everything away, also when the test failed. The runtime stands still meanwhile, and the operator with it.
impl Drop for Cluster {
    fn drop(&mut self) {
        self.operator.abort();
        let (config, names) =
            (self.config.clone(), ["acme", "platform"].map(|tenant| self.namespaces.of(tenant)));
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(clean_up(config, &names));
        });
        if cleaned.join().is_err() && !std::thread::panicking() {
            panic!("not everything could be taken away");
        }
    }
}

async fn clean_up(config: Config, names: &[String]) {
    let client = Client::try_from(config).unwrap();
    let namespaces = Api::<Namespace>::all(client.clone());
    for name in names {
        namespaces.delete(name, &DeleteParams::background()).await.unwrap();
        let objects = Api::<crd::Sandbox>::namespaced(client.clone(), name);
        for object in objects.list(&ListParams::default()).await.unwrap() {
            let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
            // Each may be gone by now.
            let _ = objects.patch(&object.name_any(), &PatchParams::default(), &free).await;
            let _ = objects.delete(&object.name_any(), &DeleteParams::default()).await;
        }
    }
}

/// A sandbox to be made. Its image says what becomes of it: `fail/CODE` fails so.
pub fn sandbox(image: &str) -> Sandbox {
    let mut entropy = [0; 19];
    entropy[..16].copy_from_slice(
        &std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0).to_le_bytes().repeat(2),
    );
    let birth = Birth { id: SandboxId::from_entropy(entropy), tenant: "acme".into(), at: Timestamp::now() };
    let ask = CreateRequest { image: Some(image.into()), ..CreateRequest::default() };
    resolve(ask, None, &ROOM, birth).unwrap()
}

/// The operator: looks at each object and tells what a real one would.
async fn operate(client: Client, namespaces: Namespaces) {
    let all = Api::<crd::Sandbox>::all(client.clone());
    let changes = watcher(all, watcher::Config::default()).default_backoff().applied_objects();
    let ours = changes.try_filter(|it| {
        let ours = it.namespace().is_some_and(|namespace| namespaces.tenant(&namespace).is_some());
        std::future::ready(ours)
    });
    ours.for_each_concurrent(16, |change| async {
        // What it could not tell now it tells at the next change: this is a test's operator.
        if let Ok(object) = change {
            let _ = look(&client, object).await;
        }
    })
    .await;
}

async fn look(client: &Client, object: crd::Sandbox) -> kube::Result<()> {
    let api = Api::<crd::Sandbox>::namespaced(client.clone(), &object.namespace().unwrap());
    let name = object.name_any();
    if object.metadata.deletion_timestamp.is_some() {
        let patch = json!({ "metadata": { "finalizers": null } });
        return api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop);
    }
    let status = object.status.clone().unwrap_or_default();
    let (generation, observed) = (object.metadata.generation, status.observed_generation);
    if observed == generation && status.phase != Some(Phase::Creating) {
        return Ok(());
    }
    let next = next(&object, &status);
    let params = PatchParams::apply(OPERATOR);
    api.patch_status(&name, &params, &Patch::Merge(json!({ "status": next }))).await.map(drop)
}

fn next(object: &crd::Sandbox, status: &crd::SandboxStatus) -> serde_json::Value {
    let image = object.spec.recipe.image.clone().unwrap_or_default();
    let step = status.reason.as_ref().map_or("", |it| &it.code);
    let wanted = object.spec.state.unwrap_or_default();
    let (phase, code, message) = match (wanted, status.phase, step) {
        (DesiredState::Stopped, ..) => (Phase::Stopped, "requested", "stop was requested".to_owned()),
        (DesiredState::Paused, ..) => (Phase::Paused, "requested", "pause was requested".to_owned()),
        (DesiredState::Running, Some(Phase::Paused), _) => (Phase::Running, "started", String::new()),
        (DesiredState::Running, Some(Phase::Creating), "pulling") => match image.strip_prefix("fail/") {
            Some(code) => (Phase::Failed, code, format!("it failed with {code}")),
            None => (Phase::Creating, "starting", String::new()),
        },
        (DesiredState::Running, Some(Phase::Creating), "starting") => {
            (Phase::Running, "started", String::new())
        }
        (DesiredState::Running, Some(Phase::Running), _) => (Phase::Running, "started", String::new()),
        (DesiredState::Running, ..) => (Phase::Creating, "pulling", "Pulling image 43%".into()),
    };
    json!({
        "phase": phase, "reason": { "code": code, "message": message }, "observedGeneration": object.metadata.generation,
        "address": address(&object.name_any()), "node": "n1", "since": Timestamp::now(),
    })
}

/// Where a sandbox's agent would be: an address of this machine's own for each.
pub fn address(id: &str) -> Ipv4Addr {
    let sum = id.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let [_, b, c, d] = sum.to_be_bytes();
    Ipv4Addr::new(127, b.max(1), c, d.max(1))
}

/// An agent that answers signed requests: it leads to port 7, which sends back what it gets, and to no other.
pub async fn agent(id: &SandboxId) -> JoinHandle<()> {
    let listener = TcpListener::bind((address(id.as_str()), AGENT_PORT)).await.unwrap();
    let id = id.to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let id = id.clone();
            let service = service_fn(move |request| {
                let id = id.clone();
                async move { Ok::<_, Infallible>(answer(&id, request)) }
            });
            tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades(),
            );
        }
    })
}

fn answer(id: &str, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let reply = |status: StatusCode, body: &'static str| {
        Response::builder().status(status).body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
    };
    let verifier = RequestVerifier::new(&RequestSigner::new(&KEY).public_key_hex(), id).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let proof = request.headers().get(SIGNATURE_HEADER).and_then(|it| it.to_str().ok());
    if verifier.verify(now, proof, request.method().as_str(), request.uri().path()).is_err() {
        return reply(StatusCode::UNAUTHORIZED, "");
    }
    match request.uri().path() {
        "/atoll.agent.v1.Agent/Metrics" => {
            reply(StatusCode::OK, r#"{"cpuMicros":"5","memoryBytes":"6","pids":2}"#)
        }
        "/atoll/port/7" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                tokio::io::AsyncWriteExt::shutdown(&mut write).await.unwrap();
            });
            let mut response = reply(StatusCode::SWITCHING_PROTOCOLS, "");
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "tcp".parse().unwrap());
            response
        }
        _ => reply(StatusCode::BAD_GATEWAY, r#"{"error_code":"port_closed"}"#),
    }
}

/// Whoever administers the cluster, beside the API.
pub fn admin() -> PatchParams {
    PatchParams::apply("kubectl")
}
