//! A [`Store`] in memory, for tests of whatever stands on the port. Must not know of SQL.

use async_trait::async_trait;
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::fake_builds::FakeBuilds;
use crate::{
    key::ApiKey,
    store::{IdempotencyKey, IdempotencyRecord, Store, StoreError, Templates, check_text},
    template::{Template, TemplateSpec},
};

/// Remembers until it is dropped. Passes the same contract suite as the databases.
#[derive(Debug, Default)]
pub struct FakeStore {
    rows: Mutex<Rows>,
    pub(super) builds: FakeBuilds,
}

#[derive(Debug, Default)]
struct Rows {
    keys: Vec<ApiKey>,
    /// By tenant and name; each from the first version to the newest.
    templates: BTreeMap<(String, String), Vec<Template>>,
    requests: HashMap<IdempotencyKey, IdempotencyRecord>,
}

impl FakeStore {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn versions(&self, tenant: &str, name: &str) -> &[Template] {
        self.templates.get(&(tenant.to_owned(), name.to_owned())).map_or(&[], Vec::as_slice)
    }
}

/// What a database would give back: to the microsecond.
pub(super) fn kept(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

pub(super) fn check_all(texts: &[&str]) -> Result<(), StoreError> {
    texts.iter().try_for_each(|text| check_text(text))
}

fn unknown_template(name: &str, version: Option<i64>) -> StoreError {
    StoreError::NotFound(match version {
        Some(version) => format!("version {version} of template {name}"),
        None => format!("template {name}"),
    })
}

#[async_trait]
impl Templates for FakeStore {
    async fn put_template(
        &self,
        tenant: &str,
        name: &str,
        spec: &TemplateSpec,
        now: Timestamp,
    ) -> Result<Template, StoreError> {
        check_all(&[tenant, name])?;
        let mut rows = self.rows();
        let versions = rows.templates.entry((tenant.to_owned(), name.to_owned())).or_default();
        if let Some(newest) = versions.last().filter(|newest| newest.spec == *spec) {
            return Ok(newest.clone());
        }
        let version = versions.last().map_or(1, |newest| newest.version + 1);
        let made = Template { name: name.to_owned(), version, spec: spec.clone(), created_at: kept(now) };
        versions.push(made.clone());
        Ok(made)
    }

    async fn template(&self, tenant: &str, name: &str, version: Option<i64>) -> Result<Template, StoreError> {
        check_all(&[tenant, name])?;
        let rows = self.rows();
        let wanted = |template: &&Template| version.is_none_or(|version| template.version == version);
        let found = rows.versions(tenant, name).iter().rev().find(wanted).cloned();
        found.ok_or_else(|| unknown_template(name, version))
    }

    async fn templates(&self, tenant: &str) -> Result<Vec<Template>, StoreError> {
        check_text(tenant)?;
        let rows = self.rows();
        let mine = rows.templates.iter().filter(|((owner, _), _)| owner == tenant);
        Ok(mine.filter_map(|(_, versions)| versions.last().cloned()).collect())
    }

    async fn template_versions(&self, tenant: &str, name: &str) -> Result<Vec<Template>, StoreError> {
        check_all(&[tenant, name])?;
        let versions: Vec<_> = self.rows().versions(tenant, name).iter().rev().cloned().collect();
        if versions.is_empty() { Err(unknown_template(name, None)) } else { Ok(versions) }
    }

    async fn delete_template(&self, tenant: &str, name: &str) -> Result<(), StoreError> {
        check_all(&[tenant, name])?;
        let gone = self.rows().templates.remove(&(tenant.to_owned(), name.to_owned()));
        gone.map(|_| ()).ok_or_else(|| unknown_template(name, None))
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        check_all(&[&key.id, &key.name, &key.tenant, &key.hash])?;
        let mut rows = self.rows();
        if rows.keys.iter().any(|known| known.id == key.id || known.hash == key.hash) {
            return Err(StoreError::Exists(format!("key {}", key.id)));
        }
        rows.keys.push(ApiKey { created_at: kept(key.created_at), ..key.clone() });
        rows.keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(())
    }

    async fn key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        check_text(hash)?;
        Ok(self.rows().keys.iter().find(|key| key.hash == hash).cloned())
    }

    async fn keys(&self, tenant: Option<&str>) -> Result<Vec<ApiKey>, StoreError> {
        check_text(tenant.unwrap_or_default())?;
        let wanted = |key: &&ApiKey| tenant.is_none_or(|tenant| key.tenant == tenant);
        Ok(self.rows().keys.iter().filter(wanted).cloned().collect())
    }

    async fn delete_key(&self, id: &str) -> Result<(), StoreError> {
        check_text(id)?;
        let mut rows = self.rows();
        let at = rows.keys.iter().position(|key| key.id == id);
        let at = at.ok_or_else(|| StoreError::NotFound(format!("key {id}")))?;
        rows.keys.remove(at);
        Ok(())
    }

    async fn begin_idempotent(
        &self,
        key: &IdempotencyKey,
        record: &IdempotencyRecord,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        check_all(&[&key.caller, &key.route, &key.key, &record.body_hash, &record.resource_id])?;
        match self.rows().requests.entry(key.clone()) {
            Entry::Occupied(known) => Ok(Some(known.get().clone())),
            Entry::Vacant(free) => {
                free.insert(IdempotencyRecord { created_at: kept(record.created_at), ..record.clone() });
                Ok(None)
            }
        }
    }

    async fn forget_idempotent(&self, key: &IdempotencyKey) -> Result<(), StoreError> {
        check_all(&[&key.caller, &key.route, &key.key])?;
        self.rows().requests.remove(key);
        Ok(())
    }

    async fn sweep_idempotent(&self, before: Timestamp) -> Result<u64, StoreError> {
        let before = kept(before);
        let mut rows = self.rows();
        let known = rows.requests.len();
        rows.requests.retain(|_, record| record.created_at >= before);
        Ok((known - rows.requests.len()) as u64)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store_contract;
    use std::sync::Arc;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        store_contract(async || Arc::new(FakeStore::default()) as Arc<dyn Store>).await;
    }
}
