//! One build, from its first step to the template: runs the steps in a sandbox, keeps what each leaves as a layer, goes on
//! from layers that are there already, tries the result, and puts the template. Whatever becomes of it, its sandboxes go.

use atoll_core::{
    build::{Build, BuildState, DEFAULT_TAG, Level},
    image::RegistryLogin,
    snapshot::{self, Snapshot, SnapshotQuery},
    template::TemplateSpec,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    Failure,
    journal::Journal,
    plan::{Context, From, Plan, Planned, USER, key},
    spool::Spool,
    stage::{Stage, shell},
    steps::{Hands, perform, prepare},
    trial,
};
use crate::{
    services::{Services, access::Caller, error::ServiceError},
    world,
};

/// What the platform calls what comes before the first step, and after the last.
const BASE: &str = "base";
const FINALIZE: &str = "finalize";
/// Begins every key; another number makes all layers of before useless.
const KEYS: &str = "atoll build 1";
/// How often what was logged goes to the store, and how often a build says that it is worked on.
const FLUSH: Duration = Duration::from_millis(250);
const ALIVE: Duration = Duration::from_secs(3);
/// Of a key, for people.
const SHOWN: usize = 12;

/// A build that is worked on.
pub struct Work {
    pub services: Arc<Services>,
    pub caller: Caller,
    pub build: Build,
    pub plan: Plan,
    pub spool: Spool,
    pub journal: Arc<Journal>,
    /// The sandbox that it has now.
    pub stage: Option<Stage>,
    pub until: Instant,
}

/// What the steps so far have made.
struct Layer {
    /// What a sandbox is made from that has it.
    image: String,
    key: String,
    context: Context,
}

impl Layer {
    fn of(snapshot: Snapshot, key: String) -> Self {
        let image = snapshot.reference();
        let defaults = snapshot.defaults;
        let context = Context {
            env: defaults.env,
            user: defaults.user.unwrap_or_else(|| USER.into()),
            workdir: defaults.workdir.unwrap_or_else(|| "~".into()),
        };
        Self { image, key, context }
    }
}

/// Works on a build until it is over.
pub async fn work(services: Arc<Services>, caller: Caller, build: Build, plan: Plan, spool: Spool) {
    let limit = services.base.config.limits.build_for;
    let journal = Arc::new(Journal::new(services.base.clone(), build.id.clone()));
    // A task of its own: it must not wait for what the build waits for.
    let mut alive = tokio::spawn(stay_alive(services.clone(), build.clone(), journal.clone()));
    let until = Instant::now() + limit;
    let mut work = Work { services, caller, build, plan, spool, journal, stage: None, until };
    let ended = tokio::select! {
        ended = work.template() => ended,
        lost = &mut alive => Err(lost.unwrap_or_else(|error| Failure::new(error.to_string()))),
        () = tokio::time::sleep_until(until) => {
            Err(Failure::new(format!("the build took longer than {} s", limit.as_secs())))
        }
    };
    if let Some(stage) = work.stage.take() {
        stage.close().await;
    }
    work.end(ended).await;
    alive.abort();
}

