//! The main job and its limits where the kernel has control groups v2 only, in a small machine of its own.

use anyhow::{Result, ensure};
use atoll_tests::{Options, Run, Server, guest, story};
use std::{collections::BTreeMap, process::ExitCode};

const INIT: &str = include_str!("../guest/init");
const SMOKE: &str = include_str!("../guest/smoke.sh");

fn main() -> ExitCode {
    story("cgroup_v2", async |run: &mut Run| {
        // Makes the base image where it is not kept yet.
        Server::start(Options::default()).await?.close().await?;
        let console = tokio::task::spawn_blocking(|| guest::run(INIT, &[("smoke.sh", SMOKE)])).await??;
        let results: BTreeMap<_, _> = console.lines().filter_map(result).collect();
        run.case("the_machine_ran_to_its_end", ran_to_its_end(&console, results.len())).await;
        for (name, told) in results {
            run.case(name, passed(told)).await;
        }
        Ok(())
    })
}

fn result(line: &str) -> Option<(&str, &str)> {
    // The firmware's last escape sequences may stand before it.
    line.trim().split_once("RESULT ")?.1.split_once(' ')
}

async fn ran_to_its_end(console: &str, results: usize) -> Result<()> {
    let expected = SMOKE.lines().filter(|line| line.starts_with("check ")).count() + 1;
    ensure!(
        console.contains("GUEST END") && results == expected,
        "{results} of {expected} results: {console}"
    );
    Ok(())
}

async fn passed(told: &str) -> Result<()> {
    ensure!(told == "ok", "{told}");
    Ok(())
}
