//! Requests that nobody would write, made from the API's own description by schemathesis: no answer is a fault of the server,
//! and none has a status or type that the description does not name. The seed is always the same.

use anyhow::{Result, ensure};
use atoll_tests::{Options, Run, Server, python, registry::Registry, scratch, story};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::process::Command;

const HOOKS: &str = include_str!("hooks.py");
/// What is installed from PyPI, once.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// The same requests in each run, as far as its time allows.
const SEED: &str = "20261121";
/// Longest time of one case: schemathesis ends by itself before.
const PATIENCE: Duration = Duration::from_secs(240);
/// Never asked for: WebSockets, archives, which it cannot write, logs, which it would follow for ever, images, of which one that
/// it removes takes minutes to make again, and the removal of keys, of which it would find its own.
const LEFT_OUT: &str = "/(interactive|terminal|archive|logs|images|prune)$|/keys/";

fn main() -> ExitCode {
    story("fuzz", async |run: &mut Run| {
        let program = python::with(SCHEMATHESIS).await.map(|python| python.with_file_name("schemathesis"));
        let program = program.as_ref();
        let maker = Server::start(Options::default()).await?;
        let registry = Registry::kept(&maker).await?;
        let mirror = format!("http://{}", registry.address());
        // Users' sandboxes are of the base image: the desktop's cannot be had.
        let args = ["--no-auth", "--registry-mirror", &mirror, "--user-template", "executor"]
            .map(str::to_owned)
            .to_vec();
        let open = Server::start(Options { args: args.clone(), ..Options::default() }).await?;
        run.patient_case("without_keys", PATIENCE, fuzz(&open, program, "90")).await;
        run.case("the_open_server_leaves_nothing_behind", open.close()).await;
        let asking = Server::start(Options { args: args[1..].to_vec(), ..Options::default() }).await?;
        run.patient_case("with_a_key", PATIENCE, fuzz(&asking, program, "60")).await;
        run.case("the_asking_server_leaves_nothing_behind", asking.close()).await;
        run.case("nothing_is_left_behind", maker.close()).await;
        Ok(())
    })
}

async fn fuzz(server: &Server, program: Result<&PathBuf, &anyhow::Error>, seconds: &str) -> Result<()> {
    let program = program.map_err(python::again)?;
    let folder = tempfile::tempdir_in(scratch())?;
    std::fs::write(folder.path().join("hooks.py"), HOOKS)?;
    let mut command = Command::new(program);
    command.args(["run", &format!("{}/openapi.json", server.url()), "--seed", SEED, "--max-time", seconds]);
    command.args(["--checks", "status_code_conformance,content_type_conformance,no_fault"]);
    command.args([
        "--phases",
        "coverage,fuzzing",
        "--max-examples",
        "10",
        "--no-shrink",
        "--continue-on-failure",
    ]);
    command.args(["--suppress-health-check", "all", "--request-timeout", "60", "--warnings", "off"]);
    command.args(["--exclude-path-regex", LEFT_OUT]);
    if let Some(key) = server.key()? {
        command.args(["-H", &format!("X-API-Key: {key}")]);
    }
    command.env("SCHEMATHESIS_HOOKS", "hooks").current_dir(folder.path()).kill_on_drop(true);
    let done = command.output().await?;
    let told = String::from_utf8_lossy(&done.stdout);
    println!("{}", told.lines().rev().take(4).collect::<Vec<_>>().join(" "));
    ensure!(done.status.success(), "{told}");
    Ok(())
}
