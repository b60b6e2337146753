//! What is right and wrong with the cluster, as far as this server's rights let it see.

use atoll_core::{
    driver::{Check, CheckStatus},
    key::DEFAULT_TENANT,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    coordination::v1::Lease,
    node::v1::RuntimeClass,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};

use super::{
    Inner,
    failure::{NO_DEFINITIONS, no_namespace},
    request::{RequestError, persist},
};
use crate::{crd, operator::LEASE};

/// What the driver does with the cluster: verb, group, resource.
const NEEDS: [(&str, &str, &str); 11] = [
    ("list", "atoll.dev", "sandboxes"),
    ("watch", "atoll.dev", "sandboxes"),
    ("create", "atoll.dev", "sandboxes"),
    ("patch", "atoll.dev", "sandboxes"),
    ("delete", "atoll.dev", "sandboxes"),
    ("patch", "atoll.dev", "sandboxes/status"),
    ("list", "atoll.dev", "sandboxtemplates"),
    ("create", "atoll.dev", "sandboxtemplates"),
    ("patch", "atoll.dev", "sandboxtemplates"),
    ("delete", "atoll.dev", "sandboxtemplates"),
    ("get", "", "pods/log"),
];
/// A Lease that was not renewed for so many times its length is nobody's.
const STALE: i64 = 2;

impl Inner {
    pub(super) async fn doctor(&self) -> Vec<Check> {
        let (definitions, rights, operator, tenant, runtimes) = tokio::join!(
            self.definitions(),
            self.rights(),
            self.operator(),
            self.default_tenant(),
            self.runtimes()
        );
        [Some(definitions), Some(rights), Some(operator), Some(tenant), runtimes]
            .into_iter()
            .flatten()
            .collect()
    }

    async fn definitions(&self) -> Check {
        let wanted = crd::definitions();
        let version = "atoll.dev/v1alpha1";
        let found = persist(|| self.client.list_api_group_resources(version)).await;
        let names: Vec<String> = match found {
            Ok(list) => list.resources.into_iter().map(|it| it.name).collect(),
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return unseen("definitions", &error),
        };
        let lacks: Vec<String> =
            wanted.into_iter().map(|it| it.spec.names.plural).filter(|it| !names.contains(it)).collect();
        if lacks.is_empty() {
            return check("definitions", CheckStatus::Ok, format!("the cluster has {version}"), None);
        }
        let detail = format!("{version} lacks {}", lacks.join(", "));
        check("definitions", CheckStatus::Fail, detail, Some(NO_DEFINITIONS.into()))
    }

    async fn rights(&self) -> Check {
        let mut lacks = Vec::new();
        for need in NEEDS {
            match self.may(need).await {
                Ok(true) => {}
                Ok(false) => lacks.push(format!("{} {}", need.0, need.2)),
                Err(error) => return unseen("rights", &error),
            }
        }
        if lacks.is_empty() {
            let detail = "this server may do what it needs in every namespace".to_owned();
            return check("rights", CheckStatus::Ok, detail, None);
        }
        let mend = "grant them to its service account, as the chart's ClusterRole does".to_owned();
        check("rights", CheckStatus::Fail, format!("it may not: {}", lacks.join(", ")), Some(mend))
    }

