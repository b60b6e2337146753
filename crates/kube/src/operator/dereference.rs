//! The first step: everything that a sandbox depends on is read. Decides nothing about it.

use atoll_core::template::{EXECUTOR, builtin};
use futures::future::try_join_all;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Node, PersistentVolumeClaim, Pod},
    node::v1::RuntimeClass,
    storage::v1::StorageClass,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;

use super::{
    Context,
    context::Note,
    registry::ImageAnswer,
    status::{Observed, lost, silent_node},
};
use crate::{
    convert::Resolved,
    crd::{Recipe, Sandbox, SandboxTemplate, SandboxTemplateSpec},
    names::{ID, STRICT, claim, id_of},
};

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The pod of an ephemeral sandbox, or the one of its StatefulSet.
    pub pod: Option<Pod>,
    /// The StatefulSet of a persistent one.
    pub stateful: Option<StatefulSet>,
    /// Its volumes' claims that are there already, by name.
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    /// Claims that another sandbox has, which still exists: that one's identifier.
    pub holders: BTreeMap<String, String>,
    /// What the pod's node said about it when it was in trouble.
    pub note: Option<Note>,
    /// What the sandbox is while its node is silent.
    pub lost: Option<Observed>,
    /// Whether what runs under its identifier belongs to something else.
    pub taken: bool,
    /// Whether an older sandbox has its identifier.
    pub rival: bool,
    /// What was decided before; then nothing below was looked up.
    pub resolved: Option<Resolved>,
    /// Its template.
    pub template: Option<SandboxTemplate>,
    /// What the registry said about its image.
    pub image: Option<ImageAnswer>,
    /// Whether no root may be inside.
    pub strict: bool,
    /// A RuntimeClass that the template names and that is not there.
    pub no_runtime: Option<String>,
    /// A StorageClass that the template names and that is not there.
    pub no_storage: Option<String>,
}

/// What was decided about a sandbox before, as its status has it.
#[must_use]
pub fn resolved(sandbox: &Sandbox) -> Option<Resolved> {
    serde_json::from_value(sandbox.status.as_ref()?.resolved.clone()?).ok()
}

/// Reads everything that `sandbox` depends on.
///
/// # Errors
/// When the cluster does not answer.
pub async fn dereference(sandbox: &Sandbox, tenant: &str, context: &Context) -> Result<Found, kube::Error> {
    let mut found = match resolved(sandbox) {
        Some(resolved) => Found { resolved: Some(resolved), ..Found::default() },
        None => unresolved(sandbox, context).await?,
    };
    live(sandbox, tenant, context, &mut found).await?;
    found.rival = context.has_rival(sandbox);
    if is_taken(sandbox, &found) {
        // Nothing that follows may touch it.
        found = Found { taken: true, pod: None, stateful: None, ..found };
    }
    found.note = found.pod.as_ref().and_then(|pod| context.noted(pod.metadata.uid.as_deref()));
    found.lost = lost_node(found.pod.as_ref(), context).await?;
    Ok(found)
}

/// An identifier that is an object's name is also the name of what runs: that may be there already and be somebody else's.
fn is_taken(sandbox: &Sandbox, found: &Found) -> bool {
    let ours = |owners: &[OwnerReference]| owners.iter().any(|it| Some(&it.uid) == sandbox.uid().as_ref());
    match (&found.stateful, &found.pod) {
        (Some(stateful), _) => !ours(stateful.owner_references()),
        // The pod of a StatefulSet that is gone goes too.
        (None, Some(pod)) => !ours(pod.owner_references()) && !is_of_a_set(pod),
        (None, None) => false,
    }
}

fn is_of_a_set(pod: &Pod) -> bool {
    pod.owner_references().iter().any(|it| it.kind == "StatefulSet")
}

async fn lost_node(pod: Option<&Pod>, context: &Context) -> Result<Option<Observed>, kube::Error> {
    let Some(name) = pod.and_then(silent_node) else { return Ok(None) };
    let node = Api::<Node>::all(context.client.clone()).get_opt(name).await?;
    let conditions = node.and_then(|it| it.status?.conditions).unwrap_or_default();
    let why = conditions.into_iter().find(|it| it.type_ == "Ready" && it.status != "True");
    Ok(Some(lost(name, &why.and_then(|it| it.message).unwrap_or_default())))
}

/// What runs already.
async fn live(
    sandbox: &Sandbox,
    tenant: &str,
    context: &Context,
    found: &mut Found,
) -> Result<(), kube::Error> {
    let namespace = sandbox.namespace().unwrap_or_default();
    let id = id_of(sandbox).to_string();
    let (client, pods) = (&context.client, Api::<Pod>::namespaced(context.client.clone(), &namespace));
    let names = claims(sandbox, tenant, found);
    if names.is_empty() {
        found.pod = pods.get_opt(&id).await?;
        return Ok(());
    }
    let sets = Api::<StatefulSet>::namespaced(client.clone(), &namespace);
    let pod = format!("{id}-0");
    (found.stateful, found.pod) = tokio::try_join!(sets.get_opt(&id), pods.get_opt(&pod))?;
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
    let there = try_join_all(names.iter().map(|name| api.get_opt(name))).await?;
    for claim in there.into_iter().flatten() {
        if let Some(holder) = holder(&claim, &id, &namespace, context).await? {
            found.holders.insert(claim.name_any(), holder);
        }
        found.claims.insert(claim.name_any(), claim);
    }
    Ok(())
}

