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

use atoll_client::{Client, api::Sandbox};
use std::process::ExitCode;

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
fn word(value: &impl serde::Serialize) -> String {
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
