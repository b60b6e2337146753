//! The fourth step: what should exist is made, what should not is removed. Decides nothing but how.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{DynamicObject, NamespaceResourceScope},
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

use super::{
    Context,
    build::{Desired, ingress_route},
    dereference::Found,
    settings::Routing,
    validate::Validated,
};
use crate::{
    cluster::is_uncounted,
    names::{ID, NEW, OPERATOR},
};

/// What came of it.
#[derive(Debug, Default)]
pub struct Applied {
    /// The pod that is there now.
    pub pod: Option<Pod>,
    /// Why the cluster would not take the pod: a quota, a policy.
    pub refused: Option<String>,
}

/// Makes it so.
///
/// # Errors
/// When the cluster does not answer, or refuses what no user can mend.
pub async fn apply(
    it: &Validated,
    found: &Found,
    desired: Desired,
    context: &Context,
) -> Result<Applied, kube::Error> {
    // Without `..`: a kind that is forgotten here does not compile.
    let Desired { claims, pod, stateful, service, routes } = desired;
    for claim in claims {
        let refused = take(claim, found, context).await?;
        if refused.is_some() {
            return Ok(Applied { pod: found.pod.clone(), refused });
        }
    }
    if let Some(service) = service {
        put(&service, context).await?;
    }
    apply_routes(it, routes, context).await?;
    match stateful {
        Some(stateful) => apply_stateful(found, stateful, context).await,
        None => apply_pod(found, pod, context).await,
    }
}

fn forced() -> PatchParams {
    PatchParams::apply(OPERATOR).force()
}

/// Server-side apply.
async fn put<K>(object: &K, context: &Context) -> Result<K, kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let namespace = object.namespace().unwrap_or_default();
    let api = Api::<K>::namespaced(context.client.clone(), &namespace);
    context.metrics.wrote();
    api.patch(&object.name_any(), &forced(), &Patch::Apply(object)).await
}

/// A refusal that the sandbox's user or the tenant's administrator can do something about. A quota that is still being
/// counted is none: it is asked again.
fn refusal(error: kube::Error) -> Result<String, kube::Error> {
    match error {
        kube::Error::Api(status) if is_uncounted(&status.message) => Err(kube::Error::Api(status)),
        kube::Error::Api(status) if status.code == 403 || status.code == 422 => Ok(status.message.clone()),
        other => Err(other),
    }
}

/// Makes a claim, or takes over one that nobody has.
async fn take(
    claim: PersistentVolumeClaim,
    found: &Found,
    context: &Context,
) -> Result<Option<String>, kube::Error> {
    let Some(there) = found.claims.get(&claim.name_any()) else { return make(&claim, context).await };
    let size = |it: &PersistentVolumeClaim| it.spec.as_ref().and_then(|spec| spec.resources.clone());
    if there.labels().get(ID) == claim.labels().get(ID) && size(there) == size(&claim) {
        return Ok(None);
    }
    let mut claim = taken_over(claim, there);
    let Err(error) = put(&claim, context).await else { return Ok(None) };
    let refused = refusal(error)?;
    // Its storage class lets it not grow, which is no reason to keep its owner from it.
    tracing::warn!(claim = %claim.name_any(), %refused, "a volume keeps its size");
    if let (Some(wanted), Some(spec)) = (&mut claim.spec, &there.spec) {
        wanted.resources.clone_from(&spec.resources);
    }
    put(&claim, context).await.map_or_else(|error| refusal(error).map(Some), |_| Ok(None))
}

/// Not by server-side apply, which would take what another sandbox made just now.
async fn make(claim: &PersistentVolumeClaim, context: &Context) -> Result<Option<String>, kube::Error> {
    let namespace = claim.namespace().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &namespace);
    let params = PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() };
    context.metrics.wrote();
    api.create(&params, claim).await.map_or_else(|error| refusal(error).map(Some), |_| Ok(None))
}

/// A claim that is there, with the version that was seen: what another sandbox took meanwhile stays theirs. What cannot
/// change once it is bound stays as the cluster filled it in.
fn taken_over(mut claim: PersistentVolumeClaim, there: &PersistentVolumeClaim) -> PersistentVolumeClaim {
    claim.metadata.resource_version = there.resource_version();
    if let (Some(wanted), Some(spec)) = (&mut claim.spec, &there.spec) {
        wanted.storage_class_name.clone_from(&spec.storage_class_name);
        wanted.access_modes.clone_from(&spec.access_modes);
    }
    claim
}

/// Notes of new claims that a sandbox runs with them: from now on they are whole.
///
/// # Errors
/// When the cluster does not answer.
pub async fn are_whole(found: &Found, context: &Context) -> Result<(), kube::Error> {
    let patch = serde_json::json!({ "metadata": { "annotations": { NEW: null } } });
    for claim in found.claims.values().filter(|claim| claim.annotations().contains_key(NEW)) {
        let namespace = claim.namespace().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &namespace);
        context.metrics.wrote();
        api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    Ok(())
}

