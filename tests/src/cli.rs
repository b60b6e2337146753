//! The command line as a person uses it: the built binary, with and without a terminal.

use anyhow::{Context, Result};
use std::{path::PathBuf, process::Stdio};
use tokio::{io::AsyncWriteExt, process::Command};

/// The command line, speaking to one server.
#[derive(Clone, Debug)]
pub struct Cli {
    binary: PathBuf,
    url: String,
    key: Option<String>,
    authority: Option<PathBuf>,
}

/// What a command did.
#[derive(Clone)]
pub struct Done {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote, byte for byte.
    pub bytes: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Cli {
    /// Speaks to the server at `url`, with `key` when there is one.
    ///
    /// # Errors
    /// The binary was not built.
    pub fn new(url: &str, key: Option<&str>) -> Result<Self> {
        let (binary, key) = (crate::binary()?, key.map(str::to_owned));
        Ok(Self { binary, url: url.to_owned(), key, authority: None })
    }

    /// The same, trusting over TLS the authority of that file, too.
    #[must_use]
    pub fn trusting(self, authority: Option<PathBuf>) -> Self {
        Self { authority, ..self }
    }

    /// The command, ready to be changed and started; it knows where the server is by its environment alone.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        self.prepare(&mut command);
        command.args(args);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.env("ATOLL_URL", &self.url).env_remove("ATOLL_API_KEY").kill_on_drop(true);
        command.env("XDG_CONFIG_HOME", "/nonexistent");
        if let Some(key) = &self.key {
            command.env("ATOLL_API_KEY", key);
        }
        if let Some(authority) = &self.authority {
            command.env("ATOLL_CA", authority);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// Runs a command to its end, without a terminal and without input.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn run(&self, args: &[&str]) -> Result<Done> {
        Done::of(&mut self.command(args)).await
    }

    /// Runs a command that must succeed and returns what it wrote, without the white space at its end.
    ///
    /// # Errors
    /// It could not be started or failed.
    pub async fn output(&self, args: &[&str]) -> Result<String> {
        let done = self.run(args).await?;
        anyhow::ensure!(done.code == 0, "{args:?} exits {}: {}", done.code, done.stderr);
        Ok(done.stdout.trim_end().to_owned())
    }

    /// Runs a command that must succeed with `-o json` and returns what it wrote.
    ///
    /// # Errors
    /// It could not be started, failed, or wrote no JSON.
    pub async fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let text = self.output(&[args, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("{args:?} wrote {text}"))
    }

    /// Runs a command with this input.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn feed(&self, args: &[&str], input: &[u8]) -> Result<Done> {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let write = async {
            // A program that does not read all its input is no failure of this harness.
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), write);
        Ok(Done::from(output?))
    }

    /// Runs a command on a terminal of its own, with this typed in.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn on_terminal(&self, args: &[&str], typed: &str) -> Result<Done> {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let words = [&[self.binary.to_str().context("binary's path")?], args].concat();
        let line = words.into_iter().map(quoted).collect::<Vec<_>>().join(" ");
        let mut command = Command::new("script");
        self.prepare(&mut command);
        command.args(["--quiet", "--return", "--echo", "never", "--command", &line, "/dev/null"]);
        let mut child = command.env("TERM", "xterm").stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(typed.as_bytes()).await?;
        let output = child.wait_with_output().await?;
        drop(stdin);
        Ok(Done::from(output))
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, stdout, stderr, .. } = self;
        write!(f, "exits {code}, writes {stdout:?}, complains {stderr:?}")
    }
}

impl Done {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn of(command: &mut Command) -> Result<Self> {
        Ok(Self::from(command.output().await.with_context(|| format!("{:?}", command.as_std()))?))
    }
}

impl From<std::process::Output> for Done {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            bytes: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
