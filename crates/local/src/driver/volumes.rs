//! Volumes of users on this machine.

use async_trait::async_trait;
use atoll_core::{
    driver::DriverError,
    volume::{VolumeInfo, Volumes},
};

use super::LocalDriver;

#[async_trait]
impl Volumes for LocalDriver {
    async fn list(
        &self,
        _tenant: Option<&str>,
        _owner: Option<&str>,
    ) -> Result<Vec<VolumeInfo>, DriverError> {
        Err(DriverError::Unsupported("this machine keeps no volumes".into()))
    }

    async fn remove(&self, _tenant: &str, _owner: &str, _name: &str) -> Result<(), DriverError> {
        Err(DriverError::Unsupported("this machine keeps no volumes".into()))
    }
}
