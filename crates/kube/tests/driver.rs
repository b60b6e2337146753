//! The driver against a real API server, with an operator that is a function of the test. KUBECONFIG names the cluster;
//! everything is done in namespaces of the test's own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use atoll_core::{
    driver::{CheckStatus, CreateStep, Driver, DriverError, ListQuery, Progress, Target, no_progress},
    network::{NetworkMode, NetworkPolicy},
    phase::Phase,
    sandbox::Reason,
    store::{StoreError, Templates},
    template::TemplateSpec,
};
use atoll_kube::{
    crd::SandboxTemplate,
    names::{OWNER, OWNER_LABEL, VOLUME, claim},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api, Client,
    api::{Patch, PostParams},
};
use serde_json::json;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use support::{Cluster, admin, agent, cluster, eventually, sandbox};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn reason() -> Reason {
    Reason::new("requested", "a test asked for it")
}

#[tokio::test]
async fn a_sandbox_lives_through_all_its_phases() {
    let Some(cluster) = cluster("a_sandbox_lives_through_all_its_phases").await else { return };
    let driver = cluster.driver().await;
    let mut events = driver.subscribe();
    let (asked, steps) = (sandbox("base"), Arc::new(Mutex::new(Vec::new())));
    let told = steps.clone();
    let progress: Progress = Arc::new(move |step| told.lock().unwrap().push(step));
    let made = driver.create(asked.clone(), progress).await.unwrap();
    let id = made.id().clone();
    assert_eq!((made.phase, &made.spec.tenant), (Phase::Running, &asked.spec.tenant));
    let seen = steps.lock().unwrap().clone();
    assert!(
        seen.contains(&CreateStep::Pulling { percent: 43 }) && seen.last() == Some(&CreateStep::Starting),
        "{seen:?}"
    );
    assert_eq!(driver.location(&id).node.as_deref(), Some("n1"));
    assert_eq!(driver.pause(&id, reason()).await.unwrap().phase, Phase::Paused);
    assert_eq!(driver.pause(&id, reason()).await.unwrap().phase, Phase::Paused, "twice is once");
    assert!(matches!(driver.start(&id, no_progress()).await, Err(DriverError::Conflict { .. })));
    assert_eq!(driver.resume(&id).await.unwrap().phase, Phase::Running);
    assert_eq!(driver.stop(&id, reason()).await.unwrap().phase, Phase::Stopped);
    assert!(matches!(driver.resume(&id).await, Err(DriverError::Conflict { .. })));
    assert_eq!(driver.start(&id, no_progress()).await.unwrap().phase, Phase::Running);
    assert!(
        matches!(driver.create(asked, no_progress()).await, Err(DriverError::Conflict { .. })),
        "it exists"
    );
    driver.delete(&id, reason()).await.unwrap();
    let left = driver.get(&id).await;
    assert!(left.is_err() || left.unwrap().phase == Phase::Terminating, "visible at once");
    let mut phases = Vec::new();
    loop {
        let event = events.recv().await.unwrap();
        phases.push(event.sandbox.phase);
        if event.gone {
            break;
        }
    }
    let expected =
        [Phase::Creating, Phase::Running, Phase::Paused, Phase::Running, Phase::Stopped, Phase::Creating];
    assert_eq!(phases[..6], expected);
    assert!(matches!(driver.get(&id).await, Err(DriverError::NotFound(_))));
}

#[tokio::test]
async fn failures_have_types_and_a_failed_one_can_be_started() {
    let Some(cluster) = cluster("failures_have_types_and_a_failed_one_can_be_started").await else { return };
    let driver = cluster.driver().await;
    let fail = async |code: &str| {
        let asked = sandbox(&format!("fail/{code}"));
        let id = asked.id().clone();
        (driver.create(asked, no_progress()).await.unwrap_err(), id)
    };
    assert!(
        matches!(fail("quota_exceeded").await.0, DriverError::Exhausted(why) if why.contains("quota_exceeded"))
    );
    assert!(
        matches!(fail("image_not_found").await.0, DriverError::Image { code, .. } if code == "image_not_found")
    );
    assert!(matches!(fail("volume_in_use").await.0, DriverError::InUse(_)));
    let (error, id) = fail("invalid").await;
    assert!(matches!(error, DriverError::Invalid(_)));
    let left = driver.get(&id).await.unwrap();
    assert_eq!((left.phase, left.reason.code.as_str()), (Phase::Failed, "invalid"));
    assert!(matches!(driver.stop(&id, reason()).await, Err(DriverError::Conflict { .. })));
    let again = driver.start(&id, no_progress()).await;
    assert!(matches!(again, Err(DriverError::Invalid(_))), "it fails anew: {again:?}");
    let mut stranger = sandbox("base");
    stranger.spec.tenant = "nobody".into();
    let id = stranger.id().clone();
    let refused = driver.create(stranger, no_progress()).await.unwrap_err();
    assert!(
        matches!(&refused, DriverError::Invalid(why) if why.contains("kubectl create namespace")),
        "{refused}"
    );
    assert!(matches!(driver.get(&id).await, Err(DriverError::NotFound(_))), "nothing is left");
}

