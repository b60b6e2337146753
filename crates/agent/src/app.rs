//! What all services of the agent share. Wires nothing and decides little: users, working directories, stopping.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_proto::init::AgentConfig;
use tokio::sync::watch;

use crate::clock::now_ms;
use crate::errors::ApiError;
use crate::metrics::CpuMeter;
use crate::paths;
use crate::process::Process;
use crate::table::{Sandbox, Table};
use crate::users::{Account, Users};
use crate::watchers::Watchers;
use crate::workers::Workers;

/// The version that `/health` and `Info` tell.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What became of the start command.
#[derive(Clone, Default)]
pub enum StartCommand {
    #[default]
    None,
    Started(Arc<Process>),
    Failed(String),
}

/// The agent.
pub struct App {
    pub config: AgentConfig,
    pub table: Arc<Table>,
    pub workers: Workers,
    pub watchers: Watchers,
    pub cpu: CpuMeter,
    pub boot_id: String,
    pub started_at_ms: u64,
    /// Whether everything but the agent is stopped.
    pub frozen: AtomicBool,
    /// Set once: the sandbox stops, with this much grace.
    pub stopping: watch::Sender<Option<Duration>>,
    start_command: Mutex<StartCommand>,
}

impl App {
    pub fn new(config: AgentConfig, workers: Workers) -> Arc<Self> {
        let sandbox = Sandbox { env: config.env.clone(), allow_sudo: config.allow_sudo };
        Arc::new(Self {
            config,
            table: Table::new(sandbox),
            workers,
            watchers: Watchers::default(),
            cpu: CpuMeter::default(),
            boot_id: random_hex(),
            started_at_ms: now_ms(),
            frozen: AtomicBool::new(false),
            stopping: watch::Sender::new(None),
            start_command: Mutex::default(),
        })
    }

    /// The user of a request: the one it names, else the default one.
    pub fn account(&self, named: Option<&str>) -> Result<Account, ApiError> {
        let name = named.filter(|name| !name.is_empty()).unwrap_or(&self.config.default_user);
        Ok(Users::read().resolve(name)?)
    }

    /// The directory a command starts in; one that nobody named may be missing.
    pub fn working_directory(&self, asked: &str, account: &Account) -> Result<String, ApiError> {
        let named = [asked, self.config.workdir.as_deref().unwrap_or_default()]
            .into_iter()
            .find(|dir| !dir.is_empty());
        match named {
            Some(directory) => Ok(paths::resolve(directory, &account.home)?),
            None if std::path::Path::new(&account.home).is_dir() => Ok(account.home.clone()),
            None => Ok("/".to_owned()),
        }
    }

    pub fn stop(&self, grace: Option<Duration>) {
        let grace = grace.unwrap_or_else(|| Duration::from_secs(self.config.grace_seconds.into()));
        self.stopping.send_replace(Some(grace));
    }

    pub fn start_command(&self) -> StartCommand {
        self.start_command.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_start_command(&self, state: StartCommand) {
        *self.start_command.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// 128 bits nobody can guess.
pub fn random_hex() -> String {
    use std::fmt::Write;
    let mut bytes = [0_u8; 16];
    // Without entropy the kernel's own address of this buffer and the time must do; nothing secret hangs on it.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
