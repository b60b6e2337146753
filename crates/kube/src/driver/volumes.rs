//! Users' volumes: the claims that the operator made for them.

use async_trait::async_trait;
use atoll_core::{
    driver::{DriverError, ListQuery},
    owner,
    quantity::Bytes,
    volume::{VolumeInfo, Volumes},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
};

use super::{
    Inner, KubeDriver, plain,
    request::{RequestError, persist},
};
use crate::names::{Namespaces, OWNER, OWNER_LABEL, VOLUME, claim};

#[async_trait]
impl Volumes for KubeDriver {
    async fn list(&self, tenant: Option<&str>, owner: Option<&str>) -> Result<Vec<VolumeInfo>, DriverError> {
        let inner = &self.inner;
        let api = inner.claims(tenant);
        let mut labels = VOLUME.to_owned();
        if let (Some(tenant), Some(owner)) = (tenant, owner) {
            labels = format!("{VOLUME},{OWNER_LABEL}={}", owner::label(tenant, owner));
        }
        let params = ListParams::default().labels(&labels);
        let found = persist(|| api.list(&params)).await.map_err(refused)?;
        let infos = found.items.iter().filter_map(|it| info(it, &inner.shared.namespaces));
        let mut infos: Vec<_> = infos.filter(|it| owner.is_none_or(|owner| it.owner == owner)).collect();
        for it in &mut infos {
            it.used_by = inner.user_of(&it.tenant, &it.owner, &it.name);
        }
        infos.sort_by(|a, b| (&a.tenant, &a.owner, &a.name).cmp(&(&b.tenant, &b.owner, &b.name)));
        Ok(infos)
    }

    async fn remove(&self, tenant: &str, owner: &str, name: &str) -> Result<(), DriverError> {
        let missing = || DriverError::NotFound(format!("volume {name} of {owner}"));
        if let Some(by) = self.inner.user_of(tenant, owner, name) {
            return Err(DriverError::InUse(format!("volume {name} of {owner} is used by sandbox {by}")));
        }
        let api = self.inner.claims(Some(tenant));
        let claim = claim(name, &owner::label(tenant, owner));
        let found = persist(|| api.get_opt(&claim)).await.map_err(refused)?;
        let ours = found.filter(|it| info(it, &self.inner.shared.namespaces).is_some());
        let this = Preconditions { uid: ours.ok_or_else(missing)?.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(this), ..DeleteParams::background() };
        match persist(|| api.delete(&claim, &params)).await {
            Err(error) if error.is_missing() => Err(missing()),
            deleted => deleted.map(drop).map_err(refused),
        }
    }
}

impl Inner {
    fn claims(&self, tenant: Option<&str>) -> Api<PersistentVolumeClaim> {
        match tenant {
            None => Api::all(self.client.clone()),
            Some(tenant) => Api::namespaced(self.client.clone(), &self.shared.namespaces.of(tenant)),
        }
    }

    /// The sandbox that has a volume, also while it rests.
    fn user_of(&self, tenant: &str, owner: &str, name: &str) -> Option<atoll_core::id::SandboxId> {
        let query = ListQuery {
            tenant: Some(tenant.to_owned()),
            owner: Some(owner.to_owned()),
            limit: usize::MAX,
            ..ListQuery::default()
        };
        let hers = self.shared.cache.list(&query).items;
        let user = hers.into_iter().find(|it| it.spec.volumes.iter().any(|volume| volume.name == name));
        user.map(|it| it.spec.id)
    }
}

/// The chart gives the right to claims only where volumes are to be managed through the API.
fn refused(error: RequestError) -> DriverError {
    match error {
        RequestError::Refused(status) if status.code == 403 => DriverError::Unsupported(format!(
            "the API server of Atoll may not see the cluster's volume claims, so volumes are managed with kubectl: {}",
            status.message
        )),
        other => plain(other),
    }
}

/// A claim as a volume, when it is one and is not going away.
fn info(claim: &PersistentVolumeClaim, namespaces: &Namespaces) -> Option<VolumeInfo> {
    if claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let spec = claim.spec.as_ref()?;
    let size = spec.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    Some(VolumeInfo {
        tenant: namespaces.tenant(&claim.namespace()?)?.to_owned(),
        owner: claim.annotations().get(OWNER)?.clone(),
        name: claim.labels().get(VOLUME)?.clone(),
        size: Bytes::parse("size", &size.0).ok()?,
        created_at: claim.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |at| at.0),
        used_by: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_claims_of_users_in_tenants_namespaces_are_volumes() {
        let of = |namespace: &str, owner: &str, going: bool| {
            let going = going.then_some("2026-01-01T00:00:00Z");
            let claim = json!({
                "metadata": { "name": "home-alice", "namespace": namespace, "labels": { VOLUME: "home" },
                    "annotations": { owner: "alice" }, "deletionTimestamp": going },
                "spec": { "resources": { "requests": { "storage": "5Gi" } } },
            });
            info(&serde_json::from_value(claim).unwrap(), &Namespaces::default())
        };
        let volume = of("tenant-acme", OWNER, false).unwrap();
        assert_eq!(
            (volume.tenant.as_str(), volume.owner.as_str(), volume.size),
            ("acme", "alice", Bytes(5 << 30))
        );
        assert!(of("default", OWNER, false).is_none());
        assert!(of("tenant-acme", "other", false).is_none());
        assert!(of("tenant-acme", OWNER, true).is_none());
    }
}
