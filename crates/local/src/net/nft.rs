//! Runs the `nft` program: one transaction in, or a listing out. Knows no rules.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::{NetError, netns};

/// Applies one transaction in `netns`, or in the caller's namespace.
pub(super) fn apply(netns: Option<BorrowedFd<'_>>, what: &'static str, rules: &str) -> Result<(), NetError> {
    run(netns, what, &["-f", "-"], rules).map(|_| ())
}

/// Lists what `args` name, as JSON.
pub(super) fn list(
    netns: Option<BorrowedFd<'_>>,
    what: &'static str,
    args: &[&str],
) -> Result<serde_json::Value, NetError> {
    let told = run(netns, what, &[&["-j", "list"], args].concat(), "")?;
    serde_json::from_slice(&told).map_err(|err| NetError::Nft { what, told: err.to_string() })
}

fn run(
    netns: Option<BorrowedFd<'_>>,
    what: &'static str,
    args: &[&str],
    input: &str,
) -> Result<Vec<u8>, NetError> {
    let program = program().ok_or(NetError::NftMissing)?;
    // A child belongs to the namespace of the thread that starts it.
    let start = || feed(&program, args, input);
    let output = match netns {
        Some(netns) => netns::run_in(netns, start),
        None => start(),
    };
    match output {
        Ok(output) if output.status.success() => Ok(output.stdout),
        Ok(output) => {
            Err(NetError::Nft { what, told: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
        }
        Err(err) => Err(NetError::Nft { what, told: err.to_string() }),
    }
}

fn feed(program: &PathBuf, args: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It ended early; its own words say why.
            Err(err) if err.kind() != io::ErrorKind::BrokenPipe => return Err(err),
            _ => {}
        }
    }
    child.wait_with_output()
}

/// Where `nft` is. Ordinary users' search paths lack the sbin folders, so those are tried too.
pub(super) fn program() -> Option<PathBuf> {
    ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}
