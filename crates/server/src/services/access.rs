//! Who is calling, and whose things they reach. Keys are looked up by hash and believed for a short while.

use atoll_core::{
    key::{ApiKey, DEFAULT_TENANT, Role, hash},
    sandbox::Sandbox,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Base, error::ServiceError};

/// More secrets than this are not remembered, so that guessing cannot fill the memory.
const CACHE: usize = 1024;

/// Whoever is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Id of the key; `none` where no key is asked for.
    pub key: String,
    /// The tenant whose things they make and see.
    pub tenant: String,
    /// What they may do.
    pub role: Role,
}

impl Caller {
    /// Refuses everybody but admins.
    pub fn must_be_admin(&self) -> Result<(), ServiceError> {
        match self.role {
            Role::Admin => Ok(()),
            Role::Member => Err(ServiceError::Forbidden("only an admin's key may do that".into())),
        }
    }

    /// The tenant to look in; `None` is every one.
    pub fn scope(&self) -> Option<&str> {
        match self.role {
            Role::Admin => None,
            Role::Member => Some(&self.tenant),
        }
    }

    /// Gives back a sandbox that the caller may reach; another tenant's does not exist for them.
    pub fn reach(&self, sandbox: Sandbox) -> Result<Sandbox, ServiceError> {
        if self.scope().is_none_or(|tenant| tenant == sandbox.spec.tenant) {
            return Ok(sandbox);
        }
        Err(ServiceError::NotFound(format!("sandbox {}", sandbox.id())))
    }
}

/// Tells callers from their secrets.
pub struct Access {
    base: Arc<Base>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, (ApiKey, Instant)>,
    /// Counts revocations, so that a look-up that began before one is not remembered after it.
    revocations: u64,
}

impl Access {
    pub fn new(base: Arc<Base>) -> Self {
        Self { base, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who sends this secret.
    pub async fn caller(&self, secret: Option<&str>) -> Result<Caller, ServiceError> {
        if self.base.config.no_auth {
            return Ok(Caller { key: "none".into(), tenant: DEFAULT_TENANT.into(), role: Role::Admin });
        }
        let secret = secret.ok_or_else(|| {
            ServiceError::Unauthorized(
                "an API key is needed: send it as `X-API-Key` or `Authorization: Bearer`".into(),
            )
        })?;
        let key = self.key(hash(secret)).await?;
        Ok(Caller { key: key.id, tenant: key.tenant, role: key.role })
    }

    /// Makes this server ask the store about `id` again.
    pub fn forget(&self, id: &str) {
        let mut known = self.lock();
        known.revocations += 1;
        known.keys.retain(|_, (key, _)| key.id != id);
    }

    async fn key(&self, hash: String) -> Result<ApiKey, ServiceError> {
        let (remembered, revocations) = self.remembered(&hash);
        if let Some(key) = remembered {
            return Ok(key);
        }
        let found = self.base.store.key_by_hash(&hash).await?;
        let key = found.ok_or_else(|| ServiceError::Unauthorized("this API key is not known".into()))?;
        let mut known = self.lock();
        if known.keys.len() >= CACHE {
            known.keys.clear();
        }
        if known.revocations == revocations {
            known.keys.insert(hash, (key.clone(), Instant::now()));
        }
        Ok(key)
    }

    fn remembered(&self, hash: &str) -> (Option<ApiKey>, u64) {
        let known = self.lock();
        let fresh = |since: &Instant| since.elapsed() < self.base.config.limits.key_cache_for;
        let key = known.keys.get(hash).filter(|(_, since)| fresh(since)).map(|(key, _)| key.clone());
        (key, known.revocations)
    }
}
