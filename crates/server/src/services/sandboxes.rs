//! Sandboxes: made, found, listed, changed and moved between phases, each within what the caller may reach.

use atoll_core::{
    driver::{DriverError, ListQuery, LogStream, Page, no_progress},
    id::SandboxId,
    lifecycle::later,
    phase::Phase,
    request::{Birth, CreateRequest, positive, resolve},
    sandbox::{Reason, Sandbox},
    store::StoreError,
    template::Template,
};
use atoll_proto::api;
use jiff::Timestamp;
use std::{future::Future, sync::Arc};

use super::{
    Services, access::Caller, convert, creation::Creation, error::ServiceError, idempotency::Promise,
};
use crate::world;

/// Sandboxes of a page, where all are wanted.
const PAGE: usize = 1000;

/// What became of a request to create.
pub enum Begun {
    /// It is under way, or was by an earlier request.
    UnderWay(Arc<Creation>),
    /// An earlier request with the same key made it.
    Made(Box<Sandbox>),
}

impl Begun {
    /// What is being made or was made.
    pub fn sandbox(&self) -> &Sandbox {
        match self {
            Self::UnderWay(creation) => &creation.sandbox,
            Self::Made(sandbox) => sandbox,
        }
    }

    /// Waits for its end.
    pub async fn ended(self) -> Result<Sandbox, ServiceError> {
        match self {
            Self::UnderWay(creation) => creation.ended().await,
            Self::Made(sandbox) => Ok(*sandbox),
        }
    }
}

/// A move that a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Start,
    Stop,
    Restart,
    Pause,
    Resume,
}

/// Runs `work` in a task of its own: once begun, it does not end half-way because its caller left.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::spawn(work).await.map_err(|error| ServiceError::Internal(format!("the work broke off: {error}")))
}

fn id_taken() -> ServiceError {
    ServiceError::Internal("two sandboxes were given the same id".into())
}

fn requested(what: &str) -> Reason {
    Reason::new("requested", format!("{what} was requested"))
}

