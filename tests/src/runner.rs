//! Runs the cases of one story after another against what they share, and reports them as cargo's own tests are
//! reported. It must not know what a story is about.

use anyhow::Result;
use futures::FutureExt;
use std::{
    fmt,
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{cache, scratch};

/// Longest time of one case, unless it says otherwise. A guard against hanging, not a measure.
const PATIENCE: Duration = Duration::from_secs(180);

/// Why a case could not run here. Returned as an error, reported as skipped.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The running story: its cases so far.
#[derive(Debug)]
pub struct Run {
    name: &'static str,
    filters: Vec<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
    left_out: usize,
}

impl Run {
    /// Whether the case of this name is to run: all are, unless names were given on the command line.
    #[must_use]
    pub fn wants(&self, case: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| case.contains(filter.as_str()))
    }

    /// Runs one case and reports it. A failure does not end the story.
    pub async fn case(&mut self, case: &str, work: impl Future<Output = Result<()>>) {
        self.patient_case(case, PATIENCE, work).await;
    }

    /// Runs one case that may take longer than others.
    pub async fn patient_case(
        &mut self,
        case: &str,
        patience: Duration,
        work: impl Future<Output = Result<()>>,
    ) {
        if !self.wants(case) {
            self.left_out += 1;
            return;
        }
        let begun = Instant::now();
        let guarded = AssertUnwindSafe(tokio::time::timeout(patience, work)).catch_unwind();
        let outcome = match guarded.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(anyhow::anyhow!("not done after {} s", patience.as_secs())),
            Err(_) => Err(anyhow::anyhow!("panicked; the message is above")),
        };
        self.report(case, outcome, begun.elapsed());
    }

    fn report(&mut self, case: &str, outcome: Result<()>, took: Duration) {
        let seconds = took.as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("test {case} ... ok ({seconds:.1} s)");
            }
            Err(error) if error.is::<Skip>() => {
                self.skipped += 1;
                println!("test {case} ... ignored");
                println!("SKIPPED: {case}: {error}");
            }
            Err(error) => {
                self.failed += 1;
                let text = format!("{error:#}");
                println!("test {case} ... FAILED ({seconds:.1} s)\n    {text}");
                logged(&text).iter().for_each(|line| println!("    {line}"));
            }
        }
    }

    fn close(&self) -> ExitCode {
        let result = if self.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {result}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out\n",
            self.passed, self.failed, self.skipped, self.left_out
        );
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// What servers that still run have in their logs of the request that an error names.
fn logged(error: &str) -> Vec<String> {
    let Some((_, request)) = error.split_once("under request ") else { return Vec::new() };
    let request: String = request.chars().take_while(char::is_ascii_alphanumeric).collect();
    let places = [scratch(), cache().join("disk")];
    let dirs = places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
    let logs = dirs.filter_map(|dir| std::fs::read_to_string(dir.path().join("server.log")).ok());
    let lines = logs.flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|line| line.contains(&request)).collect()
}

/// Runs a story: `work` sets up what its cases share, runs them, and takes it down. Arguments that are no options choose
/// cases by a part of their name. When the set-up cannot be had here, the story as a whole is skipped or fails.
pub fn story(name: &'static str, work: impl AsyncFnOnce(&mut Run) -> Result<()>) -> ExitCode {
    let filters = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut run = Run { name, filters, passed: 0, failed: 0, skipped: 0, left_out: 0 };
    println!("\nrunning story {name}");
    let begun = Instant::now();
    let outcome = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(work(&mut run)),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = outcome {
        run.report(run.name, Err(error), begun.elapsed());
    }
    run.close()
}
