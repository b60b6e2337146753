//! Commands in a sandbox: started, followed, fed, ended. A command that could not be found or run ends as a shell would
//! end it, with 127 or 126, so that callers need no second way to handle it.

use atoll_core::sandbox::Sandbox;
use atoll_proto::{
    agent::v1::{
        self as wire, CloseStdin, ExecClient, ListCommandsRequest, NotStarted, RunEvent, RunRequest,
        SignalRequest, Start, not_started::Reason, run_event::Event, run_request::Message,
    },
    api,
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use buffa::{Message as _, MessageName};
use connectrpc::{
    ConnectError,
    client::{BidiRecvHalf, BidiSendHalf},
};
use hyper::body::Incoming;
use std::{collections::BTreeMap, sync::Arc};

use super::{
    Services,
    access::Caller,
    agent::{Agent, Agents},
    error::ServiceError,
    text,
};

/// The kernel's limit on one argument or variable, with its end mark (`MAX_ARG_STRLEN`).
const LONGEST_ARGUMENT: usize = 128 << 10;
/// The kernel's limit on all of them, whatever the stack's limit is.
const LONGEST_LINE: usize = 6 << 20;
/// A piece of input in one message.
const PIECE: usize = 256 << 10;

/// What is to be run.
#[derive(Clone, Debug, Default)]
pub struct Command {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    /// Columns and rows of its terminal.
    pub tty: Option<(u16, u16)>,
    /// Seconds.
    pub timeout: Option<f64>,
    pub detached: bool,
    /// Whether input will come.
    pub stdin: bool,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    Started { pid: u32 },
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Ended(api::ExecExit),
}

impl Command {
    /// A command as the body of an exec names it.
    pub fn of(ask: &api::ExecRequest) -> Self {
        Self {
            argv: ask.command.clone(),
            env: ask.env.clone(),
            workdir: ask.workdir.clone(),
            user: ask.user.clone(),
            tty: None,
            timeout: ask.timeout,
            detached: ask.detached,
            stdin: ask.stdin.is_some(),
        }
    }

    fn check(&self) -> Result<(), ServiceError> {
        let program = self.argv.first().map(String::as_str).unwrap_or_default();
        if program.is_empty() {
            return Err(ServiceError::invalid(
                "command",
                "names a program and its arguments, e.g. [\"ls\", \"-l\"]",
            ));
        }
        if self.argv.iter().any(|part| part.contains('\0')) {
            return Err(ServiceError::invalid("command", "has a NUL, which no argument can carry"));
        }
        atoll_core::template::check_env("env", &self.env)?;
        self.check_length()
    }

    fn check_length(&self) -> Result<(), ServiceError> {
        let variables = self.env.iter().map(|(name, value)| name.len() + value.len() + 1);
        let mut sizes = self.argv.iter().map(String::len).chain(variables);
        let mut total = 0;
        if sizes.all(|size| {
            total += size + 1;
            size < LONGEST_ARGUMENT
        }) && total <= LONGEST_LINE
        {
            return Ok(());
        }
        Err(too_long())
    }

    fn timeout_ms(&self) -> Result<u64, ServiceError> {
        let Some(seconds) = self.timeout else { return Ok(0) };
        let refuse =
            || ServiceError::invalid("timeout", format!("{seconds} is not a number of seconds above 0"));
        let limit = std::time::Duration::try_from_secs_f64(seconds).map_err(|_| refuse())?;
        let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        if seconds > 0.0 { Ok(ms.max(1)) } else { Err(refuse()) }
    }

    fn start(self, timeout_ms: u64) -> Start {
        let size = self.tty.map(|(cols, rows)| wire::Size {
            cols: u32::from(cols),
            rows: u32::from(rows),
            ..wire::Size::default()
        });
        Start {
            argv: self.argv,
            env: self.env.into_iter().collect(),
            cwd: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            tty: size.into(),
            timeout_ms,
            detached: self.detached,
            stdin: self.stdin,
            ..Start::default()
        }
    }
}

fn too_long() -> ServiceError {
    ServiceError::Refused {
        code: "argument_list_too_long",
        message: format!(
            "the command line or environment is too long: one argument may have {} bytes and all together about \
             2 MiB; send more through standard input or a file",
            LONGEST_ARGUMENT - 1
        ),
    }
}

/// What the agent says of a command that did not start, where it says that.
fn not_started(error: &ConnectError) -> Option<Reason> {
    let of_that_type = |name: &str| name.rsplit('/').next() == Some(NotStarted::FULL_NAME);
    let detail = error.details.iter().find(|detail| of_that_type(&detail.type_url))?;
    let bytes = STANDARD_NO_PAD.decode(detail.value.as_deref()?.trim_end_matches('=')).ok()?;
    NotStarted::decode_from_slice(&bytes).ok()?.reason.as_known()
}

type Receive = BidiRecvHalf<Incoming, <RunEvent as buffa::HasMessageView>::View<'static>>;

/// A command that runs. Unless it is detached, dropping this kills its whole process group.
pub struct Run {
    agents: Arc<Agents>,
    sandbox: Sandbox,
    program: String,
    receive: Receive,
    started: bool,
    /// Said already, not asked for yet.
    ahead: Vec<Happened>,
    over: bool,
    /// Whether the agent left out output because nobody read it in time.
    pub gaps: bool,
}

/// The way to a command's input.
pub struct Input {
    send: BidiSendHalf<RunRequest>,
}

impl Services {
    /// Starts a command. Nothing is known of it until its first event.
    pub async fn run(
        &self,
        caller: &Caller,
        id: &str,
        command: Command,
        mode: &'static str,
    ) -> Result<(Run, Input), ServiceError> {
        command.check()?;
        let sandbox = self.sandbox(caller, id).await?;
        self.base.metrics.executed(mode);
        start(&self.agents, sandbox, command).await
    }

    /// Runs a command to its end, or, when it is detached, to its start.
    pub async fn exec(
        &self,
        caller: &Caller,
        id: &str,
        ask: api::ExecRequest,
    ) -> Result<api::ExecResponse, ServiceError> {
        let mode = if ask.detached { "detached" } else { "wait" };
        let (encoding, detached) = (ask.encoding, ask.detached);
        let (mut run, _feeding) = self.run_fed(caller, id, ask, mode).await?;
        let limit = self.base.config.limits.exec_output;
        let mut answer = api::ExecResponse::default();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(happened) = run.next().await? {
            match happened {
                Happened::Started { pid } => answer.pid = pid,
                Happened::Stdout(piece) => answer.truncated |= !append(&mut stdout, &piece, limit),
                Happened::Stderr(piece) => answer.truncated |= !append(&mut stderr, &piece, limit),
                Happened::Ended(exit) => answer.exit = exit,
            }
            if detached && run.started {
                break;
            }
        }
        answer.truncated |= run.gaps;
        answer.stdout = text::encode(&stdout, encoding);
        answer.stderr = text::encode(&stderr, encoding);
        Ok(answer)
    }

    /// Starts the command of an exec and feeds it its input. The input ends when what is given back is dropped.
    pub async fn run_fed(
        &self,
        caller: &Caller,
        id: &str,
        ask: api::ExecRequest,
        mode: &'static str,
    ) -> Result<(Run, Feeding), ServiceError> {
        let command = Command::of(&ask);
        let stdin = ask.stdin.map(|stdin| text::decode("stdin", stdin, ask.encoding)).transpose()?;
        let (run, input) = self.run(caller, id, command, mode).await?;
        Ok((run, Feeding::begin(input, stdin.unwrap_or_default())))
    }

    /// Commands that run.
    pub async fn processes(&self, caller: &Caller, id: &str) -> Result<api::ProcessList, ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        let commands = self.commands(&sandbox).await?;
        let mut items: Vec<_> =
            commands.into_iter().map(|it| api::ProcessInfo { pid: it.pid, command: it.argv }).collect();
        items.sort_by_key(|it| it.pid);
        Ok(api::ProcessList { items })
    }

    /// Sends a signal to the process group of a command.
    pub async fn signal(&self, caller: &Caller, id: &str, pid: u32, signal: i32) -> Result<(), ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        let commands = self.commands(&sandbox).await?;
        let missing = || {
            ServiceError::Missing(format!("process {pid} does not run, or was not started through the API"))
        };
        let command = commands.into_iter().find(|it| it.pid == pid).ok_or_else(missing)?;
        let client = ExecClient::new(self.agents.reach(&sandbox).await?, Agent::calls());
        let request = SignalRequest { id: command.id, signal, ..SignalRequest::default() };
        match client.signal(request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.agents.explain(sandbox.id(), error).await),
        }
    }

    async fn commands(&self, sandbox: &Sandbox) -> Result<Vec<wire::Command>, ServiceError> {
        let client = ExecClient::new(self.agents.reach(sandbox).await?, Agent::calls());
        match client.list(ListCommandsRequest::default()).await {
            Ok(list) => Ok(list.into_owned().commands.into_iter().filter(|it| !it.exit.is_set()).collect()),
            Err(error) => Err(self.agents.explain(sandbox.id(), error).await),
        }
    }
}

