//! The driver of one machine: puts images, disk, control groups, network and launcher together, keeps the records, and
//! moves sandboxes from phase to phase. One change of a sandbox at a time; every intent is recorded before its effect, so
//! that the next server finishes or undoes what this one began. It must not know of HTTP, users, exec or files.

mod adopt;
mod agent;
mod cells;
mod connect;
mod images;
mod logs;
mod port;
mod rest;
mod runtime;
mod snapshots;
mod start;
mod table;
mod volumes;
mod watch;

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Semaphore, broadcast};

use atoll_core::{
    driver::{DriverError, Event},
    id::SandboxId,
    phase::Phase,
    quantity::Bytes,
    sandbox::{Reason, Sandbox},
};
use atoll_proto::sign::RequestSigner;

use self::{
    cells::Cells,
    snapshots::Gallery,
    table::{Entry, Table},
    volumes::Shelf,
};
use crate::{
    cgroup::{CgroupError, Cgroups},
    disk::{self, Disk, DiskError, Storage},
    host::{self, Host, HostError, SLOTS},
    images::{ImageError, ImageStore, RegistryConfig},
    net::{Addresses, NetError, Router, dns::Forwarder},
    oci::Runtimes,
    record::{Record, Records},
};

/// Processes of all sandboxes of a data directory together, so that many fork bombs cannot use up the machine's pids.
const ALL_PIDS: u64 = 200_000;
/// Events that a slow subscriber may fall behind.
const EVENTS: usize = 4096;

/// What a driver is told.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The directory that holds everything. Made when it is not there.
    pub data: PathBuf,
    /// The agent: a static program.
    pub agent: &'static [u8],
    /// The program that [`crate::launcher::entry`] was put first in; usually `/proc/self/exe`.
    pub launcher: PathBuf,
    /// What is to keep images and sandboxes' files.
    pub storage: Storage,
    /// Size of the btrfs to be made, when one must be made.
    pub disk: Option<Bytes>,
    /// Where images come from.
    pub registries: RegistryConfig,
    /// Where OCI runtimes are looked for.
    pub runtimes: Runtimes,
    /// Whether policies may open private address ranges by name.
    pub private_egress: bool,
}

/// Why the driver cannot start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not root.
    #[error("sandboxes need root: namespaces, overlay mounts and control groups are made; run it with sudo")]
    NotRoot,
    /// The directory cannot be used.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Control groups cannot be used.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    /// The network cannot be made.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Images cannot be kept.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// A file operation failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs sandboxes on this machine.
#[derive(Clone)]
pub struct LocalDriver {
    inner: Arc<Inner>,
}

struct Inner {
    config: LocalConfig,
    host: Host,
    agent: PathBuf,
    cells: Arc<Cells>,
    records: Records,
    disk: Disk,
    cgroups: Cgroups,
    images: ImageStore,
    router: Router,
    table: Table,
    shelf: Shelf,
    gallery: Gallery,
    slots: Mutex<Addresses>,
    starting: Semaphore,
    events: broadcast::Sender<Event>,
    /// Signs requests to agents that listen on TCP.
    key: Arc<RequestSigner>,
    _lock: File,
}

