//! The port to whatever runs sandboxes. A driver runs them and connects to them; it knows nothing of exec, files or
//! terminals, and whoever uses it knows nothing of namespaces, overlays or pods.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::IpAddr, pin::Pin, str::FromStr, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    id::SandboxId,
    image::Images,
    network::NetworkPolicy,
    phase::Phase,
    request::Capacity,
    sandbox::{Reason, Sandbox},
    snapshot::Snapshots,
    volume::Volumes,
};

/// A connected stream of bytes to something inside a sandbox.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A [`Stream`] of whatever kind.
pub type BoxStream = Box<dyn Stream>;

/// Makes the proof that a request to an agent comes from its server: of the time in milliseconds since the epoch, the
/// method, and the path with its query. It is sent as the header that the agent's protocol names.
pub type AgentSigner = Arc<dyn Fn(u64, &str, &str) -> String + Send + Sync>;

/// A stream of log chunks that ends when the log does.
pub type LogStream = Pin<Box<dyn futures::Stream<Item = Result<Vec<u8>, DriverError>> + Send>>;

/// Where in a sandbox to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its agent.
    Agent,
    /// A TCP port on its loopback address, or on its own address where only that listens.
    Port(u16),
}

/// What a creation is doing, in the order in which it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum CreateStep {
    /// Waits for others to be started.
    Queued,
    /// The image is being fetched.
    Pulling {
        /// 0 to 100.
        percent: u8,
    },
    /// Filesystem, network and limits are being made.
    Preparing,
    /// Its first process starts.
    Starting,
}

/// Is told of each step. Must be cheap: it is called on the way.
pub type Progress = Arc<dyn Fn(CreateStep) + Send + Sync>;

/// A [`Progress`] for whoever does not care.
#[must_use]
pub fn no_progress() -> Progress {
    Arc::new(|_| {})
}

/// What a driver refuses or fails at.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriverError {
    /// No such sandbox or image.
    #[error("{0} does not exist")]
    NotFound(String),
    /// A sandbox of that id is there already.
    #[error("sandbox {0} exists already")]
    Exists(SandboxId),
    /// The phase does not allow it.
    #[error("sandbox {id} is {phase:?}: {problem}")]
    Conflict {
        /// Which sandbox.
        id: SandboxId,
        /// The phase it is in.
        phase: Phase,
        /// What cannot be done, and what can.
        problem: String,
    },
    /// What was asked for can never work; says why.
    #[error("{0}")]
    Invalid(String),
    /// The image cannot be had. The code tells apart `image_not_found`, `registry_unreachable`, `wrong_digest`, …
    #[error("{message}")]
    Image {
        /// Machine-readable.
        code: String,
        /// Names the image and what to do.
        message: String,
    },
    /// There is no room: addresses, disk, processes.
    #[error("{0}")]
    Exhausted(String),
    /// The thing is in use.
    #[error("{0}")]
    InUse(String),
    /// Nothing listens there.
    #[error("nothing listens on port {0} of the sandbox")]
    PortClosed(u16),
    /// This driver cannot do that at all.
    #[error("{0}")]
    Unsupported(String),
    /// Something broke that should not have.
    #[error("{0}")]
    Internal(String),
}

/// The place of a sandbox, or of whatever else has an id and an age, in a list: newest first, and by id among those of one
/// microsecond.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position<I = SandboxId> {
    /// Microseconds from the creation to the epoch: the age comes with its sign turned.
    age: i64,
    id: I,
}

impl Position {
    /// Where a sandbox stands.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Self {
        Self::at(sandbox.spec.created_at, sandbox.id().clone())
    }
}

impl<I: FromStr> Position<I> {
    /// Where what was made then stands.
    #[must_use]
    pub fn at(created_at: Timestamp, id: I) -> Self {
        Self { age: -created_at.as_microsecond(), id }
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (age, id) = text.split_once('.')?;
        Some(Self { age: age.parse().ok()?, id: id.parse().ok()? })
    }
}

impl<I: fmt::Display> fmt::Display for Position<I> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.age, self.id)
    }
}

