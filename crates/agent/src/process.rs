//! One command: its output, input, signals and end. Whoever reads holds the writer back: while a reader is attached,
//! nothing is dropped, and a reader that stops reading stops the command as a full pipe would. Without readers the
//! oldest output is dropped, and who comes later finds a gap marker. Knows nothing of RPC.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::plan::Command;
use crate::procfs;
use crate::pty::{self, Size};
use crate::ring::{Next, Piece, Ring, Source};

/// How much output of a command is kept.
const RING_BYTES: usize = 1 << 20;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status, absent after a signal.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    pub timed_out: bool,
    pub oom_killed: bool,
    pub duration: Duration,
}

impl Exit {
    /// The exit code as a shell counts.
    pub fn code(&self) -> i32 {
        self.status.unwrap_or_else(|| 128 + self.signal.unwrap_or(0))
    }
}

/// Why input, a size or a signal did not reach a command.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("the process has ended")]
    Ended,
    #[error("the process has no open input")]
    InputClosed,
    #[error("the process has no terminal")]
    NoTerminal,
    #[error("{0} is no signal")]
    BadSignal(i32),
    #[error("the process cannot be reached: {0}")]
    System(#[from] io::Error),
}

/// What a command is, beside its program.
pub struct Description {
    pub id: u64,
    pub command: Command,
    pub user: String,
    pub tag: Option<String>,
    pub detached: bool,
    /// The sandbox's own start command, not somebody's.
    pub own: bool,
    pub started_at_ms: u64,
}

/// A command that was started.
pub struct Process {
    pub description: Description,
    pub pid: i32,
    started: Instant,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    input: tokio::sync::Mutex<Option<AsyncFd<OwnedFd>>>,
    controller: Mutex<Option<OwnedFd>>,
}

struct State {
    ring: Ring,
    /// The last piece each reader has taken.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
    /// Streams whose last output is not in the ring yet.
    open_streams: usize,
    /// The end as the kernel told it; it counts when all output is in the ring.
    ending: Option<Exit>,
    exit: Option<Exit>,
    timed_out: bool,
    /// We sent SIGKILL ourselves.
    killed: bool,
}

/// What a reader gets.
#[derive(Debug)]
pub enum Output {
    Piece(Piece),
    Gap(u64),
    Exit(Exit),
}

impl Process {
    pub fn new(
        description: Description,
        pid: i32,
        streams: usize,
        input: Option<AsyncFd<OwnedFd>>,
        controller: Option<OwnedFd>,
    ) -> Self {
        Self {
            description,
            pid,
            started: Instant::now(),
            state: Mutex::new(State {
                ring: Ring::new(RING_BYTES),
                readers: BTreeMap::new(),
                next_reader: 0,
                open_streams: streams,
                ending: None,
                exit: None,
                timed_out: false,
                killed: false,
            }),
            changed: watch::Sender::new(()),
            input: tokio::sync::Mutex::new(input),
            controller: Mutex::new(controller),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        self.state().exit
    }

    /// The kernel still knows it.
    pub fn is_running(&self) -> bool {
        self.state().ending.is_none()
    }

    pub fn last_sequence(&self) -> u64 {
        self.state().ring.last()
    }

    /// SIGKILL came from somebody else than us.
    pub fn was_killed_by_others(&self, signal: Option<i32>) -> bool {
        signal == Some(libc::SIGKILL) && !self.state().killed
    }

    /// The kernel says it ended; its output may not have been read yet.
    pub fn ended(&self, status: Option<i32>, signal: Option<i32>, oom_killed: bool) {
        let mut state = self.state();
        let timed_out = state.timed_out;
        state.ending = Some(Exit { status, signal, timed_out, oom_killed, duration: self.started.elapsed() });
        self.finish(state);
    }

    /// All output of one stream is in the ring.
    fn stream_done(&self) {
        let mut state = self.state();
        state.open_streams = state.open_streams.saturating_sub(1);
        self.finish(state);
    }

    fn finish(&self, mut state: MutexGuard<'_, State>) {
        if state.open_streams == 0 {
            state.exit = state.ending;
        }
        let over = state.exit.is_some();
        drop(state);
        if over {
            // Descriptors are not kept for a command that is only remembered.
            if let Ok(mut input) = self.input.try_lock() {
                *input = None;
            }
            *self.controller.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.changed.send_replace(());
    }

    /// Waits until the command has ended and its output is complete.
    pub async fn wait(&self) -> Exit {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(exit) = self.exit() {
                return exit;
            }
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    async fn wait_ending(&self) {
        let mut changed = self.changed.subscribe();
        while self.is_running() {
            let _ = changed.changed().await;
        }
    }

    /// Starts reading after the piece with this number.
    pub fn read_after(self: &Arc<Self>, sequence: u64) -> Reader {
        let mut state = self.state();
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, sequence);
        let changed = self.changed.subscribe();
        drop(state);
        Reader { process: Arc::clone(self), id, after: sequence, changed }
    }

    /// Puts output into the ring as soon as no reader is in the way.
    async fn push(&self, source: Source, data: Bytes) {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut state = self.state();
                let slowest = state.readers.values().min().copied();
                if state.ring.accepts(data.len(), slowest) {
                    state.ring.push(source, data);
                    break;
                }
            }
            let _ = changed.changed().await;
        }
        self.changed.send_replace(());
    }

