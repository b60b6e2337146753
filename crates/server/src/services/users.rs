//! One sandbox for each user: its id follows from the user, so that whoever asks, and however often and through whichever
//! server, the driver has one of it at most. Nothing else is remembered of it.

use atoll_core::{
    driver::DriverError,
    id::SandboxId,
    owner,
    phase::Phase,
    sandbox::{HISTORY, Sandbox},
    template::DESKTOP,
};
use atoll_proto::api;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Services,
    access::Caller,
    error::ServiceError,
    sandboxes::{Move, to_the_end},
};

/// How long one may take to go before whoever needs it gone is told to wait.
const GOING: Duration = Duration::from_secs(60);

/// What becomes of a user's volumes with the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volumes {
    Keep,
    Delete,
}

/// What makes a sandbox that is there one that runs.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Use,
    Move(Move),
    /// It never ran, so it has no files: another one may be made otherwise.
    Replace,
    AwaitMade,
    AwaitGone,
}

fn step(sandbox: &Sandbox) -> Step {
    match sandbox.phase {
        Phase::Running => Step::Use,
        Phase::Paused => Step::Move(Move::Resume),
        // A cluster tries again by itself, of the same recipe.
        Phase::Failed | Phase::Creating if only_failed(sandbox) => Step::Replace,
        Phase::Stopped | Phase::Failed => Step::Move(Move::Start),
        Phase::Creating => Step::AwaitMade,
        Phase::Terminating => Step::AwaitGone,
    }
}

/// Whether it failed and never ran, as far as its history goes back; one that is cut off counts as having run.
fn only_failed(sandbox: &Sandbox) -> bool {
    let was = |phase| sandbox.history.iter().any(|step| step.phase == phase);
    sandbox.history.len() < HISTORY && was(Phase::Failed) && !was(Phase::Running)
}

impl Services {
    /// The user's sandbox, running, and whether it had to be made.
    pub async fn make_user_sandbox(
        self: &Arc<Self>,
        caller: &Caller,
        user: &str,
    ) -> Result<(Sandbox, bool), ServiceError> {
        let id = id_of(caller, user)?;
        loop {
            let Some(found) = self.found(&id).await? else {
                match self.new_user_sandbox(caller, user, &id).await {
                    // Another server was first.
                    Err(ServiceError::Driver(DriverError::Exists(_))) => continue,
                    made => return made.map(|sandbox| (sandbox, true)),
                }
            };
            match step(&found) {
                Step::Use => {
                    self.base.driver.touch(&id, self.base.world.now());
                    return Ok((found, false));
                }
                Step::Move(change) => self.woken(caller, &found, change).await?,
                Step::Replace => self.delete(caller, id.as_str()).await?,
                Step::AwaitMade => self.made(&found).await?,
                Step::AwaitGone => self.gone(&id).await?,
            }
        }
    }