impl Services {
    /// Checks a request and begins to make what it asks for.
    pub async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        ask: api::CreateSandbox,
        promise: Option<Promise>,
    ) -> Result<Begun, ServiceError> {
        let sandbox = self.resolve(caller, ask).await?;
        self.create_resolved(caller, sandbox, promise).await
    }

    /// The same for callers who wait for the end but not for long, and cannot be told how it goes on: nothing is begun before
    /// the image is here.
    pub async fn create_soon(
        self: &Arc<Self>,
        caller: &Caller,
        ask: api::CreateSandbox,
        promise: Option<Promise>,
    ) -> Result<Begun, ServiceError> {
        let sandbox = self.resolve(caller, ask).await?;
        self.fetches.wait(&sandbox.spec.image, self.base.config.limits.image_for).await?;
        self.create_resolved(caller, sandbox, promise).await
    }

    async fn create_resolved(
        self: &Arc<Self>,
        caller: &Caller,
        sandbox: Sandbox,
        promise: Option<Promise>,
    ) -> Result<Begun, ServiceError> {
        let Some(promise) = promise else {
            return self.begin(sandbox);
        };
        // Its own task: a caller who leaves between the record and the beginning must not leave a promise unkept.
        let (services, caller) = (self.clone(), caller.clone());
        to_the_end(async move { services.create_once(&caller, sandbox, &promise).await }).await?
    }

    pub(super) fn begin(&self, sandbox: Sandbox) -> Result<Begun, ServiceError> {
        let creation = match self.creations.announce(sandbox) {
            Err(earlier) => earlier,
            Ok(creation) => {
                self.creations.begin(creation.clone())?;
                creation
            }
        };
        Ok(Begun::UnderWay(creation))
    }

    async fn create_once(
        self: &Arc<Self>,
        caller: &Caller,
        sandbox: Sandbox,
        promise: &Promise,
    ) -> Result<Begun, ServiceError> {
        let creation = self.creations.announce(sandbox).map_err(|_| id_taken())?;
        match self.base.begin_promise(caller, promise, creation.sandbox.id()).await {
            Ok(None) => {
                self.begin_promised(caller, promise, &creation).await?;
                Ok(Begun::UnderWay(creation))
            }
            Ok(Some(first)) => {
                let again = ServiceError::Internal("another request makes it".into());
                self.creations.withdraw(&creation, again);
                self.repeat(&first.resource_id, first.created_at, &creation.sandbox).await
            }
            Err(error) => {
                self.creations.withdraw(&creation, error.clone());
                Err(error)
            }
        }
    }

    /// Begins a promised creation. A refusal is forgotten, so that the same key can be tried again.
    async fn begin_promised(
        self: &Arc<Self>,
        caller: &Caller,
        promise: &Promise,
        creation: &Arc<Creation>,
    ) -> Result<(), ServiceError> {
        let key = promise.scoped(caller);
        if let Err(busy) = self.creations.begin(creation.clone()) {
            self.base.store.forget_idempotent(&key).await?;
            return Err(busy);
        }
        let (services, creation) = (self.clone(), creation.clone());
        tokio::spawn(async move {
            if creation.ended().await.is_err()
                && let Err(error) = services.base.store.forget_idempotent(&key).await
            {
                tracing::warn!(%error, "the idempotency key of a failed creation stays used");
            }
        });
        Ok(())
    }

    /// What an earlier request with the same key made or is making.
    async fn repeat(&self, id: &str, since: Timestamp, asked: &Sandbox) -> Result<Begun, ServiceError> {
        let id = SandboxId::parse(id)?;
        if let Some(creation) = self.creations.find(&id) {
            return Ok(Begun::UnderWay(creation));
        }
        match self.base.driver.get(&id).await {
            Ok(sandbox) => Ok(Begun::Made(Box::new(self.settled(sandbox).await?))),
            // The record was made and the server ended before the driver was asked: it is asked now, under that id.
            Err(DriverError::NotFound(_)) if since < self.started_at => {
                let mut sandbox = asked.clone();
                sandbox.spec.id = id;
                self.begin(sandbox)
            }
            Err(DriverError::NotFound(_)) => Err(ServiceError::Conflict {
                code: "idempotency_gone",
                message: format!("the sandbox that this idempotency key made, {id}, is gone; use a new key"),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits while another server, or the driver after a restart, still makes the sandbox.
    pub async fn settled(&self, sandbox: Sandbox) -> Result<Sandbox, ServiceError> {
        let mut events = self.base.driver.subscribe();
        let mut now = self.base.driver.get(sandbox.id()).await?;
        while now.phase == Phase::Creating {
            // An event, lost events or a second without any: each is a reason to look again.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), events.recv()).await;
            now = self.base.driver.get(sandbox.id()).await?;
        }
        Ok(now)
    }

    pub(super) async fn resolve(
        &self,
        caller: &Caller,
        ask: api::CreateSandbox,
    ) -> Result<Sandbox, ServiceError> {
        let template = self.template_of(caller, &ask).await?;
        let nested = ask.overrides.clone().unwrap_or_default();
        let request: CreateRequest = convert::create_request(ask)?;
        let birth = Birth {
            id: world::new_id(&*self.base.world)?,
            tenant: caller.tenant.clone(),
            at: self.base.world.now(),
        };
        resolve(request, template.as_ref(), &self.base.driver.capacity(), birth).map_err(|mut invalid| {
            if names_override(&invalid.field, &nested) {
                invalid.field.insert_str(0, "overrides.");
            }
            invalid.into()
        })
    }

    async fn template_of(
        &self,
        caller: &Caller,
        ask: &api::CreateSandbox,
    ) -> Result<Option<Template>, ServiceError> {
        let refuse = |field: &str, problem: &str| Err(ServiceError::invalid(field, problem));
        match (&ask.image, &ask.template) {
            (None, None) => refuse("image", "name an image, or a template in `template`"),
            (Some(_), Some(_)) => refuse("image", "goes without `template`; the template names the image"),
            (Some(_), None) if ask.template_version.is_some() => {
                refuse("templateVersion", "goes with `template` only")
            }
            (Some(_), None) => Ok(None),
            (None, Some(name)) => {
                let found = self.recipe(&caller.tenant, name, ask.template_version).await;
                Ok(Some(found.map_err(unknown_template)?))
            }
        }
    }

    /// One sandbox that the caller may reach, also while it waits to be made.
    pub async fn sandbox(&self, caller: &Caller, id: &str) -> Result<Sandbox, ServiceError> {
        let Ok(id) = SandboxId::parse(id) else {
            return Err(ServiceError::NotFound(format!("sandbox {id:?}")));
        };
        match self.base.driver.get(&id).await {
            Ok(sandbox) => caller.reach(sandbox),
            Err(DriverError::NotFound(what)) => match self.creations.find(&id) {
                Some(creation) => caller.reach(creation.sandbox.clone()),
                None => Err(DriverError::NotFound(what).into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// One page of those that the caller may reach and that match, also of those that wait to be made.
    pub async fn list(&self, caller: &Caller, query: ListQuery) -> Result<api::SandboxList, ServiceError> {
        let page = self.page(caller, query).await?;
        let items = page.items.into_iter().map(|it| self.shown(it)).collect();
        Ok(api::SandboxList { items, next_cursor: page.next.map(|next| hex::encode(next.to_string())) })
    }

    async fn page(&self, caller: &Caller, query: ListQuery) -> Result<Page, ServiceError> {
        let query = ListQuery { tenant: caller.scope().map(str::to_owned).or(query.tenant), ..query };
        // Before the driver is asked: what it is given meanwhile is then seen twice, and not missed.
        let begun = self.creations.begun();
        Ok(self.base.driver.list(&query).await?.with(begun, &query))
    }

    /// All that the caller may reach and that match, newest first.
    pub async fn all(&self, caller: &Caller, query: ListQuery) -> Result<Vec<Sandbox>, ServiceError> {
        self.first(caller, query, usize::MAX, |_| true).await
    }

    /// The first `wanted` that the caller may reach, that match and that `keep` keeps, newest first.
    pub async fn first(
        &self,
        caller: &Caller,
        query: ListQuery,
        wanted: usize,
        keep: impl Fn(&Sandbox) -> bool,
    ) -> Result<Vec<Sandbox>, ServiceError> {
        let (mut found, mut query) = (Vec::new(), ListQuery { limit: PAGE.min(wanted), ..query });
        loop {
            let page = self.page(caller, query.clone()).await?;
            found.extend(page.items.into_iter().filter(&keep));
            if page.next.is_none() || found.len() >= wanted {
                found.truncate(wanted);
                return Ok(found);
            }
            query.cursor = page.next;
        }
    }

    /// The newest sandbox of a user among those that match, whatever it does but having failed; else a new one as asked
    /// for. Requests for the same user that come at once get the same one.
    pub async fn one_of_owner(
        self: &Arc<Self>,
        caller: &Caller,
        among: ListQuery,
        ask: api::CreateSandbox,
    ) -> Result<Begun, ServiceError> {
        // Between looking and beginning nobody else may begin; what is begun is found.
        let _turn = self.one_at_a_time.lock().await;
        let phases = vec![Phase::Creating, Phase::Running, Phase::Paused, Phase::Stopped];
        let theirs = ListQuery { owner: ask.owner.clone(), phases, limit: 1, ..among };
        let Some(found) = self.page(caller, theirs).await?.items.pop() else {
            return self.create(caller, ask, None).await;
        };
        match self.creations.find(found.id()) {
            Some(creation) => Ok(Begun::UnderWay(creation)),
            None => Ok(Begun::Made(Box::new(found))),
        }
    }

    /// Takes a sandbox down; one that waits to be made never is.
    pub async fn delete(&self, caller: &Caller, id: &str) -> Result<(), ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        if let Some(creation) = self.creations.find(sandbox.id()) {
            creation.cancel();
        }
        let driver = self.base.driver.clone();
        let deleted = async move { driver.delete(sandbox.id(), requested("deletion")).await };
        match to_the_end(deleted).await? {
            Err(DriverError::Conflict { phase: Phase::Terminating, .. }) => Ok(()),
            // It waited for its turn, and was cancelled above.
            Err(DriverError::NotFound(_)) => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    /// Changes the deadline or the network of a sandbox.
    pub async fn update(
        &self,
        caller: &Caller,
        id: &str,
        change: api::UpdateSandbox,
    ) -> Result<Sandbox, ServiceError> {
        let mut sandbox = self.sandbox(caller, id).await?;
        let id = sandbox.id().clone();
        let policy = change.network.map(convert::network_in).transpose()?;
        let now = self.base.world.now();
        let deadline = change.ttl.map(|ttl| deadline_in(&sandbox, ttl, now)).transpose()?;
        if let Some(deadline) = deadline {
            sandbox = self.base.driver.set_deadline(&id, deadline).await?;
        }
        if let Some(policy) = policy {
            let driver = self.base.driver.clone();
            sandbox = to_the_end(async move { driver.set_network(&id, policy).await }).await??;
        }
        Ok(sandbox)
    }

    /// Moves a sandbox to another phase and waits until it is there.
    pub async fn change_phase(
        &self,
        caller: &Caller,
        id: &str,
        change: Move,
    ) -> Result<Sandbox, ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        let driver = self.base.driver.clone();
        let moved = async move {
            let id = sandbox.id();
            match change {
                Move::Start => driver.start(id, no_progress()).await,
                Move::Stop => driver.stop(id, requested("stop")).await,
                Move::Pause => driver.pause(id, requested("pause")).await,
                Move::Resume => driver.resume(id).await,
                Move::Restart => {
                    if sandbox.phase.is_live() {
                        driver.stop(id, requested("restart")).await?;
                    }
                    driver.start(id, no_progress()).await
                }
            }
        };
        let moved = to_the_end(moved).await?;
        Ok(moved.inspect_err(|error| self.base.metrics.driver_failed(error))?)
    }

    /// What a sandbox uses now.
    pub async fn usage(&self, caller: &Caller, id: &str) -> Result<api::Usage, ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        Ok(convert::usage(self.base.driver.usage(sandbox.id()).await?))
    }

    /// What its start command wrote, and what happened to it.
    pub async fn logs(
        &self,
        caller: &Caller,
        id: &str,
        tail: u64,
        follow: bool,
    ) -> Result<(Sandbox, LogStream), ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        let stream = self.base.driver.logs(sandbox.id(), tail, follow).await?;
        Ok((sandbox, stream))
    }
}

/// The deadline that a time to live (in seconds; `None` is none at all) from now on gives a sandbox.
pub fn deadline_in(
    sandbox: &Sandbox,
    ttl: Option<i64>,
    now: Timestamp,
) -> Result<Option<Timestamp>, ServiceError> {
    let refuse = |problem| ServiceError::invalid("ttl", problem);
    let Some(seconds) = ttl else {
        let problem = "this sandbox's template demands a time to live; give seconds";
        return if sandbox.spec.lifecycle.allow_no_ttl { Ok(None) } else { Err(refuse(problem)) };
    };
    let deadline = later(now, positive(seconds)?);
    let beyond = "reaches beyond the end of time; use null for no deadline";
    deadline.map(Some).ok_or_else(|| refuse(beyond))
}

/// A template that is not there is a mistake in the body, not in the path.
fn unknown_template(error: StoreError) -> ServiceError {
    match error {
        StoreError::NotFound(what) => ServiceError::invalid("template", format!("there is no {what}")),
        other => other.into(),
    }
}

/// Whether the caller wrote `field` inside `overrides`.
fn names_override(field: &str, nested: &api::Overrides) -> bool {
    match field.split('.').next() {
        Some("cpu") => nested.cpu.is_some(),
        Some("memory") => nested.memory.is_some(),
        Some("ttl") => nested.ttl.is_some(),
        Some("env") => !nested.env.is_empty(),
        _ => false,
    }
}
