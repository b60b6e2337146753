//! TLS as clients meet it: a server that certifies itself on a domain of its own, reached under every name by clients that
//! trust it and by nobody else, and certificates that change while it runs.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::{CreateSandbox, Sandbox};
use atoll_tests::{Options, Run, Server, cli::Cli, host, http::Http, scratch, server::wait_until, story};
use futures::{SinkExt, StreamExt};
use reqwest::{Certificate, Client, Version};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use std::{path::Path, process::ExitCode, sync::Arc};
use tokio::{net::TcpStream, process::Command};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

/// What listens in the sandboxes of this story, on port 9000.
const LISTENS: &str = include_str!("probes/listens.py");
const PORT: u16 = 9000;
/// What the domain is when nobody names one.
const DOMAIN: &str = "atoll.localhost";

fn main() -> ExitCode {
    story("tls", async |run: &mut Run| {
        let args = vec!["--tls-dev".to_owned()];
        let mut server = Server::start(Options { args, ..Options::default() }).await?;
        let sandbox = listening(&server).await?;
        run.case("every_name_over_http_2", every_name(&server, &sandbox)).await;
        run.case("websockets", web_socket(&server, &sandbox)).await;
        run.case("urls_are_told_with_https", urls(&server, &sandbox)).await;
        run.case("who_does_not_trust_it_is_not_let_on", distrust(&server)).await;
        run.case("the_printed_commands_make_clients_trust_it", printed(&server)).await;
        run.case("it_is_the_same_authority_after_a_restart", restart(&mut server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        run.case("certificates_of_files_are_read_again", files()).await;
        Ok(())
    })
}

/// A sandbox in which the probe listens.
async fn listening(server: &Server) -> Result<Sandbox> {
    let start_command = Some(["python3", "-u", "-c", LISTENS].map(str::to_owned).to_vec());
    let sandbox = server.create_with(CreateSandbox { start_command, ..CreateSandbox::default() }).await?;
    let line =
        "until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 9000))' 2>&-; do :; done";
    server.output(&sandbox.id, &["timeout", "60", "sh", "-c", line]).await?;
    Ok(sandbox)
}

fn host_of(sandbox: &Sandbox) -> String {
    format!("{PORT}-{}.{DOMAIN}", sandbox.id)
}

/// A client as it is outside: it trusts the authority, and every name leads to the server.
fn outside(server: &Server, names: &[&str]) -> Result<Client> {
    let authority = Certificate::from_pem(&server.authority()?.context("no authority")?)?;
    let builder = Client::builder().tls_certs_only([authority]);
    Ok(names.iter().fold(builder, |builder, name| builder.resolve(name, server.address())).build()?)
}

async fn every_name(server: &Server, sandbox: &Sandbox) -> Result<()> {
    let (host, key) = (host_of(sandbox), server.key()?.unwrap_or_default());
    let (api, port) = (format!("api.{DOMAIN}"), server.address().port());
    let client = outside(server, &[&host, &api, DOMAIN])?;
    for name in [&api, DOMAIN, "localhost", "127.0.0.1"] {
        let url = format!("https://{name}:{port}/api/v1/sandboxes");
        let answer = client.get(&url).header("x-api-key", &key).send().await.context(url)?;
        ensure!((answer.status().as_u16(), answer.version()) == (200, Version::HTTP_2), "{name}: {answer:?}");
    }
    let url = format!("https://{host}:{port}/a?b=c");
    let answer = client.get(url).header("x-api-key", &key).send().await?;
    ensure!((answer.status().as_u16(), answer.version()) == (200, Version::HTTP_2), "{answer:?}");
    let told: Value = answer.json().await?;
    ensure!(told["path"] == "/a?b=c", "{told}");
    Ok(())
}

async fn web_socket(server: &Server, sandbox: &Sandbox) -> Result<()> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&server.authority()?.context("no authority")?)?)?;
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let host = host_of(sandbox);
    let stream = TcpStream::connect(server.address()).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from(host.clone())?, stream).await?;
    let mut request = format!("wss://{host}:{}/ws", server.address().port()).into_client_request()?;
    request.headers_mut().insert("x-api-key", server.key()?.unwrap_or_default().parse()?);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    socket.send(Message::text("over and back")).await?;
    loop {
        match socket.next().await.context("the WebSocket ended")?? {
            Message::Text(text) if text.as_str().contains("over and back") => return Ok(()),
            other => ensure!(!other.is_close(), "{other}"),
        }
    }
}