    async fn found(&self, id: &SandboxId) -> Result<Option<Sandbox>, ServiceError> {
        match self.base.driver.get(id).await {
            Ok(sandbox) => Ok(Some(sandbox)),
            Err(DriverError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes it, or waits for whoever does.
    async fn new_user_sandbox(
        self: &Arc<Self>,
        caller: &Caller,
        user: &str,
        id: &SandboxId,
    ) -> Result<Sandbox, ServiceError> {
        let template = self.base.config.user_template.as_deref().unwrap_or(DESKTOP);
        let owner = Some(user.to_owned());
        let ask = api::CreateSandbox { owner, ..api::CreateSandbox::of_template(template) };
        let mut sandbox = self.resolve(caller, ask).await?;
        sandbox.spec.id = id.clone();
        self.begin(sandbox)?.ended().await
    }

    /// Somebody else may wake it, too: then it is looked at again.
    async fn woken(&self, caller: &Caller, found: &Sandbox, change: Move) -> Result<(), ServiceError> {
        match self.change_phase(caller, found.id().as_str(), change).await {
            Err(ServiceError::Driver(DriverError::Conflict { phase, .. })) if phase != found.phase => Ok(()),
            Err(ServiceError::Driver(DriverError::NotFound(_))) => Ok(()),
            moved => moved.map(drop),
        }
    }

    async fn made(&self, found: &Sandbox) -> Result<(), ServiceError> {
        let ended = match self.creations.find(found.id()) {
            Some(creation) => creation.ended().await,
            None => self.settled(found.clone()).await,
        };
        match ended {
            Err(ServiceError::Driver(DriverError::NotFound(_) | DriverError::Exists(_))) => Ok(()),
            ended => ended.map(drop),
        }
    }

    /// Waits until nothing of it is left.
    async fn gone(&self, id: &SandboxId) -> Result<(), ServiceError> {
        let (mut events, begun) = (self.base.driver.subscribe(), Instant::now());
        while self.found(id).await?.is_some_and(|found| found.phase == Phase::Terminating) {
            if begun.elapsed() > GOING {
                let message = format!("sandbox {id} is still being taken down; try again in a few seconds");
                return Err(ServiceError::Busy { code: "terminating", message, retry_after: 5 });
            }
            // An event, lost events or a second without any: each is a reason to look again.
            let _ = tokio::time::timeout(Duration::from_secs(1), events.recv()).await;
        }
        Ok(())
    }

    /// The user's sandbox, as it is.
    pub async fn user_sandbox(&self, caller: &Caller, user: &str) -> Result<Sandbox, ServiceError> {
        let found = self.sandbox(caller, id_of(caller, user)?.as_str()).await;
        found.map_err(|error| missing(user, error))
    }

    /// Moves the user's sandbox to another phase. To start one that is paused is to resume it.
    pub async fn move_user_sandbox(
        &self,
        caller: &Caller,
        user: &str,
        change: Move,
    ) -> Result<Sandbox, ServiceError> {
        let found = self.user_sandbox(caller, user).await?;
        let change = match (change, found.phase) {
            (Move::Start, Phase::Paused) => Move::Resume,
            (change, _) => change,
        };
        self.change_phase(caller, found.id().as_str(), change).await
    }

    /// Takes the user's sandbox down, and with it, if that is asked for, everything that the user has. Nothing is done
    /// where another sandbox has one of the volumes.
    pub async fn delete_user_sandbox(
        self: &Arc<Self>,
        caller: &Caller,
        user: &str,
        volumes: Volumes,
    ) -> Result<(), ServiceError> {
        let id = id_of(caller, user)?;
        if volumes == Volumes::Keep {
            return self.delete(caller, id.as_str()).await.map_err(|error| missing(user, error));
        }
        let (services, caller, user) = (self.clone(), caller.clone(), user.to_owned());
        to_the_end(async move { services.delete_everything(&caller, &user, &id).await }).await?
    }

    async fn delete_everything(
        &self,
        caller: &Caller,
        user: &str,
        id: &SandboxId,
    ) -> Result<(), ServiceError> {
        let volumes = self.base.driver.volumes().list(Some(&caller.tenant), Some(user)).await?;
        let others = volumes.iter().find(|it| it.used_by.as_ref().is_some_and(|other| other != id));
        if let Some((volume, other)) = others.and_then(|it| Some((it, it.used_by.as_ref()?))) {
            let message =
                format!("volume {} of {user} is used by sandbox {other}; delete that first", volume.name);
            return Err(DriverError::InUse(message).into());
        }
        match self.delete(caller, id.as_str()).await {
            Err(error) if is_missing(&error) && !volumes.is_empty() => {}
            deleted => deleted.map_err(|error| missing(user, error))?,
        }
        self.gone(id).await?;
        // Also one that its creation left just now.
        for volume in self.base.driver.volumes().list(Some(&caller.tenant), Some(user)).await? {
            self.delete_volume(caller, user, &volume.name).await?;
        }
        Ok(())
    }
}

fn id_of(caller: &Caller, user: &str) -> Result<SandboxId, ServiceError> {
    owner::check_owner("userId", user)?;
    Ok(owner::sandbox_id(&caller.tenant, user))
}

fn is_missing(error: &ServiceError) -> bool {
    matches!(error, ServiceError::NotFound(_) | ServiceError::Driver(DriverError::NotFound(_)))
}

/// Says it in the caller's words: they know no ids.
fn missing(user: &str, error: ServiceError) -> ServiceError {
    if is_missing(&error) { ServiceError::NotFound(format!("a sandbox of user {user:?}")) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::{sandbox::Reason, testing::sandbox};

    fn through(phases: &[Phase]) -> Sandbox {
        let mut it = sandbox(0);
        for phase in phases {
            it.become_phase(*phase, Reason::new("x", "x"), it.since).unwrap();
        }
        it
    }

    #[test]
    fn what_rests_is_woken_and_only_what_never_ran_is_replaced() {
        use Phase::{Creating, Failed, Paused, Running, Stopped, Terminating};
        for (phases, expected) in [
            (&[][..], Step::AwaitMade),
            (&[Running], Step::Use),
            (&[Running, Paused], Step::Move(Move::Resume)),
            (&[Running, Stopped], Step::Move(Move::Start)),
            (&[Running, Failed], Step::Move(Move::Start)),
            (&[Failed], Step::Replace),
            (&[Failed, Creating, Failed], Step::Replace),
            (&[Failed, Creating], Step::Replace),
            (&[Running, Failed, Creating, Failed], Step::Move(Move::Start)),
            (&[Failed, Terminating], Step::AwaitGone),
        ] {
            assert_eq!(step(&through(phases)), expected, "{phases:?}");
        }
        let mut long = through(&[Running, Failed]);
        for _ in 0..40 {
            for phase in [Creating, Failed] {
                long.become_phase(phase, Reason::new("x", "x"), jiff::Timestamp::now()).unwrap();
            }
        }
        assert_eq!(step(&long), Step::Move(Move::Start), "its beginning is forgotten");
    }
}
