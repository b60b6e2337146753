//! When each stage on the way to a ready sandbox, or pod, was seen by a watch. It must not know who asked for it.

use anyhow::Result;
use atoll_tests::stats::Times;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent, WatchParams},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

use super::{Bench, NAMESPACE};
use crate::table::Table;

/// A stage, in the order in which they are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The Sandbox object is there.
    Object,
    /// The pod is there.
    Pod,
    /// The scheduler has chosen its node.
    Placed,
    /// Its container runs.
    Started,
    /// The kubelet calls it ready.
    Ready,
    /// The operator calls the sandbox running.
    Running,
    /// The server has answered.
    Answered,
}

const ORDER: [(Stage, &str); 7] = [
    (Stage::Object, "object"),
    (Stage::Pod, "pod"),
    (Stage::Placed, "on a node"),
    (Stage::Started, "container runs"),
    (Stage::Ready, "pod Ready"),
    (Stage::Running, "Running"),
    (Stage::Answered, "answer"),
];

/// What was seen of everything, by name.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<HashMap<(String, Stage), Instant>>>);

impl Seen {
    /// Notes a stage, the first time.
    pub fn reached(&self, name: &str, stage: Stage) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry((name.to_owned(), stage)).or_insert_with(Instant::now);
    }

    /// When that was, if it was.
    pub fn at(&self, name: &str, stage: Stage) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(name.to_owned(), stage)).copied()
    }

    fn pod(&self, pod: &Pod) {
        let name = pod.name_any();
        self.reached(&name, Stage::Pod);
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            self.reached(&name, Stage::Placed);
        }
        let containers = pod.status.iter().flat_map(|it| it.container_statuses.iter().flatten());
        if containers.filter_map(|it| it.state.as_ref()).any(|state| state.running.is_some()) {
            self.reached(&name, Stage::Started);
        }
        if is_ready(pod) {
            self.reached(&name, Stage::Ready);
        }
    }

    fn sandbox(&self, sandbox: &DynamicObject) {
        let name = sandbox.name_any();
        self.reached(&name, Stage::Object);
        if sandbox.data["status"]["phase"] == "Running" {
            self.reached(&name, Stage::Running);
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Watches until dropped.
pub async fn watch(bench: &Bench, seen: &Seen) -> Result<JoinSet<Result<()>>> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("atoll.dev", "v1alpha1", "Sandbox"));
    let resource = ApiResource { plural: "sandboxes".into(), ..resource };
    let sandboxes = Api::<DynamicObject>::namespaced_with(bench.kube.clone(), NAMESPACE, &resource);
    let all = WatchParams::default().timeout(290);
    let pods = bench.pods().watch(&all, "0").await?.boxed();
    let objects = sandboxes.watch(&all, "0").await?.boxed();
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(pods, seen.clone(), Seen::pod));
    tasks.spawn(follow(objects, seen.clone(), Seen::sandbox));
    Ok(tasks)
}

async fn follow<K>(
    mut events: BoxStream<'static, kube::Result<WatchEvent<K>>>,
    seen: Seen,
    note: fn(&Seen, &K),
) -> Result<()> {
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event {
            note(&seen, &object);
        }
    }
    Ok(())
}

/// From asking to a stage, for each of `asked`.
pub fn until(seen: &Seen, asked: &[(String, Instant)], stage: Stage) -> Times {
    asked.iter().filter_map(|(name, begun)| Some(seen.at(name, stage)?.duration_since(*begun))).collect()
}

/// Prints how long each stage took after the one before.
pub fn tell(what: &str, seen: &Seen, asked: &[(String, Instant)], table: &mut Table) {
    let mut before = asked.iter().map(|(_, begun)| Some(*begun)).collect::<Vec<_>>();
    for (stage, name) in ORDER {
        let now: Vec<_> = asked.iter().map(|(name, _)| seen.at(name, stage)).collect();
        let steps: Vec<Duration> = before
            .iter()
            .zip(&now)
            .filter_map(|(before, now)| Some((*now)?.saturating_duration_since((*before)?)))
            .collect();
        if !steps.is_empty() {
            table.add_times(&format!("  {what}: -> {name}"), &steps.into_iter().collect(), "");
            before = now;
        }
    }
}
