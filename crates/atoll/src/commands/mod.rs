//! One module for each command or family of commands: asks the server, prints the answer.

mod copy;
mod create;
mod exec;
mod images;
mod keys;
mod list;
mod logs;
mod moves;
mod resolve;
mod snapshots;
mod system;
mod templates;
mod url;
mod volumes;

use atoll_client::{Client, Error, api::Sandbox};
use serde::Serialize;
use std::{collections::BTreeMap, process::ExitCode};

use crate::{
    cli::{Command, Global},
    config,
    failure::Failure,
    output::{Format, complain},
};

/// What every command works with.
pub struct Context {
    client: Client,
    format: Format,
}

/// Does what the command line says.
pub async fn run(global: Global, command: Command) -> Result<ExitCode, Failure> {
    let client = Client::new(config::load(&global)?)?;
    let context = Context { client, format: global.output };
    match command {
        Command::Run(run) => return exec::run(&context, run).await,
        Command::Exec(exec) => return exec::exec(&context, exec).await,
        Command::Shell(shell) => return exec::shell(&context, shell).await,
        command => answer(&context, command).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The commands whose exit code is their own.
async fn answer(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(create) => create::create(context, create).await,
        Command::Ls(ls) => list::ls(context, ls).await,
        Command::Get { sandbox } => list::get(context, &sandbox).await,
        Command::Cp(cp) => copy::cp(context, cp).await,
        Command::Logs(logs) => logs::logs(context, logs).await,
        Command::Rm(rm) => moves::rm(context, rm).await,
        Command::Stop(several) => moves::moves(context, several, moves::Move::Stop).await,
        Command::Start(several) => moves::moves(context, several, moves::Move::Start).await,
        Command::Restart(several) => moves::moves(context, several, moves::Move::Restart).await,
        Command::Pause(several) => moves::moves(context, several, moves::Move::Pause).await,
        Command::Resume(several) => moves::moves(context, several, moves::Move::Resume).await,
        Command::Update(update) => create::update(context, update).await,
        Command::Usage { sandboxes } => list::usage(context, sandboxes).await,
        Command::Url { sandbox, port, expires } => url::url(context, &sandbox, port, expires).await,
        Command::Images(images) => images::images(context, images).await,
        Command::Templates(templates) => templates::templates(context, templates).await,
        Command::Volumes(volumes) => volumes::volumes(context, volumes).await,
        Command::Snapshot(snapshots) => snapshots::snapshots(context, snapshots).await,
        Command::Fork(forks) => snapshots::fork(context, forks).await,
        Command::Keys(keys) => keys::keys(context, keys).await,
        Command::Doctor(doctor) => system::doctor(context, doctor).await,
        Command::Destroy { data, force } => system::destroy(&data, force),
        Command::Version => system::version(context).await,
        // Done before it came to this.
        Command::Run(_)
        | Command::Exec(_)
        | Command::Shell(_)
        | Command::Serve(_)
        | Command::Mcp(_)
        | Command::InstallAgent { .. }
        | Command::Operator(_)
        | Command::AgentKey { .. }
        | Command::Crd
        | Command::Openapi
        | Command::Completions { .. } => Ok(()),
    }
}

/// Something that is there no more, as it is printed.
#[derive(Serialize)]
struct Removed {
    #[serde(flatten)]
    named: BTreeMap<&'static str, String>,
    removed: bool,
}

impl Removed {
    /// `key` is what the API calls names of this kind.
    fn new(key: &'static str, name: &str) -> Self {
        Self { named: [(key, name.to_owned())].into(), removed: true }
    }

    fn name(&self) -> &str {
        self.named.values().next().map_or("", String::as_str)
    }
}

/// Removes one after another, each by its name, whose key in JSON is `key`.
async fn remove_each(
    context: &Context,
    key: &'static str,
    names: &[String],
    remove: impl AsyncFn(&str) -> Result<(), Error>,
) -> Result<(), Failure> {
    let mut outcomes = Vec::with_capacity(names.len());
    for name in names {
        outcomes.push(remove(name).await.map(|()| Removed::new(key, name)).map_err(Failure::from));
    }
    finish(context.format, outcomes, Removed::name)
}

/// Prints what went well, by name alone where a person reads, then complains about the rest.
fn finish<T: Serialize>(
    format: Format,
    outcomes: Vec<Result<T, Failure>>,
    name: impl Fn(&T) -> &str,
) -> Result<(), Failure> {
    let (mut done, mut tallied) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        tallied.push(outcome.map(|item| done.push(item)));
    }
    let format = if format == Format::Table { Format::Name } else { format };
    format.print_all(&done, &[], |_| Vec::new(), name)?;
    tally(tallied)
}

/// Complains about each that failed and says how many did.
fn tally(outcomes: Vec<Result<(), Failure>>) -> Result<(), Failure> {
    let all = outcomes.len();
    let mut failures: Vec<Failure> = outcomes.into_iter().filter_map(Result::err).collect();
    if all == 1 {
        return failures.pop().map_or(Ok(()), Err);
    }
    if failures.iter().any(|failure| matches!(failure, Failure::BrokenPipe)) {
        return Err(Failure::BrokenPipe);
    }
    failures.iter().filter_map(Failure::line).for_each(|line| complain(&line));
    match failures.len() {
        0 => Ok(()),
        failed => Err(Failure::Some { failed, all }),
    }
}

/// A word of the API as it is written in JSON.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// What a sandbox was made from.
fn source(sandbox: &Sandbox) -> String {
    match (&sandbox.template, sandbox.template_version) {
        (Some(name), Some(version)) => format!("{name}@{version}"),
        (Some(name), None) => name.clone(),
        _ => sandbox.image.clone(),
    }
}
