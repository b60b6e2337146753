//! The main job and its limits where the kernel is older and has control groups v2 only, in a small machine of its own: with
//! our own launcher, and with the OCI runtime crun, which runs nowhere else.

use anyhow::{Result, bail, ensure};
use atoll_tests::{Run, guest, story};
use std::process::ExitCode;

const INIT: &str = include_str!("../guest/init");
const SMOKE: &str = include_str!("../guest/smoke.sh");

fn main() -> ExitCode {
    story("cgroup_v2", async |run: &mut Run| {
        let console = guest::run(INIT, &[("smoke.sh", SMOKE)]).await?;
        let results: Vec<_> = console.lines().filter_map(result).collect();
        for (name, failure) in &results {
            run.case(name, passed(*failure)).await;
        }
        run.case("the_machine_ran_to_its_end", ran_to_its_end(&console, results.len())).await;
        Ok(())
    })
}

/// `ok NAME`, or `not ok NAME: WHY`. The console may write more before it on the line.
fn result(line: &str) -> Option<(&str, Option<&str>)> {
    let line = line.trim();
    match line.split_once("not ok ") {
        Some((_, told)) => told.split_once(": ").map(|(name, why)| (name, Some(why))),
        None => line.rsplit_once("ok ").filter(|(_, name)| !name.contains(' ')).map(|(_, name)| (name, None)),
    }
}

async fn ran_to_its_end(console: &str, results: usize) -> Result<()> {
    let expected = SMOKE.lines().filter(|line| line.starts_with("check ")).count();
    ensure!(
        console.contains("the smoke test ended") && results == expected,
        "{results} of {expected} results: {console}"
    );
    Ok(())
}

async fn passed(failure: Option<&str>) -> Result<()> {
    match failure {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    }
}
