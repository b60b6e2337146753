//! The one binary: the server and its user's commands. It wires the other crates together and alone reads the
//! environment; what it does with a sandbox it does through the same API as everybody else.

mod agent;
mod agent_key;
mod attach;
mod cli;
mod commands;
mod config;
mod failure;
mod mcp;
mod operator;
mod output;
mod places;
mod serve;
mod terminal;
mod values;

use clap::{CommandFactory, Parser, error::ErrorKind};
use std::process::ExitCode;
use tokio::runtime::Builder;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    // The driver's re-executed helpers are told apart before anything else, while there is one thread.
    if let Some(code) = atoll_local::launcher::entry() {
        return ExitCode::from(code);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let own = cli.command.own_failure();
    match start(cli) {
        Ok(code) => code,
        Err(failure) => {
            if let Some(line) = failure.line() {
                output::complain(&line);
            }
            ExitCode::from(failure.code(own))
        }
    }
}

/// Help and version are no errors; a slip in the line of a command whose exit code is the program's is our own failure.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a terminal that takes no message.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(cli::usage_code(std::env::args_os().skip(1))),
    }
}

fn start(cli: Cli) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "atoll", &mut script);
            output::print(&String::from_utf8_lossy(&script)).map(done)
        }
        Command::InstallAgent { folder } => agent::install(&folder).map(done),
        Command::AgentKey { file } => agent_key::make(&file).map(done),
        Command::Crd => {
            let text = atoll_kube::crd::manifests().map_err(|error| Failure::Wrong(error.to_string()))?;
            output::print(&text).map(done)
        }
        Command::Openapi => output::print(&atoll_server::openapi()).map(done),
        Command::Serve(args) => {
            let failed = |source| Failure::io("read the system's certificates", source);
            serve::authorities::stand_in().map_err(failed)?;
            block_on(Builder::new_multi_thread(), serve::serve(*args)).map(done)
        }
        Command::Operator(args) => block_on(Builder::new_multi_thread(), operator::operator(*args)).map(done),
        Command::Mcp(args) => block_on(Builder::new_current_thread(), mcp::mcp(&cli.global, args)).map(done),
        command => block_on(Builder::new_current_thread(), commands::run(cli.global, command)),
    }
}

fn block_on<T>(mut builder: Builder, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = builder.enable_all().build().map_err(|source| Failure::io("start the runtime", source))?;
    let result = runtime.block_on(work);
    // A thread may wait for input that never comes.
    runtime.shutdown_background();
    result
}