#[tokio::test]
async fn a_resting_sandbox_wakes_for_whoever_connects() {
    let Some(cluster) = cluster("a_resting_sandbox_wakes_for_whoever_connects").await else { return };
    let driver = cluster.driver().await;
    let id = driver.create(sandbox("base"), no_progress()).await.unwrap().id().clone();
    assert!(
        matches!(driver.connect(&id, Target::Agent).await, Err(DriverError::Conflict { .. })),
        "no agent yet"
    );
    let agent = agent(&id).await;
    assert_eq!(driver.usage(&id).await.unwrap().memory, 6);
    for rest in [Phase::Running, Phase::Paused, Phase::Stopped] {
        match rest {
            Phase::Paused => drop(driver.pause(&id, reason()).await.unwrap()),
            Phase::Stopped => drop(driver.stop(&id, reason()).await.unwrap()),
            _ => {}
        }
        let mut stream = driver.connect(&id, Target::Port(7)).await.unwrap();
        stream.write_all(b"through").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).await.unwrap();
        assert_eq!((back.as_str(), driver.get(&id).await.unwrap().phase), ("through", Phase::Running));
    }
    assert!(matches!(driver.connect(&id, Target::Port(8)).await, Err(DriverError::PortClosed(8))));
    let mut plain = driver.connect(&id, Target::Agent).await.unwrap();
    plain.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut line = [0; 12];
    plain.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 401", "it is the agent itself, which wants a signature");
    assert!(driver.agent_signer(&id).unwrap()(1, "GET", "/x").starts_with("v1,1,"));
    agent.abort();
}

#[tokio::test]
async fn what_is_wanted_can_be_changed() {
    let Some(cluster) = cluster("what_is_wanted_can_be_changed").await else { return };
    let driver = cluster.driver().await;
    let id = driver.create(sandbox("base"), no_progress()).await.unwrap().id().clone();
    let later = Timestamp::from_second(4_000_000_000).unwrap();
    assert_eq!(driver.set_deadline(&id, Some(later)).await.unwrap().deadline, Some(later));
    assert_eq!(driver.get(&id).await.unwrap().deadline, Some(later));
    assert_eq!(driver.set_deadline(&id, None).await.unwrap().deadline, None);
    let allow = ["198.51.100.0/24".to_owned()];
    for (mode, allow) in [(NetworkMode::Restricted, &allow[..]), (NetworkMode::None, &[])] {
        let policy = NetworkPolicy::parse(mode, allow, &[]).unwrap();
        assert_eq!(driver.set_network(&id, policy.clone()).await.unwrap().spec.network, policy);
        assert_eq!(driver.get(&id).await.unwrap().spec.network, policy);
    }
    let used = Timestamp::from_second(3_900_000_000).unwrap();
    driver.touch(&id, used);
    assert_eq!(driver.get(&id).await.unwrap().last_activity, used, "at once here");
    let objects = cluster.sandboxes();
    let written = || async {
        let status = objects.get(id.as_str()).await.unwrap().status.unwrap();
        status.last_activity == Some(used)
    };
    eventually("the cluster knows it too", written).await;
}

#[tokio::test]
async fn every_server_sees_the_same_and_lists_are_by_tenant() {
    let Some(cluster) = cluster("every_server_sees_the_same_and_lists_are_by_tenant").await else { return };
    let (one, other) = (cluster.driver().await, cluster.driver().await);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(one.create(sandbox("base"), no_progress()).await.unwrap().id().clone());
    }
    let query = ListQuery { tenant: Some("acme".into()), limit: 2, ..ListQuery::default() };
    let all =
        || async { other.list(&ListQuery { limit: 10, ..query.clone() }).await.unwrap().items.len() == 3 };
    eventually("the other server sees them", all).await;
    let first = other.list(&query).await.unwrap();
    let second = other.list(&ListQuery { cursor: first.next, ..query }).await.unwrap();
    assert_eq!((first.items.len(), second.items.len(), second.next), (2, 1, None));
    let nobody = ListQuery { tenant: Some("nobody".into()), limit: 2, ..ListQuery::default() };
    assert!(other.list(&nobody).await.unwrap().items.is_empty());
    let later = Timestamp::from_second(4_000_000_000).unwrap();
    one.set_deadline(&ids[0], Some(later)).await.unwrap();
    assert_eq!(other.get(&ids[0]).await.unwrap().deadline, Some(later), "at once");
    one.delete(&ids[1], reason()).await.unwrap();
    let deleted = other.get(&ids[1]).await;
    let is_gone = deleted.map_or_else(
        |error| matches!(error, DriverError::NotFound(_)),
        |sandbox| sandbox.phase == Phase::Terminating,
    );
    assert!(is_gone, "at once, too");
    assert!(one.logs(&ids[0], 100, false).await.is_ok(), "a sandbox without a pod has an empty log");
    assert!(matches!(one.images().list().await, Err(DriverError::Unsupported(_))));
}

