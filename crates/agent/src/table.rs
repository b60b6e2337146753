//! All commands of the sandbox: starts them, finds them, learns of their end. One table serves every protocol.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use tokio::io::unix::AsyncFd;

use crate::clock::now_ms;
use crate::descriptor::watched;
use crate::oom::OomWatch;
use crate::plan::{self, Command, Plan, PlanError};
use crate::process::{self, Description, KillOnDrop, Process};
use crate::pty::{self, Size};
use crate::ring::Source;
use crate::spawn::{self, ChildStreams, SpawnError};
use crate::users::Account;

/// How long, and how many, ended commands are remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
const REMEMBERED: usize = 16;

/// A command to start.
pub struct StartOptions {
    pub command: Command,
    pub account: Account,
    pub tag: Option<String>,
    pub size: Option<Size>,
    pub stdin: bool,
    /// It lives on without its client, and is remembered after its end.
    pub detached: bool,
    /// It is the sandbox's start command.
    pub own: bool,
    /// It is killed when the guard that `start` returns is dropped.
    pub guarded: bool,
    pub timeout: Option<Duration>,
    pub grace: Duration,
}

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("cannot make the streams of the process: {0}")]
    Streams(#[from] io::Error),
}

/// What every command of the sandbox shares.
pub struct Sandbox {
    pub env: BTreeMap<String, String>,
    pub allow_sudo: bool,
}

/// The commands.
pub struct Table {
    sandbox: Sandbox,
    processes: Mutex<BTreeMap<u64, Arc<Process>>>,
    next_id: AtomicU64,
    oom: OomWatch,
    last_activity: AtomicU64,
    last_terminal_input: AtomicU64,
}

/// Our ends of the streams of a command.
struct Streams {
    input: Option<AsyncFd<OwnedFd>>,
    controller: Option<OwnedFd>,
    outputs: Vec<(AsyncFd<OwnedFd>, Source)>,
}

