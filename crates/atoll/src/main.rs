//! The one binary: the server and its user's commands. It wires the other crates together and alone reads the
//! environment; what it does with a sandbox it does through the same API as everybody else.

mod attach;
mod cli;
mod commands;
mod config;
mod failure;
mod output;
mod places;
mod terminal;
mod values;

use clap::{CommandFactory, Parser, error::ErrorKind};
use std::process::ExitCode;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    // The driver's re-executed helpers are told apart here, before anything else.
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
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "atoll", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|source| Failure::io("start the runtime", source))?;
            let code = runtime.block_on(commands::run(cli.global, command));
            // A thread may wait for input that never comes.
            runtime.shutdown_background();
            code
        }
    }
}