async fn urls(server: &Server, sandbox: &Sandbox) -> Result<()> {
    let told = server.http()?.get(&format!("/api/v1/sandboxes/{}", sandbox.id)).await?.expect(200)?;
    let port = server.address().port();
    ensure!(told["port_url"] == format!("https://{{port}}-{}.{DOMAIN}:{port}", sandbox.id), "{told}");
    Ok(())
}

async fn distrust(server: &Server) -> Result<()> {
    let stranger = Http::new(&server.url(), None)?.get("/healthz").await;
    ensure!(stranger.is_err(), "{stranger:?}");
    let plain = Http::new(&server.url().replace("https", "http"), None)?.get("/healthz").await;
    ensure!(plain.is_err(), "{plain:?}");
    let cli = Cli::new(&server.url(), server.key()?.as_deref())?.run(&["ls"]).await?;
    ensure!(cli.code == 1 && cli.stderr.contains("certificate"), "{cli:?}");
    Ok(())
}

/// What the server printed when it began, typed into a shell.
async fn printed(server: &Server) -> Result<()> {
    let log = std::fs::read_to_string(server.data().join("server.log"))?;
    let exports: Vec<&str> = log.lines().filter(|line| line.trim_start().starts_with("export ")).collect();
    ensure!(exports.len() >= 3 && log.contains("update-ca-certificates"), "{log}");
    let exports = exports.join("\n");
    let url = format!("https://127.0.0.1:{}/healthz", server.address().port());
    let python = format!("import urllib.request; print(urllib.request.urlopen('{url}').status)");
    let node = format!("fetch('{url}').then(a => console.log(a.status))");
    for (program, arguments) in [
        ("python3", vec!["-c", &python]),
        ("curl", vec!["-sfo", "/dev/null", "-w", "%{http_code}", &url]),
        ("node", vec!["-e", &node]),
    ] {
        let line = format!("{exports}\nexec \"$@\"");
        let mut command = Command::new("bash");
        let done = command.args(["-c", &line, "bash", program]).args(arguments).output().await?;
        match done.status.code() {
            Some(127) => println!("{program} is not here"),
            _ => ensure!(String::from_utf8_lossy(&done.stdout).trim() == "200", "{program}: {done:?}"),
        }
    }
    let mut command = server.cli()?.command(&["ls", "-q"]);
    let file = server.authority_file().context("no authority")?;
    let done = command.env("ATOLL_CA", file).output().await?;
    ensure!(done.status.success(), "{done:?}");
    Ok(())
}

async fn restart(server: &mut Server) -> Result<()> {
    let before = server.authority()?;
    server.stop().await?;
    server.launch().await?;
    ensure!(server.authority()? == before, "whoever trusted it would have to trust it anew");
    Ok(())
}

/// A certificate for this machine that signs itself, with its key, as `cert.pem` and `key.pem`.
async fn certify(folder: &Path, days: u32) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args([
        "-subj",
        "/CN=files",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-days",
        &days.to_string(),
    ]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.new", "-out", "cert.new"]);
    let done = command.current_dir(folder).output().await?;
    ensure!(done.status.success(), "openssl: {done:?}");
    for name in ["key", "cert"] {
        std::fs::rename(folder.join(format!("{name}.new")), folder.join(format!("{name}.pem")))?;
    }
    Ok(())
}

async fn files() -> Result<()> {
    let folder = tempfile::tempdir_in(scratch())?;
    certify(folder.path(), 1).await?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let args = ["--tls-cert".into(), path("cert.pem"), "--tls-key".into(), path("key.pem")].to_vec();
    let server = Server::start(Options { bare: true, args, ..Options::default() }).await?;
    let trusting = |authority: &Option<Vec<u8>>| Http::trusting(&server.url(), None, authority.as_deref());
    let first = server.authority()?;
    trusting(&first)?.get("/healthz").await?.expect(200)?;
    certify(folder.path(), 2).await?;
    let second = server.authority()?;
    let hang_up = || host::signal(server.pid().context("it does not run")?, rustix::process::Signal::HUP);
    hang_up()?;
    wait_until("the other certificate is shown", async || {
        Ok(trusting(&second)?.get("/healthz").await.is_ok_and(|answer| answer.status == 200))
    })
    .await?;
    std::fs::write(folder.path().join("key.pem"), "no key")?;
    hang_up()?;
    wait_until("the bad key is complained of", async || Ok(server.log_end().contains("stays as it is")))
        .await?;
    trusting(&second)?.get("/healthz").await?.expect(200)?;
    server.close().await
}
