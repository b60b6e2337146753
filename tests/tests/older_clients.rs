//! Clients that were written for the API which the native one grew from: their documentation's calls, word for word, by
//! `curl` in a shell, against a server without authentication.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::CreateSandbox;
use atoll_tests::{Options, Run, Server, registry::Registry, scratch, server::wait_until, story};
use futures::{SinkExt, Stream, StreamExt};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
};
use tokio::process::Command;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};

/// What listens in a sandbox, on port 9000.
const LISTENS: &str = include_str!("probes/listens.py");
/// The port of the documented calls.
const PORT: u16 = 8080;

const CREATE: &str = r#"curl -X POST http://localhost:8080/api/v1/sandboxes \
  -H "Content-Type: application/json" \
  -d '{
    "image": "python:3.11-slim",
    "cpu": "500m",
    "memory": "512Mi",
    "ttl": 3600
  }'"#;

const EXEC: &str = r#"curl -X POST http://localhost:8080/api/v1/sandboxes/{id}/exec \
  -H "Content-Type: application/json" \
  -d '{
    "command": ["python", "-c", "print(\"hello\")"],
    "timeout": 30
  }'"#;

const UPLOAD: &str = r#"curl -X POST http://localhost:8080/api/v1/sandboxes/{id}/files \
  -F "file=@main.py" \
  -F "path=/workspace/main.py""#;

const RUN_UPLOADED: &str = r#"curl -X POST http://localhost:8080/api/v1/sandboxes/{id}/exec \
  -H "Content-Type: application/json" \
  -d '{"command": ["python", "/workspace/main.py"]}'"#;

const DOWNLOAD: &str = r#"curl -X GET "http://localhost:8080/api/v1/sandboxes/{id}/files?path=/workspace/output.txt" \
  -o output.txt"#;

fn main() -> ExitCode {
    story("older_clients", async |run: &mut Run| {
        let maker = Server::start(Options::default()).await?;
        let registry = Registry::kept(&maker).await?;
        let mirror = format!("http://{}", registry.address());
        let args = ["--no-auth", "--registry-mirror", &mirror].map(str::to_owned).to_vec();
        let documented = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let listen = TcpListener::bind(documented).is_ok().then_some(documented);
        if listen.is_none() {
            println!("port {PORT} is taken here; the calls are made with another in its place");
        }
        let server = Server::start(Options { args, listen, ..Options::default() }).await?;
        run.case("the_documented_calls", documented_calls(&server)).await;
        run.case("a_terminal_over_a_websocket", terminal(&server)).await;
        run.case("logs_and_moves", logs_and_moves(&server)).await;
        run.case("a_port_by_path_and_token", by_path(&server, &maker)).await;
        run.case("versions_of_a_template", versions(&server)).await;
        run.case("pages_of_other_sites_are_refused", other_sites(&server)).await;
        run.case("without_authentication_only_on_loopback", loopback_only(&server)).await;
        run.case("the_second_server_leaves_nothing_behind", server.close()).await;
        run.case("nothing_is_left_behind", maker.close()).await;
        Ok(())
    })
}