async fn apply_pod(found: &Found, pod: Option<Pod>, context: &Context) -> Result<Applied, kube::Error> {
    match (&found.pod, pod) {
        (None, None) => Ok(Applied::default()),
        (Some(there), None) => {
            delete(there, context).await?;
            Ok(Applied { pod: Some(there.clone()), refused: None })
        }
        (Some(there), Some(wanted)) => {
            relabel(there, wanted.labels(), context).await?;
            Ok(Applied { pod: Some(there.clone()), refused: None })
        }
        (None, Some(wanted)) => match put(&wanted, context).await {
            Ok(made) => Ok(Applied { pod: Some(made), refused: None }),
            Err(error) => Ok(Applied { pod: None, refused: Some(refusal(error)?) }),
        },
    }
}

async fn apply_stateful(
    found: &Found,
    stateful: StatefulSet,
    context: &Context,
) -> Result<Applied, kube::Error> {
    let replicas = |it: &StatefulSet| it.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    let starts = replicas(&stateful) > 0 && found.pod.is_none();
    if starts && let Some(refused) = would_refuse(&stateful, context).await? {
        return Ok(Applied { pod: None, refused: Some(refused) });
    }
    let same = |it: &StatefulSet| replicas(it) == replicas(&stateful) && it.labels() == stateful.labels();
    if !found.stateful.as_ref().is_some_and(same) {
        put(&stateful, context).await?;
    }
    if let Some(there) = &found.pod {
        relabel(there, stateful.labels(), context).await?;
    }
    Ok(Applied { pod: found.pod.clone(), refused: None })
}

/// The controller of StatefulSets tells about a quota only in events; the cluster tells us when it is asked.
async fn would_refuse(stateful: &StatefulSet, context: &Context) -> Result<Option<String>, kube::Error> {
    let spec = stateful.spec.clone().unwrap_or_default();
    let mut metadata = spec.template.metadata.unwrap_or_default();
    metadata.name = Some(format!("{}-0", stateful.name_any()));
    let pod = Pod { metadata, spec: spec.template.spec, status: None };
    let pods = Api::<Pod>::namespaced(context.client.clone(), &stateful.namespace().unwrap_or_default());
    let params = PostParams { dry_run: true, field_manager: Some(OPERATOR.into()) };
    match pods.create(&params, &pod).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => refusal(error).map(Some),
    }
}

/// Gives a pod the labels that it should have: what it may reach hangs on them.
async fn relabel(
    there: &Pod,
    wanted: &std::collections::BTreeMap<String, String>,
    context: &Context,
) -> Result<(), kube::Error> {
    if wanted.iter().all(|(key, value)| there.labels().get(key) == Some(value)) {
        return Ok(());
    }
    let pods = Api::<Pod>::namespaced(context.client.clone(), &there.namespace().unwrap_or_default());
    let patch = serde_json::json!({ "metadata": { "labels": wanted } });
    context.metrics.wrote();
    pods.patch(&there.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// Deletes gracefully, never by force: two pods must not write to one volume. What goes already is left alone.
pub async fn delete<K>(object: &K, context: &Context) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    if object.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    let api = Api::<K>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    context.metrics.wrote();
    match api.delete(&object.name_any(), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(drop),
    }
}

async fn apply_routes(
    it: &Validated,
    routes: Vec<DynamicObject>,
    context: &Context,
) -> Result<(), kube::Error> {
    let resource = ingress_route();
    let platform = &context.settings.namespaces.platform;
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), platform, &resource);
    let id = it.id();
    if context.settings.routing == Routing::PerSandbox {
        let there = api.list(&ListParams::default().labels(&format!("{ID}={id}"))).await?;
        let wanted: Vec<String> = routes.iter().map(ResourceExt::name_any).collect();
        for extra in there.items.iter().filter(|it| !wanted.contains(&it.name_any())) {
            api.delete(&extra.name_any(), &DeleteParams::default()).await?;
        }
    }
    for route in routes {
        context.metrics.wrote();
        api.patch(&route.name_any(), &forced(), &Patch::Apply(&route)).await?;
    }
    Ok(())
}

/// Removes the routes of a sandbox that goes.
///
/// # Errors
/// When the cluster does not answer.
pub async fn remove_routes(id: &str, context: &Context) -> Result<(), kube::Error> {
    if context.settings.routing != Routing::PerSandbox {
        return Ok(());
    }
    let platform = &context.settings.namespaces.platform;
    let selected = ListParams::default().labels(&format!("{ID}={id}"));
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), platform, &ingress_route());
    api.delete_collection(&DeleteParams::default(), &selected).await.map(drop)
}
