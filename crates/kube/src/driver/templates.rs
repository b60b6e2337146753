//! Templates as objects of the cluster: a tenant's own in its namespace, shared ones in the platform's. The cluster keeps
//! only the newest version of each.

use async_trait::async_trait;
use atoll_core::{
    store::{StoreError, Templates},
    template::{Template, TemplateSpec},
};
use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use std::collections::BTreeMap;

use super::{
    create::NO_IO,
    failure::{NO_DEFINITIONS, is_about, no_namespace},
    request::{RequestError, persist},
};
use crate::{
    convert::{template_in, template_out},
    crd::SandboxTemplate,
    names::{API, Namespaces},
};

/// The templates of a cluster.
#[derive(Clone)]
pub struct KubeTemplates {
    client: Client,
    namespaces: Namespaces,
}

impl KubeTemplates {
    /// Of this cluster.
    #[must_use]
    pub fn new(client: Client, namespaces: Namespaces) -> Self {
        Self { client, namespaces }
    }

    fn of(&self, tenant: &str) -> Api<SandboxTemplate> {
        Api::namespaced(self.client.clone(), &self.namespaces.of(tenant))
    }

    fn shared(&self) -> Api<SandboxTemplate> {
        Api::namespaced(self.client.clone(), &self.namespaces.platform)
    }

    /// The tenant's own, otherwise the platform's.
    async fn find(&self, tenant: &str, name: &str) -> Result<SandboxTemplate, StoreError> {
        for api in [self.of(tenant), self.shared()] {
            if let Some(found) = persist(|| api.get_opt(name)).await.map_err(failed)? {
                return Ok(found);
            }
        }
        Err(missing(name))
    }
}

#[async_trait]
impl Templates for KubeTemplates {
    /// Fields that others own, as an administrator's `spec.pod`, are left as they are.
    async fn put_template(
        &self,
        tenant: &str,
        name: &str,
        spec: &TemplateSpec,
        _now: Timestamp,
    ) -> Result<Template, StoreError> {
        if !spec.io.is_none() {
            return Err(StoreError::Invalid(NO_IO.into()));
        }
        let patch = Patch::Apply(SandboxTemplate::new(name, template_out(spec)));
        let (api, params) = (self.of(tenant), PatchParams::apply(API).force());
        let put = persist(|| api.patch(name, &params, &patch)).await;
        match put {
            Ok(object) => template(&object),
            Err(RequestError::Refused(status)) if status.code == 404 && is_about(&status, "namespaces") => {
                Err(StoreError::Invalid(no_namespace(tenant, &self.namespaces)))
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn template(&self, tenant: &str, name: &str, version: Option<i64>) -> Result<Template, StoreError> {
        let found = template(&self.find(tenant, name).await?)?;
        match version.filter(|version| *version != found.version) {
            None => Ok(found),
            Some(version) => Err(StoreError::NotFound(format!(
                "version {version} of template {name} (the cluster keeps only the newest, {})",
                found.version
            ))),
        }
    }

    async fn templates(&self, tenant: &str) -> Result<Vec<Template>, StoreError> {
        let (mut all, params) = (BTreeMap::new(), ListParams::default());
        for api in [self.shared(), self.of(tenant)] {
            let found = persist(|| api.list(&params)).await.map_err(failed)?;
            all.extend(found.into_iter().map(|it| (it.name_any(), it)));
        }
        all.values().map(template).collect()
    }

    async fn template_versions(&self, tenant: &str, name: &str) -> Result<Vec<Template>, StoreError> {
        Ok(vec![self.template(tenant, name, None).await?])
    }

    async fn delete_template(&self, tenant: &str, name: &str) -> Result<(), StoreError> {
        let (api, params) = (self.of(tenant), DeleteParams::default());
        let deleted = persist(|| api.delete(name, &params)).await;
        match deleted {
            Err(error) if error.is_missing() => {
                self.find(tenant, name).await?;
                let whose = "is the platform's; only an administrator of the cluster can delete it";
                Err(StoreError::Invalid(format!("template {name} {whose}")))
            }
            deleted => deleted.map(drop).map_err(failed),
        }
    }
}

fn missing(name: &str) -> StoreError {
    StoreError::NotFound(format!("template {name}"))
}

fn failed(error: RequestError) -> StoreError {
    match error {
        RequestError::Refused(status) if matches!(status.code, 400 | 413 | 422) => {
            StoreError::Invalid(status.message.clone())
        }
        RequestError::Refused(status) if status.code == 404 => {
            StoreError::Database(format!("{}: {NO_DEFINITIONS}", status.message))
        }
        other => StoreError::Database(other.to_string()),
    }
}

/// An object as a template. One that was written by hand may say what cannot be.
fn template(object: &SandboxTemplate) -> Result<Template, StoreError> {
    let name = object.name_any();
    let spec = template_in(&object.spec)
        .map_err(|invalid| StoreError::Invalid(format!("template {name}: {invalid}")))?;
    Ok(Template {
        version: object.metadata.generation.unwrap_or(1),
        created_at: written_at(object),
        name,
        spec,
    })
}

/// When what it says was last written, not what became of it.
fn written_at(object: &SandboxTemplate) -> Timestamp {
    let writes = object.managed_fields().iter().filter(|it| it.subresource.is_none());
    let last = writes.filter_map(|it| it.time.as_ref()).map(|time| time.0).max();
    last.or(object.creation_timestamp().map(|at| at.0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_objects_generation_is_its_version() {
        let object = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "SandboxTemplate",
            "metadata": { "name": "base", "generation": 4, "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [
                { "manager": "atoll-api", "operation": "Apply", "time": "2026-02-01T00:00:00Z" },
                { "manager": "atoll-operator", "operation": "Apply", "time": "2026-03-01T00:00:00Z", "subresource": "status" },
            ] },
            "spec": { "image": "x", "pod": { "priorityClass": "high" } },
        });
        let mut object: SandboxTemplate = serde_json::from_value(object).unwrap();
        let made = template(&object).unwrap();
        assert_eq!((made.version, made.created_at.to_string().as_str()), (4, "2026-02-01T00:00:00Z"));
        object.spec.recipe.network =
            Some(crate::crd::Network { allow: vec!["nowhere".into()], ..Default::default() });
        assert!(template(&object).unwrap_err().to_string().contains("nowhere"));
    }
}
