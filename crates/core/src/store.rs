//! The port to what must be remembered beside the sandboxes themselves: keys, templates, idempotency.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    key::ApiKey,
    template::{Template, TemplateSpec},
};

/// What a store refuses or fails at.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No such row.
    #[error("{0} does not exist")]
    NotFound(String),
    /// A row of that name is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// The database cannot be used.
    #[error("the database failed: {0}")]
    Database(String),
}

/// A request that promised to be made once: who made it, where, and under which key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// The caller: id of its API key.
    pub caller: String,
    /// Method and path.
    pub route: String,
    /// What the caller sent as `Idempotency-Key`.
    pub key: String,
}

/// What is known of an idempotent request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Hash of the request's body.
    pub body_hash: String,
    /// The id that was given to what it makes, before the driver was asked.
    pub resource_id: String,
    /// When it was first seen.
    pub created_at: Timestamp,
}

/// What a machine or platform remembers. One implementation for each database; all pass the contract suite in `testing`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Remembers a key.
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError>;
    /// The key with this hash, if it is there.
    async fn key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError>;
    /// All keys, oldest first; with `tenant`, only that tenant's.
    async fn keys(&self, tenant: Option<&str>) -> Result<Vec<ApiKey>, StoreError>;
    /// Forgets a key: it cannot be used from then on.
    async fn delete_key(&self, id: &str) -> Result<(), StoreError>;

    /// Makes the next version of a template, unless its newest version has the same spec: then that one is given back.
    async fn put_template(
        &self,
        tenant: &str,
        name: &str,
        spec: &TemplateSpec,
        now: Timestamp,
    ) -> Result<Template, StoreError>;
    /// One version of a template; `None` is the newest.
    async fn template(&self, tenant: &str, name: &str, version: Option<i64>) -> Result<Template, StoreError>;
    /// The newest version of each template, by name.
    async fn templates(&self, tenant: &str) -> Result<Vec<Template>, StoreError>;
    /// Every version of one template, newest first.
    async fn template_versions(&self, tenant: &str, name: &str) -> Result<Vec<Template>, StoreError>;
    /// Forgets a template with all its versions. Sandboxes carry their own copy.
    async fn delete_template(&self, tenant: &str, name: &str) -> Result<(), StoreError>;

    /// Remembers a request, unless one of the same key is known: then that one is given back and nothing changes.
    async fn begin_idempotent(
        &self,
        key: &IdempotencyKey,
        record: &IdempotencyRecord,
    ) -> Result<Option<IdempotencyRecord>, StoreError>;
    /// Forgets a request whose work was refused, so that it can be tried again.
    async fn forget_idempotent(&self, key: &IdempotencyKey) -> Result<(), StoreError>;
    /// Forgets requests from before `before`; says how many.
    async fn sweep_idempotent(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;
}
