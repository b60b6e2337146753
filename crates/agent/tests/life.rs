//! The agent's own life: start command, log, stopping, trust.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_proto::agent::v1::start_command::State;
use atoll_proto::agent::v1::*;
use atoll_proto::agent::{AWAKE_ONLY_HEADER, RESTING_HEADER};
use atoll_proto::init::AgentConfig;
use atoll_proto::sign::{RequestSigner, SIGNATURE_HEADER};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn starting(script: &str) -> AgentConfig {
    AgentConfig { start_command: Some(["sh", "-c", script].map(str::to_owned).to_vec()), ..config() }
}

#[tokio::test]
async fn the_start_command_is_watched_and_its_output_kept() {
    let agent = Sandbox::with(&starting("echo out; echo err >&2; pwd; exit 3"));
    let client = agent.agent().await;
    eventually("it has ended", async || {
        let info = client.info(InfoRequest::default()).await.unwrap().into_owned();
        info.start_command.state == State::STATE_EXITED
    })
    .await;
    let info = client.info(InfoRequest::default()).await.unwrap().into_owned();
    assert_eq!((info.sandbox_id.as_str(), info.start_command.exit.code), ("isandbox", 3));
    eventually("the log is complete", async || agent.log().contains("ended with code 3")).await;
    let log = agent.log();
    assert!(log.contains("out\n") && log.contains("err\n") && log.contains("/root\n"), "{log}");
    assert_eq!(agent.sh("echo fine").await.text(), "fine\n");
}

#[tokio::test]
async fn a_start_command_that_cannot_start_is_told() {
    let config = AgentConfig { start_command: Some(vec!["no-such-command".into()]), ..config() };
    let agent = Sandbox::with(&config);
    let client = agent.agent().await;
    eventually("it is told", async || {
        let info = client.info(InfoRequest::default()).await.unwrap().into_owned();
        info.start_command.error == "command not found: no-such-command"
    })
    .await;
    assert!(agent.log().contains("command not found: no-such-command"));
}

#[tokio::test]
async fn the_log_is_bounded_and_its_newest_part_kept() {
    let agent = Sandbox::with(&AgentConfig { log_cap_bytes: 100_000, ..starting("seq 1 200000; echo last") });
    eventually("it has ended", async || agent.log().contains("ended with code 0")).await;
    let log = agent.log();
    assert!(log.len() <= 100_000 && log.starts_with("[earlier output was dropped]\n"));
    assert!(log.contains("199999\n200000\nlast\n"));
}