    /// Writes input in order; waits while the command does not read.
    pub async fn write(&self, mut data: &[u8]) -> Result<(), ProcessError> {
        if !self.is_running() {
            return Err(ProcessError::Ended);
        }
        let input = self.input.lock().await;
        let input = input.as_ref().ok_or(ProcessError::InputClosed)?;
        while !data.is_empty() {
            let mut ready = tokio::select! {
                ready = input.writable() => ready?,
                () = self.wait_ending() => return Err(ProcessError::Ended),
            };
            match ready.try_io(|input| Ok(rustix::io::write(input.as_fd(), data)?)) {
                Ok(Ok(written)) => data = data.get(written..).unwrap_or_default(),
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EPIPE) => {
                    return Err(ProcessError::InputClosed);
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Ends the input of a command without a terminal.
    pub async fn close_input(&self) -> Result<(), ProcessError> {
        if self.description.command.terminal {
            return Err(ProcessError::InputClosed);
        }
        self.input.lock().await.take().map(drop).ok_or(ProcessError::InputClosed)
    }

    pub fn resize(&self, size: Size) -> Result<(), ProcessError> {
        let controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(pty::resize(controller.as_ref().ok_or(ProcessError::NoTerminal)?, size)?)
    }

    /// Sends a signal to the process group.
    pub fn signal(&self, number: i32) -> Result<(), ProcessError> {
        let signal = Signal::from_named_raw(number).ok_or(ProcessError::BadSignal(number))?;
        let mut state = self.state();
        if state.ending.is_some() {
            return Err(ProcessError::Ended);
        }
        state.killed |= signal == Signal::KILL;
        drop(state);
        self.signal_group(signal)
    }

    fn signal_group(&self, signal: Signal) -> Result<(), ProcessError> {
        let pid = Pid::from_raw(self.pid).ok_or(ProcessError::Ended)?;
        match rustix::process::kill_process_group(pid, signal) {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(ProcessError::Ended),
            Err(error) => Err(ProcessError::System(error.into())),
        }
    }

    /// Kills the command with everything in its session, also what left its process group.
    pub fn kill_session(&self) {
        if !self.is_running() {
            return;
        }
        self.state().killed = true;
        // Whatever is gone already needs no killing.
        let _ = self.signal_group(Signal::KILL);
        procfs::signal_session(self.pid, Signal::KILL);
    }

    /// What is left of a command that was ended by us goes with it. Called while the kernel still keeps its number.
    pub fn before_reap(&self) {
        let state = self.state();
        let ours = state.timed_out || state.killed;
        drop(state);
        if ours {
            self.kill_session();
        }
    }

    /// Kills it at its time-out, politely first where that was asked for.
    pub async fn enforce_timeout(&self, timeout: Duration, grace: Duration) {
        if tokio::time::timeout(timeout, self.wait_ending()).await.is_ok() {
            return;
        }
        self.state().timed_out = true;
        if !grace.is_zero() {
            let _ = self.signal_group(Signal::TERM);
            if tokio::time::timeout(grace, self.wait_ending()).await.is_ok() {
                return;
            }
        }
        self.kill_session();
    }
}

/// Somebody who follows a command. Dropping it lets the command go on without waiting for this reader.
pub struct Reader {
    process: Arc<Process>,
    id: u64,
    after: u64,
    changed: watch::Receiver<()>,
}

impl Reader {
    /// The next thing that happens; nothing comes after the exit.
    pub async fn next(&mut self) -> Output {
        loop {
            if let Some(output) = self.take() {
                return output;
            }
            let _ = self.changed.changed().await;
        }
    }

    fn take(&mut self) -> Option<Output> {
        self.changed.mark_unchanged();
        let mut state = self.process.state();
        let output = match state.ring.after(self.after) {
            Next::Piece(piece) => Output::Piece(piece),
            Next::Gap(pieces) => Output::Gap(pieces),
            Next::Nothing => return state.exit.map(Output::Exit),
        };
        match &output {
            Output::Piece(piece) => self.after = piece.sequence,
            Output::Gap(pieces) => self.after += pieces,
            Output::Exit(_) => {}
        }
        state.readers.insert(self.id, self.after);
        drop(state);
        self.process.changed.send_replace(());
        self.changed.mark_unchanged();
        Some(output)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.process.state().readers.remove(&self.id);
        self.process.changed.send_replace(());
    }
}

/// Kills a command when its only user goes away.
pub struct KillOnDrop(pub Arc<Process>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill_session();
    }
}

/// Moves the output of one stream into the ring until it ends. After the command's end only what was already written
/// counts; background children may go on writing, into nothing.
pub async fn pump(process: Arc<Process>, stream: AsyncFd<OwnedFd>, source: Source) {
    loop {
        let data = tokio::select! {
            biased;
            () = process.wait_ending() => break drain(&process, &stream, source).await,
            data = read_some(&stream) => data,
        };
        match data {
            Some(data) => process.push(source, data).await,
            None => break,
        }
    }
    process.stream_done();
    while read_some(&stream).await.is_some() {}
}

/// What is in the pipe now, and not what a busy background child adds to it for ever.
async fn drain(process: &Process, stream: &AsyncFd<OwnedFd>, source: Source) {
    let mut left = RING_BYTES;
    while let Ok(data) = read_now(stream.get_ref())
        && !data.is_empty()
    {
        left = left.saturating_sub(data.len());
        process.push(source, data).await;
        if left == 0 {
            break;
        }
    }
}

/// The next output; nothing at the end. A terminal without users ends with an error.
async fn read_some(stream: &AsyncFd<OwnedFd>) -> Option<Bytes> {
    loop {
        let mut ready = stream.readable().await.ok()?;
        if let Ok(read) = ready.try_io(|stream| read_now(stream.get_ref())) {
            return read.ok().filter(|data| !data.is_empty());
        }
    }
}

fn read_now(stream: &OwnedFd) -> io::Result<Bytes> {
    thread_local! {
        /// One buffer for all streams: a waiting command holds none.
        static SCRATCH: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 64 << 10]);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(stream, &mut scratch[..]))?;
        Ok(scratch.get(..length).map(Bytes::copy_from_slice).unwrap_or_default())
    })
}
