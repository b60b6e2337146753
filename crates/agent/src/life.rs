//! The agent's life: set up, serve, stop.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use atoll_proto::sign::{RequestVerifier, SignatureError};
use rustix::net::AddressFamily;
use rustix::process::Signal;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::app::{App, StartCommand};
use crate::arguments::{ArgumentError, Arguments, Listen, inherited};
use crate::errors::ApiError;
use crate::http::Server;
use crate::log::Sink;
use crate::marks;
use crate::oom_score;
use crate::plan::Command;
use crate::process::{Output, Process, Reader};
use crate::procfs;
use crate::reaper::{self, Heard, Signals};
use crate::table::StartOptions;
use crate::workers::Workers;

/// After a failed accept: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For the answer to `Shutdown` to leave.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The command line or the configuration.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// The public key.
    #[error(transparent)]
    Key(#[from] SignatureError),
    /// A step of the set-up that failed.
    #[error("{0}: {1}")]
    Setup(&'static str, io::Error),
}

fn setup(step: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |error| AgentError::Setup(step, error)
}

/// Runs the agent until it is told to stop.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Result<(), AgentError> {
    oom_score::spare_agent();
    harden();
    let arguments = Arguments::parse(arguments)?;
    let config = arguments.config()?;
    let signals = reaper::block().map_err(setup("signals"))?;
    let workers = Workers::start().map_err(setup("threads"))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(setup("runtime"))?;
    let app = App::new(config, workers);
    runtime.block_on(live(app, &arguments, signals))
}