/// Runs a documented call in a shell, in a folder, for a sandbox.
async fn shell(server: &Server, folder: &Path, call: &str, id: &str) -> Result<String> {
    let port = format!("localhost:{}", server.address().port());
    let call = call.replace("localhost:8080", &port).replace("{id}", id);
    let output = Command::new("bash").args(["-c", &call]).current_dir(folder).output().await?;
    ensure!(output.status.success(), "{call}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn documented_calls(server: &Server) -> Result<()> {
    let folder = tempfile::tempdir_in(scratch())?;
    let folder = folder.path();
    std::fs::write(folder.join("main.py"), "open('/workspace/output.txt', 'w').write('made inside')\n")?;
    let created: Value = serde_json::from_str(&shell(server, folder, CREATE, "").await?)?;
    let id = created["id"].as_str().with_context(|| created.to_string())?;
    let told = [&created["image"], &created["cpu"], &created["memory"], &created["status"]];
    ensure!(told == ["python:3.11-slim", "500m", "512Mi", "running"], "{created}");
    ensure!(created["ttl"] == 3600, "{created}");
    let done: Value = serde_json::from_str(&shell(server, folder, EXEC, id).await?)?;
    ensure!(done["exit_code"] == 0 && done["stdout"] == "hello\n" && done["stderr"] == "", "{done}");
    let uploaded: Value = serde_json::from_str(&shell(server, folder, UPLOAD, id).await?)?;
    ensure!(uploaded["message"].is_string(), "{uploaded}");
    let ran: Value = serde_json::from_str(&shell(server, folder, RUN_UPLOADED, id).await?)?;
    ensure!(ran["exit_code"] == 0, "{ran}");
    shell(server, folder, DOWNLOAD, id).await?;
    ensure!(std::fs::read_to_string(folder.join("output.txt"))? == "made inside");
    let listed = shell(server, folder, "curl http://localhost:8080/api/v1/sandboxes", "").await?;
    ensure!(listed.contains(id), "{listed}");
    let code = "curl -o /dev/null -w '%{http_code}' -X DELETE http://localhost:8080/api/v1/sandboxes/{id}";
    ensure!(shell(server, folder, code, id).await? == "204");
    Ok(())
}

/// What is said on the WebSocket of a command, from `socket`, until a message of this kind.
async fn until(
    socket: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    kind: &str,
    text: &str,
) -> Result<Value> {
    let mut seen = String::new();
    loop {
        let message = socket.next().await.with_context(|| format!("it ended after {seen:?}"))??;
        let Message::Text(said) = message else { continue };
        let said: Value = serde_json::from_str(&said)?;
        seen.push_str(said["data"].as_str().unwrap_or_default());
        if said["type"] == kind && (kind != "output" || seen.contains(text)) {
            return Ok(said);
        }
    }
}

async fn terminal(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let (address, id) = (server.address(), &sandbox.id);
    let url = |rest: &str| format!("ws://{address}/api/v1/sandboxes/{id}/exec/interactive?{rest}");
    let (mut socket, _) =
        tokio_tungstenite::connect_async(url("command=sh&tty=true&cols=100&rows=40")).await?;
    let say = |message: Value| Message::text(message.to_string());
    socket.send(say(json!({"type": "input", "data": "stty size\n"}))).await?;
    until(&mut socket, "output", "40 100").await?;
    socket.send(say(json!({"type": "resize", "cols": 90, "rows": 30}))).await?;
    socket.send(say(json!({"type": "input", "data": "stty size\n"}))).await?;
    until(&mut socket, "output", "30 90").await?;
    socket.send(say(json!({"type": "input", "data": "exit 7\n"}))).await?;
    ensure!(until(&mut socket, "exit", "").await?["exitCode"] == 7);
    let (mut socket, _) = tokio_tungstenite::connect_async(url("command=/no/such")).await?;
    ensure!(until(&mut socket, "exit", "").await?["exitCode"] == 127);
    let (mut socket, _) = tokio_tungstenite::connect_async(url("command=id&user=nobody-here")).await?;
    ensure!(until(&mut socket, "error", "").await?["message"].is_string());
    server.delete(id).await
}

async fn logs_and_moves(server: &Server) -> Result<()> {
    let http = server.http()?;
    let start_command = Some(["sh", "-c", "echo begun; exec sleep 1000"].map(str::to_owned).to_vec());
    let sandbox = server.create_with(CreateSandbox { start_command, ..CreateSandbox::default() }).await?;
    let at = |rest: &str| format!("/api/v1/sandboxes/{}{rest}", sandbox.id);
    wait_until("the log has its line", async || {
        let told = http.get(&at("/logs")).await?.expect(200)?;
        ensure!(told["events"].is_array(), "{told}");
        Ok(told["logs"].as_str().is_some_and(|logs| logs.contains("begun")))
    })
    .await?;
    for (action, status) in [("stop", "stopped"), ("start", "running"), ("restart", "running")] {
        let told = http.post(&at(&format!("/{action}")), Value::Null).await?.expect(200)?;
        ensure!(told["status"] == status && told["id"] == sandbox.id.as_str(), "{action}: {told}");
    }
    let history = http.get(&at("")).await?.expect(200)?["history"].clone();
    ensure!(history.as_array().is_some_and(|moves| moves.len() >= 3), "{history}");
    http.delete(&at("")).await?.expect(204)?;
    for rest in ["", "/logs"] {
        wait_until("it is gone", async || Ok(http.get(&at(rest)).await?.status == 404)).await?;
    }
    Ok(())
}

/// A port of a sandbox of a server that asks for keys, reached by the address and the token that the sandbox tells.
async fn by_path(open: &Server, asking: &Server) -> Result<()> {
    for server in [open, asking] {
        let start_command = Some(["python3", "-u", "-c", LISTENS].map(str::to_owned).to_vec());
        let sandbox = server.create_with(CreateSandbox { start_command, ..CreateSandbox::default() }).await?;
        let (url, token) = (sandbox.access_url.context("no URL")?, sandbox.access_token.context("no token")?);
        let base = format!("{url}/port/9000");
        let http = Client::builder().tls_certs_only([]).build()?;
        wait_until("the port answers", async || {
            Ok(http.get(&base).header("X-Access-Token", &token).send().await?.status() == 200)
        })
        .await?;
        // A GET's body is not read in there, and must not become another's request.
        for method in ["GET", "POST", "GET", "GET"] {
            let request =
                http.request(method.parse()?, format!("{base}/a?b=c")).header("X-Access-Token", &token);
            let answer = request.body("sent").send().await?;
            ensure!(answer.status() == 200, "{method}: {answer:?}");
        }
        let told: Value =
            http.get(format!("{base}/a?b=c")).header("X-Access-Token", &token).send().await?.json().await?;
        ensure!(told["path"] == "/a?b=c" && !told.to_string().contains(&token), "{told}");
        ensure!(told.to_string().contains(&format!("/api/v1/sandbox/{}/port/9000", sandbox.id)), "{told}");
        let mut request = base.replace("http", "ws").into_client_request()?;
        *request.uri_mut() = format!("{}/ws", base.replace("http", "ws")).parse()?;
        request.headers_mut().insert("x-access-token", token.parse()?);
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
        socket.send(Message::text("back")).await?;
        ensure!(socket.next().await.context("it ended")?? == Message::text("back"));
        server.delete(&sandbox.id).await?;
    }
    strangers(asking).await
}

/// Whoever shows nothing learns nothing: not whether there is a sandbox of that id.
async fn strangers(server: &Server) -> Result<()> {
    let sandbox = server.create().await?;
    let body = json!({"name": "other", "tenant": "elsewhere", "role": "member"});
    let key = server.http()?.post("/api/v1/keys", body).await?.expect(201)?;
    let other = server.http()?.with_key(key["secret"].as_str());
    let nobody = server.http()?.with_key(None);
    for http in [&other, &nobody] {
        let ask = async |id: &str| http.get(&format!("/api/v1/sandbox/{id}/port/80/")).await;
        let (theirs, none) = (ask(&sandbox.id).await?, ask("i0000000000000000000").await?);
        ensure!((theirs.status, &theirs.body) == (none.status, &none.body), "{theirs:?} {none:?}");
        ensure!(theirs.status.is_client_error(), "{theirs:?}");
    }
    server.delete(&sandbox.id).await
}

async fn versions(server: &Server) -> Result<()> {
    let http = server.http()?;
    for image in ["base", "python:3.11-slim"] {
        http.call(Method::PUT, "/api/v1/templates/rolled", json!({"image": image})).await?.expect(200)?;
    }
    let body = json!({"targetVersion": 1, "changelog": "back"});
    let told = http.post("/api/v1/templates/rolled/rollback", body).await?.expect(200)?;
    ensure!((&told["version"], &told["spec"]["image"]) == (&json!(3), &json!("base")), "{told}");
    http.delete("/api/v1/templates/rolled").await?.expect(204).map(drop)
}

async fn other_sites(server: &Server) -> Result<()> {
    let http = server.http()?.with_key(None);
    for (header, value) in [("Host", "evil.example"), ("Origin", "https://evil.example")] {
        let request = http.request(Method::GET, "/api/v1/sandboxes").header(header, value);
        let status = request.send().await?.status();
        ensure!(status.is_client_error(), "{header}: {value} was let in with {status}");
    }
    Ok(())
}

async fn loopback_only(server: &Server) -> Result<()> {
    let data = tempfile::tempdir_in(scratch())?;
    let data = data.path().display().to_string();
    for args in [&["--no-auth"][..], &[]] {
        let line = [&["serve", "--data", &data, "--listen", "0.0.0.0:0"], args].concat();
        let done = server.cli()?.run(&line).await?;
        ensure!(done.code != 0 && done.stderr.contains("other machines"), "{done:?}");
    }
    Ok(())
}
