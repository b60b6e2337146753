//! API keys: made, listed, revoked.

use atoll_core::{
    id::check_name,
    key::{ApiKey, DEFAULT_TENANT, Role, hash},
};
use atoll_proto::api;

use super::{Services, access::Caller, convert, error::ServiceError};
use crate::world;

impl Services {
    /// Makes a key. Its secret is in the answer and nowhere else.
    pub async fn create_key(&self, caller: &Caller, ask: api::CreateKey) -> Result<api::Key, ServiceError> {
        caller.must_be_admin()?;
        if ask.name.trim().is_empty() || ask.name.len() > 128 {
            return Err(ServiceError::invalid("name", "a key's name has 1 to 128 characters"));
        }
        let tenant = ask.tenant.unwrap_or_else(|| DEFAULT_TENANT.to_owned());
        check_name("tenant", &tenant)?;
        let secret = world::new_secret(&*self.base.world)?;
        let key = ApiKey {
            id: format!("k{}", hex::encode(world::bytes::<8>(&*self.base.world)?)),
            name: ask.name,
            tenant,
            role: ask.role.map_or(Role::Member, convert::role_in),
            hash: hash(&secret),
            created_at: self.base.world.now(),
        };
        self.base.store.put_key(&key).await?;
        Ok(api::Key { secret: Some(secret), ..convert::key(key) })
    }

    /// Every key for an admin, the tenant's own for a member.
    pub async fn keys(&self, caller: &Caller) -> Result<api::KeyList, ServiceError> {
        let keys = self.base.store.keys(caller.scope()).await?;
        Ok(api::KeyList { items: keys.into_iter().map(convert::key).collect() })
    }

    /// Revokes a key: the next request with it is refused.
    pub async fn delete_key(&self, caller: &Caller, id: &str) -> Result<(), ServiceError> {
        caller.must_be_admin()?;
        self.base.store.delete_key(id).await?;
        self.access.forget(id);
        Ok(())
    }
}