#[tokio::test]
async fn a_polite_sandbox_stops_at_once_and_a_stubborn_one_after_its_grace() {
    for (script, grace) in [("sleep 600", 600_000), ("trap '' TERM; sleep 600 & sleep 601", 200)] {
        let mut agent = Sandbox::with(&starting(script));
        let mut terminal = agent.begin(Start { tty: Size::default().into(), ..argv(&["bash", "-i"]) }).await;
        let file = agent.path("orphan");
        agent.sh(&format!("setsid sh -c 'echo $$ > {file}; exec sleep 600' &")).await;
        let orphan = || std::fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok();
        eventually("the orphan runs", async || orphan().is_some()).await;
        let orphan = orphan().unwrap();
        next(&mut terminal).await.unwrap();
        assert!(lives(orphan));
        let request = ShutdownRequest { grace_ms: Some(grace), ..Default::default() };
        agent.agent().await.shutdown(request).await.unwrap();
        let mut status = None;
        eventually("the agent has ended", async || {
            status = agent.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(status.unwrap().success());
        eventually("everything is gone", async || !lives(orphan)).await;
    }
}

/// As in a sandbox: orphans of any depth are reaped, everything can be frozen, and a stop leaves nobody.
#[tokio::test]
async fn the_agent_is_a_good_first_process() {
    let mut agent = Sandbox::first(&starting("trap '' TERM; while :; do sleep 0.05; done"));
    assert_eq!(agent.sh("echo $PPID; ps -o comm= -p 1").await.text(), "1\natoll-agent\n");
    let script = "(setsid sh -c 'sh -c \"sleep 0.1\" & sleep 0.1 & sleep 600' >/dev/null 2>&1 &)";
    agent.sh(script).await;
    eventually("orphans are reaped", async || {
        let text = agent.sh("ps -e -o ppid=,stat=,comm=").await;
        !text.text().contains(" Z") && text.text().lines().any(|line| line.contains("sleep"))
    })
    .await;
    let client = agent.agent().await;
    client.freeze(FreezeRequest::default()).await.unwrap();
    let states = agent.sh("ps -e -o pid=,stat=,comm= | grep -v ' ps$\\| sh$\\| grep$\\|atoll-agent'").await;
    assert!(states.text().lines().all(|line| line.contains(" T")), "{}", states.text());
    client.thaw(ThawRequest::default()).await.unwrap();
    client.shutdown(ShutdownRequest { grace_ms: Some(100), ..Default::default() }).await.unwrap();
    let mut status = None;
    eventually("the agent has ended", async || {
        status = agent.child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn everything_can_be_frozen_and_thawed() {
    let agent = Sandbox::start();
    let script = "(i=0; while :; do i=$((i+1)); echo $i > count; sleep 0.01; done) & wait";
    let _stream = agent.begin(Start { cwd: agent.path(""), ..sh(script) }).await;
    let count = || std::fs::read_to_string(agent.path("count")).unwrap_or_default();
    eventually("it counts", async || !count().is_empty()).await;
    let client = agent.agent().await;
    client.freeze(FreezeRequest::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let frozen = count();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(count(), frozen);
    // Whoever may not wake it is told that it rests; everybody else is answered.
    let asked = |header: Option<&str>| {
        let request = Request::get("/health").header("host", "a");
        let request = header.into_iter().fold(request, |request, name| request.header(name, "1"));
        agent.http(request.body(Full::default()).unwrap())
    };
    let refused = asked(Some(AWAKE_ONLY_HEADER)).await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key(RESTING_HEADER)), (503, true));
    assert_eq!(asked(None).await.status().as_u16(), 204);
    client.thaw(ThawRequest::default()).await.unwrap();
    eventually("it counts again", async || count() != frozen && !count().is_empty()).await;
    assert_eq!(asked(Some(AWAKE_ONLY_HEADER)).await.status().as_u16(), 204);
}

#[tokio::test]
async fn activity_says_what_keeps_the_sandbox_awake() {
    let agent = Sandbox::with(&starting("sleep 600"));
    let client = agent.agent().await;
    let before = client.activity(ActivityRequest::default()).await.unwrap().into_owned();
    assert_eq!((before.running_commands, before.open_terminals), (0, 0));
    let mut command = agent.begin(argv(&["sleep", "600"])).await;
    let mut terminal = agent.begin(Start { tty: Size::default().into(), ..argv(&["cat"]) }).await;
    next(&mut command).await.unwrap();
    next(&mut terminal).await.unwrap();
    let after = client.activity(ActivityRequest::default()).await.unwrap().into_owned();
    assert_eq!((after.running_commands, after.open_terminals), (1, 1));
    assert!(after.last_activity_ms >= before.last_activity_ms);
    assert!(after.awake_because[0].starts_with("command 'sleep' (process "), "{after:?}");
}

#[tokio::test]
async fn nobody_can_look_into_the_agent() {
    let agent = Sandbox::start();
    eventually("it serves", async || agent.get("/health").await.0 == 204).await;
    // Root of this machine may; an ordinary user may not, though it were the agent's own.
    let outcome =
        agent.run(Start { user: "4321".into(), ..sh("cat /proc/$PPID/environ; ls /proc/$PPID/fd") }).await;
    assert_ne!(outcome.unwrap().exit.code, 0);
}

/// The program on TCP, as where no socket can be passed in.
struct OverTcp {
    child: std::process::Child,
    address: SocketAddr,
    signer: RequestSigner,
    _dir: tempfile::TempDir,
}

impl OverTcp {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, serde_json::to_vec(&config()).unwrap()).unwrap();
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let signer = RequestSigner::new(&[9; 32]);
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_atoll-agent"))
            .args(["--config", file.to_str().unwrap(), "--listen-tcp", &address.to_string()])
            .args(["--public-key", &signer.public_key_hex()])
            .spawn()
            .unwrap();
        let agent = Self { child, address, signer, _dir: dir };
        eventually("it listens", async || agent.status("/health", None).await == Some(204)).await;
        agent
    }

    fn signed(&self, uri: &str) -> String {
        self.signer.sign(now_ms(), "isandbox", "GET", uri)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Option<Response<Incoming>> {
        let stream = tokio::net::TcpStream::connect(self.address).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.ok()
    }

    async fn status(&self, uri: &str, signature: Option<String>) -> Option<u16> {
        let mut request = Request::get(uri).header("host", "a");
        if let Some(signature) = signature {
            request = request.header(SIGNATURE_HEADER, signature);
        }
        let response = self.send(request.body(Full::default()).unwrap()).await?;
        Some(response.status().as_u16())
    }

    async fn port(&self, port: impl Display) -> Response<Incoming> {
        let uri = format!("/atoll/port/{port}");
        let request = Request::get(&uri).header("host", "a").header(SIGNATURE_HEADER, self.signed(&uri));
        let request = request.header("connection", "Upgrade").header("upgrade", "tcp");
        self.send(request.body(Full::default()).unwrap()).await.unwrap()
    }
}

impl Drop for OverTcp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn over_tcp_only_signed_requests_are_served() {
    let agent = OverTcp::start().await;
    let signed = |ms: u64, id: &str, uri: &str| Some(agent.signer.sign(ms, id, "GET", uri));
    let now = now_ms();
    assert_eq!(agent.status("/envs", None).await, Some(401));
    assert_eq!(agent.status("/envs", signed(now, "isandbox", "/envs")).await, Some(200));
    assert_eq!(agent.status("/metrics", signed(now, "isandbox", "/envs")).await, Some(401));
    assert_eq!(agent.status("/envs", signed(now, "iother", "/envs")).await, Some(401));
    assert_eq!(agent.status("/envs", signed(now - 120_000, "isandbox", "/envs")).await, Some(401));
    assert_eq!(agent.status("/atoll/port/80", None).await, Some(401));
}

/// What listens on loopback alone is reached through the agent, whoever ends the conversation first.
#[tokio::test]
async fn a_port_is_reached_through_the_agent() {
    let agent = OverTcp::start().await;
    for place in ["127.0.0.1:0", "[::1]:0"] {
        let listener = tokio::net::TcpListener::bind(place).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let program = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.unwrap();
            stream.write_all(format!("{} bytes", heard.len()).as_bytes()).await.unwrap();
        });
        let response = agent.port(port).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hello");
        stream.write_all(&vec![b'x'; 3 << 20]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "3145728 bytes", "one half was closed, the other went on");
        program.await.unwrap();
    }
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_told_apart() {
    let agent = OverTcp::start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (status, body) = answer(agent.port(free).await).await;
    assert_eq!(status, 502);
    assert!(String::from_utf8_lossy(&body).contains("\"port_closed\""), "{body:?}");
    for bad in ["0", "65536", "x", ""] {
        assert_eq!(agent.port(bad).await.status(), StatusCode::BAD_REQUEST, "{bad:?}");
    }
    let plain = agent.status("/atoll/port/80", Some(agent.signed("/atoll/port/80"))).await;
    assert_eq!(plain, Some(400), "without an upgrade");
    let trusted = Sandbox::start();
    eventually("it serves", async || trusted.get("/health").await.0 == 204).await;
    assert_eq!(trusted.get("/atoll/port/80").await.0, 404, "only over TCP");
}

#[tokio::test]
async fn bad_arguments_and_configurations_are_refused() {
    let run = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_atoll-agent")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = run(&[]);
    assert!(code == Some(1) && text.contains("usage:"), "{text}");
    let (code, text) = run(&["--config", "/no/such", "--listen-fd", "77"]);
    assert!(code == Some(1) && text.contains("cannot be read"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    std::fs::write(&file, "{").unwrap();
    let (code, text) = run(&["--config", file.to_str().unwrap(), "--listen-fd", "77"]);
    assert!(code == Some(1) && text.contains("not valid"), "{text}");
    std::fs::write(&file, "{}").unwrap();
    let (code, text) = run(&["--config", file.to_str().unwrap(), "--listen-fd", "77"]);
    assert!(code == Some(1) && text.contains("listen"), "{text}");
}