/// Starts a command in a sandbox that its caller was found to reach.
pub async fn start(
    agents: &Arc<Agents>,
    sandbox: Sandbox,
    command: Command,
) -> Result<(Run, Input), ServiceError> {
    command.check()?;
    let timeout_ms = command.timeout_ms()?;
    let agent = agents.reach(&sandbox).await?;
    let program = command.argv.first().cloned().unwrap_or_default();
    let (send, receive) = match begin(agent, command.start(timeout_ms)).await {
        Ok(halves) => halves,
        Err(error) => return Err(agents.explain(sandbox.id(), error).await),
    };
    let agents = agents.clone();
    let run = Run {
        agents,
        sandbox,
        program,
        receive,
        started: false,
        ahead: Vec::new(),
        over: false,
        gaps: false,
    };
    Ok((run, Input { send }))
}

async fn begin(agent: Agent, start: Start) -> Result<(BidiSendHalf<RunRequest>, Receive), ConnectError> {
    let stream = ExecClient::new(agent, Agent::calls()).run().await?;
    let (mut send, receive) = stream.into_split();
    send.send(message(start)).await?;
    Ok((send, receive))
}

fn message(message: impl Into<Message>) -> RunRequest {
    RunRequest { message: Some(message.into()), ..RunRequest::default() }
}

