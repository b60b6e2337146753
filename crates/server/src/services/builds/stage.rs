//! The sandbox in which a build's steps run: made, used, snapshotted, taken down. It must not know what the steps are.

use atoll_core::{
    build::Build,
    id::SnapshotId,
    snapshot::{NewSnapshot, Snapshot},
};
use atoll_proto::api;
use std::sync::Arc;

use super::{Failure, plan::Context};
use crate::{
    services::{
        Services,
        access::Caller,
        error::ServiceError,
        exec::{Command, Happened},
        sandboxes::Begun,
    },
    world,
};

/// Label of the sandboxes that builds work in, with the build's id.
pub const LABEL: &str = "atoll.dev/build";
/// Who may do anything in them.
const ROOT: &str = "root";
/// Our scripts find what they need whatever a step made of the path.
const PATH: &str = "PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";
/// Longest output of a script of ours.
const SAID: usize = 64 << 10;

/// Runs its first argument as a user's shell would, with whichever shell the image has.
const SHELL: &str =
    r#"if command -v bash >/dev/null 2>&1; then exec bash -l -c "$0"; fi; exec sh -l -c "$0""#;

/// A command line as a program and its arguments. A login shell forgets a path that a step has set, so it is told again.
pub fn shell(line: &str, context: &Context) -> Vec<String> {
    let line = match context.env.get("PATH") {
        Some(path) => format!("export PATH={}\n{line}", quoted(path)),
        None => line.to_owned(),
    };
    vec!["/bin/sh".into(), "-c".into(), SHELL.into(), line]
}

/// A text as one word of a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A sandbox that a build works in.
pub struct Stage {
    services: Arc<Services>,
    caller: Caller,
    id: String,
}

impl Stage {
    /// Begins to make one of an image. It is there to be closed as soon as this answers, and to be used when `begun` ended.
    pub async fn open(
        services: &Arc<Services>,
        caller: &Caller,
        build: &Build,
        image: &str,
    ) -> Result<(Self, Begun), ServiceError> {
        let ask = api::CreateSandbox {
            cpu: build.ask.cpu.clone(),
            memory: build.ask.memory.clone(),
            ..api::CreateSandbox::of_image(image)
        };
        Self::of(services, caller, build, ask).await
    }

    /// The same, of whatever is asked for.
    pub async fn of(
        services: &Arc<Services>,
        caller: &Caller,
        build: &Build,
        ask: api::CreateSandbox,
    ) -> Result<(Self, Begun), ServiceError> {
        let lives = services.base.config.limits.build_for.as_secs().saturating_mul(2).max(60);
        let ask = api::CreateSandbox {
            labels: [(LABEL.to_owned(), build.id.clone())].into(),
            ttl: Some(Some(i64::try_from(lives).unwrap_or(i64::MAX))),
            pause_after: Some(0),
            public: Some(false),
            ..ask
        };
        let begun = services.create(caller, ask, None).await?;
        let id = begun.sandbox().id().to_string();
        Ok((Self { services: services.clone(), caller: caller.clone(), id }, begun))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs a command to its end; `heard` is told what it does.
    pub async fn run(
        &self,
        command: Command,
        mut heard: impl FnMut(&Happened),
    ) -> Result<api::ExecExit, ServiceError> {
        let (mut run, _input) = self.services.run(&self.caller, &self.id, command, "build").await?;
        while let Some(happened) = run.next().await? {
            heard(&happened);
            if let Happened::Ended(exit) = happened {
                return Ok(exit);
            }
        }
        Err(ServiceError::Internal("a command ended without an end".into()))
    }

    /// Runs a script of ours as root, and gives what it wrote.
    pub async fn script(&self, script: &str, args: &[&str]) -> Result<String, Failure> {
        let mut argv = vec!["/bin/sh".to_owned(), "-c".into(), format!("{PATH}{script}"), "sh".into()];
        argv.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.said(Command { argv, user: Some(ROOT.into()), ..Command::default() }).await
    }

    /// A text with the variables that it names put in, as a shell inside would.
    pub async fn expanded(&self, text: &str, context: &Context) -> Result<String, Failure> {
        if !text.contains('$') {
            return Ok(text.to_owned());
        }
        let script = format!("printf '%s' \"{}\"", escaped(text));
        let argv = vec!["/bin/sh".to_owned(), "-c".into(), script];
        let (env, user) = (context.env.clone(), Some(context.user.clone()));
        self.said(Command { argv, env, user, ..Command::default() }).await
    }

    async fn said(&self, command: Command) -> Result<String, Failure> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = self.run(Command { workdir: Some("/".into()), ..command }, |happened| match happened {
            Happened::Stdout(piece) if out.len() < SAID => out.extend_from_slice(piece),
            Happened::Stderr(piece) if err.len() < SAID => err.extend_from_slice(piece),
            _ => {}
        });
        let exit = exit.await?;
        if exit.exit_code == 0 {
            return Ok(String::from_utf8_lossy(&out).into_owned());
        }
        let why = String::from_utf8_lossy(&err).trim().to_owned();
        Err(Failure::new(if why.is_empty() { ended(&exit) } else { why }))
    }

