//! A command in a sandbox with this terminal's, or these pipes', input and output. Bytes go through untouched. It must
//! not know how the sandbox came to be.

use atoll_client::{Exit, Input, Output, Outputs, Sandbox, api::InteractiveStart};
use std::{future::pending, io, io::IsTerminal};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    failure::Failure,
    terminal::{self, RawMode},
};

const PIECE: usize = 64 << 10;
/// What ends the input of a program that reads a terminal.
const END_OF_TRANSMISSION: u8 = 4;

/// Whether input should be passed on when nobody said so: pipes and files are, a terminal is the person's.
pub fn has_piped_input() -> bool {
    !io::stdin().is_terminal()
}

/// Runs a command to its end. The first signal to this process is passed on, the second one lets go of the command.
pub async fn attach(sandbox: &Sandbox, mut start: InteractiveStart, stdin: bool) -> Result<Exit, Failure> {
    let tty = start.tty;
    if tty {
        (start.cols, start.rows) = terminal::size().unzip();
        start.env.entry("TERM".into()).or_insert_with(terminal_kind);
    }
    let (input, outputs) = sandbox.exec_interactive(start).await?;
    let raw = if tty { RawMode::enter()? } else { None };
    let sizes = if tty { Some(listen(SignalKind::window_change())?) } else { None };
    let (pid_known, pid) = watch::channel(None);
    let feeding = tokio::spawn(feed(input, stdin, sizes));
    let ended = tokio::select! {
        ended = show(outputs, pid_known) => ended,
        let_go = forward_signals(sandbox, pid) => Err(let_go),
    };
    feeding.abort();
    drop(raw);
    ended
}

fn terminal_kind() -> String {
    std::env::var("TERM").unwrap_or_else(|_| "xterm".into())
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|source| Failure::io("listen for signals", source))
}

/// Passes input on until the command ends. That the command is gone is learned from its output, not here.
async fn feed(mut input: Input, stdin: bool, mut sizes: Option<Signal>) {
    let tty = sizes.is_some();
    let mut reading = stdin || tty;
    let mut source = tokio::io::stdin();
    let mut buffer = vec![0; PIECE];
    if !reading && input.eof().await.is_err() {
        return;
    }
    loop {
        let sent = tokio::select! {
            read = source.read(&mut buffer), if reading => match read {
                Ok(0) | Err(_) => {
                    reading = false;
                    if tty { input.write(vec![END_OF_TRANSMISSION]).await } else { input.eof().await }
                }
                Ok(count) => input.write(buffer[..count].to_vec()).await,
            },
            () = changed(&mut sizes) => match terminal::size() {
                Some((cols, rows)) => input.resize(cols, rows).await,
                None => Ok(()),
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn changed(sizes: &mut Option<Signal>) {
    let Some(sizes) = sizes else { return pending().await };
    if sizes.recv().await.is_none() {
        pending().await
    }
}

/// Writes output where it belongs until the command ends.
async fn show(mut outputs: Outputs, pid_known: watch::Sender<Option<u32>>) -> Result<Exit, Failure> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        match outputs.next().await? {
            Output::Started { pid } => {
                pid_known.send_replace(Some(pid));
            }
            Output::Stdout(bytes) => write(&mut out, &bytes, "standard output").await?,
            Output::Stderr(bytes) => write(&mut err, &bytes, "standard error").await?,
            Output::Exit(exit) => return Ok(exit),
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], name: &str) -> Result<(), Failure> {
    let failed = |source| Failure::io(format!("write to {name}"), source);
    to.write_all(bytes).await.map_err(failed)?;
    to.flush().await.map_err(failed)
}

/// Signals go beside the command's own connection, which may be full of input that the command does not read.
async fn forward_signals(sandbox: &Sandbox, pid: watch::Receiver<Option<u32>>) -> Failure {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(failure) => return failure,
    };
    let first = signals.next().await;
    let Some(pid) = *pid.borrow() else { return Failure::Interrupted(first) };
    tokio::select! {
        sent = sandbox.kill(pid, Some(first)) => if sent.is_err() { return Failure::Interrupted(first) },
        second = signals.next() => return Failure::Interrupted(second),
    }
    Failure::Interrupted(signals.next().await)
}

/// The signals by which somebody asks this process to end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl Signals {
    /// From now on they do not end this process by themselves.
    pub fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// The next one, by its number.
    pub async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.hang_up.recv() => libc::SIGHUP,
            _ = self.quit.recv() => libc::SIGQUIT,
        }
    }
}
