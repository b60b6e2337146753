//! From a recorded intent to a sandbox whose agent answers.

use std::{
    fs::File,
    io::{Seek, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_core::{
    driver::{CreateStep, DriverError, Progress},
    io::IoLimits,
    network::{NetworkMode, NetworkPolicy},
    phase::Phase,
    sandbox::{Limits, Reason, Sandbox},
    snapshot::Defaults,
};

use atoll_proto::init::EXECUTOR_PORT;

use super::{Inner, agent, blocking, cells::Ready, conflict, internal, table::Entry, watch};
use crate::{
    cgroup::throttle::{Device, devices_of},
    disk::{DiskError, Layers},
    images::{Image, PullOptions},
    launcher::{Cell, Launch, LaunchError, Launched, Routed},
    oci::Through,
    process::Identity,
    record::{Base, Record},
};

/// How long an agent may take to answer for the first time.
const AGENT_PATIENCE: Duration = Duration::from_secs(20);
/// Most bytes of a start command's log.
const LOG_CAP: u64 = 16 << 20;

impl Inner {
    /// Records a new sandbox. From then on it exists.
    pub(super) async fn record_new(self: &Arc<Self>, sandbox: Sandbox) -> Result<Arc<Entry>, DriverError> {
        self.check(&sandbox).await?;
        self.claim_volumes(&sandbox).await?;
        let recorded = match self.gallery.hold(&sandbox) {
            Ok(base) => self.record_claimed(sandbox.clone(), base).await,
            Err(error) => Err(error),
        };
        if recorded.is_err() {
            self.shelf.release(&sandbox);
            self.let_go_snapshot(&sandbox).await;
        }
        recorded
    }

    /// `image` is what it stands on, where that is known already.
    async fn record_claimed(
        self: &Arc<Self>,
        sandbox: Sandbox,
        image: Option<Base>,
    ) -> Result<Arc<Entry>, DriverError> {
        let full = || {
            DriverError::Exhausted(format!("this machine has all of its {} sandboxes", super::SLOTS.len()))
        };
        let slot = self.slots().allocate().ok_or_else(full)?;
        let record = Record { sandbox, slot, image, process: None, group: None, populated: false };
        let entry = Entry::new(record.clone());
        // From before anybody can find it: whoever wants it gone at once waits until it is written down.
        let changing = entry.changing.lock().await;
        if !self.table.insert(&entry) {
            self.slots().release(slot);
            return Err(DriverError::Exists(entry.record().sandbox.id().clone()));
        }
        let inner = Arc::clone(self);
        let saved = blocking(move || inner.records.save(&record, true).map_err(internal)).await;
        if let Err(error) = saved {
            entry.never_was();
            self.table.remove(&entry.sandbox());
            self.slots().release(slot);
            return Err(error);
        }
        self.tell(&entry.sandbox(), false);
        drop(changing);
        Ok(entry)
    }

    /// What can be refused before anything is recorded.
    async fn check(&self, sandbox: &Sandbox) -> Result<(), DriverError> {
        self.check_network(&sandbox.spec.network)?;
        self.io_devices(&sandbox.spec.limits.io)?;
        self.check_runtime(sandbox.spec.runtime.as_deref()).await
    }

    /// The devices that a sandbox's I/O is limited on. None without limits: nothing is looked for then.
    pub(super) fn io_devices(&self, limits: &IoLimits) -> Result<Vec<Device>, DriverError> {
        if limits.is_none() {
            return Ok(Vec::new());
        }
        if !self.cgroups.throttles() {
            let problem = "I/O cannot be limited here: no control group controller for it (`io`, or in version 1 `blkio` with \
                           throttling); leave `io` out, or boot with it enabled";
            return Err(DriverError::Unsupported(problem.into()));
        }
        let place = self.disk.sandboxes();
        let devices = devices_of(&place).map_err(internal)?;
        if devices.is_empty() {
            return Err(DriverError::Unsupported(format!(
                "I/O cannot be limited here: what holds {} is no block device; leave `io` out, or name a --data on a disk",
                place.display()
            )));
        }
        Ok(devices)
    }

    /// Whether the network can keep to the policy.
    pub(super) fn check_network(&self, policy: &NetworkPolicy) -> Result<(), DriverError> {
        atoll_core::reach::check_policy(policy, self.config.private_egress)
            .map_err(|error| DriverError::Invalid(error.to_string()))
    }

    /// Brings a sandbox that is `Creating` up, or records why that failed and leaves nothing running. Only by the holder
    /// of the entry's lock.
    pub(super) async fn bring_up(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        progress: &Progress,
    ) -> Result<Sandbox, DriverError> {
        let brought = self.try_bring_up(entry, progress).await;
        self.cells.refill();
        self.let_go_snapshot(&entry.record().sandbox).await;
        match brought {
            Ok(identity) => {
                let reason = Reason::new("ready", "its agent answers");
                let moved = self.move_to(entry, Phase::Running, reason, |_| ()).await?;
                entry.touch(jiff::Timestamp::now());
                watch::process(self, entry, identity);
                Ok(moved)
            }
            Err(error) => {
                self.record_failure(entry, &error).await;
                Err(error)
            }
        }
    }

    async fn record_failure(self: &Arc<Self>, entry: &Arc<Entry>, error: &DriverError) {
        let (inner, record) = (Arc::clone(self), entry.record());
        let cleaned = blocking(move || {
            inner.clean_up(&record)?;
            inner.drop_new_volumes(&record.sandbox)
        })
        .await;
        let code = match error {
            DriverError::Image { code, .. } => code.as_str(),
            DriverError::Exhausted(_) => "exhausted",
            _ => "start_failed",
        };
        let reason = Reason::new(code, error.to_string());
        let recorded = self.move_to(entry, Phase::Failed, reason, Record::at_rest).await;
        for problem in [cleaned.err(), recorded.err()].into_iter().flatten() {
            tracing::warn!(sandbox = %entry.record().sandbox.id(), %problem, "after a failed start");
        }
    }

    async fn try_bring_up(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        progress: &Progress,
    ) -> Result<Identity, DriverError> {
        if !entry.record().populated {
            self.gallery.hold(&entry.record().sandbox)?;
        }
        let base = unless_deleted(entry, self.base(entry, progress)).await?;
        progress(CreateStep::Queued);
        let _turn = self.starting.acquire().await.map_err(internal)?;
        progress(CreateStep::Preparing);
        let (inner, record) = (Arc::clone(self), entry.record());
        let (identity, group) = blocking(move || inner.launch(&record, &base)).await?;
        progress(CreateStep::Starting);
        // Written down when its agent answers: whoever finds the record before that ends what runs and makes it again.
        let process = Some(identity.clone());
        let launched = Record { process, group, populated: true, ..Record::clone(&entry.record()) };
        entry.set(launched);
        unless_deleted(entry, self.await_agent(entry, &identity)).await?;
        if !entry.record().sandbox.spec.volumes.is_empty() {
            let (inner, record) = (Arc::clone(self), entry.record());
            blocking(move || inner.keep_volumes(&record.sandbox)).await?;
        }
        Ok(identity)
    }

    /// The image that the sandbox stands on: the one of its first start, else by its name, pulled when it is not here.
    async fn base(self: &Arc<Self>, entry: &Arc<Entry>, progress: &Progress) -> Result<Base, DriverError> {
        let record = entry.record();
        if let Some(base) = &record.image {
            return Ok(base.clone());
        }
        let reference = &record.sandbox.spec.image;
        let image = match self.images.get(reference).await.map_err(super::images::refused)? {
            Some(image) => image,
            None => {
                self.pull(reference, PullOptions::default(), &|percent| {
                    progress(CreateStep::Pulling { percent })
                })
                .await?
            }
        };
        let base = Base::of(image);
        let kept = base.clone();
        let unsaved = Record { image: Some(kept), ..Record::clone(&record) };
        // Saved when it runs; until then another start finds it again.
        entry.set(unsaved);
        Ok(base)
    }

    /// Makes what the sandbox needs and starts its first process. Blocks for some milliseconds.
    fn launch(&self, record: &Record, base: &Base) -> Result<(Identity, Option<String>), DriverError> {
        let spec = &record.sandbox.spec;
        let id = spec.id.as_str();
        let through = self.through(record)?;
        let uid = self.uid(record.slot, through.as_ref());
        let layers = self.ready_layers(record, base, uid)?;
        let routed = spec.network.mode != NetworkMode::None;
        if routed && !spec.network.is_default() {
            self.router.set_policy(record.slot, &spec.network).map_err(internal)?;
        }
        let order = Launch {
            hostname: id.to_owned(),
            uid_base: uid,
            lowers: base.layers.clone(),
            bottom: self.images.empty(),
            upper: layers.upper,
            work: layers.work,
            stored_base: base.origin.as_ref().map(|origin| origin.stored_base),
            file: layers.file,
            empty: !record.populated && base.origin.is_none(),
            volumes: self.ready_volumes(record, default_user(record, base))?,
            agent: self.agent.clone(),
            socket: self.socket(record),
            log: self.log(record),
            config: agent_config(record, base),
            network: routed.then(|| Routed { plan: self.host.net.clone(), slot: record.slot }),
            sudo: spec.sudo,
            fresh: !record.populated,
            through,
        };
        let through = order.through.is_some();
        let order = self.order(record, &order)?;
        if through {
            // The runtime makes the control group itself, under the sandbox's own name.
            let cell = Cell::prepare(&self.config.launcher, &self.bundles(), &[]).map_err(internal)?;
            return Ok((started(cell, order)?, None));
        }
        let Ready { group, cell } = self.cells.take().map_err(internal)?;
        let launched = self.launch_in(&group, cell, order, &spec.limits);
        if launched.is_err() {
            self.cgroups.kill(&group);
            self.cgroups.remove(&group).map_err(internal)?;
        }
        Ok((launched?, Some(group)))
    }

    /// First of the sandbox's ids outside.
    fn uid(&self, slot: u32, through: Option<&Through>) -> u32 {
        match through {
            Some(through) if !through.maps_ids() => 0,
            _ => self.host.uid(slot),
        }
    }

    /// First of the ids that the sandbox's files have on the disk.
    pub(super) fn stored_base(&self, record: &Record) -> Result<u32, DriverError> {
        match record.image.as_ref().and_then(|base| base.origin.as_ref()) {
            Some(origin) => Ok(origin.stored_base),
            None => Ok(self.uid(record.slot, self.through(record)?.as_ref())),
        }
    }

    /// The directories that the sandbox has, or new ones: empty, or as its snapshot's.
    fn ready_layers(&self, record: &Record, base: &Base, uid: u32) -> Result<Layers, DriverError> {
        let (id, limit) = (record.sandbox.id().as_str(), record.sandbox.spec.limits.disk);
        if record.populated {
            return Ok(self.disk.layers(id));
        }
        let made = match &base.origin {
            Some(origin) => self.disk.create_from(origin.snapshot.as_str(), id, limit),
            None => self.disk.create(id, limit, uid),
        };
        made.map_err(no_room)
    }

    fn launch_in(
        &self,
        group: &str,
        cell: Cell,
        order: File,
        limits: &Limits,
    ) -> Result<Identity, DriverError> {
        self.cgroups.limit(group, limits).map_err(internal)?;
        let devices = self.io_devices(&limits.io)?;
        self.cgroups.limit_io(group, &devices, &limits.io).map_err(internal)?;
        started(cell, order)
    }

    /// Writes the order to a file that is locked as long as the helper works: see [`super::adopt`].
    fn order(&self, record: &Record, launch: &Launch) -> Result<File, DriverError> {
        let path = self.records.directory(record.sandbox.id()).join("launch.json");
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(internal)?;
        file.lock().map_err(internal)?;
        file.set_len(0).map_err(internal)?;
        file.write_all(&serde_json::to_vec(launch).map_err(internal)?).map_err(internal)?;
        file.rewind().map_err(internal)?;
        Ok(file)
    }

    pub(super) fn socket(&self, record: &Record) -> PathBuf {
        self.records.directory(record.sandbox.id()).join("agent.sock")
    }

    pub(super) fn log(&self, record: &Record) -> PathBuf {
        self.records.directory(record.sandbox.id()).join("log")
    }

    async fn await_agent(&self, entry: &Entry, identity: &Identity) -> Result<(), DriverError> {
        let record = entry.record();
        let deadline = Instant::now() + AGENT_PATIENCE;
        loop {
            let asked = async { agent::health(self.to_agent(&record).await?).await };
            let Err(error) = asked.await else { return Ok(()) };
            if identity.open().is_none() {
                return Err(DriverError::Internal(
                    "the sandbox's first process ended before it answered".into(),
                ));
            }
            if Instant::now() > deadline {
                return Err(DriverError::Internal(format!("the agent does not answer: {error}")));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn started(cell: Cell, order: File) -> Result<Identity, DriverError> {
    let Launched { pid, mut helper } = cell.launch(order).map_err(|error| refused_step(&error))?;
    tokio::task::spawn_blocking(move || helper.wait());
    Identity::of(pid).map_err(|_| DriverError::Internal("the sandbox ended as soon as it had started".into()))
}

/// Gives up what may take long when the sandbox is to go. Not for the launch: what that has begun, it must end.
async fn unless_deleted<T>(
    entry: &Entry,
    work: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    tokio::select! {
        done = work => done,
        () = entry.cancelled() => Err(conflict(entry, "it was deleted while it was being started")),
    }
}

impl Base {
    fn of(image: Image) -> Self {
        Self {
            digest: image.digest,
            layers: image.layers,
            config: image.config,
            start_command: None,
            origin: None,
        }
    }
}

/// A step of a launch that wrote to a full disk is not the server's fault.
fn refused_step(error: &LaunchError) -> DriverError {
    let text = error.to_string();
    if is_full(&text) { DriverError::Exhausted(full(&text)) } else { internal(text) }
}

fn is_full(text: &str) -> bool {
    text.contains("No space left") || text.contains("quota exceeded")
}

fn full(text: &str) -> String {
    format!("the disk of the sandboxes is full: {text}")
}

pub(super) fn no_room(error: DiskError) -> DriverError {
    let text = error.to_string();
    match error {
        DiskError::Full { .. } => DriverError::Exhausted(text),
        DiskError::TooSmall { .. } => DriverError::Invalid(format!("disk: {text}")),
        DiskError::Hidden => DriverError::Unsupported(text),
        _ if is_full(&text) => DriverError::Exhausted(full(&text)),
        _ => internal(text),
    }
}

/// Who runs commands that name nobody.
pub(super) fn default_user<'a>(record: &'a Record, base: &'a Base) -> &'a str {
    match &record.sandbox.spec.user {
        Some(user) => user,
        None if base.config.user.is_empty() => "root",
        None => &base.config.user,
    }
}

/// How commands run: as the image wishes, overridden by the spec.
pub(super) fn defaults(record: &Record, base: &Base) -> Defaults {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let pairs = base.config.env.iter().filter_map(|pair| pair.split_once('='));
    let workdir = if base.config.workdir.is_empty() { "/" } else { &base.config.workdir };
    let image = Defaults {
        env: pairs.map(owned).collect(),
        user: Some(default_user(record, base).to_owned()),
        workdir: Some(workdir.to_owned()),
        start_command: base.start_command.clone(),
    };
    image.below(&record.sandbox.spec)
}

/// What the agent is told.
fn agent_config(record: &Record, base: &Base) -> serde_json::Value {
    let spec = &record.sandbox.spec;
    let Defaults { env, user, workdir, start_command } = defaults(record, base);
    serde_json::json!({
        "sandbox_id": spec.id.as_str(),
        "hostname": spec.id.as_str(),
        "env": env,
        "start_command": start_command,
        "workdir": workdir,
        "default_user": user,
        "allow_sudo": spec.sudo,
        "log_cap_bytes": LOG_CAP,
        "cpu_count": spec.limits.cpu.0 as f64 / 1000.0,
        "memory_limit_bytes": spec.limits.memory.0,
        "executor_port": spec.executor.then_some(EXECUTOR_PORT),
    })
}
