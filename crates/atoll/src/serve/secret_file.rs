//! A secret in a file that only its owner reads: made when it is not there, read when it is. It must not know what the
//! secret is for.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

const OWNER_ONLY: u32 = 0o600;

/// The secret in the file, made by `make` at the first time.
pub fn ensure(path: &Path, make: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    match read(path)? {
        Some(secret) => Ok(secret),
        None => write(path, make()?),
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => {
            Err(io::Error::other("it is empty; remove it to have a new key made"))
        }
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Appears with its whole content or not at all.
fn write(path: &Path, secret: String) -> io::Result<String> {
    let beside = path.with_extension("key.new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&beside)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    rustix::fs::renameat_with(rustix::fs::CWD, &beside, rustix::fs::CWD, path, flags)?;
    Ok(secret)
}