    /// Unpacks an archive into a directory.
    pub async fn unpack(&self, archive: tokio::fs::File, path: &str) -> Result<(), ServiceError> {
        use crate::services::files::{Place, Shape};
        let data = tokio_util::io::ReaderStream::new(archive);
        let place = Place { path: path.to_owned(), user: Some(ROOT.into()) };
        self.services.upload(&self.caller, &self.id, &place, Shape::Directory, data).await.map(drop)
    }

    /// Keeps the files as they are now, under a key.
    pub async fn keep(&self, key: &str, context: &Context) -> Result<Snapshot, ServiceError> {
        let base = &self.services.base;
        let id = SnapshotId::from_entropy(world::bytes(&*base.world)?);
        let ask = NewSnapshot {
            key: Some(key.to_owned()),
            env: Some(context.env.clone()),
            user: Some(context.user.clone()),
            workdir: Some(context.workdir.clone()),
            ..NewSnapshot::new(id, base.world.now())
        };
        let sandbox = self.services.sandbox(&self.caller, &self.id).await?;
        Ok(base.driver.snapshots().take(sandbox.id(), ask).await?)
    }

    /// Takes it down.
    pub async fn close(self) {
        if let Err(error) = self.services.delete(&self.caller, &self.id).await {
            tracing::warn!(sandbox = self.id, %error, "the sandbox of a build stays for a while");
        }
    }
}

/// A text as it can stand between double quotes, where only `$` is to mean more than itself.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let escapes = c == '"' || c == '`' || (c == '\\' && rest.peek() != Some(&'$'));
        out.extend(escapes.then_some('\\'));
        out.push(c);
    }
    out
}

/// How a command ended, in words.
pub fn ended(exit: &api::ExecExit) -> String {
    match exit {
        exit if exit.oom_killed => "it was killed for want of memory".into(),
        exit if exit.timed_out => "it took too long".into(),
        api::ExecExit { signal: Some(signal), .. } => format!("signal {signal}"),
        exit => format!("exit status {}", exit.exit_code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_mean_something_between_quotes() {
        assert_eq!(escaped(r#"a "b" `c` $D ${E}"#), r#"a \"b\" \`c\` $D ${E}"#);
        assert_eq!(escaped(r"a\b \$c d\"), r"a\\b \$c d\\");
    }

    #[test]
    fn a_login_shell_is_told_the_path_again() {
        let mut context = Context::default();
        assert_eq!(shell("ls", &context)[3], "ls");
        context.env.insert("PATH".into(), "/it's:/bin".into());
        assert_eq!(shell("ls", &context)[3], "export PATH='/it'\\''s:/bin'\nls");
    }
}