/// Which sandboxes to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only this tenant's; `None` is all.
    pub tenant: Option<String>,
    /// Only this user's; `None` is everybody's.
    pub owner: Option<String>,
    /// Only those that carry all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those whose metadata says all of this.
    pub metadata: BTreeMap<String, String>,
    /// Only those in one of these phases; empty is all.
    pub phases: Vec<Phase>,
    /// At most so many.
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<Position>,
}

impl ListQuery {
    /// Whether a sandbox is one of those, wherever it stands.
    #[must_use]
    pub fn matches(&self, sandbox: &Sandbox) -> bool {
        let spec = &sandbox.spec;
        self.tenant.as_ref().is_none_or(|tenant| *tenant == spec.tenant)
            && (self.owner.is_none() || self.owner == spec.owner)
            && (self.phases.is_empty() || self.phases.contains(&sandbox.phase))
            && self.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
            && self.metadata.iter().all(|(key, value)| spec.metadata.get(key) == Some(value))
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The sandboxes.
    pub items: Vec<Sandbox>,
    /// Where to go on, unless this was the last page.
    pub next: Option<Position>,
}

impl Page {
    /// Adds sandboxes that belong on this page by their place, unless they are there.
    #[must_use]
    pub fn with(mut self, more: Vec<Sandbox>, query: &ListQuery) -> Self {
        let after = |it: &Sandbox| query.cursor.as_ref().is_none_or(|cursor| Position::of(it) > *cursor);
        let known = |it: &Sandbox| self.items.iter().any(|have| have.id() == it.id());
        let more: Vec<_> =
            more.into_iter().filter(|it| query.matches(it) && after(it) && !known(it)).collect();
        self.items.extend(more);
        self.items.sort_by_cached_key(Position::of);
        let beyond = self.items.len() > query.limit;
        self.items.truncate(query.limit);
        if beyond || self.next.is_some() {
            self.next = self.items.last().map(Position::of);
        }
        self
    }
}

/// What a sandbox uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time since its start, in microseconds.
    pub cpu_us: u64,
    /// Bytes of memory that are charged to it.
    pub memory: u64,
    /// The most that it ever was.
    pub memory_peak: u64,
    /// Bytes of disk that are charged to it; `None` where it is not counted.
    pub disk: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// How many of its processes were killed for want of memory.
    pub oom_kills: u64,
}

/// Where a sandbox is, as far as the driver can say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Name of the machine that it runs on.
    pub node: Option<String>,
    /// Its address in its own network, which need not be reachable from outside.
    pub address: Option<IpAddr>,
}

/// A change of a sandbox's phase.
#[derive(Clone, Debug)]
pub struct Event {
    /// The sandbox as it is now.
    pub sandbox: Arc<Sandbox>,
    /// `true` when it is gone for good.
    pub gone: bool,
}

/// One finding of the driver about its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at, e.g. `overlayfs`.
    pub name: String,
    /// How it is.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
    /// How to mend it, when something is wrong.
    pub mend: Option<String>,
}

/// How a [`Check`] came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Works, with less.
    Warn,
    /// Sandboxes cannot run.
    Fail,
}

