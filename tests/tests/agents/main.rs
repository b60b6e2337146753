//! Agents' clients: the protocol's own Python SDK lists and calls the tools of `atoll mcp`, over both of its ways and in both
//! of the protocol's lifecycles. It must not know how the tools are made.

use anyhow::{Context, Result, ensure};
use atoll_tests::{Options, Run, Server, python, scratch, server::wait_until, story};
use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};
use tokio::process::Command;

const CLIENT: &str = include_str!("client.py");
/// What is installed from PyPI, once.
const SDK: &str = "mcp==2.3.0";

fn main() -> ExitCode {
    story("agents", async |run: &mut Run| {
        let server = Server::start(Options::default()).await?;
        let python = python::with(SDK).await;
        for (case, transport, lifecycle) in [
            ("every_tool_over_standard_streams", "stdio", "initialize"),
            ("every_tool_without_a_handshake", "stdio", "discover"),
            ("every_tool_over_http", "http", "initialize"),
            ("every_tool_over_http_without_sessions", "http", "discover"),
        ] {
            run.case(case, every_tool(&server, &python, transport, lifecycle)).await;
        }
        run.case("a_sandbox_may_be_kept", kept(&server, &python)).await;
        run.case("what_cannot_be_is_said_at_once", refusals(&server)).await;
        run.case("nothing_is_left_behind", server.close()).await;
        Ok(())
    })
}

/// Runs the client; gives what it printed.
async fn client(
    server: &Server,
    python: &Result<PathBuf>,
    arguments: &[&str],
    files: &Path,
) -> Result<String> {
    let python = python.as_ref().map_err(python::again)?;
    let mut command = Command::new(python);
    command.args(["-c", CLIENT]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.env("ATOLL_BIN", atoll_tests::binary()?).env("ATOLL_URL", server.url()).env("FILES", files);
    command.env("ATOLL_API_KEY", server.key()?.unwrap_or_default()).env("XDG_CONFIG_HOME", "/nonexistent");
    let done = command.output().await?;
    let complaint = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{complaint}");
    Ok(String::from_utf8(done.stdout)?)
}

async fn every_tool(
    server: &Server,
    python: &Result<PathBuf>,
    transport: &str,
    lifecycle: &str,
) -> Result<()> {
    let files = tempfile::tempdir_in(scratch())?;
    client(server, python, &[transport, lifecycle], files.path()).await?;
    let client = server.client()?;
    wait_until("the session's sandbox is gone with it", async || {
        let sandboxes = server.list().await?;
        let mine = |it: &atoll_proto::api::Sandbox| it.labels.get("made-by").is_some_and(|by| by == "mcp");
        Ok(!sandboxes.iter().any(mine) && client.ready().await.is_ok())
    })
    .await
}

async fn kept(server: &Server, python: &Result<PathBuf>) -> Result<()> {
    let files = tempfile::tempdir_in(scratch())?;
    let told = client(server, python, &["stdio", "initialize", "--keep"], files.path()).await?;
    let id = told.lines().find_map(|line| line.strip_prefix("sandbox ")).context("no sandbox")?;
    ensure!(server.output(id, &["cat", "/home/user/notes/a.txt"]).await? == "first\nsecond", "{id}");
    server.delete(id).await
}

async fn refusals(server: &Server) -> Result<()> {
    let cli = server.cli()?;
    for (line, says) in [
        (&["mcp", "--http", "0.0.0.0:0"][..], "127.0.0.1"),
        (&["mcp", "--files", "/nowhere"], "/nowhere"),
        (&["mcp", "--image", "a", "--template", "b"], "--template"),
    ] {
        let done = cli.run(line).await?;
        ensure!(done.code != 0 && done.stderr.contains(says), "{line:?}: {done:?}");
    }
    Ok(())
}
