//! What users of E2B's clients wait for: a sandbox and its first command, through the packages as they are installed.

use anyhow::{Context, Result, ensure};
use atoll_proto::api::CreateKey;
use atoll_tests::{Server, stats::Times};
use serde::Deserialize;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::process::Command;

use crate::{Size, table::Table};

/// A line of `tests/conformance/run --figures`.
#[derive(Deserialize)]
struct Line {
    figure: String,
    ms: Vec<f64>,
}

/// Measures and prints.
pub async fn measure(server: &Server, size: Size, table: &mut Table) -> Result<()> {
    let ask = CreateKey { name: "bench".into(), tenant: None, role: None };
    let key = server.client()?.create_key(&ask).await?.secret.context("a new key without its secret")?;
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/run"));
    command.args(["--figures", &size.samples.to_string()]).stderr(Stdio::inherit());
    command.env("E2B_API_URL", server.url()).env("E2B_SANDBOX_URL", server.url()).env("E2B_API_KEY", key);
    let done = command.output().await?;
    ensure!(done.status.success(), "tests/conformance/run: {}", done.status);
    for line in String::from_utf8(done.stdout)?.lines() {
        let line: Line = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let times: Times = line.ms.iter().map(|ms| Duration::from_secs_f64(ms / 1e3)).collect();
        table.add_times(&line.figure, &times, "");
    }
    Ok(())
}
