//! The port to what must be remembered beside the sandboxes themselves: keys, templates, idempotency, builds.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    build::Builds,
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
    /// A text that not every database can keep; says which and why.
    #[error("{0}")]
    Invalid(String),
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

/// Refuses what PostgreSQL has no text for, so that every store refuses it alike.
///
/// # Errors
/// Shows the text when it has a NUL character.
pub fn check_text(text: &str) -> Result<(), StoreError> {
    if text.contains('\0') {
        let shown: String = text.escape_debug().take(80).collect();
        return Err(StoreError::Invalid(format!("`{shown}` has a NUL character")));
    }
    Ok(())
}

/// The templates of every tenant, wherever they are kept: in the database, or as objects of a cluster.
#[async_trait]
pub trait Templates: Send + Sync + 'static {
    /// Makes the next version of a template, unless its newest version has the same spec: then that one is given back.
    /// Versions count up from 1 without a gap, also when several callers write at once.
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
    /// Every version of one template, newest first; there is at least one.
    async fn template_versions(&self, tenant: &str, name: &str) -> Result<Vec<Template>, StoreError>;
    /// Forgets a template with all its versions; its name may be used anew, from version 1. Sandboxes carry their own
    /// copy.
    async fn delete_template(&self, tenant: &str, name: &str) -> Result<(), StoreError>;
}

/// What a machine or platform remembers. One implementation for each database; all pass the contract suite in `testing`.
///
/// What was acknowledged is there after a crash, and seen by every later call. Calls may run at once, from several
/// processes. Times are kept to the microsecond, names are told apart and sorted byte by byte, and a text with a NUL
/// character is [`StoreError::Invalid`]. Errors name what is missing as `key ID` and `template NAME`.
#[async_trait]
pub trait Store: Templates + Builds {
    /// Remembers a key, unless its id or its hash is known: then nothing changes and it [`StoreError::Exists`].
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError>;
    /// The key with this hash, if it is there.
    async fn key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError>;
    /// All keys, oldest first; with `tenant`, only that tenant's.
    async fn keys(&self, tenant: Option<&str>) -> Result<Vec<ApiKey>, StoreError>;
    /// Forgets a key: it cannot be used from then on.
    async fn delete_key(&self, id: &str) -> Result<(), StoreError>;

    /// Remembers a request, unless one of the same key is known: then that one is given back and nothing changes.
    /// Of several callers at once exactly one gets `None`, which means: do it.
    async fn begin_idempotent(
        &self,
        key: &IdempotencyKey,
        record: &IdempotencyRecord,
    ) -> Result<Option<IdempotencyRecord>, StoreError>;
    /// Forgets a request whose work was refused, so that it can be tried again. Not to know it is no error.
    async fn forget_idempotent(&self, key: &IdempotencyKey) -> Result<(), StoreError>;
    /// Forgets requests from before `before`; says how many.
    async fn sweep_idempotent(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;
}
