//! Clients that were written for the API which the native one grew from: their documentation's calls, word for word, by
//! `curl` in a shell, against a server without authentication.

use anyhow::{Context, Result, ensure};
use atoll_tests::{Options, Run, Server, registry::Registry, scratch, story};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
};
use tokio::process::Command;

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
    let created: serde_json::Value = serde_json::from_str(&shell(server, folder, CREATE, "").await?)?;
    let id = created["id"].as_str().with_context(|| created.to_string())?;
    let told = [&created["image"], &created["cpu"], &created["memory"], &created["status"]];
    ensure!(told == ["python:3.11-slim", "500m", "512Mi", "running"], "{created}");
    ensure!(created["ttl"] == 3600, "{created}");
    let done: serde_json::Value = serde_json::from_str(&shell(server, folder, EXEC, id).await?)?;
    ensure!(done["exit_code"] == 0 && done["stdout"] == "hello\n" && done["stderr"] == "", "{done}");
    let uploaded: serde_json::Value = serde_json::from_str(&shell(server, folder, UPLOAD, id).await?)?;
    ensure!(uploaded["message"].is_string(), "{uploaded}");
    let ran: serde_json::Value = serde_json::from_str(&shell(server, folder, RUN_UPLOADED, id).await?)?;
    ensure!(ran["exit_code"] == 0, "{ran}");
    shell(server, folder, DOWNLOAD, id).await?;
    ensure!(std::fs::read_to_string(folder.join("output.txt"))? == "made inside");
    let listed = shell(server, folder, "curl http://localhost:8080/api/v1/sandboxes", "").await?;
    ensure!(listed.contains(id), "{listed}");
    let code = "curl -o /dev/null -w '%{http_code}' -X DELETE http://localhost:8080/api/v1/sandboxes/{id}";
    ensure!(shell(server, folder, code, id).await? == "204");
    Ok(())
}

async fn other_sites(server: &Server) -> Result<()> {
    let http = server.http()?.with_key(None);
    for (header, value) in [("Host", "evil.example"), ("Origin", "https://evil.example")] {
        let request = http.request(reqwest::Method::GET, "/api/v1/sandboxes").header(header, value);
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
