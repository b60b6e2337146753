//! Volumes: listed and removed. They are made with the first sandbox that names them.

use atoll_core::owner::check_owner;
use atoll_proto::api;

use super::{Services, access::Caller, convert, error::ServiceError, sandboxes::to_the_end};

impl Services {
    /// Those that the caller may reach, of every user or of one.
    pub async fn volumes(
        &self,
        caller: &Caller,
        owner: Option<&str>,
    ) -> Result<api::VolumeList, ServiceError> {
        let all = self.base.driver.volumes().list(caller.scope(), owner).await?;
        Ok(api::VolumeList { items: all.into_iter().map(convert::volume_info).collect() })
    }

    /// Removes a volume of a user of the caller's tenant, with everything on it.
    pub async fn delete_volume(&self, caller: &Caller, owner: &str, name: &str) -> Result<(), ServiceError> {
        check_owner("owner", owner)?;
        let (driver, tenant) = (self.base.driver.clone(), caller.tenant.clone());
        let (owner, name) = (owner.to_owned(), name.to_owned());
        Ok(to_the_end(async move { driver.volumes().remove(&tenant, &owner, &name).await }).await??)
    }
}
