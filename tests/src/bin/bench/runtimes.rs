//! Other runtimes on the same machine in the same run, by their command line: a container of busybox, without network,
//! without a filter of system calls, without limits, which is less than ours does.

use anyhow::{Context, Result, ensure};
use atoll_tests::{built_runtimes, scratch, stats::Times};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::{Size, table::Table};

const RUNTIMES: [&str; 3] = ["runc", "crun", "runsc"];

/// Seconds that one command may take: a runtime that hangs must not keep the table from being printed.
const PATIENCE: &str = "20";

/// Measures each that is installed and prints.
pub fn measure(size: Size, table: &mut Table) -> Result<()> {
    for runtime in RUNTIMES {
        match one(runtime, size.samples.min(50)) {
            Ok((run, exec)) => {
                table.add_times(&format!("{runtime}: run -> output"), &run, "");
                table.add_times(&format!("{runtime}: exec"), &exec, "");
            }
            Err(error) => table.add(runtime, "-", "", format!("{error:#}")),
        }
    }
    Ok(())
}

fn one(runtime: &str, samples: usize) -> Result<(Times, Times)> {
    // What the tests built comes before what is installed.
    let built = built_runtimes().join(runtime);
    let program = if built.exists() { built } else { PathBuf::from(runtime) };
    let found = Command::new(&program).arg("--version").output();
    ensure!(found.is_ok_and(|output| output.status.success()), "not installed");
    let dir = tempfile::tempdir_in(scratch())?;
    let bundle = Bundle { runtime, program, dir: dir.path() };
    bundle.write(&["/bin/busybox", "echo", "x"])?;
    let mut run = Times::default();
    for number in 0..samples {
        run.add(timed(bundle.command(&["run", "--bundle"]).arg(dir.path()).arg(format!("bench-{number}")))?);
    }
    bundle.write(&["/bin/busybox", "sleep", "600"])?;
    let exec = bundle.exec_times(samples);
    let removed = bundle.command(&["delete", "--force", "bench-exec"]).stderr(Stdio::null()).status();
    removed.with_context(|| format!("{runtime} delete"))?;
    Ok((run, exec?))
}

struct Bundle<'a> {
    runtime: &'a str,
    program: PathBuf,
    dir: &'a Path,
}

impl Drop for Bundle<'_> {
    /// gVisor leaves a network namespace mounted among what it remembers.
    fn drop(&mut self) {
        let left = self.dir.join("state/null-netns");
        let _ = Command::new("umount").arg(left).stderr(Stdio::null()).status();
    }
}

impl Bundle<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", PATIENCE]).arg(&self.program);
        command.arg("--root").arg(self.dir.join("state")).stdin(Stdio::null());
        if self.runtime == "runsc" {
            // It refuses the host's network, which the bundle does not ask for either.
            command.arg("--network=none");
        }
        command.args(args);
        command
    }

    /// The runtime's own default specification, for this program.
    fn write(&self, program: &[&str]) -> Result<()> {
        let bin = self.dir.join("rootfs/bin");
        fs::create_dir_all(&bin)?;
        fs::copy("/bin/busybox", bin.join("busybox")).context("busybox is not installed")?;
        let path = self.dir.join("config.json");
        if !path.exists() {
            checked(Command::new(&self.program).arg("spec").current_dir(self.dir).output()?)?;
        }
        let mut spec: Value = serde_json::from_slice(&fs::read(&path)?)?;
        spec["process"]["args"] = json!(program);
        spec["process"]["terminal"] = json!(false);
        Ok(fs::write(&path, spec.to_string())?)
    }

    fn exec_times(&self, samples: usize) -> Result<Times> {
        let mut run = self.command(&["run", "--detach", "--bundle"]);
        run.arg(self.dir).arg("bench-exec").stdout(Stdio::null()).stderr(Stdio::null());
        ensure!(run.status()?.success(), "a container could not be started in the background");
        let mut times = Times::default();
        for _ in 0..samples {
            times.add(timed(&mut self.command(&["exec", "bench-exec", "/bin/busybox", "echo", "x"]))?);
        }
        Ok(times)
    }
}

fn timed(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let output = checked(command.output()?)?;
    let took = begun.elapsed();
    ensure!(output.stdout == b"x\n", "wrote {:?}", String::from_utf8_lossy(&output.stdout));
    Ok(took)
}

fn checked(output: Output) -> Result<Output> {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    ensure!(output.status.success(), "fails here: {last}");
    Ok(output)
}
