//! Pythons with one package each, from PyPI, made in the cache at the first time.

use anyhow::{Result, ensure};
use std::path::PathBuf;
use tokio::process::Command;

use crate::{Skip, cache};

/// The Python that has this package, `NAME==VERSION`, and what that needs.
///
/// # Errors
/// [`Skip`] where it cannot be had.
pub async fn with(package: &str) -> Result<PathBuf> {
    let folder = cache().join("python").join(package);
    let (python, done) = (folder.join("bin/python"), folder.join("done"));
    if done.exists() {
        return Ok(python);
    }
    println!("installing {package} once; it is kept in {}", folder.display());
    let skip = |what: &str, problem: &dyn std::fmt::Display| Skip(format!("{what}: {problem}"));
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).output().await;
    let made = made.map_err(|error| skip("python3", &error))?;
    ensure!(made.status.success(), skip("python3 -m venv", &String::from_utf8_lossy(&made.stderr)));
    let got = Command::new(&python).args(["-m", "pip", "install", "--quiet", package]).output().await?;
    ensure!(got.status.success(), skip("pip", &String::from_utf8_lossy(&got.stderr)));
    std::fs::write(done, "")?;
    Ok(python)
}

/// The same failure for each case that needs it.
#[must_use]
pub fn again(error: &anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<Skip>() {
        Some(skip) => Skip(skip.0.clone()).into(),
        None => anyhow::anyhow!("{error:#}"),
    }
}
