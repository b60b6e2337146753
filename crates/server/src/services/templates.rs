//! Templates of a tenant: each change makes a version, and sandboxes carry their own copy.

use atoll_core::{
    id::check_name,
    key::DEFAULT_TENANT,
    store::StoreError,
    template::{self, EXECUTOR, Template, TemplateSpec},
};
use atoll_proto::api;
use std::collections::BTreeSet;

use super::{Services, access::Caller, convert, error::ServiceError};

impl Services {
    /// Stores a recipe as the newest version, unless it is the newest already.
    pub async fn put_template(
        &self,
        caller: &Caller,
        name: &str,
        spec: api::TemplateSpec,
    ) -> Result<api::Template, ServiceError> {
        check_name("name", name)?;
        let spec = convert::template_spec_in(spec)?;
        spec.check()?;
        let stored =
            self.base.templates.put_template(&caller.tenant, name, &spec, self.base.world.now()).await?;
        Ok(convert::template(stored))
    }

    /// One version of a template, or the newest.
    pub async fn template(
        &self,
        caller: &Caller,
        name: &str,
        version: Option<i64>,
    ) -> Result<api::Template, ServiceError> {
        Ok(convert::template(self.recipe(&caller.tenant, name, version).await?))
    }

    /// Makes the recipe of an earlier version the newest again.
    pub async fn roll_template_back(
        &self,
        caller: &Caller,
        name: &str,
        to: i64,
    ) -> Result<api::Template, ServiceError> {
        let spec = self.recipe(&caller.tenant, name, Some(to)).await?.spec;
        let now = self.base.world.now();
        Ok(convert::template(self.base.templates.put_template(&caller.tenant, name, &spec, now).await?))
    }

    /// A tenant's template, or the built-in one where the tenant has none of that name. A built-in one is version 0.
    pub(super) async fn recipe(
        &self,
        tenant: &str,
        name: &str,
        version: Option<i64>,
    ) -> Result<Template, StoreError> {
        match self.base.templates.template(tenant, name, version).await {
            Err(StoreError::NotFound(what)) => {
                let spec = self.builtin(name).filter(|_| version.is_none_or(|version| version == 0));
                let spec = spec.ok_or(StoreError::NotFound(what))?;
                Ok(Template { name: name.to_owned(), version: 0, spec, created_at: self.started_at })
            }
            found => found,
        }
    }

    /// A built-in recipe; the executor's is as this server was told.
    fn builtin(&self, name: &str) -> Option<TemplateSpec> {
        if name == EXECUTOR { Some(self.base.config.kata.executor.clone()) } else { template::builtin(name) }
    }

    /// The newest version of each.
    pub async fn templates(&self, caller: &Caller) -> Result<api::TemplateList, ServiceError> {
        let all = self.base.templates.templates(&caller.tenant).await?;
        Ok(api::TemplateList { items: all.into_iter().map(convert::template).collect() })
    }

    /// Every version of one, newest first.
    pub async fn template_versions(
        &self,
        caller: &Caller,
        name: &str,
    ) -> Result<api::TemplateList, ServiceError> {
        let all = self.base.templates.template_versions(&caller.tenant, name).await?;
        if all.is_empty() {
            return Err(ServiceError::NotFound(format!("template {name}")));
        }
        Ok(api::TemplateList { items: all.into_iter().map(convert::template).collect() })
    }

    /// Forgets a template with all its versions.
    pub async fn delete_template(&self, caller: &Caller, name: &str) -> Result<(), ServiceError> {
        Ok(self.base.templates.delete_template(&caller.tenant, name).await?)
    }

    /// The tenants that may have templates: those with keys, and the one of servers without keys.
    pub(super) async fn tenants(&self) -> Result<BTreeSet<String>, ServiceError> {
        let keys = self.base.store.keys(None).await?;
        Ok(keys.into_iter().map(|key| key.tenant).chain([DEFAULT_TENANT.to_owned()]).collect())
    }

    /// References of the images that any tenant's templates name.
    pub(super) async fn images_of_templates(&self) -> Result<Vec<String>, ServiceError> {
        let mut images = BTreeSet::new();
        for tenant in self.tenants().await? {
            let templates = self.base.templates.templates(&tenant).await?;
            images.extend(templates.into_iter().map(|template| template.spec.image));
        }
        Ok(images.into_iter().collect())
    }
}
