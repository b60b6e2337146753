//! The program inside each sandbox.

use std::{error::Error, process::ExitCode};

fn main() -> ExitCode {
    match told(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("atoll-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn told(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    match arguments.split_first() {
        Some((command, rest)) if command == "fill" => Ok(atoll_agent::fill(rest)?),
        _ => Ok(atoll_agent::run(arguments.iter().cloned())?),
    }
}
