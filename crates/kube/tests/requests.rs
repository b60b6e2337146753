//! What the driver asks of the cluster's API server, and in which order, when answers are lost. The API server is a
//! function here: what a real one does is tried in `driver.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use atoll_core::{
    driver::{Driver, DriverError, no_progress},
    phase::Phase,
    testing::{ROOM, sandbox},
};
use atoll_kube::{
    driver::{KubeConfig, KubeDriver, OpenError},
    names::Namespaces,
};
use atoll_proto::sign::RequestSigner;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};
use tokio::sync::broadcast;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An API server that answers writes as it was told, one after the other.
#[derive(Clone)]
struct Api {
    scripted: Arc<Mutex<VecDeque<(u16, Value)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    list: (u16, Value),
    changes: broadcast::Sender<Value>,
}

impl Api {
    fn new(scripted: &[(u16, Value)]) -> Self {
        let list = json!({ "apiVersion": "atoll.dev/v1alpha1", "kind": "SandboxList", "metadata": { "resourceVersion": "1" }, "items": [] });
        Self {
            scripted: Arc::new(Mutex::new(scripted.iter().cloned().collect())),
            asked: Arc::default(),
            list: (200, list),
            changes: broadcast::Sender::new(16),
        }
    }

    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { api.answer(&request) }
        });
        Client::new(service, "default")
    }

    fn answer(&self, request: &Request<Body>) -> Result<Answer, std::io::Error> {
        let (method, path) = (request.method().as_str(), request.uri().path());
        let query = request.uri().query().unwrap_or_default();
        if query.contains("watch=true") {
            return Ok(self.watch());
        }
        if method == "GET" && path == "/apis/atoll.dev/v1alpha1/sandboxes" {
            return Ok(whole(self.list.0, &self.list.1));
        }
        self.asked.lock().unwrap().push(format!("{method} {path}"));
        match self.scripted.lock().unwrap().pop_front() {
            // As when a connection breaks before the answer.
            Some((0, _)) | None => Err(std::io::ErrorKind::ConnectionReset.into()),
            Some((code, body)) => Ok(whole(code, &body)),
        }
    }

    fn watch(&self) -> Answer {
        let changes = stream::unfold(self.changes.subscribe(), async |mut changes| {
            let change = changes.recv().await.ok()?;
            Some((Ok(Frame::data(Bytes::from(change.to_string() + "\n"))), changes))
        });
        Response::new(StreamBody::new(changes.boxed()).boxed_unsync())
    }

    async fn driver(&self) -> Result<KubeDriver, OpenError> {
        let config = KubeConfig {
            client: self.client(),
            namespaces: Namespaces::default(),
            key: RequestSigner::new(&[7; 32]),
            capacity: ROOM,
        };
        let driver = KubeDriver::open(config).await?;
        while self.changes.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        Ok(driver)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn whole(code: u16, body: &Value) -> Answer {
    let body = stream::iter([Ok(Frame::data(Bytes::from(body.to_string())))]);
    Response::builder().status(code).body(StreamBody::new(body.boxed()).boxed_unsync()).unwrap()
}

fn refusal(code: u16, reason: &str, kind: &str) -> (u16, Value) {
    let details = json!({ "kind": kind });
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": format!("{kind}: {reason}"),
        "reason": reason, "code": code, "details": details });
    (code, status)
}

/// Sandbox 1 as the API server shows it.
fn object(version: u64, generation: i64, phase: Option<&str>) -> Value {
    let mut object = atoll_kube::convert::from_core(&sandbox(1), "tenant-default");
    object.metadata.uid = Some("uid-1".into());
    object.metadata.resource_version = Some(version.to_string());
    object.metadata.generation = Some(generation);
    let mut object = serde_json::to_value(object).unwrap();
    if let Some(phase) = phase {
        object["status"] =
            json!({ "phase": phase, "observedGeneration": generation, "address": "127.0.0.1" });
    }
    object
}

fn changed(object: Value) -> Value {
    json!({ "type": "MODIFIED", "object": object })
}

const ALL: &str = "/apis/atoll.dev/v1alpha1/namespaces/tenant-default/sandboxes";

