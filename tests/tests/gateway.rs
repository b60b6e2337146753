//! Ports of real sandboxes from outside, as browsers and programs reach them. It must not look at how the gateway does it.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{CreateSandbox, Phase, Sandbox};
use atoll_tests::{Options, Run, Server, server::wait_until, story};
use futures::{SinkExt, StreamExt, TryStreamExt};
use reqwest::{Method, RequestBuilder, Response, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::process::ExitCode;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

/// What listens in the sandboxes of this story, on port 9000.
const LISTENS: &str = include_str!("probes/listens.py");
const PORT: u16 = 9000;
/// Bytes of a large body.
const LARGE: usize = 64 << 20;

fn main() -> ExitCode {
    story("gateway", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        let outside = Outside::new(&server)?;
        let sandbox = listening(&server, CreateSandbox::default()).await?;
        ways(run, &server, &outside, &sandbox).await;
        streams(run, &outside, &sandbox).await;
        run.case("a_frozen_sandbox_wakes", wakes(&server, &outside, &sandbox, Phase::Paused)).await;
        run.case("a_stopped_sandbox_wakes", wakes(&server, &outside, &sandbox, Phase::Stopped)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        run.case("without_keys", without_keys()).await;
        run.case("one_process_for_each_part", parts()).await;
        Ok(())
    })
}

async fn ways(run: &mut Run, server: &Server, outside: &Outside, sandbox: &Sandbox) {
    run.case("a_port_by_its_host_name", by_host(outside, sandbox)).await;
    run.case("a_port_by_headers", by_header(outside, sandbox)).await;
    run.case("a_plain_file_server", file_server(server, outside)).await;
    run.case("a_named_port_of_a_user", by_name(server, outside)).await;
    run.case("everything_else_is_the_api", the_api(outside)).await;
    run.case("a_private_port_needs_a_key", private(server, outside, sandbox)).await;
    run.case("a_link_becomes_a_cookie", link(server, outside, sandbox)).await;
    run.case("a_link_ends", link_ends(server, outside, sandbox)).await;
    run.case("two_tenants_cannot_reach_each_other", tenants(server, outside, sandbox)).await;
    run.case("a_closed_port_is_named", closed(outside, sandbox)).await;
    run.case("credentials_are_not_seen_inside", unseen(outside, sandbox)).await;
}

async fn streams(run: &mut Run, outside: &Outside, sandbox: &Sandbox) {
    run.case("websockets", web_socket(outside, sandbox)).await;
    run.case("events_come_as_they_are_sent", events(outside, sandbox)).await;
    run.case("large_bodies_up", up(outside, sandbox)).await;
    run.case("large_bodies_down", down(outside, sandbox)).await;
    run.case("a_client_that_never_reads", never_reads(outside, sandbox)).await;
}

/// Somebody who reaches the server's port, under any host name.
struct Outside {
    client: reqwest::Client,
    url: String,
    key: String,
}

impl Outside {
    fn new(server: &Server) -> Result<Self> {
        let client = reqwest::Client::builder().tls_certs_only([]).redirect(Policy::none()).build()?;
        Ok(Self { client, url: server.url(), key: server.key()?.unwrap_or_default() })
    }

    fn request(&self, method: Method, host: &str, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).header("host", host)
    }

    /// With the admin's key.
    fn keyed(&self, method: Method, host: &str, path: &str) -> RequestBuilder {
        self.request(method, host, path).header("x-api-key", &self.key)
    }

    async fn get(&self, sandbox: &Sandbox, path: &str) -> Result<Response> {
        Ok(self.keyed(Method::GET, &host(PORT, sandbox), path).send().await?)
    }
}

fn host(port: u16, sandbox: &Sandbox) -> String {
    format!("{port}-{}.localhost", sandbox.id)
}

/// A sandbox in which the probe listens.
async fn listening(server: &Server, ask: CreateSandbox) -> Result<Sandbox> {
    let start_command = Some(["python3", "-u", "-c", LISTENS].map(str::to_owned).to_vec());
    let sandbox = server.create_with(CreateSandbox { start_command, ..ask }).await?;
    let line =
        "until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 9000))' 2>&-; do :; done";
    server.output(&sandbox.id, &["timeout", "60", "sh", "-c", line]).await?;
    Ok(sandbox)
}

async fn json_of(request: RequestBuilder) -> Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

async fn refused(request: RequestBuilder, status: u16, code: &str) -> Result<()> {
    let (had, told) = json_of(request).await?;
    ensure!((had, told["code"].as_str()) == (status, Some(code)), "{had} {told} instead of {status} {code}");
    ensure!(told["error"].as_str().is_some_and(|text| !text.is_empty()), "{told}");
    Ok(())
}

