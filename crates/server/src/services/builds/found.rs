//! Templates as callers of E2B's API find them: by name with or without a tag, listed with their builds, tagged, deleted.

use atoll_core::{
    build::{Build, BuildState, DEFAULT_TAG, Tag},
    request::{Birth, CreateRequest, resolve},
    sandbox::Limits,
    store::StoreError,
    template::{BASE, Template, meant_by_e2b},
};
use atoll_proto::api;
use std::collections::BTreeSet;

use super::names::{Named, named, tags};
use crate::{
    services::{Services, access::Caller, error::ServiceError},
    world,
};

/// Builds of a template that are looked at.
const LOOKED_AT: u64 = 1000;

/// A template, its newest version where it has one, and its builds, newest first.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    pub template: Option<Template>,
    pub builds: Vec<Build>,
    /// What its sandboxes may use.
    pub limits: Limits,
}

fn no_template(name: &str) -> ServiceError {
    ServiceError::NotFound(format!("template {name:?}"))
}

fn no_tag(name: &str, tag: &str) -> ServiceError {
    ServiceError::NotFound(format!("tag {tag:?} of template {name:?}"))
}

/// A template that may be missing.
fn found(result: Result<Template, StoreError>) -> Result<Option<Template>, ServiceError> {
    match result {
        Ok(template) => Ok(Some(template)),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Services {
    /// The version of a template that a name with or without a tag means: a tenant's own, a built-in one, or the base image.
    pub async fn template_named(&self, caller: &Caller, text: &str) -> Result<Template, ServiceError> {
        let Named { name, tag } = named("templateID", text, &caller.tenant)?;
        let tags = self.base.store.tags(&caller.tenant, &name).await?;
        let wanted = tag.as_deref().unwrap_or(DEFAULT_TAG);
        let version = match tags.iter().find(|known| known.tag == wanted) {
            Some(tag) => Some(self.version_of(caller, tag).await?.ok_or_else(|| no_tag(&name, wanted))?),
            // What has no tags at all was not built.
            None if tags.is_empty() && wanted == DEFAULT_TAG => None,
            None => return Err(no_tag(&name, wanted)),
        };
        let own = found(self.recipe(&caller.tenant, &name, version).await)?;
        let meant = meant_by_e2b(&name);
        let template = match own {
            // These clients mean another one of ours by that name, unless the tenant has one of its own.
            None | Some(Template { version: 0, .. }) if meant != name => {
                found(self.recipe(&caller.tenant, meant, None).await)?
            }
            own => own,
        };
        template.ok_or_else(|| no_template(&name))
    }

    /// A sandbox of it, to be asked for.
    pub async fn sandbox_named(
        &self,
        caller: &Caller,
        text: &str,
    ) -> Result<api::CreateSandbox, ServiceError> {
        let Template { name, version, .. } = self.template_named(caller, text).await?;
        Ok(api::CreateSandbox { template_version: Some(version), ..api::CreateSandbox::of_template(name) })
    }

    async fn version_of(&self, caller: &Caller, tag: &Tag) -> Result<Option<i64>, ServiceError> {
        match self.base.store.build(&caller.tenant, &tag.build).await {
            Ok(Build { state: BuildState::Ready { version }, .. }) => Ok(Some(version)),
            Ok(_) | Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The name of a template that exists, also of one that is only being built; with a tag, only where that exists.
    pub async fn existing_template(&self, caller: &Caller, text: &str) -> Result<String, ServiceError> {
        let Named { name, tag } = named("alias", text, &caller.tenant)?;
        if tag.is_some() {
            return Ok(self.template_named(caller, text).await?.name);
        }
        let there = self.has_builds(caller, &name).await?
            || found(self.recipe(&caller.tenant, &name, None).await)?.is_some();
        if there { Ok(name) } else { Err(no_template(&name)) }
    }

    /// One template with its builds; a built-in one has none.
    pub async fn listed_template(&self, caller: &Caller, text: &str) -> Result<Listed, ServiceError> {
        let name = named("templateID", text, &caller.tenant)?.name;
        let listed = self.listed(caller, &name).await?;
        if listed.template.is_none() && listed.builds.is_empty() {
            return Err(no_template(&name));
        }
        Ok(listed)
    }

    async fn listed(&self, caller: &Caller, name: &str) -> Result<Listed, ServiceError> {
        let template = found(self.recipe(&caller.tenant, name, None).await)?;
        let builds = self.base.store.builds_of(&caller.tenant, name, LOOKED_AT).await?;
        let limits = self.limits_of(template.as_ref(), builds.first())?;
        Ok(Listed { name: name.to_owned(), template, builds, limits })
    }

    /// What sandboxes of a template may use, or will when it is built.
    fn limits_of(&self, template: Option<&Template>, build: Option<&Build>) -> Result<Limits, ServiceError> {
        let mut spec = template.map(|template| template.spec.clone()).unwrap_or_default();
        spec.volumes.clear();
        if let (None, Some(build)) = (template, build) {
            (spec.cpu, spec.memory) = (build.ask.cpu.clone(), build.ask.memory.clone());
        }
        let recipe = Template { name: String::new(), version: 0, spec, created_at: self.started_at };
        let at = self.base.world.now();
        let birth = Birth { id: world::new_id(&*self.base.world)?, tenant: String::new(), at };
        let image = recipe.spec.image.is_empty().then(|| BASE.to_owned());
        let ask = CreateRequest { image, ..CreateRequest::default() };
        Ok(resolve(ask, Some(&recipe), &self.base.driver.capacity(), birth)?.spec.limits)
    }

    /// All templates of the caller's tenant, by name, also those that are only being built.
    pub async fn listed_templates(&self, caller: &Caller) -> Result<Vec<Listed>, ServiceError> {
        let templates = self.base.templates.templates(&caller.tenant).await?;
        let mut names: BTreeSet<String> = templates.into_iter().map(|template| template.name).collect();
        names.extend(self.base.store.built_templates(&caller.tenant).await?);
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            all.push(self.listed(caller, &name).await?);
        }
        Ok(all)
    }

    async fn has_builds(&self, caller: &Caller, name: &str) -> Result<bool, ServiceError> {
        Ok(!self.base.store.builds_of(&caller.tenant, name, 1).await?.is_empty())
    }

    /// Refuses a template that nobody asked to build.
    pub(super) async fn must_have_builds(&self, caller: &Caller, text: &str) -> Result<(), ServiceError> {
        let name = named("templateID", text, &caller.tenant)?.name;
        if self.has_builds(caller, &name).await? { Ok(()) } else { Err(no_template(&name)) }
    }

    /// Forgets a template with its versions, builds and tags. Builds under way end.
    pub async fn delete_built(&self, caller: &Caller, text: &str) -> Result<(), ServiceError> {
        let name = named("templateID", text, &caller.tenant)?.name;
        let had_builds = self.has_builds(caller, &name).await?;
        self.base.store.delete_builds(&caller.tenant, &name).await?;
        match self.base.templates.delete_template(&caller.tenant, &name).await {
            Err(StoreError::NotFound(_)) if had_builds => Ok(()),
            Err(StoreError::NotFound(_)) => Err(no_template(&name)),
            deleted => Ok(deleted?),
        }
    }

    /// The tags of a template, and the builds that they point to.
    pub async fn template_tags(&self, caller: &Caller, text: &str) -> Result<Vec<Tag>, ServiceError> {
        let name = named("templateID", text, &caller.tenant)?.name;
        self.must_have_builds(caller, &name).await?;
        Ok(self.base.store.tags(&caller.tenant, &name).await?)
    }

    /// Lets more tags point to the build that a name with a tag means. Gives the build and the tags.
    pub async fn assign_tags(
        &self,
        caller: &Caller,
        target: &str,
        more: &[String],
    ) -> Result<(String, Vec<String>), ServiceError> {
        let more = some_tags(more)?;
        let Named { name, tag } = named("target", target, &caller.tenant)?;
        self.must_have_builds(caller, &name).await?;
        let wanted = tag.as_deref().unwrap_or(DEFAULT_TAG);
        let known = self.base.store.tags(&caller.tenant, &name).await?;
        let build =
            known.into_iter().find(|known| known.tag == wanted).ok_or_else(|| no_tag(&name, wanted))?;
        let now = self.base.world.now();
        self.base.store.put_tags(&caller.tenant, &name, &more, &build.build, now).await?;
        Ok((build.build, more))
    }

    /// Takes tags of a template away; those that are not there are no error.
    pub async fn remove_tags(
        &self,
        caller: &Caller,
        text: &str,
        gone: &[String],
    ) -> Result<(), ServiceError> {
        let gone = some_tags(gone)?;
        if gone.iter().any(|tag| tag == DEFAULT_TAG) {
            let problem = format!("{DEFAULT_TAG:?} stays: it is what a template without a tag means");
            return Err(ServiceError::invalid("tags", problem));
        }
        let Named { name, tag } = named("name", text, &caller.tenant)?;
        if tag.is_some() {
            return Err(ServiceError::invalid("name", "goes without a tag; name tags in `tags`"));
        }
        self.must_have_builds(caller, &name).await?;
        match self.base.store.remove_tags(&caller.tenant, &name, &gone).await? {
            0 => Err(ServiceError::NotFound(format!("tag {:?} of template {name:?}", gone.join(", ")))),
            _ => Ok(()),
        }
    }
}

fn some_tags(texts: &[String]) -> Result<Vec<String>, ServiceError> {
    if texts.is_empty() {
        return Err(ServiceError::invalid("tags", "name at least one"));
    }
    // Some clients write `name:tag` for the tag. Nothing before the colon is no name.
    let short = |text: &String| match text.rsplit_once(':') {
        Some((name, tag)) if !name.is_empty() => tag.to_owned(),
        _ => text.clone(),
    };
    let short: Vec<String> = texts.iter().map(short).collect();
    Ok(tags("tags", &short)?)
}
