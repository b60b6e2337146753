//! A tenant's namespace: what is there before any sandbox is. Walls first: the right to work there, pod security, and
//! policies that let nothing pass.

use k8s_openapi::api::{
    core::v1::Namespace,
    networking::v1::NetworkPolicy,
    rbac::v1::{RoleBinding, RoleRef, Subject},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use std::collections::BTreeSet;

use super::{Context, dereference::resolved, egress};
use crate::{
    crd::Sandbox,
    names::{ATOLL, MANAGED_BY, OPERATOR, STRICT, TENANT},
};

/// The ClusterRole that the operator has in each tenant's namespace.
const ROLE: &str = "atoll-operator-tenant";

/// Whether a namespace is a tenant's: labelled as one, and named after it.
#[must_use]
pub fn tenant_of(namespace: &Namespace, context: &Context) -> Option<String> {
    let named = context.settings.namespaces.tenant(namespace.metadata.name.as_deref()?)?.to_owned();
    let labelled = namespace.labels().get(TENANT) == Some(&named);
    labelled.then_some(named)
}

/// Puts up the walls of a tenant's namespace. Repeating it changes nothing.
///
/// # Errors
/// When the cluster does not answer, or the operator has no right to do it.
pub async fn prepare(namespace: &Namespace, context: &Context) -> Result<(), kube::Error> {
    let name = namespace.name_any();
    if namespace.metadata.deletion_timestamp.is_some() {
        // It goes, and takes nothing new; its sandboxes still have to be let go.
        return Ok(());
    }
    bind(&name, context).await?;
    secure(namespace, context).await?;
    let settings = &context.settings;
    for policy in egress::ground(&name, &settings.namespaces.platform, &settings.platform_ranges) {
        put_policy(&policy, context).await?;
    }
    Ok(())
}

fn forced() -> PatchParams {
    PatchParams::apply(OPERATOR).force()
}

/// Gives the operator its role there, where it runs as a service account.
async fn bind(namespace: &str, context: &Context) -> Result<(), kube::Error> {
    let Some((of, account)) = &context.account else { return Ok(()) };
    let binding = RoleBinding {
        metadata: kube::core::ObjectMeta {
            name: Some(ROLE.into()),
            namespace: Some(namespace.into()),
            labels: Some([(MANAGED_BY.to_owned(), ATOLL.to_owned())].into()),
            ..Default::default()
        },
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".into()),
            kind: "ClusterRole".into(),
            name: ROLE.into(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: account.clone(),
            namespace: Some(of.clone()),
            api_group: None,
        }]),
    };
    let api = Api::<RoleBinding>::namespaced(context.client.clone(), namespace);
    api.patch(ROLE, &forced(), &Patch::Apply(&binding)).await.map(drop)
}

/// Pod security: `restricted` for strict tenants, otherwise `baseline`, with warnings of what is less than restricted.
async fn secure(namespace: &Namespace, context: &Context) -> Result<(), kube::Error> {
    let strict = namespace.labels().get(STRICT).is_some_and(|it| it == "true");
    let label = |mode: &str| format!("pod-security.kubernetes.io/{mode}");
    let wanted = [
        (label("enforce"), if strict { "restricted" } else { "baseline" }),
        (label("warn"), "restricted"),
        (label("audit"), "restricted"),
    ];
    if wanted.iter().all(|(key, value)| namespace.labels().get(key).is_some_and(|it| it == value)) {
        return Ok(());
    }
    let labels: serde_json::Map<_, _> = wanted.into_iter().map(|(key, value)| (key, json!(value))).collect();
    let api = Api::<Namespace>::all(context.client.clone());
    let patch = json!({ "metadata": { "labels": labels } });
    api.patch(&namespace.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

async fn put_policy(policy: &NetworkPolicy, context: &Context) -> Result<(), kube::Error> {
    let api =
        Api::<NetworkPolicy>::namespaced(context.client.clone(), &policy.namespace().unwrap_or_default());
    context.metrics.wrote();
    api.patch(&policy.name_any(), &forced(), &Patch::Apply(policy)).await.map(drop)
}

/// Makes sure that the class of what a sandbox may reach has its policy, with the cluster's addresses as they are now.
///
/// # Errors
/// When the cluster does not answer.
pub async fn open(
    namespace: &str,
    policy: &atoll_core::network::NetworkPolicy,
    context: &Context,
) -> Result<(), kube::Error> {
    let protected = context.protected();
    let platform = &context.settings.namespaces.platform;
    let Some(wanted) = egress::policy(policy, namespace, platform, &protected) else { return Ok(()) };
    if context.is_open(&wanted) {
        return Ok(());
    }
    put_policy(&wanted, context).await?;
    context.opened(policy.clone(), wanted);
    Ok(())
}

/// Removes the policies of classes that no sandbox of the namespace has any more.
///
/// # Errors
/// When the cluster does not answer.
pub async fn sweep(namespace: &str, context: &Context) -> Result<(), kube::Error> {
    let sandboxes = Api::<Sandbox>::namespaced(context.client.clone(), namespace);
    let all = sandboxes.list(&ListParams::default()).await?;
    let used: BTreeSet<String> = all
        .iter()
        .filter_map(resolved)
        .map(|resolved| format!("atoll-egress-{}", egress::class(&resolved.spec.network)))
        .collect();
    let api = Api::<NetworkPolicy>::namespaced(context.client.clone(), namespace);
    let there = api.list(&ListParams::default().labels(&format!("{MANAGED_BY}={ATOLL}"))).await?;
    for policy in there.iter().map(ResourceExt::name_any) {
        if policy.starts_with("atoll-egress-p-") && !used.contains(&policy) {
            api.delete(&policy, &DeleteParams::default()).await?;
            context.closed(namespace, &policy);
        }
    }
    Ok(())
}
