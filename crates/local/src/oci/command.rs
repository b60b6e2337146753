//! The command line that the OCI runtimes share. It must not decide when to use it.

use serde::Deserialize;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Kind, PROGRAMS, RuntimeError};

/// A runtime and where it keeps its state.
#[derive(Clone, Debug)]
pub struct Cli<'a> {
    /// Its program.
    pub program: &'a Path,
    /// What it isolates with.
    pub kind: Kind,
    /// Its state directory.
    pub state: &'a Path,
}

impl Cli<'_> {
    /// Makes a container of the bundle in the current directory; it waits for [`Cli::start`]. What its first process writes
    /// goes to `output`. Returns that process's pid.
    ///
    /// # Errors
    /// When the runtime refuses; in its own words.
    pub fn create(&self, id: &str, output: File) -> Result<i32, RuntimeError> {
        let action = "create";
        let failed = |source| RuntimeError::Run { program: self.program.to_owned(), action, source };
        let mut command = self.command(Path::new("log"))?;
        command.args([action, "--bundle", ".", "--pid-file", "pid", id]).stdout(output);
        self.run(action, command, Path::new("log"))?;
        let pid = fs::read_to_string("pid").map_err(failed)?;
        pid.trim().parse().map_err(|_| failed(std::io::Error::other(format!("{pid:?} is no pid"))))
    }

    /// Lets a container go on that was made.
    ///
    /// # Errors
    /// As for [`Cli::create`].
    pub fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let mut command = self.command(Path::new("log"))?;
        command.args(["start", id]);
        self.run("start", command, Path::new("log"))
    }

    /// Ends a container in whatever state it is, and forgets it. None there is success.
    ///
    /// # Errors
    /// As for [`Cli::create`].
    pub fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        if !self.state.exists() {
            return Ok(());
        }
        let log = self.state.join(format!("{id}.log"));
        let mut command = self.command(&log)?;
        command.args(["delete", "--force", id]);
        let done = self.run("delete", command, &log);
        let _ = fs::remove_file(log);
        done
    }

    /// The runtime with the options that come before an action.
    fn command(&self, log: &Path) -> Result<Command, RuntimeError> {
        let mut command = Command::new(self.program);
        command.env_clear().env("PATH", PROGRAMS.join(":"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.arg("--root").arg(self.state).arg("--log").arg(log).args(["--log-format", "json"]);
        if self.kind == Kind::Gvisor {
            command.args(self.gvisor_options()?);
        }
        Ok(command)
    }

    /// Files are to be written through to the root, which older versions always do, and the network is the one of the
    /// sandbox's own namespace, so that its walls and its loopback are those of every other sandbox.
    fn gvisor_options(&self) -> Result<Vec<&'static str>, RuntimeError> {
        let asked = Command::new(self.program).arg("flags").env_clear().stdin(Stdio::null()).output();
        let known = asked.map_err(|source| RuntimeError::Run {
            program: self.program.to_owned(),
            action: "flags",
            source,
        })?;
        let mut options = vec!["--network=host"];
        let text = [known.stdout, known.stderr].concat();
        if String::from_utf8_lossy(&text).contains("-overlay2") {
            options.push("--overlay2=none");
        }
        Ok(options)
    }

    fn run(&self, action: &'static str, mut command: Command, log: &Path) -> Result<(), RuntimeError> {
        let program = || PathBuf::from(self.program);
        let status =
            command.status().map_err(|source| RuntimeError::Run { program: program(), action, source })?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read_to_string(log).unwrap_or_default();
        let told = last_error(&text).unwrap_or_else(|| status.to_string());
        Err(RuntimeError::Refused { program: program(), action, told })
    }
}

#[derive(Deserialize)]
struct Line {
    level: String,
    msg: String,
}

/// The last thing that a runtime's log calls an error; lines in another form are not understood.
fn last_error(log: &str) -> Option<String> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.rfind(|line| ["error", "fatal", "panic"].contains(&line.level.as_str())).map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_what_a_runtime_says() {
        let log = r#"{"level":"warning","msg":"a","time":"t"}
{"level":"error","msg":"b","time":"t"}
not json
{"msg":"exit status 1: c","level":"error","time":"t"}
{"level":"info","msg":"d","time":"t"}
"#;
        assert_eq!(last_error(log).as_deref(), Some("exit status 1: c"));
        assert_eq!(last_error(""), None);
    }
}