#[tokio::test]
async fn templates_are_objects_and_an_administrators_part_stays() {
    let Some(cluster) = cluster("templates_are_objects_and_an_administrators_part_stays").await else {
        return;
    };
    let templates = cluster.driver().await.templates();
    let spec = |image: &str| TemplateSpec { image: image.into(), ..TemplateSpec::default() };
    let now = Timestamp::UNIX_EPOCH;
    let first = templates.put_template("acme", "web", &spec("a"), now).await.unwrap();
    assert_eq!((first.version, &first.spec), (1, &spec("a")));
    assert_eq!(
        templates.put_template("acme", "web", &spec("a"), now).await.unwrap().version,
        1,
        "nothing new"
    );
    let pod = json!({ "apiVersion": "atoll.dev/v1alpha1", "kind": "SandboxTemplate", "spec": { "pod": { "storageClass": "fast" } } });
    let objects = Api::<SandboxTemplate>::namespaced(cluster.client.clone(), &cluster.namespaces.of("acme"));
    objects.patch("web", &admin(), &Patch::Apply(pod)).await.unwrap();
    let mut changed = spec("b");
    changed.ports = [("http".to_owned(), 80)].into();
    let third = templates.put_template("acme", "web", &changed, now).await.unwrap();
    assert_eq!((third.version, &third.spec), (3, &changed));
    let object = objects.get("web").await.unwrap();
    assert_eq!(object.spec.pod.unwrap().storage_class.as_deref(), Some("fast"));
    let fourth = templates.put_template("acme", "web", &spec("b"), now).await.unwrap();
    assert!(fourth.spec.ports.is_empty(), "what is not said any more is gone");
    let old = templates.template("acme", "web", Some(1)).await.unwrap_err();
    assert!(matches!(&old, StoreError::NotFound(why) if why.contains("only the newest, 4")), "{old}");
    assert_eq!(templates.template("acme", "web", Some(4)).await.unwrap().spec.image, "b");
    shared_templates(&cluster).await;
    templates.delete_template("acme", "web").await.unwrap();
    assert_eq!(templates.template("acme", "web", None).await.unwrap().spec.image, "shared");
    assert!(matches!(templates.template("acme", "no", None).await, Err(StoreError::NotFound(_))));
    let limited: TemplateSpec =
        serde_json::from_value(json!({ "image": "a", "io": { "read_iops": 100 } })).unwrap();
    let refused = templates.put_template("acme", "io", &limited, now).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Invalid(why) if why.starts_with("io:")), "{refused}");
    let nowhere = templates.put_template("nobody", "web", &spec("a"), now).await.unwrap_err();
    assert!(
        matches!(&nowhere, StoreError::Invalid(why) if why.contains("kubectl create namespace")),
        "{nowhere}"
    );
}

