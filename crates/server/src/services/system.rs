//! The server itself: whether it can serve, what is wrong with the machine.

use atoll_core::driver::{CheckStatus, ListQuery};
use atoll_proto::api;

use super::{Services, access::Caller, convert, error::ServiceError};

impl Services {
    /// Fails while sandboxes could not be made or remembered.
    pub async fn ready(&self) -> Result<(), ServiceError> {
        self.base.store.ping().await?;
        self.base.driver.list(&ListQuery { limit: 1, ..ListQuery::default() }).await?;
        Ok(())
    }

    /// What the driver finds about its machine.
    pub async fn doctor(&self, caller: &Caller) -> Result<api::Doctor, ServiceError> {
        caller.must_be_admin()?;
        let checks = self.base.driver.doctor().await;
        let word = |status| match status {
            CheckStatus::Ok => "ok",
            CheckStatus::Warn => "warn",
            CheckStatus::Fail => "fail",
        };
        let check = |it: atoll_core::driver::Check| api::Check {
            name: it.name,
            status: word(it.status).to_owned(),
            detail: it.detail,
            mend: it.mend,
        };
        Ok(api::Doctor { checks: checks.into_iter().map(check).collect() })
    }

    /// How many sandboxes are in each phase, for the metrics.
    pub async fn count_phases(&self) -> Result<Vec<(api::Phase, i64)>, ServiceError> {
        use api::Phase::{Creating, Failed, Paused, Running, Stopped, Terminating};
        let mut counts = [Creating, Running, Paused, Stopped, Failed, Terminating].map(|phase| (phase, 0));
        let mut query = ListQuery { limit: 1000, ..ListQuery::default() };
        loop {
            let page = self.base.driver.list(&query).await?;
            for sandbox in &page.items {
                let phase = convert::phase(sandbox.phase);
                counts.iter_mut().filter(|(it, _)| *it == phase).for_each(|(_, count)| *count += 1);
            }
            query.cursor = page.next;
            if query.cursor.is_none() {
                return Ok(counts.to_vec());
            }
        }
    }
}
