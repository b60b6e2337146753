//! Measures and prints the figures: one run, one table, other runtimes beside ours where they are installed. Nothing here
//! is a test: a figure that misses its target is printed, never failed.

mod backend;
mod clients;
mod cluster;
mod files;
mod gateway;
mod ours;
mod runtimes;
mod table;

use anyhow::{Context, Result, ensure};
use atoll_tests::{Options, Server};
use std::{
    process::{Command, ExitCode},
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};

use table::Table;

const HELP: &str = "Usage: bench [--cluster] [--short]

Measures the release build of this workspace on this machine and prints one table. Needs root.

  --cluster the figures of sandboxes on Kubernetes: the cluster that KUBECONFIG names, or one of its own
  --short   fewer sandboxes and smaller files, for continuous integration";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Measured sandboxes one after another.
    pub samples: usize,
    /// Idle sandboxes at once.
    pub crowd: usize,
    /// Bytes of the file that is copied.
    pub file: u64,
    /// How long requests are counted that are sent at the same time.
    pub rush: Duration,
}

const FULL: Size = Size { samples: 100, crowd: 1000, file: 1 << 30, rush: Duration::from_secs(8) };
const SHORT: Size = Size { samples: 50, crowd: 200, file: 256 << 20, rush: Duration::from_secs(2) };

fn main() -> ExitCode {
    let mut size = FULL;
    let mut on_cluster = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--short" => size = SHORT,
            "--cluster" => on_cluster = true,
            "--backend" => return ended(backend(arguments.next())),
            _ => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
        }
    }
    ended(run(size, on_cluster))
}

fn ended(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// This program as the web server that the gateway is measured with.
fn backend(port: Option<String>) -> Result<()> {
    runtime()?.block_on(backend::serve(port.context("--backend needs a port")?.parse()?))
}

fn run(size: Size, on_cluster: bool) -> Result<()> {
    build()?;
    let runtime = runtime()?;
    let mut table = Table::default();
    if on_cluster {
        runtime.block_on(cluster::measure(&mut table))?;
    } else {
        runtime.block_on(one_machine(size, &mut table))?;
        runtimes::measure(size, &mut table)?;
    }
    println!("\n{table}");
    Ok(())
}

async fn one_machine(size: Size, table: &mut Table) -> Result<()> {
    let server = Server::start(Options { as_installed: true, ..Options::default() }).await?;
    ours::measure(&server, size, table).await?;
    files::measure(&server, size, table).await?;
    clients::measure(&server, size, table).await?;
    gateway::measure(&server, size, table).await?;
    ours::crowd(&server, size, table).await?;
    server.close().await
}

/// What is measured is the release build of this very source.
fn build() -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let status =
        Command::new(cargo).args(["build", "--quiet", "--release", "--package", "atoll"]).status()?;
    ensure!(status.success(), "the release build failed");
    Ok(())
}