/// Says that the build is worked on, and writes its log. Ends when nobody wants it any more.
async fn stay_alive(services: Arc<Services>, build: Build, journal: Arc<Journal>) -> Failure {
    let (store, world) = (&services.base.store, &services.base.world);
    let mut ticks = tokio::time::interval(FLUSH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = Instant::now();
    loop {
        tokio::select! {
            () = services.base.stopping.cancelled() => return Failure::new("the server was stopped; build again"),
            _ = ticks.tick() => {}
        }
        if let Err(error) = journal.flush().await {
            tracing::warn!(build = build.id, %error, "a build's log waits");
        }
        if said.elapsed() < ALIVE {
            continue;
        }
        said = Instant::now();
        match store.touch_build(&build.tenant, &build.id, world.now()).await {
            Ok(true) => {}
            Ok(false) => return Failure::new("the build was taken away"),
            Err(error) => tracing::warn!(build = build.id, %error, "a build cannot say that it is worked on"),
        }
    }
}

impl Work {
    /// Remembers how it ended.
    async fn end(&self, ended: Result<TemplateSpec, Failure>) {
        let ended = match ended {
            Ok(spec) => self.put(&spec).await,
            Err(failure) => Err(failure),
        };
        let state = match ended {
            Ok(version) => {
                self.journal.say(Level::Info, FINALIZE, format!("Build finished: version {version}"));
                BuildState::Ready { version }
            }
            Err(Failure { step, message }) => {
                let at = step.as_deref().unwrap_or(FINALIZE);
                self.journal.say(Level::Error, at, format!("Build failed: {message}"));
                BuildState::Failed { message, step }
            }
        };
        let base = &self.services.base;
        // The log first: whoever sees that it is over reads all of it.
        if let Err(error) = self.journal.flush().await {
            tracing::warn!(build = self.build.id, %error, "the end of a build's log is lost");
        }
        let (tenant, id) = (&self.build.tenant, &self.build.id);
        match base.store.end_build(tenant, id, &state, base.world.now()).await {
            Ok(true) => tracing::info!(build = self.build.id, state = state.name(), "a build ended"),
            Ok(false) => tracing::info!(build = self.build.id, "a build ended that nobody wants any more"),
            Err(error) => {
                tracing::warn!(build = self.build.id, %error, "how a build ended is not remembered")
            }
        }
    }

    /// Puts the template, and lets the tags point to it.
    async fn put(&self, spec: &TemplateSpec) -> Result<i64, Failure> {
        let (base, build) = (&self.services.base, &self.build);
        let failed =
            |error: atoll_core::store::StoreError| Failure::from(ServiceError::from(error)).at(FINALIZE);
        let now = base.world.now();
        if !base.store.touch_build(&build.tenant, &build.id, now).await.map_err(failed)? {
            return Err(Failure::new("the build was taken away"));
        }
        let put =
            base.templates.put_template(&build.tenant, &build.template, spec, now).await.map_err(failed)?;
        let default = [DEFAULT_TAG.to_owned()];
        let tags = if build.ask.tags.is_empty() { &default[..] } else { &build.ask.tags };
        base.store.put_tags(&build.tenant, &build.template, tags, &build.id, now).await.map_err(failed)?;
        Ok(put.version)
    }

    async fn template(&mut self) -> Result<TemplateSpec, Failure> {
        let (recipe, layer) = self.base().await.map_err(|failure| failure.at(BASE))?;
        let layer = self.steps(layer).await?;
        self.leave_stage().await;
        let spec = self.recipe(recipe, &layer);
        let tried = trial::run(self, &spec).await;
        self.leave_stage().await;
        tried.map_err(|failure| failure.at(FINALIZE))?;
        Ok(spec)
    }

    /// What the first step stands on.
    async fn base(&mut self) -> Result<(TemplateSpec, Layer), Failure> {
        let (recipe, title) = self.source().await?;
        let known = Context {
            env: recipe.env.clone(),
            user: recipe.user.clone().unwrap_or_default(),
            workdir: recipe.workdir.clone().unwrap_or_else(|| "~".into()),
        };
        let digest = match snapshot::of_image(&recipe.image) {
            Ok(None) => self.digest(&recipe.image, self.login()).await?,
            _ => String::new(),
        };
        let tenant = self.build.tenant.clone();
        let env = known.env.iter().flat_map(|(name, value)| [name.as_str(), value]);
        let parts = [KEYS, &tenant, &recipe.image, &digest, &known.user, &known.workdir];
        let key = key(parts.into_iter().chain(env));
        let found = if self.plan.force { None } else { self.find(&key).await? };
        self.title(BASE, &title, &key, found.is_some());
        if let Some(found) = found {
            return Ok((recipe, Layer::of(found, key)));
        }
        let stage = self.enter(&recipe.image).await?;
        let context = if known.user.is_empty() {
            let made = prepare(stage).await?;
            Context { user: made.user, ..known }
        } else {
            known
        };
        let kept = stage.keep(&key, &context).await?;
        Ok((recipe, Layer::of(kept, key)))
    }

    /// The recipe that a build begins with, and how it is called.
    async fn source(&self) -> Result<(TemplateSpec, String), Failure> {
        let of_image = |image: &str| TemplateSpec { image: image.to_owned(), ..TemplateSpec::default() };
        match &self.plan.from {
            From::Image { reference, .. } => Ok((of_image(reference), format!("FROM {reference}"))),
            From::Template(text) => {
                let template = self.services.template_named(&self.caller, text).await?;
                Ok((template.spec, format!("FROM TEMPLATE {text}")))
            }
        }
    }

    fn login(&self) -> Option<RegistryLogin> {
        match &self.plan.from {
            From::Image { login, .. } => login.clone(),
            From::Template(_) => None,
        }
    }

    /// The digest of an image, which is fetched where it is not here, or where it takes a login to have it.
    async fn digest(&self, reference: &str, login: Option<RegistryLogin>) -> Result<String, Failure> {
        let images = self.services.base.driver.images();
        let known = images.get(reference).await.map_err(ServiceError::from)?;
        if let Some(image) = known.filter(|_| login.is_none()) {
            return Ok(image.digest);
        }
        self.journal.say(Level::Info, BASE, format!("Pulling image {reference}"));
        let progress = atoll_core::driver::no_progress();
        Ok(images.pull(reference, login, progress).await.map_err(ServiceError::from)?.digest)
    }

    async fn steps(&mut self, mut layer: Layer) -> Result<Layer, Failure> {
        let steps = self.plan.steps.clone();
        // What follows a step that was done anew stands on what that made.
        let mut anew = self.plan.force;
        for (n, planned) in steps.iter().enumerate() {
            let (step, prefix) = ((n + 1).to_string(), format!("builder {}/{}", n + 1, steps.len()));
            let key = planned.key(&layer.key);
            anew |= planned.force;
            let found = if anew { None } else { self.find(&key).await.map_err(|it| it.at(&step))? };
            self.log_title(&step, &prefix, &planned.title, &key, found.is_some());
            layer = match found {
                Some(found) => {
                    self.leave_stage().await;
                    Layer::of(found, key)
                }
                None => {
                    anew = true;
                    self.step(planned, &layer, key, (&step, &prefix)).await.map_err(|it| it.at(&step))?
                }
            };
        }
        Ok(layer)
    }

    async fn step(
        &mut self,
        planned: &Planned,
        below: &Layer,
        key: String,
        (step, prefix): (&str, &str),
    ) -> Result<Layer, Failure> {
        let fresh = hex::encode(world::bytes::<8>(&*self.services.base.world).map_err(ServiceError::from)?);
        let (journal, spool, tenant) = (self.journal.clone(), self.spool.clone(), self.build.tenant.clone());
        let limit = self.until.saturating_duration_since(Instant::now());
        let stage = self.enter(&below.image).await?;
        let hands =
            Hands { journal: &journal, step, prefix, spool: &spool, tenant: &tenant, limit, fresh: &fresh };
        let context = perform(stage, &planned.step, &below.context, &hands).await?;
        let kept = stage.keep(&key, &context).await?;
        Ok(Layer::of(kept, key))
    }

    /// The newest layer with a key.
    async fn find(&self, key: &str) -> Result<Option<Snapshot>, Failure> {
        let query = SnapshotQuery {
            tenant: Some(self.build.tenant.clone()),
            key: Some(key.to_owned()),
            limit: 1,
            ..SnapshotQuery::default()
        };
        let found = self.services.base.driver.snapshots().list(&query).await.map_err(ServiceError::from)?;
        Ok(found.items.into_iter().next())
    }

    /// The sandbox to work in: the one that is there, or one of this image.
    async fn enter(&mut self, image: &str) -> Result<&Stage, Failure> {
        if self.stage.is_none() {
            let (stage, begun) = Stage::open(&self.services, &self.caller, &self.build, image).await?;
            // From here on it is taken down, whatever comes.
            self.stage = Some(stage);
            begun.ended().await?;
        }
        self.stage.as_ref().ok_or_else(|| Failure::new("there is no sandbox to work in"))
    }

    async fn leave_stage(&mut self) {
        if let Some(stage) = self.stage.take() {
            stage.close().await;
        }
    }

    fn title(&self, step: &str, title: &str, key: &str, cached: bool) {
        self.log_title(step, step, title, key, cached);
    }

    fn log_title(&self, step: &str, prefix: &str, title: &str, key: &str, cached: bool) {
        let cached = if cached { "CACHED " } else { "" };
        let short = key.get(..SHOWN).unwrap_or(key);
        self.journal.say(Level::Info, step, format!("{cached}[{prefix}] {title} [{short}]"));
    }

    /// The template's recipe: that of the base, with what the steps have made of it.
    fn recipe(&self, base: TemplateSpec, layer: &Layer) -> TemplateSpec {
        let (ask, context) = (&self.build.ask, &layer.context);
        let mut spec = TemplateSpec {
            image: layer.image.clone(),
            cpu: ask.cpu.clone().or(base.cpu),
            memory: ask.memory.clone().or(base.memory),
            env: context.env.clone(),
            user: Some(context.user.clone()),
            workdir: Some(context.workdir.clone()),
            ..base
        };
        if self.plan.start.is_some() || self.plan.ready.is_some() {
            let line = |line: &Option<String>| line.as_deref().map(|line| shell(line, context));
            (spec.start_command, spec.ready_command) = (line(&self.plan.start), line(&self.plan.ready));
        }
        spec
    }
}