/// Nobody in the sandbox may look into the agent, and orphans come to it.
fn harden() {
    // SAFETY: numbers only. A kernel that refuses changes nothing else: the launcher's walls stand.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::umask(0o022);
        // One arena for all threads, and what is freed goes back: the agent is small in every sandbox.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

fn open_log(arguments: &Arguments, cap: u64) -> Result<Option<Sink>, AgentError> {
    let Some(fd) = arguments.log else { return Ok(None) };
    let file = File::from(inherited(fd).map_err(setup("log"))?);
    Sink::new(file, cap).map(Some).map_err(setup("log"))
}

async fn live(app: Arc<App>, arguments: &Arguments, signals: OwnedFd) -> Result<(), AgentError> {
    let log = open_log(arguments, app.config.log_cap_bytes)?;
    marks::leave(&app.config.env);
    let signals = Signals::new(signals).map_err(setup("signals"))?;
    let progress = watch::Sender::new(());
    let reaped = progress.subscribe();
    let (listener, verifier) = listener(&arguments.listen, &app.config.sandbox_id).await?;
    let server = Server::new(Arc::clone(&app), verifier);
    // Before anybody can ask whether the agent is there: then the executor is, too.
    if let Some(port) = app.config.executor_port {
        let everywhere = (Ipv4Addr::UNSPECIFIED, port);
        let listener = TcpListener::bind(everywhere).await.map_err(setup("the executor's port"))?;
        tokio::spawn(accept(Listener::Tcp(listener), server.executor()));
    }
    tokio::spawn(accept(listener, server));
    tokio::spawn(hear(Arc::clone(&app), signals, progress));
    start(&app, log).await;
    stop(&app, reaped).await;
    Ok(())
}

async fn hear(app: Arc<App>, signals: Signals, progress: watch::Sender<()>) {
    // Children that came with the process that became the agent.
    reaper::reap(&app.table, &progress);
    while let Ok(heard) = signals.next().await {
        match heard {
            Heard::Children => reaper::reap(&app.table, &progress),
            Heard::Stop => app.stop(None),
        }
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

async fn listener(
    listen: &Listen,
    sandbox_id: &str,
) -> Result<(Listener, Option<RequestVerifier>), AgentError> {
    match listen {
        Listen::Inherited(fd) => Ok((adopt(*fd).map_err(setup("listen"))?, None)),
        Listen::Tcp { address, public_key } => {
            let verifier = RequestVerifier::new(public_key, sandbox_id)?;
            let listener = TcpListener::bind(address).await.map_err(setup("listen"))?;
            Ok((Listener::Tcp(listener), Some(verifier)))
        }
    }
}

/// A socket that was bound outside is trusted when it is a unix socket; others are not taken.
fn adopt(fd: i32) -> io::Result<Listener> {
    let fd = inherited(fd)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    if rustix::net::sockopt::socket_domain(&fd)? != AddressFamily::UNIX {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the inherited socket is no unix socket"));
    }
    UnixListener::from_std(fd.into()).map(Listener::Unix)
}

async fn accept(listener: Listener, server: Server) {
    loop {
        let accepted = match &listener {
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| server.serve(stream)),
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| server.serve_tcp(stream)),
        };
        if accepted.is_err() {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Starts the start command; the sandbox lives on whatever becomes of it.
async fn start(app: &Arc<App>, mut log: Option<Sink>) {
    let Some(argv) = app.config.start_command.clone().filter(|argv| !argv.is_empty()) else { return };
    match start_command(app, argv).await {
        Ok(process) => {
            let reader = process.read_after(0);
            app.set_start_command(StartCommand::Started(process));
            tokio::spawn(record(reader, log));
        }
        Err(error) => {
            note(log.as_mut(), &format!("the start command did not start: {error}")).await;
            app.set_start_command(StartCommand::Failed(error.to_string()));
        }
    }
}

async fn start_command(app: &App, argv: Vec<String>) -> Result<Arc<Process>, ApiError> {
    let account = app.account(app.config.user.as_deref())?;
    let cwd = app.working_directory("", &account)?;
    let options = StartOptions {
        command: Command { argv, cwd, ..Command::default() },
        account,
        tag: None,
        size: None,
        stdin: false,
        detached: true,
        own: true,
        guarded: false,
        timeout: None,
        grace: Duration::ZERO,
    };
    Ok(app.table.start(options).await?.0)
}

/// Writes the start command's output to the log, until it ends.
async fn record(mut reader: Reader, mut log: Option<Sink>) {
    loop {
        match reader.next().await {
            Output::Piece(piece) => {
                if let Some(log) = &mut log {
                    // A log that cannot be written must not stop the command.
                    let _ = log.write(&piece.data).await;
                }
            }
            Output::Gap(_) => {}
            Output::Exit(exit) => {
                note(log.as_mut(), &format!("the start command ended with code {}", exit.code())).await;
                return;
            }
        }
    }
}

async fn note(log: Option<&mut Sink>, text: &str) {
    if let Some(log) = log {
        // There is no other place to say it.
        let _ = log.write(format!("[atoll: {text}]\n").as_bytes()).await;
    }
}

/// Waits for the order to stop, and carries it out: first politely, then not.
async fn stop(app: &App, mut reaped: watch::Receiver<()>) {
    let mut stopping = app.stopping.subscribe();
    let grace = loop {
        if let Some(grace) = *stopping.borrow_and_update() {
            break grace;
        }
        // The sender lives in `app`.
        let _ = stopping.changed().await;
    };
    procfs::signal_everything(Signal::TERM);
    // Shells at a terminal ignore SIGTERM and understand this.
    for process in app.table.all().iter().filter(|process| process.description.command.terminal) {
        let _ = process.signal(libc::SIGHUP);
    }
    procfs::signal_everything(Signal::CONT);
    if tokio::time::timeout(grace, all_gone(&mut reaped)).await.is_err() {
        procfs::signal_everything(Signal::KILL);
        // Whoever does not even die now dies with the namespace.
        let _ = tokio::time::timeout(Duration::from_secs(1), all_gone(&mut reaped)).await;
    }
    tokio::time::sleep(LAST_WORDS).await;
}

async fn all_gone(reaped: &mut watch::Receiver<()>) {
    while reaper::has_children() {
        let _ = reaped.changed().await;
    }
}
