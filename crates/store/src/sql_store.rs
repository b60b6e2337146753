//! The [`Store`] over SQL: which statement does what. The texts are in the subset that SQLite and PostgreSQL share:
//! numbered placeholders, ON CONFLICT, times as microseconds, recipes as JSON text. Must not know which database it is.

use async_trait::async_trait;
use atoll_core::{
    key::{ApiKey, Role},
    store::{IdempotencyKey, IdempotencyRecord, Store, StoreError, Templates, check_text},
    template::{Template, TemplateSpec},
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::{
    db::Db,
    rows::{Row, unreadable},
};

const PUT_KEY: &str = "INSERT INTO api_keys (id, name, tenant, role, hash, created_at)
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
const KEY_BY_HASH: &str = "SELECT id, name, tenant, role, hash, created_at FROM api_keys WHERE hash = $1";
const ALL_KEYS: &str =
    "SELECT id, name, tenant, role, hash, created_at FROM api_keys ORDER BY created_at, id";
const KEYS_OF_TENANT: &str = "SELECT id, name, tenant, role, hash, created_at FROM api_keys
    WHERE tenant = $1 ORDER BY created_at, id";
const DELETE_KEY: &str = "DELETE FROM api_keys WHERE id = $1";

/// Makes version $3 only while the version before it is the newest: whoever comes second changes nothing.
const PUT_TEMPLATE: &str = "INSERT INTO templates (tenant, name, version, spec, created_at)
    SELECT $1, $2, $3, $4, $5
    WHERE $3 = (SELECT COALESCE(MAX(version), 0) + 1 FROM templates WHERE tenant = $1 AND name = $2)
    ON CONFLICT DO NOTHING";
const NEWEST_TEMPLATE: &str = "SELECT name, version, spec, created_at FROM templates
    WHERE tenant = $1 AND name = $2 ORDER BY version DESC LIMIT 1";
const TEMPLATE_VERSION: &str = "SELECT name, version, spec, created_at FROM templates
    WHERE tenant = $1 AND name = $2 AND version = $3";
const TEMPLATES: &str = "SELECT name, version, spec, created_at FROM templates AS this
    WHERE tenant = $1 AND version =
        (SELECT MAX(version) FROM templates WHERE tenant = this.tenant AND name = this.name)
    ORDER BY name";
const TEMPLATE_VERSIONS: &str = "SELECT name, version, spec, created_at FROM templates
    WHERE tenant = $1 AND name = $2 ORDER BY version DESC";
const DELETE_TEMPLATE: &str = "DELETE FROM templates WHERE tenant = $1 AND name = $2";

const BEGIN_REQUEST: &str = "INSERT INTO idempotent_requests (digest, body_hash, resource_id, created_at)
    VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
const KNOWN_REQUEST: &str =
    "SELECT body_hash, resource_id, created_at FROM idempotent_requests WHERE digest = $1";
const FORGET_REQUEST: &str = "DELETE FROM idempotent_requests WHERE digest = $1";
const SWEEP_REQUESTS: &str = "DELETE FROM idempotent_requests WHERE created_at < $1";

/// A reading statement that needs no rows: the tables answer, not only the server.
const PING: &str = "SELECT COUNT(*) FROM schema_version";

pub(crate) struct SqlStore {
    pub(crate) db: Db,
}

impl SqlStore {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    async fn newest(&self, tenant: &str, name: &str) -> Result<Option<Template>, StoreError> {
        let mut rows = self.db.read(NEWEST_TEMPLATE, vec![tenant.into(), name.into()]).await?;
        rows.pop().map(template_of).transpose()
    }
}

#[async_trait]
impl Templates for SqlStore {
    async fn put_template(
        &self,
        tenant: &str,
        name: &str,
        spec: &TemplateSpec,
        now: Timestamp,
    ) -> Result<Template, StoreError> {
        let text = serde_json::to_string(spec).map_err(unreadable)?;
        // Each round that is lost was won by another writer, so this ends.
        loop {
            let newest = self.newest(tenant, name).await?;
            // Compared as values: the same recipe may be spelled otherwise by an older program.
            if let Some(newest) = newest.as_ref().filter(|newest| newest.spec == *spec) {
                return Ok(newest.clone());
            }
            let version = newest.map_or(1, |newest| newest.version + 1);
            let values = vec![tenant.into(), name.into(), version.into(), text.as_str().into(), now.into()];
            if self.db.write(PUT_TEMPLATE, values).await? == 1 {
                let created_at = Timestamp::from_microsecond(now.as_microsecond()).map_err(unreadable)?;
                return Ok(Template { name: name.to_owned(), version, spec: spec.clone(), created_at });
            }
        }
    }

    async fn template(&self, tenant: &str, name: &str, version: Option<i64>) -> Result<Template, StoreError> {
        let Some(version) = version else {
            return self.newest(tenant, name).await?.ok_or_else(|| unknown_template(name));
        };
        let values = vec![tenant.into(), name.into(), version.into()];
        let row = self.db.read(TEMPLATE_VERSION, values).await?.pop();
        let unknown = || StoreError::NotFound(format!("version {version} of template {name}"));
        template_of(row.ok_or_else(unknown)?)
    }

    async fn templates(&self, tenant: &str) -> Result<Vec<Template>, StoreError> {
        self.db.read(TEMPLATES, vec![tenant.into()]).await?.into_iter().map(template_of).collect()
    }

    async fn template_versions(&self, tenant: &str, name: &str) -> Result<Vec<Template>, StoreError> {
        let rows = self.db.read(TEMPLATE_VERSIONS, vec![tenant.into(), name.into()]).await?;
        if rows.is_empty() {
            return Err(unknown_template(name));
        }
        rows.into_iter().map(template_of).collect()
    }

    async fn delete_template(&self, tenant: &str, name: &str) -> Result<(), StoreError> {
        match self.db.write(DELETE_TEMPLATE, vec![tenant.into(), name.into()]).await? {
            0 => Err(unknown_template(name)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let [id, name, tenant, hash] =
            [&key.id, &key.name, &key.tenant, &key.hash].map(|text| text.as_str().into());
        let values = vec![id, name, tenant, role_text(key.role).into(), hash, key.created_at.into()];
        match self.db.write(PUT_KEY, values).await? {
            0 => Err(StoreError::Exists(format!("key {}", key.id))),
            _ => Ok(()),
        }
    }

    async fn key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        let mut rows = self.db.read(KEY_BY_HASH, vec![hash.into()]).await?;
        rows.pop().map(key_of).transpose()
    }

    async fn keys(&self, tenant: Option<&str>) -> Result<Vec<ApiKey>, StoreError> {
        let rows = match tenant {
            Some(tenant) => self.db.read(KEYS_OF_TENANT, vec![tenant.into()]).await?,
            None => self.db.read(ALL_KEYS, vec![]).await?,
        };
        rows.into_iter().map(key_of).collect()
    }

    async fn delete_key(&self, id: &str) -> Result<(), StoreError> {
        match self.db.write(DELETE_KEY, vec![id.into()]).await? {
            0 => Err(StoreError::NotFound(format!("key {id}"))),
            _ => Ok(()),
        }
    }

    async fn begin_idempotent(
        &self,
        key: &IdempotencyKey,
        record: &IdempotencyRecord,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let digest = digest(key)?;
        // A second round only when the request that stood in the way was forgotten meanwhile.
        loop {
            let (body, id) = (record.body_hash.as_str(), record.resource_id.as_str());
            let values = vec![digest.as_str().into(), body.into(), id.into(), record.created_at.into()];
            if self.db.write(BEGIN_REQUEST, values).await? == 1 {
                return Ok(None);
            }
            if let Some(row) = self.db.read(KNOWN_REQUEST, vec![digest.as_str().into()]).await?.pop() {
                return record_of(row).map(Some);
            }
        }
    }

    async fn forget_idempotent(&self, key: &IdempotencyKey) -> Result<(), StoreError> {
        self.db.write(FORGET_REQUEST, vec![digest(key)?.into()]).await.map(|_| ())
    }

    async fn sweep_idempotent(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.db.write(SWEEP_REQUESTS, vec![before.into()]).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.db.read(PING, vec![]).await.map(|_| ())
    }
}

fn unknown_template(name: &str) -> StoreError {
    StoreError::NotFound(format!("template {name}"))
}

/// One short name for a request: what callers send may be longer than an index takes. Each part is hashed by itself,
/// so that moving a letter from one to the next gives another digest.
fn digest(key: &IdempotencyKey) -> Result<String, StoreError> {
    let mut whole = Sha256::new();
    for part in [&key.caller, &key.route, &key.key] {
        check_text(part)?;
        whole.update(Sha256::digest(part.as_bytes()));
    }
    Ok(hex::encode(whole.finalize()))
}

fn role_text(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Member => "member",
    }
}

fn role_of(text: &str) -> Result<Role, StoreError> {
    match text {
        "admin" => Ok(Role::Admin),
        "member" => Ok(Role::Member),
        other => Err(unreadable(format!("there is no role `{other}`"))),
    }
}

fn key_of(mut row: Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: row.text()?,
        name: row.text()?,
        tenant: row.text()?,
        role: role_of(&row.text()?)?,
        hash: row.text()?,
        created_at: row.time()?,
    })
}

fn template_of(mut row: Row) -> Result<Template, StoreError> {
    let (name, version) = (row.text()?, row.int()?);
    let spec = serde_json::from_str(&row.text()?);
    let spec = spec.map_err(|why| unreadable(format!("version {version} of template {name}: {why}")))?;
    Ok(Template { name, version, spec, created_at: row.time()? })
}

fn record_of(mut row: Row) -> Result<IdempotencyRecord, StoreError> {
    Ok(IdempotencyRecord { body_hash: row.text()?, resource_id: row.text()?, created_at: row.time()? })
}