/// The platform's are everybody's to read, unless a tenant has one of that name.
async fn shared_templates(cluster: &Cluster) {
    let templates = cluster.driver().await.templates();
    let shared = Api::<SandboxTemplate>::namespaced(cluster.client.clone(), &cluster.namespaces.platform);
    for name in ["web", "base"] {
        let object = json!({ "apiVersion": "atoll.dev/v1alpha1", "kind": "SandboxTemplate", "metadata": { "name": name },
            "spec": { "image": "shared" } });
        shared.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    let all = templates.templates("acme").await.unwrap();
    let images: Vec<_> = all.iter().map(|it| (it.name.as_str(), it.spec.image.as_str())).collect();
    assert_eq!(images, [("base", "shared"), ("web", "b")]);
    assert_eq!(templates.template("acme", "base", None).await.unwrap().spec.image, "shared");
    let refused = templates.delete_template("acme", "base").await.unwrap_err();
    assert!(matches!(&refused, StoreError::Invalid(why) if why.contains("platform")), "{refused}");
}

#[tokio::test]
async fn volumes_are_the_claims_that_carry_our_labels() {
    let Some(cluster) = cluster("volumes_are_the_claims_that_carry_our_labels").await else { return };
    let driver = cluster.driver().await;
    let label = atoll_core::owner::label("acme", "alice@example.com");
    let name = claim("home", &label);
    let object = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": name, "labels": { VOLUME: "home", OWNER_LABEL: label }, "annotations": { OWNER: "alice@example.com" } },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "5Gi" } } },
    });
    let claims =
        Api::<PersistentVolumeClaim>::namespaced(cluster.client.clone(), &cluster.namespaces.of("acme"));
    claims.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let mut asked = sandbox("base");
    asked.spec.owner = Some("alice@example.com".into());
    asked.spec.volumes = vec![atoll_core::volume::Volume {
        name: "home".into(),
        path: "/home/alice".into(),
        size: atoll_core::quantity::Bytes(5 << 30),
    }];
    let id = driver.create(asked, no_progress()).await.unwrap().id().clone();
    let volumes = driver.volumes();
    let found = volumes.list(Some("acme"), Some("alice@example.com")).await.unwrap();
    assert_eq!((found.len(), found[0].name.as_str(), found[0].used_by.as_ref()), (1, "home", Some(&id)));
    assert!(volumes.list(Some("acme"), Some("bob")).await.unwrap().is_empty());
    let refused = volumes.remove("acme", "alice@example.com", "home").await;
    assert!(matches!(refused, Err(DriverError::InUse(_))));
    driver.delete(&id, reason()).await.unwrap();
    eventually("it is gone", || async { driver.get(&id).await.is_err() }).await;
    volumes.remove("acme", "alice@example.com", "home").await.unwrap();
    eventually("the claim is gone", || async { claims.get_opt(&name).await.unwrap().is_none() }).await;
    let again = volumes.remove("acme", "alice@example.com", "home").await;
    assert!(matches!(again, Err(DriverError::NotFound(_))));
}

/// A way to the API server that can be cut.
struct Way {
    open: Arc<AtomicBool>,
    address: std::net::SocketAddr,
}

impl Way {
    async fn to(cluster: &Cluster) -> (Self, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, open) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let target = cluster.config.cluster_url.authority().unwrap().to_string();
        let passes = open.clone();
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (target, passes) = (target.clone(), passes.clone());
                tokio::spawn(async move {
                    if !passes.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let cut = async {
                        while passes.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cut => {}
                    }
                });
            }
        });
        let way = Self { open, address };
        let mut config = cluster.config.clone();
        config.tls_server_name = config.cluster_url.host().map(str::to_owned);
        config.cluster_url = format!("https://{}", way.address).parse().unwrap();
        (way, Client::try_from(config).unwrap())
    }
}

#[tokio::test]
async fn an_api_server_that_restarts_is_waited_for() {
    let Some(cluster) = cluster("an_api_server_that_restarts_is_waited_for").await else { return };
    let (way, client) = Way::to(&cluster).await;
    let driver = Arc::new(cluster.driver_through(client).await);
    let id = driver.create(sandbox("base"), no_progress()).await.unwrap().id().clone();
    way.open.store(false, Ordering::SeqCst);
    assert_eq!(driver.get(&id).await.unwrap().phase, Phase::Running, "reads go on");
    let (pausing, sleeper) = (driver.clone(), id.clone());
    let pausing = tokio::spawn(async move { pausing.pause(&sleeper, reason()).await });
    let beside = cluster.driver().await;
    let second = beside.create(sandbox("base"), no_progress()).await.unwrap().id().clone();
    assert!(driver.get(&second).await.is_err(), "nothing is heard meanwhile");
    way.open.store(true, Ordering::SeqCst);
    assert_eq!(pausing.await.unwrap().unwrap().phase, Phase::Paused);
    eventually("what happened meanwhile is seen", || async { driver.get(&second).await.is_ok() }).await;
}

#[tokio::test]
async fn doctor_says_what_is_there_and_what_is_not() {
    let Some(cluster) = cluster("doctor_says_what_is_there_and_what_is_not").await else { return };
    let checks = cluster.driver().await.doctor().await;
    let status = |name: &str| checks.iter().find(|it| it.name == name).map(|it| it.status);
    assert_eq!(status("definitions"), Some(CheckStatus::Ok), "{checks:?}");
    assert_eq!(status("rights"), Some(CheckStatus::Ok), "{checks:?}");
    assert_eq!(status("operator"), Some(CheckStatus::Fail), "none leads here: {checks:?}");
    assert_eq!(status("tenant"), Some(CheckStatus::Warn), "the default tenant has no namespace: {checks:?}");
}