/// The names of its claims.
fn claims(sandbox: &Sandbox, tenant: &str, found: &Found) -> Vec<String> {
    let Some(owner) = &sandbox.spec.owner else { return Vec::new() };
    let own = &sandbox.spec.recipe.volumes;
    let names: Vec<String> = match (&found.resolved, &found.template) {
        (Some(resolved), _) => resolved.spec.volumes.iter().map(|it| it.name.clone()).collect(),
        (None, Some(template)) if own.is_empty() => template.spec.recipe.volumes.keys().cloned().collect(),
        (None, _) => own.keys().cloned().collect(),
    };
    let label = atoll_core::owner::label(tenant, owner);
    names.iter().map(|name| claim(name, &label)).collect()
}

async fn holder(
    claim: &PersistentVolumeClaim,
    id: &str,
    namespace: &str,
    context: &Context,
) -> Result<Option<String>, kube::Error> {
    let Some(holder) = claim.labels().get(ID).filter(|holder| *holder != id) else { return Ok(None) };
    let there = context.sandbox_of(namespace, holder).await?;
    Ok(there.map(|_| holder.clone()))
}

async fn unresolved(sandbox: &Sandbox, context: &Context) -> Result<Found, kube::Error> {
    let namespace = sandbox.namespace().unwrap_or_default();
    let namespaces = Api::<Namespace>::all(context.client.clone());
    let strict = namespaces.get(&namespace).await?.labels().get(STRICT).is_some_and(|it| it == "true");
    let template = match &sandbox.spec.template {
        Some(name) => template(name, &namespace, context).await?,
        None => None,
    };
    let image = image(sandbox, template.as_ref(), context).await;
    let runtime = template.as_ref().and_then(|it| it.spec.runtime.clone());
    let storage = template.as_ref().and_then(|it| it.spec.pod.as_ref()?.storage_class.clone());
    let no_runtime = missing::<RuntimeClass>(runtime, context).await?;
    let no_storage = missing::<StorageClass>(storage, context).await?;
    Ok(Found { template, image, strict, no_runtime, no_storage, ..Found::default() })
}

async fn missing<K>(name: Option<String>, context: &Context) -> Result<Option<String>, kube::Error>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let Some(name) = name else { return Ok(None) };
    if !is_object_name(&name) {
        return Ok(Some(name));
    }
    let there = Api::<K>::all(context.client.clone()).get_metadata_opt(&name).await?;
    Ok(there.is_none().then_some(name))
}

/// Anything else would ask the cluster for something that is not there to be asked for: a name becomes part of a path.
fn is_object_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.split('.').all(|part| !part.is_empty() && part.bytes().all(plain))
}

/// The tenant's template of that name, or the platform's, or a built-in one.
async fn template(
    name: &str,
    namespace: &str,
    context: &Context,
) -> Result<Option<SandboxTemplate>, kube::Error> {
    if !is_object_name(name) {
        return Ok(None);
    }
    for namespace in [namespace, &context.settings.namespaces.platform] {
        let api = Api::<SandboxTemplate>::namespaced(context.client.clone(), namespace);
        if let Some(found) = api.get_opt(name).await? {
            return Ok(Some(found));
        }
    }
    let built_in = match name {
        EXECUTOR => Some(context.settings.executor.clone()),
        name => builtin(name),
    };
    Ok(built_in.map(|spec| SandboxTemplate::new(name, crate::convert::template_out(&spec))))
}

async fn image(
    sandbox: &Sandbox,
    template: Option<&SandboxTemplate>,
    context: &Context,
) -> Option<ImageAnswer> {
    let of_template = |spec: &SandboxTemplateSpec| spec.recipe.image.clone();
    let Recipe { image, .. } = &sandbox.spec.recipe;
    let reference = image.clone().or_else(|| of_template(&template?.spec))?;
    let known = template.and_then(|it| it.status.clone()?.image).filter(|image| image.reference == reference);
    match known {
        Some(image) => Some(ImageAnswer::Found(image)),
        None => Some(context.image(&reference).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_lead_elsewhere_are_none() {
        for good in ["base", "a.b-2", "0"] {
            assert!(is_object_name(good), "{good}");
        }
        for bad in ["", "..", "../x", "a/b", "a..b", "x?watch=1", "A", "a%2fb", "."] {
            assert!(!is_object_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_runs_is_known_by_its_owner() {
        let mut sandbox = Sandbox::new("i0123456789abcdefghi", Default::default());
        sandbox.metadata.uid = Some("mine".into());
        let pod = |kind: &str, uid: &str| {
            let owner = OwnerReference { kind: kind.into(), uid: uid.into(), ..OwnerReference::default() };
            let mut pod = Pod::default();
            pod.metadata.owner_references = Some(vec![owner]);
            Found { pod: Some(pod), ..Found::default() }
        };
        assert!(!is_taken(&sandbox, &pod("Sandbox", "mine")));
        assert!(is_taken(&sandbox, &pod("Sandbox", "another")));
        assert!(!is_taken(&sandbox, &pod("StatefulSet", "of mine")));
        assert!(is_taken(&sandbox, &Found { pod: Some(Pod::default()), ..Found::default() }));
        assert!(is_taken(&sandbox, &Found { stateful: Some(StatefulSet::default()), ..Found::default() }));
        assert!(!is_taken(&sandbox, &Found::default()));
    }
}