    async fn may(&self, (verb, group, resource): (&str, &str, &str)) -> Result<bool, RequestError> {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (resource, None),
        };
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let api = Api::<SelfSubjectAccessReview>::all(self.client.clone());
        let params = PostParams::default();
        let answer = persist(|| api.create(&params, &review)).await?;
        Ok(answer.status.is_some_and(|it| it.allowed))
    }

    async fn operator(&self) -> Check {
        let platform = &self.shared.namespaces.platform;
        let api = Api::<Lease>::namespaced(self.client.clone(), platform);
        match persist(|| api.get_opt(LEASE)).await {
            Ok(lease) => operator(lease.as_ref(), Timestamp::now(), platform),
            Err(error) => unseen("operator", &error),
        }
    }

    /// Nothing is made: the cluster is only asked whether it would be.
    async fn default_tenant(&self) -> Check {
        let namespace = self.shared.namespaces.of(DEFAULT_TENANT);
        let api = Api::<crd::Sandbox>::namespaced(self.client.clone(), &namespace);
        let recipe = crd::Recipe { image: Some("probe".into()), ..crd::Recipe::default() };
        let probe = crd::Sandbox::new("probe", crd::SandboxSpec { recipe, ..crd::SandboxSpec::default() });
        let params = PostParams { dry_run: true, ..PostParams::default() };
        match persist(|| api.create(&params, &probe)).await {
            Ok(_) => check("tenant", CheckStatus::Ok, format!("namespace {namespace} takes sandboxes"), None),
            Err(RequestError::Refused(status)) if status.code == 404 => {
                let mend = no_namespace(DEFAULT_TENANT, &self.shared.namespaces);
                let detail = format!("there is no namespace {namespace} for tenant {DEFAULT_TENANT}");
                check("tenant", CheckStatus::Warn, detail, Some(mend))
            }
            Err(error) => check("tenant", CheckStatus::Warn, format!("{namespace}: {error}"), None),
        }
    }

    /// Nothing is said where they cannot be seen: the operator looks at them itself.
    async fn runtimes(&self) -> Option<Check> {
        let api = Api::<RuntimeClass>::all(self.client.clone());
        let all = ListParams::default();
        let found = persist(|| api.list(&all)).await.ok()?;
        let names: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
        if names.is_empty() {
            let detail = "there is no RuntimeClass: sandboxes share their nodes' kernels".to_owned();
            let mend = "install gVisor or Kata Containers for tenants that are not trusted".to_owned();
            return Some(check("runtimes", CheckStatus::Warn, detail, Some(mend)));
        }
        Some(check("runtimes", CheckStatus::Ok, format!("RuntimeClasses: {}", names.join(", ")), None))
    }
}

fn check(name: &str, status: CheckStatus, detail: String, mend: Option<String>) -> Check {
    Check { name: name.to_owned(), status, detail, mend }
}

fn unseen(name: &str, error: &RequestError) -> Check {
    let status = match error {
        RequestError::Refused(_) => CheckStatus::Warn,
        _ => CheckStatus::Fail,
    };
    check(name, status, format!("it cannot be seen: {error}"), None)
}

fn operator(lease: Option<&Lease>, now: Timestamp, platform: &str) -> Check {
    let mend = || Some(format!("look at it with `kubectl -n {platform} get lease,pods`"));
    let Some(spec) = lease.and_then(|it| it.spec.as_ref()) else {
        let detail = format!("no operator has ever run: there is no Lease {LEASE} in {platform}");
        return check("operator", CheckStatus::Fail, detail, mend());
    };
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let renewed = spec.renew_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0);
    let silent = now.duration_since(renewed).as_secs();
    if silent > STALE * i64::from(spec.lease_duration_seconds.unwrap_or_default()) {
        let detail = format!("{holder} led, and has not been heard of for {silent} s");
        return check("operator", CheckStatus::Fail, detail, mend());
    }
    check("operator", CheckStatus::Ok, format!("{holder} leads"), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_silent_operator_is_none() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let lease = json!({ "spec": { "holderIdentity": "op-1", "leaseDurationSeconds": 15,
            "renewTime": "2026-01-01T00:00:00.000000Z" } });
        let lease: Lease = serde_json::from_value(lease).unwrap();
        let status = |lease, now| operator(lease, at(now), "atoll-system").status;
        assert_eq!(status(Some(&lease), "2026-01-01T00:00:10Z"), CheckStatus::Ok);
        assert_eq!(status(Some(&lease), "2026-01-01T00:01:00Z"), CheckStatus::Fail);
        assert_eq!(status(None, "2026-01-01T00:00:10Z"), CheckStatus::Fail);
    }
}
