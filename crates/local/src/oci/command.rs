//! The command line that the OCI runtimes share. It must not decide when to use it.

use serde::Deserialize;
use serde_json::Deserializer;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{PROGRAMS, RuntimeError};

/// A runtime and where it keeps its state.
#[derive(Clone, Debug)]
pub struct Cli<'a> {
    /// Its program.
    pub program: &'a Path,
    /// Options of its own, see [`super::Runtime::options`].
    pub options: &'a [String],
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
        let mut command = self.command(Path::new("log"));
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
        let mut command = self.command(Path::new("log"));
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
        let mut command = self.command(&log);
        command.args(["delete", "--force", id]);
        let done = self.run("delete", command, &log);
        let _ = fs::remove_file(log);
        done
    }

    /// The runtime with the options that come before an action.
    fn command(&self, log: &Path) -> Command {
        let mut command = Command::new(self.program);
        command.env_clear().env("PATH", PROGRAMS.join(":"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.arg("--root").arg(self.state).arg("--log").arg(log).args(["--log-format", "json"]);
        command.args(self.options);
        command
    }

    fn run(&self, action: &'static str, mut command: Command, log: &Path) -> Result<(), RuntimeError> {
        let program = || PathBuf::from(self.program);
        let status =
            command.status().map_err(|source| RuntimeError::Run { program: program(), action, source })?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read_to_string(log).unwrap_or_default();
        let told = errors(&text);
        let told = if told.is_empty() { status.to_string() } else { told };
        Err(RuntimeError::Refused { program: program(), action, told })
    }
}

#[derive(Deserialize)]
struct Entry {
    level: String,
    #[serde(alias = "message")]
    msg: String,
}

/// What a runtime's log calls an error, in its order; some write several to a line, each the cause of the next. What is in
/// another form is not understood.
fn errors(log: &str) -> String {
    let entries = log.lines().flat_map(|line| Deserializer::from_str(line).into_iter::<Entry>().flatten());
    let is_error =
        |entry: &Entry| ["error", "fatal", "panic"].iter().any(|it| entry.level.eq_ignore_ascii_case(it));
    let errors = entries.filter(is_error);
    errors.map(|entry| entry.msg).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_what_a_runtime_says() {
        let log = r#"{"level":"warning","msg":"a","time":"t"}
{"level":"error","msg":"b","time":"t"}{"level":"error","msg":"c","time":"t"}
not json
{"message":"exit status 1: d","level":"ERROR","timestamp":"t"}
{"level":"info","msg":"e","time":"t"}
"#;
        assert_eq!(errors(log), "b; c; exit status 1: d");
        assert_eq!(errors(""), "");
    }
}
