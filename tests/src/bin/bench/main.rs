//! Measures and prints the figures: one run, one table, other runtimes beside ours where they are installed. Nothing here
//! is a test: a figure that misses its target is printed, never failed.

mod files;
mod ours;
mod runtimes;
mod table;

use anyhow::{Result, ensure};
use atoll_tests::{Options, Server};
use std::process::{Command, ExitCode};

use table::Table;

const HELP: &str = "Usage: bench [--short]

Measures the release build of this workspace on this machine and prints one table. Needs root.

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
}

const FULL: Size = Size { samples: 100, crowd: 1000, file: 1 << 30 };
const SHORT: Size = Size { samples: 50, crowd: 200, file: 256 << 20 };

fn main() -> ExitCode {
    let size = match std::env::args().nth(1).as_deref() {
        None => FULL,
        Some("--short") => SHORT,
        Some(_) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
    };
    match run(size) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(size: Size) -> Result<()> {
    build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut table = Table::default();
    runtime.block_on(async {
        let server = Server::start(Options { as_installed: true, ..Options::default() }).await?;
        ours::measure(&server, size, &mut table).await?;
        files::measure(&server, size, &mut table).await?;
        ours::crowd(&server, size, &mut table).await?;
        server.close().await
    })?;
    runtimes::measure(size, &mut table)?;
    println!("\n{table}");
    Ok(())
}

/// What is measured is the release build of this very source.
fn build() -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let status =
        Command::new(cargo).args(["build", "--quiet", "--release", "--package", "atoll"]).status()?;
    ensure!(status.success(), "the release build failed");
    Ok(())
}
