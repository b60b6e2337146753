//! Starts the real agent as an ordinary process that reaps for its own tree, and talks to it over its unix socket.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use atoll_proto::agent::filesystem::FilesystemClient;
use atoll_proto::agent::process::ProcessClient;
use atoll_proto::agent::v1::__buffa::oneof::run_event::Event;
use atoll_proto::agent::v1::__buffa::oneof::run_request::Message;
use atoll_proto::agent::v1::*;
use atoll_proto::init::AgentConfig;
use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{BidiStream, ClientConfig, Http2Connection, SharedHttp2Connection};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

pub type RunStream = BidiStream<Incoming, RunRequest, RunEventView<'static>>;

/// A running agent; it ends with the test.
pub struct Sandbox {
    pub dir: tempfile::TempDir,
    pub child: Child,
}

/// What a command did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub id: u64,
    pub pid: u32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub tty: Vec<u8>,
    pub exit: Exit,
}

impl Outcome {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

pub fn config() -> AgentConfig {
    AgentConfig {
        sandbox_id: "isandbox".into(),
        env: BTreeMap::from([("FROM_SANDBOX".into(), "yes".into())]),
        allow_sudo: true,
        grace_seconds: 5,
        ..AgentConfig::default()
    }
}

impl Sandbox {
    pub fn start() -> Self {
        Self::with(&config())
    }

    pub fn with(config: &AgentConfig) -> Self {
        Self::spawn(config, |_| {})
    }

    /// The agent as the first process of its own namespaces.
    pub fn first(config: &AgentConfig) -> Self {
        let arguments =
            ["--pid", "--mount", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_atoll-agent")];
        let mut unshare = Command::new("unshare");
        unshare.args(arguments);
        Self::launch(unshare, config, |_| {})
    }

    pub fn spawn(config: &AgentConfig, change: impl FnOnce(&mut Command)) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_atoll-agent")), config, change)
    }

    fn launch(mut command: Command, config: &AgentConfig, change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let mut config_file =
            File::options().read(true).write(true).create_new(true).open(dir.path().join("config"));
        let config_file = config_file.as_mut().unwrap();
        config_file.write_all(&serde_json::to_vec(config).unwrap()).unwrap();
        config_file.rewind().unwrap();
        let log =
            File::options().read(true).write(true).create_new(true).open(dir.path().join("log")).unwrap();
        let fds = [(listener.as_raw_fd(), 3), (config_file.as_raw_fd(), 4), (log.as_raw_fd(), 5)];
        command.args(["--listen-fd", "3", "--config-fd", "4", "--log-fd", "5"]).env_clear();
        // SAFETY: only dup2 and fcntl run between fork and exec.
        unsafe { command.pre_exec(move || pass(fds)) };
        change(&mut command);
        Self { child: command.spawn().unwrap(), dir }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub async fn connection(&self) -> SharedHttp2Connection {
        let authority = "http://localhost".parse().unwrap();
        Http2Connection::connect_unix(self.socket(), authority).await.unwrap().shared(64)
    }

    pub async fn exec(&self) -> ExecClient<SharedHttp2Connection> {
        ExecClient::new(self.connection().await, client_config())
    }

    pub async fn agent(&self) -> AgentClient<SharedHttp2Connection> {
        AgentClient::new(self.connection().await, client_config())
    }

    pub async fn process(&self) -> ProcessClient<SharedHttp2Connection> {
        ProcessClient::new(self.connection().await, client_config().json())
    }

    pub async fn filesystem(&self) -> FilesystemClient<SharedHttp2Connection> {
        FilesystemClient::new(self.connection().await, client_config().json())
    }

    /// Begins a command.
    pub async fn begin(&self, start: Start) -> RunStream {
        let mut stream = self.exec().await.run().await.unwrap();
        stream.send(message(start)).await.unwrap();
        stream
    }

    /// Runs a command to its end.
    pub async fn run(&self, start: Start) -> Result<Outcome, ConnectError> {
        let mut stream = self.begin(start).await;
        finish(&mut stream, Outcome::default()).await
    }

    pub async fn sh(&self, script: &str) -> Outcome {
        self.run(sh(script)).await.unwrap()
    }

    /// One plain HTTP/1.1 request on its own connection.
    pub async fn http(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = tokio::net::UnixStream::connect(self.socket()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }

    pub async fn get(&self, uri: &str) -> (u16, Bytes) {
        answer(self.http(Request::get(uri).header("host", "agent").body(Full::default()).unwrap()).await)
            .await
    }

    pub async fn post(&self, uri: &str, body: impl Into<Bytes>) -> (u16, Bytes) {
        let request = Request::post(uri).header("host", "agent").body(Full::new(body.into())).unwrap();
        answer(self.http(request).await).await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // SAFETY: sends a signal to the child, which has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

fn pass(fds: [(RawFd, RawFd); 3]) -> std::io::Result<()> {
    // First out of the way, so that no target is overwritten before it is used.
    // SAFETY: numbers only.
    let parked = fds.map(|(fd, target)| (unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) }, target));
    for (fd, target) in parked {
        // SAFETY: numbers only.
        if unsafe { libc::dup2(fd, target) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

pub fn client_config() -> ClientConfig {
    ClientConfig::new("http://localhost".parse().unwrap())
}

pub async fn answer(response: Response<Incoming>) -> (u16, Bytes) {
    let status = response.status().as_u16();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

pub fn message(message: impl Into<Message>) -> RunRequest {
    RunRequest { message: Some(message.into()), ..Default::default() }
}

pub fn argv(argv: &[&str]) -> Start {
    Start { argv: argv.iter().map(ToString::to_string).collect(), ..Default::default() }
}

pub fn sh(script: &str) -> Start {
    argv(&["sh", "-c", script])
}

pub async fn next(stream: &mut RunStream) -> Result<Option<RunEvent>, ConnectError> {
    Ok(stream.message().await?.map(|event| event.to_owned_message()))
}

/// Reads until the command has ended.
pub async fn finish(stream: &mut RunStream, mut outcome: Outcome) -> Result<Outcome, ConnectError> {
    while let Some(event) = next(stream).await? {
        match event.event {
            Some(Event::Started(started)) => (outcome.id, outcome.pid) = (started.id, started.pid),
            Some(Event::Stdout(data)) => outcome.stdout.extend(data),
            Some(Event::Stderr(data)) => outcome.stderr.extend(data),
            Some(Event::Tty(data)) => outcome.tty.extend(data),
            Some(Event::Exit(exit)) => outcome.exit = *exit,
            Some(Event::Gap(_) | Event::Keepalive(_)) | None => {}
        }
    }
    Ok(outcome)
}

/// Waits until something is so; fails when it never is.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
}

pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