/// Adds what fits; says whether all did.
fn append(kept: &mut Vec<u8>, piece: &[u8], limit: usize) -> bool {
    let room = limit.saturating_sub(kept.len()).min(piece.len());
    kept.extend_from_slice(&piece[..room]);
    room == piece.len()
}

impl Run {
    /// What happens next; nothing after its end.
    pub async fn next(&mut self) -> Result<Option<Happened>, ServiceError> {
        loop {
            if let Some(happened) = self.ahead.pop() {
                return Ok(Some(happened));
            }
            if self.over {
                return Ok(None);
            }
            match self.receive.message::<RunEvent>().await {
                Ok(Some(event)) => {
                    if let Some(happened) = self.read(event.to_owned_message().event) {
                        return Ok(Some(happened));
                    }
                }
                Ok(None) => return Err(self.lost("its stream ended before it did").await),
                Err(error) => self.fail(error).await?,
            }
        }
    }

    fn read(&mut self, event: Option<Event>) -> Option<Happened> {
        match event? {
            Event::Started(started) => {
                self.started = true;
                Some(Happened::Started { pid: started.pid })
            }
            Event::Stdout(data) | Event::Tty(data) => Some(Happened::Stdout(data)),
            Event::Stderr(data) => Some(Happened::Stderr(data)),
            Event::Gap(_) => {
                self.gaps = true;
                None
            }
            Event::Exit(exit) => {
                self.over = true;
                Some(Happened::Ended(exit_of(&exit)))
            }
            Event::Keepalive(_) => None,
        }
    }

    /// A program that is not there or cannot be run ends the command as a shell would; anything else is an error.
    async fn fail(&mut self, error: ConnectError) -> Result<(), ServiceError> {
        self.over = true;
        let exit_code = match not_started(&error) {
            Some(Reason::REASON_NO_PROGRAM) => 127,
            Some(Reason::REASON_NOT_EXECUTABLE) => 126,
            Some(Reason::REASON_TOO_LONG) => return Err(too_long()),
            Some(Reason::REASON_PROCESS_LIMIT) => return Err(self.process_limit()),
            _ => return Err(self.agents.explain(self.sandbox.id(), error).await),
        };
        let text = error.message.unwrap_or_default();
        let why = if text.contains(&self.program) { text } else { format!("{}: {text}", self.program) };
        // Taken from the end.
        self.ahead = vec![
            Happened::Ended(api::ExecExit { exit_code, ..api::ExecExit::default() }),
            Happened::Stderr(format!("{why}\n").into_bytes()),
        ];
        Ok(())
    }

    fn process_limit(&self) -> ServiceError {
        let id = self.sandbox.id().to_string();
        ServiceError::ProcessLimit { id, limit: self.sandbox.spec.limits.pids }
    }

    async fn lost(&mut self, problem: &str) -> ServiceError {
        self.over = true;
        let error = ConnectError::unavailable(problem);
        self.agents.explain(self.sandbox.id(), error).await
    }
}

/// How a command ended, in the API's words.
pub fn exit_of(exit: &wire::Exit) -> api::ExecExit {
    api::ExecExit {
        exit_code: exit.code,
        signal: (exit.signal != 0).then_some(exit.signal),
        timed_out: exit.timed_out,
        oom_killed: exit.oom_killed,
        duration_ms: exit.duration_ms,
    }
}

impl Input {
    /// Passes input on; says whether the command still takes any.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(PIECE) {
            if self.send.send(message(Message::Stdin(piece.to_vec()))).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Ends the input.
    pub async fn end(&mut self) -> bool {
        self.send.send(message(CloseStdin::default())).await.is_ok()
    }

    /// Changes the terminal's size.
    pub async fn resize(&mut self, cols: u16, rows: u16) -> bool {
        let size = wire::Size { cols: u32::from(cols), rows: u32::from(rows), ..wire::Size::default() };
        self.send.send(message(size)).await.is_ok()
    }

    /// Sends a signal to the process group.
    pub async fn signal(&mut self, signal: i32) -> bool {
        self.send.send(message(Message::Signal(signal))).await.is_ok()
    }
}

/// Input on its way beside the output, or a command that does not read would block one that does not write.
pub struct Feeding(tokio::task::JoinHandle<()>);

impl Feeding {
    fn begin(mut input: Input, bytes: Vec<u8>) -> Self {
        Self(tokio::spawn(async move {
            // A command that ends early takes no more; that is its own affair.
            let _ = input.write(&bytes).await;
        }))
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.abort();
    }
}