impl LocalDriver {
    /// Opens a data directory, adopts the sandboxes that run, finishes or undoes what was half done, and starts to watch.
    ///
    /// # Errors
    /// When the machine cannot run sandboxes; [`crate::doctor`] tells all reasons at once.
    pub async fn open(config: LocalConfig) -> Result<Self, OpenError> {
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::NotRoot);
        }
        let inner = tokio::task::spawn_blocking(move || Inner::open(config)).await;
        let inner = Arc::new(inner.map_err(std::io::Error::other)??);
        tokio::spawn(Forwarder::bind(&inner.router, Path::new("/etc/resolv.conf"))?.run());
        adopt::adopt(&inner).await?;
        tokio::spawn(Cells::keep(Arc::downgrade(&inner.cells)));
        tokio::spawn(watch::lifecycle(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// The images, for provisioning and imports.
    #[must_use]
    pub fn image_store(&self) -> &ImageStore {
        &self.inner.images
    }
}

impl Inner {
    fn open(config: LocalConfig) -> Result<Self, OpenError> {
        let lock = host::lock(&config.data)?;
        let host = host::choose(&config.data)?;
        let disk = Disk::open(&config.data, config.storage, config.disk)?;
        let cgroups = Cgroups::discover(&host.cgroup())?;
        cgroups.ensure_parent(ALL_PIDS)?;
        let router = Router::ensure(&host.net)?;
        let images = ImageStore::open(&disk.images(), config.registries.clone())?;
        let records = Records::open(config.data.join("sandboxes"))?;
        let shelf = Shelf::open(&config.data)?;
        let gallery = Gallery::open(&config.data)?;
        let run = config.data.join("run");
        let mount_point = run.join("mnt");
        fs::create_dir_all(&mount_point)?;
        let agent = install_agent(&run, config.agent)?;
        let key = runtime::agent_key(&config.data)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cells = Cells::new(cgroups.clone(), config.launcher.clone(), mount_point, cores * 2);
        Ok(Self {
            config,
            host,
            agent,
            cells: Arc::new(cells),
            records,
            disk,
            cgroups,
            images,
            router,
            table: Table::default(),
            shelf,
            gallery,
            slots: Mutex::new(Addresses::new(SLOTS)),
            starting: Semaphore::new(cores * 2),
            events: broadcast::channel(EVENTS).0,
            key: Arc::new(key),
            _lock: lock,
        })
    }

    fn entry(&self, id: &SandboxId) -> Result<Arc<Entry>, DriverError> {
        self.table.get(id).ok_or_else(|| DriverError::NotFound(format!("sandbox {id}")))
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what `change` makes of an entry. Only by the holder of the entry's lock.
    async fn store(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        change: impl FnOnce(&mut Record),
    ) -> Result<Sandbox, DriverError> {
        let mut record = Record::clone(&entry.record());
        record.sandbox.last_activity = record.sandbox.last_activity.max(entry.activity());
        change(&mut record);
        let (inner, saved) = (Arc::clone(self), record.clone());
        blocking(move || inner.records.save(&saved, true).map_err(internal)).await?;
        entry.set(record);
        Ok(entry.sandbox())
    }

    /// Moves an entry to a phase and tells everybody. Only by the holder of the entry's lock.
    async fn move_to(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        phase: Phase,
        reason: Reason,
        change: impl FnOnce(&mut Record),
    ) -> Result<Sandbox, DriverError> {
        let current = entry.record().sandbox.phase;
        if !current.may_become(phase) {
            return Err(conflict(entry, &format!("it cannot become {phase:?}")));
        }
        let moved = self
            .store(entry, |record| {
                let _ = record.sandbox.become_phase(phase, reason, jiff::Timestamp::now());
                change(record);
            })
            .await?;
        self.tell(&moved, false);
        Ok(moved)
    }

    fn tell(&self, sandbox: &Sandbox, gone: bool) {
        let reason = &sandbox.reason;
        tracing::info!(sandbox = %sandbox.id(), phase = ?sandbox.phase, gone, code = %reason.code, "{}", reason.message);
        // Nobody listening is fine.
        let _ = self.events.send(Event { sandbox: Arc::new(sandbox.clone()), gone });
    }

    /// Removes what a sandbox has on the machine beside its files. Safe to repeat. Its link is the kernel's to remove, with
    /// the network namespace: waiting for that would cost 20 ms.
    fn clean_up(&self, record: &Record) -> Result<(), DriverError> {
        self.cgroups.kill(record.group());
        self.forget_container(record)?;
        self.cgroups.remove(record.group()).map_err(internal)?;
        if !record.sandbox.spec.network.is_default() {
            self.router.clear_policy(record.slot).map_err(internal)?;
        }
        Ok(())
    }
}

/// Puts the agent where sandboxes are started from. Its name is that of its content: a newer server's does not replace it
/// under sandboxes that run the older one.
fn install_agent(run: &Path, bytes: &[u8]) -> std::io::Result<PathBuf> {
    use sha2::{Digest, Sha256};
    let digest = hex::encode(&Sha256::digest(bytes)[..8]);
    let path = run.join(format!("agent-{digest}"));
    if !path.exists() {
        let unfinished = run.join("agent.new");
        fs::write(&unfinished, bytes)?;
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o555))?;
        fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

fn internal(error: impl std::fmt::Display) -> DriverError {
    DriverError::Internal(error.to_string())
}

fn conflict(entry: &Entry, problem: &str) -> DriverError {
    let record = entry.record();
    let sandbox = &record.sandbox;
    DriverError::Conflict { id: sandbox.id().clone(), phase: sandbox.phase, problem: problem.to_owned() }
}

/// Runs what blocks on a thread made for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    tokio::task::spawn_blocking(work).await.map_err(internal)?
}

/// Takes everything of a data directory off this machine: sandboxes, network, control groups, disk. The directory stays.
///
/// # Errors
/// When a server uses it, or the kernel does not let go of something; what was removed until then is gone.
pub fn destroy(data: &Path) -> Result<(), OpenError> {
    if !data.exists() {
        return Ok(());
    }
    let _lock = host::lock(data)?;
    if let Some(host) = host::read(&data.join("host.json"))? {
        let cgroups = Cgroups::discover(&host.cgroup())?;
        for name in cgroups.names() {
            cgroups.kill(&name);
            cgroups.remove(&name)?;
        }
        cgroups.remove_parent();
        remove_tree(&runtime::bundles(&host.net))?;
        Router::destroy(&host.net)?;
        Disk::close(data)?;
        host::release(data, &host);
    }
    Disk::clear_snapshots(data)?;
    for name in ["sandboxes", "volumes", "snapshots", "run", "disk"] {
        remove_tree(&data.join(name))?;
    }
    for name in
        [disk::MARK, "storage.new", "disk.img", "disk.img.new", "host.json.new", "agent.key", "agent.key.new"]
    {
        remove_file(&data.join(name))?;
    }
    Ok(())
}

/// A mount point of the owner's own, such as a btrfs for the disk, stays when it is empty.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && empty() => Ok(()),
        Err(error) => Err(std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}

fn remove_file(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
