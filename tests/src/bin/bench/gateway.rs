//! Requests through the gateway to a program in a sandbox, beside Traefik and no proxy at all before the same program.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{CreateSandbox, Sandbox};
use atoll_tests::{Server, server::IMAGE, stats::Times};
use futures::future::try_join_all;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::{Size, table::Table};

/// Connections on which requests are sent at the same time.
const CONNECTIONS: usize = 64;
/// Where the program listens in its sandbox.
const PORT: u16 = 9000;

/// Where requests are sent, and what they say besides their path.
struct Way {
    name: &'static str,
    address: SocketAddr,
    headers: String,
}

/// Measures and prints.
pub async fn measure(server: &Server, size: Size, table: &mut Table) -> Result<()> {
    let (sandbox, way) = in_sandbox(server).await?;
    measure_way(&way, size, table).await?;
    let (backend, port) = on_host().await?;
    let plain = |name, port| Way { name, address: ([127, 0, 0, 1], port).into(), headers: String::new() };
    match traefik(port).await {
        Ok((proxy, port)) => {
            measure_way(&plain("Traefik", port), size, table).await?;
            end(proxy).await?;
        }
        Err(error) => table.add("Traefik: requests", "not measured", "", error.to_string()),
    }
    measure_way(&plain("no proxy", port), size, table).await?;
    end(backend).await?;
    server.delete(&sandbox.id).await
}

async fn measure_way(way: &Way, size: Size, table: &mut Table) -> Result<()> {
    let request = format!("GET /page HTTP/1.1\r\nhost: localhost\r\n{}\r\n", way.headers);
    // Connections, and whatever is remembered of who may, are there before it counts.
    crowd(way, &request, Duration::from_millis(300)).await?;
    let answered = crowd(way, &request, size.rush).await?;
    let rate = f64::from(u32::try_from(answered)?) / size.rush.as_secs_f64();
    let target = if way.name == "gateway" { "30,000/s, or 0.8 of Traefik" } else { "" };
    table.add(
        format!("{}: requests", way.name),
        format!("{rate:.0}/s"),
        target,
        format!("{CONNECTIONS} connections"),
    );
    let mut connection = Connection::open(way.address).await?;
    let mut times = Vec::with_capacity(size.samples * 20);
    for _ in 0..size.samples * 20 {
        let begun = Instant::now();
        connection.ask(&request).await?;
        times.push(begun.elapsed());
    }
    table.add_times(&format!("{}: one request after another", way.name), &Times::from_iter(times), "");
    Ok(())
}

/// How many requests are answered in that time.
async fn crowd(way: &Way, request: &str, took: Duration) -> Result<usize> {
    let end = Instant::now() + took;
    let one = async |_| {
        let mut connection = Connection::open(way.address).await?;
        let mut answered = 0;
        while Instant::now() < end {
            connection.ask(request).await?;
            answered += 1;
        }
        Ok::<usize, anyhow::Error>(answered)
    };
    Ok(try_join_all((0..CONNECTIONS).map(one)).await?.into_iter().sum())
}

/// A connection that is kept. It knows just enough HTTP to cost little beside what is measured.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(8 << 10) })
    }

    async fn ask(&mut self, request: &str) -> Result<()> {
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
            if length(&self.buffer)?.is_some_and(|length| self.buffer.len() >= length) {
                return Ok(());
            }
        }
    }
}

/// How long an answer is with its body, when its head is there.
fn length(answer: &[u8]) -> Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|at| at == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..head])?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "answered {text}");
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    };
    let body: usize = text.lines().find_map(field).context("an answer without its length")?;
    Ok(Some(head + 4 + body))
}

/// A sandbox in which this program serves, and the way there.
async fn in_sandbox(server: &Server) -> Result<(Sandbox, Way)> {
    let ask = CreateSandbox { image: Some(IMAGE.into()), pause_after: Some(0), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    let program = tokio::fs::File::open(std::env::current_exe()?).await?;
    let files = server.client()?.sandbox(&sandbox.id).files();
    files.upload("/tmp/bench", atoll_client::body_of(program)).await?;
    let line = format!(
        "chmod +x /tmp/bench && (/tmp/bench --backend {PORT} >/tmp/out 2>&1 &) \
         && timeout 30 sh -c 'until grep -q . /tmp/out; do :; done' && cat /tmp/out"
    );
    server.output(&sandbox.id, &["sh", "-c", &line]).await?;
    let token = sandbox.access_token.clone().context("no token")?;
    let headers = format!(
        "e2b-sandbox-id: {}\r\ne2b-sandbox-port: {PORT}\r\ne2b-traffic-access-token: {token}\r\n",
        sandbox.id
    );
    let way = Way { name: "gateway", address: server.address(), headers };
    Ok((sandbox, way))
}

/// The same program on this machine, and its port.
async fn on_host() -> Result<(Child, u16)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--backend", "0"]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line).await?;
    Ok((child, line.trim().parse()?))
}

/// Traefik before that port, and its own.
async fn traefik(backend: u16) -> Result<(Child, u16)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/cluster-parts.sh");
    let done = Command::new(script).arg("traefik").stderr(Stdio::null()).output().await?;
    ensure!(done.status.success(), "scripts/cluster-parts.sh could not get it");
    let folder = PathBuf::from(String::from_utf8(done.stdout)?.trim());
    let port = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port();
    let config = tempfile::tempdir()?;
    let routes = config.path().join("routes.yaml");
    fs::write(
        &routes,
        format!(
            "http:\n  routers:\n    all:\n      rule: PathPrefix(`/`)\n      service: backend\n  \
         services:\n    backend:\n      loadBalancer:\n        servers:\n          - url: http://127.0.0.1:{backend}\n"
        ),
    )?;
    let mut command = Command::new(folder.join("traefik"));
    command.arg(format!("--entryPoints.web.address=127.0.0.1:{port}"));
    command.arg(format!("--providers.file.filename={}", routes.display()));
    command.args([
        "--providers.file.watch=false",
        "--log.level=ERROR",
        "--global.checkNewVersion=false",
        "--global.sendAnonymousUsage=false",
    ]);
    let child = command.stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    let begun = Instant::now();
    while answers(([127, 0, 0, 1], port).into()).await.is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(30), "it does not serve");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((child, port))
}

async fn answers(address: SocketAddr) -> Result<()> {
    Connection::open(address).await?.ask("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await
}

async fn end(mut child: Child) -> Result<()> {
    child.kill().await.context("cannot end what was measured")
}