fn one() -> String {
    format!("{ALL}/{}", sandbox(1).id())
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_found_at_the_second_attempt() {
    let api =
        Api::new(&[(0, Value::Null), refusal(409, "AlreadyExists", "sandboxes"), (201, object(5, 1, None))]);
    let driver = api.driver().await.unwrap();
    let changes = api.changes.clone();
    let making = tokio::spawn(async move { driver.create(sandbox(1), no_progress()).await });
    while api.asked().len() < 3 {
        tokio::task::yield_now().await;
    }
    changes.send(changed(object(6, 1, Some("Running")))).unwrap();
    assert_eq!(making.await.unwrap().unwrap().phase, Phase::Running);
    assert_eq!(api.asked(), [format!("POST {ALL}"), format!("POST {ALL}"), format!("GET {}", one())]);
}

#[tokio::test]
async fn one_that_exists_already_is_not_taken_for_ours() {
    let api = Api::new(&[refusal(409, "AlreadyExists", "sandboxes"), (200, object(5, 1, Some("Running")))]);
    let made = api.driver().await.unwrap().create(sandbox(1), no_progress()).await;
    let Err(DriverError::Conflict { problem, .. }) = made else { panic!("{made:?}") };
    assert!(problem.contains("exists"), "{problem}");
}

#[tokio::test]
async fn refusals_leave_nothing_behind_and_say_why() {
    for (answer, words) in [
        (refusal(404, "NotFound", "namespaces"), "kubectl create namespace tenant-default"),
        (refusal(422, "Invalid", "spec.cpu"), "spec.cpu"),
    ] {
        let api = Api::new(&[answer]);
        let driver = api.driver().await.unwrap();
        let made = driver.create(sandbox(1), no_progress()).await;
        assert!(matches!(&made, Err(DriverError::Invalid(why)) if why.contains(words)), "{made:?}");
        assert!(matches!(driver.get(sandbox(1).id()).await, Err(DriverError::NotFound(_))));
        assert_eq!(api.asked().len(), 1, "no second attempt");
    }
}

#[tokio::test]
async fn what_was_written_is_read_before_the_watch_shows_it() {
    let mut gone = object(7, 1, Some("Running"));
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let api = Api::new(&[(201, object(5, 1, Some("Running"))), (0, Value::Null), (200, gone)]);
    let driver = api.driver().await.unwrap();
    driver.create(sandbox(1), no_progress()).await.unwrap();
    let mut events = driver.subscribe();
    driver.delete(sandbox(1).id(), atoll_core::sandbox::Reason::new("requested", "x")).await.unwrap();
    assert_eq!(driver.get(sandbox(1).id()).await.unwrap().phase, Phase::Terminating);
    assert_eq!(events.recv().await.unwrap().sandbox.phase, Phase::Terminating);
    // Where the cluster has no answer to a look at it, what was seen last still stands.
    assert_eq!(api.asked()[1..], ["DELETE", "DELETE", "GET"].map(|method| format!("{method} {}", one())));
}

#[tokio::test]
async fn a_stop_waits_until_the_operator_has_looked() {
    let api = Api::new(&[(201, object(5, 1, Some("Running"))), (200, object(6, 2, None))]);
    let driver = api.driver().await.unwrap();
    driver.create(sandbox(1), no_progress()).await.unwrap();
    let reason = atoll_core::sandbox::Reason::new("requested", "x");
    let id = sandbox(1).id().clone();
    let stopping = tokio::spawn(async move { driver.stop(&id, reason).await });
    while api.asked().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.asked()[1], format!("PATCH {}", one()));
    api.changes.send(changed(object(7, 2, Some("Stopped")))).unwrap();
    assert_eq!(stopping.await.unwrap().unwrap().phase, Phase::Stopped);
}

#[tokio::test]
async fn a_cluster_that_does_not_know_our_objects_is_told_apart() {
    let api = Api { list: refusal(404, "NotFound", ""), ..Api::new(&[]) };
    let Err(error) = api.driver().await else { panic!() };
    assert!(matches!(error, OpenError::NoDefinitions) && error.to_string().contains("atoll crd"), "{error}");
    let api = Api { list: refusal(403, "Forbidden", "sandboxes"), ..Api::new(&[]) };
    let Err(error) = api.driver().await else { panic!() };
    assert!(matches!(error, OpenError::Cluster(_)) && error.to_string().contains("Forbidden"), "{error}");
}