async fn by_host(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let name = host(PORT, sandbox);
    for host in [name.clone(), name.to_uppercase(), format!("{name}.:8080")] {
        let (status, told) = json_of(outside.keyed(Method::GET, &host, "/a?b=c")).await?;
        ensure!((status, told["path"].as_str()) == (200, Some("/a?b=c")), "{host}: {status} {told}");
    }
    Ok(())
}

async fn by_header(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    for host in ["localhost:8080", "127.0.0.1", "sandbox.localhost"] {
        let request = outside.keyed(Method::GET, host, "/by-header").header("E2b-Sandbox-Id", &sandbox.id);
        let (status, told) = json_of(request.header("E2b-Sandbox-Port", PORT.to_string())).await?;
        ensure!((status, told["path"].as_str()) == (200, Some("/by-header")), "{host}: {status} {told}");
    }
    Ok(())
}

async fn file_server(server: &Server, outside: &Outside) -> Result<()> {
    let line = ["python3", "-m", "http.server", "8000", "--directory", "/etc"].map(str::to_owned).to_vec();
    let ask = CreateSandbox { start_command: Some(line), public: Some(true), ..CreateSandbox::default() };
    let sandbox = server.create_with(ask).await?;
    wait_until("the file server answers", async || {
        let answer = outside.request(Method::GET, &host(8000, &sandbox), "/os-release").send().await?;
        Ok(answer.status() == 200 && answer.text().await?.contains("Debian"))
    })
    .await?;
    server.delete(&sandbox.id).await
}

async fn by_name(server: &Server, outside: &Outside) -> Result<()> {
    let template = json!({"image": "base", "ports": {"web": PORT}});
    server.http()?.call(Method::PUT, "/api/v1/templates/web", template).await?.expect(200)?;
    let ask = || CreateSandbox {
        template: Some("web".into()),
        owner: Some("alice@example.com".into()),
        ..CreateSandbox::default()
    };
    let (first, second) = (listening(server, ask()).await?, listening(server, ask()).await?);
    let label = first.owner_label.clone().context("a user has a label")?;
    let name = format!("{label}-web.localhost");
    let ask = || outside.keyed(Method::GET, &name, "/named");
    let answers = async |sandbox: &Sandbox| -> Result<()> {
        let (status, told) = json_of(ask()).await?;
        let own = server.output(&sandbox.id, &["hostname"]).await?;
        ensure!(
            (status, told["machine"].as_str()) == (200, Some(own.as_str())),
            "{status} {told}, not {own}"
        );
        Ok(())
    };
    answers(&first).await?;
    refused(outside.keyed(Method::GET, &format!("{label}-vnc.localhost"), "/"), 404, "unknown_port").await?;
    server.delete(&first.id).await?;
    answers(&second).await?;
    server.delete(&second.id).await?;
    refused(ask(), 404, "not_found").await
}

async fn the_api(outside: &Outside) -> Result<()> {
    for host in ["localhost", "api.localhost", "127.0.0.1:8080", "example.com"] {
        let (status, told) = json_of(outside.keyed(Method::GET, host, "/api/v1/version")).await?;
        ensure!(status == 200 && told["version"].is_string(), "{host}: {status} {told}");
    }
    refused(outside.keyed(Method::GET, "what.localhost", "/api/v1/version"), 404, "unknown_host").await
}

async fn private(server: &Server, outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let (there, nowhere) = (host(PORT, sandbox), format!("{PORT}-i0000000000000000000.localhost"));
    let body = json!({"name": "other", "tenant": "other", "role": "member"});
    let other = server.http()?.post("/api/v1/keys", body).await?.expect(201)?;
    let other = other["secret"].as_str().context("a new key")?.to_owned();
    for name in [&there, &nowhere] {
        refused(outside.request(Method::GET, name, "/"), 403, "unauthorized").await?;
        refused(outside.request(Method::GET, name, "/").header("x-api-key", "wrong"), 403, "unauthorized")
            .await?;
        refused(outside.request(Method::GET, name, "/").header("x-api-key", &other), 404, "not_found")
            .await?;
    }
    let response = outside.request(Method::GET, &there, "/").bearer_auth(&outside.key).send().await?;
    ensure!(response.status() == 200, "{response:?}");
    Ok(())
}

