//! The program inside each sandbox.

use std::process::ExitCode;

fn main() -> ExitCode {
    match atoll_agent::run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("atoll-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