/// Runs sandboxes.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// What one sandbox may have at most.
    fn capacity(&self) -> Capacity;

    /// Records the sandbox, makes and starts it, and returns it when its agent answers. On failure it stays as `Failed`
    /// with the reason. The id must be new, or it is [`DriverError::Exists`]. Dropping the future does not undo what it began.
    async fn create(&self, sandbox: Sandbox, progress: Progress) -> Result<Sandbox, DriverError>;

    /// One sandbox.
    async fn get(&self, id: &SandboxId) -> Result<Sandbox, DriverError>;

    /// Those that match, newest first.
    async fn list(&self, query: &ListQuery) -> Result<Page, DriverError>;

    /// Takes a sandbox down with its files. Returns when that is recorded; [`Driver::subscribe`] tells when it is gone.
    async fn delete(&self, id: &SandboxId, reason: Reason) -> Result<(), DriverError>;

    /// Ends its processes gracefully and keeps its files.
    async fn stop(&self, id: &SandboxId, reason: Reason) -> Result<Sandbox, DriverError>;

    /// Whether a stop keeps all files of a sandbox.
    fn keeps_files(&self, _sandbox: &Sandbox) -> bool {
        true
    }

    /// Starts a stopped or failed sandbox on its files.
    async fn start(&self, id: &SandboxId, progress: Progress) -> Result<Sandbox, DriverError>;

    /// Freezes a running sandbox.
    async fn pause(&self, id: &SandboxId, reason: Reason) -> Result<Sandbox, DriverError>;

    /// Thaws a paused sandbox.
    async fn resume(&self, id: &SandboxId) -> Result<Sandbox, DriverError>;

    /// Connects to a running sandbox, waking it first when it rests.
    async fn connect(&self, id: &SandboxId, target: Target) -> Result<BoxStream, DriverError>;

    /// How each request to its agent must be signed; `None` where whoever can connect is trusted, or there is no such
    /// sandbox.
    fn agent_signer(&self, _id: &SandboxId) -> Option<AgentSigner> {
        None
    }

    /// Where it is. Cheap; empty where that is not known.
    fn location(&self, _id: &SandboxId) -> Location {
        Location::default()
    }

    /// What its start command wrote, also after its death: the last `tail` bytes, then, with `follow`, what comes.
    async fn logs(&self, id: &SandboxId, tail: u64, follow: bool) -> Result<LogStream, DriverError>;

    /// Reports that somebody used the sandbox. Cheap; coalesced.
    fn touch(&self, id: &SandboxId, at: Timestamp);

    /// Replaces the hard deadline.
    async fn set_deadline(&self, id: &SandboxId, deadline: Option<Timestamp>)
    -> Result<Sandbox, DriverError>;

    /// Replaces what a sandbox may reach.
    async fn set_network(&self, id: &SandboxId, policy: NetworkPolicy) -> Result<Sandbox, DriverError>;

    /// What it uses now.
    async fn usage(&self, id: &SandboxId) -> Result<Usage, DriverError>;

    /// Every change of phase from now on. A slow receiver loses the oldest.
    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Event>;

    /// The images it keeps.
    fn images(&self) -> &dyn Images;

    /// The volumes it keeps.
    fn volumes(&self) -> &dyn Volumes;

    /// The snapshots it keeps.
    fn snapshots(&self) -> &dyn Snapshots;

    /// What is right and wrong with the machine.
    async fn doctor(&self) -> Vec<Check>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sandbox;

    fn made_at(n: u8) -> Sandbox {
        let mut made = sandbox(n);
        made.spec.created_at = Timestamp::from_second(n.into()).unwrap();
        made
    }

    fn seconds(page: &Page) -> Vec<i64> {
        page.items.iter().map(|it| it.spec.created_at.as_second()).collect()
    }

    #[test]
    fn a_position_can_be_written_down() {
        let position = Position::of(&made_at(5));
        assert_eq!(Position::parse(&position.to_string()), Some(position.clone()));
        assert!(Position::of(&made_at(6)) < position, "newest first");
        for bad in ["", "x", "1", "1.", ".i", "x.i1", "ab.cd"] {
            assert_eq!(Position::<SandboxId>::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_added_to_a_page_stands_in_its_place() {
        let query = ListQuery { limit: 3, ..ListQuery::default() };
        let page = |items: &[u8], next: Option<u8>| Page {
            items: items.iter().copied().map(made_at).collect(),
            next: next.map(|n| Position::of(&made_at(n))),
        };
        let more = || vec![made_at(5), made_at(3)];
        let full = page(&[5, 4], None).with(more(), &query);
        assert_eq!((seconds(&full), full.next), (vec![5, 4, 3], None), "one was there");
        let cut = page(&[6, 4, 2], Some(2)).with(more(), &query);
        assert_eq!((seconds(&cut), cut.next), (vec![6, 5, 4], Some(Position::of(&made_at(4)))));
        let later = ListQuery { cursor: Some(Position::of(&made_at(4))), ..query };
        assert_eq!(seconds(&page(&[2], None).with(more(), &later)), [3, 2]);
        let others = ListQuery { tenant: Some("other".into()), ..later };
        assert_eq!(seconds(&page(&[], None).with(more(), &others)), Vec::<i64>::new());
    }
}