async fn link(server: &Server, outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let name = host(PORT, sandbox);
    let url = server.cli()?.output(&["url", &sandbox.id, &PORT.to_string(), "--expires", "10m"]).await?;
    let port = server.address().port();
    let path = url.strip_prefix(&format!("http://{name}:{port}")).with_context(|| url.clone())?;
    let name = format!("{name}:{port}");
    let visit = outside.request(Method::GET, &name, path).send().await?;
    let text = |name: &str| Some(visit.headers().get(name)?.to_str().ok()?.to_owned());
    ensure!(
        (visit.status().as_u16(), text("location")) == (302, Some(format!("http://{name}/"))),
        "{visit:?}"
    );
    let cookie = text("set-cookie").context("no cookie")?;
    ensure!(cookie.contains("HttpOnly") && !cookie.contains("Domain"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    let with_cookie = |name: &str| outside.request(Method::GET, name, "/").header("cookie", &cookie);
    let (status, told) = json_of(with_cookie(&name)).await?;
    ensure!(status == 200 && !told.to_string().contains("atoll"), "{status} {told}");
    refused(with_cookie(&name).header("sec-fetch-site", "same-site"), 403, "unauthorized").await?;
    refused(with_cookie(&host(8000, sandbox)), 404, "not_found").await?;
    let token = cookie.split_once('=').context("a cookie has a value")?.1;
    let program = outside.request(Method::POST, &name, "/digest").header("x-atoll-token", token);
    ensure!(program.body("x").send().await?.status() == 200);
    let forged = token.replace(&format!(".{PORT}."), ".8000.");
    let forged = outside.request(Method::GET, &host(8000, sandbox), "/").header("x-atoll-token", forged);
    refused(forged, 403, "unauthorized").await
}

async fn link_ends(server: &Server, outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let path = format!("/api/v1/sandboxes/{}/links", sandbox.id);
    let link = server.http()?.post(&path, json!({"port": PORT, "expires_in": 1})).await?.expect(201)?;
    let token = link["token"].as_str().context("a link has a token")?.to_owned();
    let ask = || outside.request(Method::GET, &host(PORT, sandbox), "/").header("x-atoll-token", &token);
    wait_until("the link has ended", async || Ok(ask().send().await?.status() == 401)).await?;
    refused(ask(), 401, "expired").await
}

async fn tenants(server: &Server, outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let body = json!({"name": "theirs", "tenant": "theirs", "role": "member"});
    let key = server.http()?.post("/api/v1/keys", body).await?.expect(201)?;
    let key = key["secret"].as_str().context("a new key")?;
    let theirs = server.http()?.with_key(Some(key));
    let made = theirs.post("/api/v1/sandboxes", server.ask()).await?.expect(201)?;
    let their_id = made["id"].as_str().context("an id")?.to_owned();
    refused(
        outside.request(Method::GET, &host(PORT, sandbox), "/").header("x-api-key", key),
        404,
        "not_found",
    )
    .await?;
    let own =
        outside.request(Method::GET, &format!("{PORT}-{their_id}.localhost"), "/").header("x-api-key", key);
    refused(own, 502, "port_closed").await?;
    let links = format!("/api/v1/sandboxes/{}/links", sandbox.id);
    ensure!(theirs.post(&links, json!({"port": PORT})).await?.refusal(404)? == "not_found");
    let link = theirs
        .post(&format!("/api/v1/sandboxes/{their_id}/links"), json!({"port": PORT}))
        .await?
        .expect(201)?;
    let token = link["token"].as_str().context("a link has a token")?;
    let with_theirs = outside.request(Method::GET, &host(PORT, sandbox), "/").header("x-atoll-token", token);
    refused(with_theirs, 404, "not_found").await?;
    server.delete(&their_id).await
}

async fn closed(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let name = host(9001, sandbox);
    refused(outside.keyed(Method::GET, &name, "/"), 502, "port_closed").await?;
    let page = outside.keyed(Method::GET, &name, "/").header("accept", "text/html").send().await?;
    let text = page.text().await?;
    ensure!(text.contains("<html") && text.contains("9001"), "{text}");
    Ok(())
}

async fn unseen(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let request = outside.keyed(Method::GET, &host(PORT, sandbox), "/").bearer_auth(&outside.key);
    let request = request.header("x-atoll-token", "some").header("cookie", "mine=1; atoll_token=some");
    let (_, told) = json_of(request).await?;
    let text = told.to_string().to_lowercase();
    ensure!(!text.contains(&outside.key) && !text.contains("atoll") && text.contains("mine=1"), "{text}");
    Ok(())
}

async fn web_socket(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let stream = tokio::net::TcpStream::connect(outside.url.trim_start_matches("http://")).await?;
    let mut request = format!("ws://{}/ws", host(PORT, sandbox)).into_client_request()?;
    request.headers_mut().insert("x-api-key", outside.key.parse()?);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    for text in ["hello".to_owned(), "x".repeat(50_000)] {
        socket.send(Message::text(text.clone())).await?;
        let back = socket.next().await.context("the socket ended")??;
        ensure!(back == Message::text(text), "{} bytes came back", back.len());
    }
    socket.close(None).await?;
    Ok(())
}

async fn events(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let mut stream = outside.get(sandbox, "/events").await?.bytes_stream();
    for n in 0..3 {
        // The next event is sent only now: if anything held the one before back, this would never end.
        let go = outside.keyed(Method::POST, &host(PORT, sandbox), "/go").send().await?;
        ensure!(go.status() == 200, "{go:?}");
        let event = stream.try_next().await?.context("the stream ended")?;
        ensure!(event == format!("data: {n}\n\n"), "{event:?}");
    }
    Ok(())
}

/// The bytes that the probe sends.
fn pattern() -> Vec<u8> {
    (0..=255).cycle().take(LARGE).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn up(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let (bytes, name) = (pattern(), host(PORT, sandbox));
    let wanted = digest(&bytes);
    let whole = outside.keyed(Method::POST, &name, "/digest").body(bytes.clone());
    let pieces =
        bytes.chunks(100_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>();
    let pieces = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    for request in [whole, outside.keyed(Method::POST, &name, "/digest").body(pieces)] {
        let had = request.send().await?.text().await?;
        ensure!(had == wanted, "{had}");
    }
    Ok(())
}

async fn down(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let mut stream = outside.get(sandbox, &format!("/bytes?{LARGE}")).await?.bytes_stream();
    let (mut hash, mut size) = (Sha256::new(), 0);
    while let Some(piece) = stream.try_next().await? {
        size += piece.len();
        hash.update(&piece);
    }
    let had: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!((size, had) == (LARGE, digest(&pattern())), "{size} bytes came");
    Ok(())
}

/// What is sent to it stays in the sandbox, and not in the server's memory.
async fn never_reads(outside: &Outside, sandbox: &Sandbox) -> Result<()> {
    let response = outside.get(sandbox, "/endless").await?;
    let taken =
        async || -> Result<usize> { Ok(outside.get(sandbox, "/taken").await?.text().await?.parse()?) };
    let mut before = 0;
    wait_until("the sender is held back", async || {
        let now = taken().await?;
        Ok(now > 0 && now == std::mem::replace(&mut before, now))
    })
    .await?;
    // The kernel's buffers of the three connections on the way may have 36 MiB each where `tcp_rmem` and `tcp_wmem` are large.
    let held = taken().await?;
    ensure!(held < 128 << 20, "{held} bytes were taken for somebody who reads none");
    drop(response);
    Ok(())
}

async fn wakes(server: &Server, outside: &Outside, sandbox: &Sandbox, rest: Phase) -> Result<()> {
    let handle = server.client()?.sandbox(&sandbox.id);
    let resting = match rest {
        Phase::Paused => handle.pause().await?,
        _ => handle.stop().await?,
    };
    ensure!(resting.phase == rest, "{resting:?}");
    let response = outside.get(sandbox, "/").await?;
    ensure!(response.status() == 200, "{}", response.text().await?);
    ensure!(handle.get().await?.phase == Phase::Running);
    Ok(())
}

async fn without_keys() -> Result<()> {
    let server = Server::start(Options { args: vec!["--no-auth".into()], ..Options::default() }).await?;
    let outside = Outside::new(&server)?;
    let sandbox = listening(&server, CreateSandbox::default()).await?;
    let name = host(PORT, &sandbox);
    ensure!(json_of(outside.request(Method::GET, &name, "/")).await?.0 == 200);
    let foreign = outside.request(Method::GET, &name, "/").header("origin", "https://evil.example");
    refused(foreign, 403, "foreign_origin").await?;
    server.close().await
}

/// The same directory, answered for by one process after the other.
async fn parts() -> Result<()> {
    let args = ["--role", "gateway", "--domain", "apps.example.com", "--content-url", "https://{host}"];
    let args = args.map(str::to_owned).to_vec();
    let server = Server::start(Options { bare: true, args, ..Options::default() }).await?;
    server.needs_one_machine("a gateway has the API's database; tests/deploy has both")?;
    let outside = Outside::new(&server)?;
    for (host, path, status) in [
        ("localhost", "/healthz", 200),
        ("localhost", "/metrics", 200),
        ("localhost", "/api/v1/sandboxes", 404),
        ("80-i0000000000000000000.apps.example.com", "/api/v1/sandboxes", 404),
        ("80-i0000000000000000000.localhost", "/", 404),
    ] {
        let (had, told) = json_of(outside.keyed(Method::GET, host, path)).await?;
        ensure!(had == status, "{host}{path}: {had} {told}");
    }
    let metrics = outside.keyed(Method::GET, "localhost", "/metrics").send().await?.text().await?;
    ensure!(metrics.contains("atoll_gateway_requests_total{outcome=\"not_found\"} 1"), "{metrics}");
    drop(server);
    Ok(())
}
