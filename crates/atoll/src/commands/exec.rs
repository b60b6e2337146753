//! `run`, `exec` and `shell`: commands whose exit code becomes ours.

use atoll_client::{
    Exit, Sandbox,
    api::{ExecRequest, ExecResponse, InteractiveStart},
};
use serde::Serialize;
use std::process::ExitCode;
use tokio::io::AsyncReadExt;

use super::{Context, create, resolve};
use crate::{
    attach::{self, Signals},
    cli::{Exec, OpenShell, Run},
    failure::Failure,
    output::{self, Format},
    terminal, values,
};

/// What `shell` runs: bash where there is one, sh elsewhere.
const LOGIN_SHELL: [&str; 3] =
    ["/bin/sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash -l; else exec sh -l; fi"];

/// A command, and how it is tied to this process.
struct Job {
    start: InteractiveStart,
    stdin: bool,
    format: Format,
}

/// What `-o json` prints of a command.
#[derive(Serialize)]
struct Report<'a> {
    sandbox: &'a str,
    #[serde(flatten)]
    result: ExecResponse,
}

/// `atoll run`
pub async fn run(context: &Context, args: Run) -> Result<ExitCode, Failure> {
    let (source, command) = create::shift(args.source, args.command, &args.recipe);
    if command.is_empty() {
        return Err(Failure::Wrong(
            "no command: write it after --, e.g. `atoll run base -- echo hello`".into(),
        ));
    }
    let request = resolve::request(context, source.as_deref(), args.recipe).await?;
    let mut start = InteractiveStart::of(command);
    start.tty = args.tty || (terminal::is_interactive() && context.format != Format::Json);
    start.timeout = args.timeout.map(seconds);
    let job = Job { start, stdin: args.interactive || attach::has_piped_input(), format: context.format };
    let made = create::watched(&context.client, &request).await?;
    let sandbox = context.client.sandbox(made.id);
    let ended = do_job(&sandbox, job).await;
    if args.keep {
        output::complain(&format!(
            "sandbox {} is kept; remove it with `atoll rm {}`",
            sandbox.id(),
            sandbox.id()
        ));
    } else if let Err(error) = sandbox.delete().await
        && !error.is_not_found()
    {
        output::complain(&format!("sandbox {} could not be removed: {error}", sandbox.id()));
    }
    ended
}

/// `atoll exec`
pub async fn exec(context: &Context, args: Exec) -> Result<ExitCode, Failure> {
    let sandbox = resolve::sandbox(&context.client, &args.sandbox).await?;
    let env = values::environment(&args.env, |key| std::env::var(key).ok()).map_err(Failure::Wrong)?;
    let start = InteractiveStart {
        tty: args.tty,
        env,
        workdir: args.workdir,
        user: args.user,
        timeout: args.timeout.map(seconds),
        ..InteractiveStart::of(args.command)
    };
    if args.detach {
        return detach(context, &sandbox, start).await;
    }
    let stdin = args.interactive || attach::has_piped_input();
    do_job(&sandbox, Job { start, stdin, format: context.format }).await
}

/// `atoll shell`
pub async fn shell(context: &Context, args: OpenShell) -> Result<ExitCode, Failure> {
    let sandbox = resolve::sandbox(&context.client, &args.sandbox).await?;
    let start = InteractiveStart {
        tty: terminal::is_interactive(),
        workdir: args.workdir,
        user: args.user,
        ..InteractiveStart::of(LOGIN_SHELL)
    };
    do_job(&sandbox, Job { start, stdin: true, format: Format::Table }).await
}

#[expect(clippy::cast_precision_loss, reason = "nobody gives a command 285 million years")]
fn seconds(whole: u64) -> f64 {
    whole as f64
}

async fn detach(context: &Context, sandbox: &Sandbox, start: InteractiveStart) -> Result<ExitCode, Failure> {
    let request = ExecRequest { detached: true, ..whole(start) };
    let result = sandbox.exec(&request).await?;
    let pid = result.pid.to_string();
    context.format.print_done(&Report { sandbox: sandbox.id(), result }, &pid)?;
    Ok(ExitCode::SUCCESS)
}

async fn do_job(sandbox: &Sandbox, job: Job) -> Result<ExitCode, Failure> {
    let exit = match job.format {
        Format::Json => report(sandbox, job).await?,
        Format::Table | Format::Name => attach::attach(sandbox, job.start, job.stdin).await?,
    };
    if exit.oom_killed {
        output::complain("the command was killed because the sandbox's memory is used up; see --memory");
    } else if exit.timed_out {
        output::complain("the command was killed because its time was up; see --timeout");
    }
    Ok(ExitCode::from(u8::try_from(exit.exit_code & 0xff).unwrap_or(1)))
}

fn whole(start: InteractiveStart) -> ExecRequest {
    ExecRequest {
        env: start.env,
        workdir: start.workdir,
        user: start.user,
        timeout: start.timeout,
        ..ExecRequest::of(start.command)
    }
}

/// Runs the command to its end and prints everything about it at once. A signal lets go of it, which ends it.
async fn report(sandbox: &Sandbox, job: Job) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let mut request = whole(job.start);
    if job.stdin {
        request.stdin = Some(all_input().await?);
    }
    let result = tokio::select! {
        result = sandbox.exec(&request) => result?,
        signal = signals.next() => return Err(Failure::Interrupted(signal)),
    };
    let of = &result.exit;
    let exit = Exit {
        exit_code: of.exit_code,
        signal: of.signal,
        timed_out: of.timed_out,
        oom_killed: of.oom_killed,
    };
    output::print_json(&Report { sandbox: sandbox.id(), result })?;
    Ok(exit)
}

async fn all_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = tokio::io::stdin().read_to_string(&mut text).await;
    read.map_err(|source| Failure::io("read standard input as text, which -o json needs", source))?;
    Ok(text)
}
