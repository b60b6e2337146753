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
pub fn ensure(path: &Path, make: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    match read(path)? {
        Some(secret) => Ok(secret),
        None => write(path, make()?),
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(secret) if secret.trim_ascii().is_empty() => {
            Err(io::Error::other("it is empty; remove it to have a new key made"))
        }
        Ok(secret) => Ok(Some(secret)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Appears with its whole content or not at all.
fn write(path: &Path, secret: Vec<u8>) -> io::Result<Vec<u8>> {
    let beside = path.with_extension("key.new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&beside)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    rustix::fs::renameat_with(rustix::fs::CWD, &beside, rustix::fs::CWD, path, flags)?;
    Ok(secret)
}