impl Table {
    pub fn new(sandbox: Sandbox) -> Arc<Self> {
        Arc::new(Self {
            sandbox,
            processes: Mutex::default(),
            next_id: AtomicU64::new(1),
            oom: OomWatch::new(),
            last_activity: AtomicU64::new(now_ms()),
            last_terminal_input: AtomicU64::new(0),
        })
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a command. An error means that nothing was left behind.
    pub async fn start(
        self: &Arc<Self>,
        options: StartOptions,
    ) -> Result<(Arc<Process>, Option<KillOnDrop>), StartError> {
        let sandbox = &self.sandbox;
        let plan = plan::plan(&options.command, &options.account, &sandbox.env, sandbox.allow_sudo)?;
        self.oom.begin();
        let (forked, streams) = fork(&plan, &options)?;
        let (timeout, grace) = (options.timeout, options.grace);
        let guarded = options.guarded;
        let process =
            self.insert(forked.pid, options, streams.input, streams.controller, streams.outputs.len());
        let guard = guarded.then(|| KillOnDrop(Arc::clone(&process)));
        // Before anything is waited for: a client that leaves now must not leave a command whose output never ends.
        for (stream, source) in streams.outputs {
            tokio::spawn(process::pump(Arc::clone(&process), stream, source));
        }
        // For the same reason: nor one that nothing ends.
        let enforced = timeout.map(|timeout| {
            let process = Arc::clone(&process);
            tokio::spawn(async move { process.enforce_timeout(timeout, grace).await })
        });
        if let Err(error) = forked.started(&plan).await {
            enforced.inspect(tokio::task::JoinHandle::abort);
            self.processes().remove(&process.description.id);
            return Err(error.into());
        }
        Ok((process, guard))
    }

    fn insert(
        &self,
        pid: i32,
        options: StartOptions,
        input: Option<AsyncFd<OwnedFd>>,
        controller: Option<OwnedFd>,
        outputs: usize,
    ) -> Arc<Process> {
        let description = Description {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            command: options.command,
            user: options.account.name,
            tag: options.tag,
            detached: options.detached,
            own: options.own,
            started_at_ms: now_ms(),
        };
        let process = Arc::new(Process::new(description, pid, outputs, input, controller));
        self.processes().insert(process.description.id, Arc::clone(&process));
        process
    }

    /// All commands, also the remembered ones.
    pub fn all(&self) -> Vec<Arc<Process>> {
        self.processes().values().cloned().collect()
    }

    pub fn by_id(&self, id: u64) -> Option<Arc<Process>> {
        self.processes().get(&id).cloned()
    }

    /// The running command with this process number.
    pub fn by_pid(&self, pid: i32) -> Option<Arc<Process>> {
        self.processes().values().find(|process| process.pid == pid && process.is_running()).cloned()
    }

    /// The newest running command with this tag.
    pub fn by_tag(&self, tag: &str) -> Option<Arc<Process>> {
        let tagged = |process: &&Arc<Process>| process.description.tag.as_deref() == Some(tag);
        self.processes().values().rev().filter(tagged).find(|process| process.is_running()).cloned()
    }

    /// Called before the kernel forgets a child.
    pub fn before_reap(&self, pid: i32) {
        if let Some(process) = self.by_pid(pid) {
            process.before_reap();
        }
    }

    /// A child has ended. Children of nobody here are orphans of the sandbox, and need no more than this.
    pub fn reaped(self: &Arc<Self>, pid: i32, status: Option<i32>, signal: Option<i32>) {
        let Some(process) = self.by_pid(pid) else { return };
        let suspicious = process.was_killed_by_others(signal) || status == Some(128 + libc::SIGKILL);
        process.ended(status, signal, suspicious && self.oom.is_to_blame());
        self.touch();
        self.forget_later(process);
    }

    /// Detached commands are remembered for a while, others until their readers have gone.
    fn forget_later(self: &Arc<Self>, process: Arc<Process>) {
        let table = Arc::clone(self);
        tokio::spawn(async move {
            process.wait().await;
            if process.description.detached {
                table.forget_oldest();
                tokio::time::sleep(REMEMBERED_FOR).await;
            }
            table.processes().remove(&process.description.id);
        });
    }

    fn forget_oldest(&self) {
        let mut processes = self.processes();
        let ended: Vec<u64> = processes
            .values()
            .filter(|process| process.exit().is_some())
            .map(|process| process.description.id)
            .collect();
        for id in ended.iter().take(ended.len().saturating_sub(REMEMBERED)) {
            processes.remove(id);
        }
    }

    /// How often the kernel killed for want of memory, as far as that can be seen.
    pub fn oom_kills(&self) -> u64 {
        self.oom.kills()
    }

    /// Something was asked of the sandbox.
    pub fn touch(&self) {
        self.last_activity.store(now_ms(), Ordering::Relaxed);
    }

    /// Somebody typed.
    pub fn touch_terminal(&self) {
        self.touch();
        self.last_terminal_input.store(now_ms(), Ordering::Relaxed);
    }

    pub fn last_activity_ms(&self) -> u64 {
        self.last_activity.load(Ordering::Relaxed)
    }

    pub fn last_terminal_input_ms(&self) -> u64 {
        self.last_terminal_input.load(Ordering::Relaxed)
    }
}

fn fork(plan: &Plan, options: &StartOptions) -> Result<(spawn::Forked, Streams), StartError> {
    let (child, streams) = match options.size {
        Some(size) => terminal(size, plan.uid)?,
        None => pipes(options.stdin)?,
    };
    Ok((spawn::fork(plan, child)?, streams))
}

fn terminal(size: Size, uid: u32) -> io::Result<(ChildStreams, Streams)> {
    let pair = pty::open(size, uid)?;
    let child = ChildStreams {
        stdin: pair.terminal.try_clone()?,
        stdout: pair.terminal.try_clone()?,
        stderr: pair.terminal,
        terminal: true,
    };
    let streams = Streams {
        input: Some(watched(pair.controller.try_clone()?)?),
        outputs: vec![(watched(pair.controller.try_clone()?)?, Source::Terminal)],
        controller: Some(pair.controller),
    };
    Ok((child, streams))
}

fn pipes(with_input: bool) -> io::Result<(ChildStreams, Streams)> {
    let (stdout, child_stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (child_stdin, input) = if with_input {
        let (child_stdin, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        (child_stdin, Some(watched(input)?))
    } else {
        (rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, None)
    };
    let outputs = vec![(watched(stdout)?, Source::Stdout), (watched(stderr)?, Source::Stderr)];
    let child =
        ChildStreams { stdin: child_stdin, stdout: child_stdout, stderr: child_stderr, terminal: false };
    Ok((child, Streams { input, controller: None, outputs }))
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, WaitOptions, waitpid};

    use super::*;
    use crate::users::Users;

    fn sleeper(timeout: Duration) -> StartOptions {
        let argv = vec!["sleep".to_owned(), "600".to_owned()];
        StartOptions {
            command: Command { argv, cwd: "/".into(), ..Command::default() },
            account: Users::read().resolve(&rustix::process::getuid().as_raw().to_string()).unwrap(),
            tag: None,
            size: None,
            stdin: false,
            detached: true,
            own: false,
            guarded: false,
            timeout: Some(timeout),
            grace: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn the_time_out_of_a_command_holds_when_its_client_leaves_while_it_starts() {
        let table = Table::new(Sandbox { env: BTreeMap::new(), allow_sudo: true });
        let mut starting = Box::pin(table.start(sleeper(Duration::from_millis(50))));
        assert!(futures::poll!(&mut starting).is_pending(), "it has begun and is not done");
        drop(starting);
        let process = table.all().pop().unwrap();
        let waiting = tokio::task::spawn_blocking({
            let pid = Pid::from_raw(process.pid);
            move || waitpid(pid, WaitOptions::empty()).unwrap().unwrap().1
        });
        let status = waiting.await.unwrap();
        assert_eq!(status.terminating_signal(), Some(libc::SIGKILL));
    }
}
