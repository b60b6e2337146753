//! The key that requests to agents are signed with, where it is no data directory's own: 32 bytes in a file.

use atoll_proto::sign::RequestSigner;
use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::{failure::Failure, output};

const OWNER_ONLY: u32 = 0o600;

/// Reads it.
pub fn read(path: &Path) -> Result<RequestSigner, Failure> {
    let bytes = fs::read(path).map_err(|source| Failure::file("read", path, source))?;
    let wrong = |_| Failure::Wrong(format!("{} is no agent key: it must have 32 bytes", path.display()));
    let secret: [u8; 32] = bytes.try_into().map_err(wrong)?;
    Ok(RequestSigner::new(&secret))
}

/// `atoll agent-key FILE`: makes one, and prints the public key. A file that is there is left alone.
pub fn make(path: &Path) -> Result<(), Failure> {
    let mut secret = [0; 32];
    let short = |error: rustix::io::Errno| Failure::io("get random bytes", error.into());
    getrandom(&mut secret, GetRandomFlags::empty()).map_err(short)?;
    let failed = |source| Failure::file("write", path, source);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path).map_err(failed)?;
    file.write_all(&secret).and_then(|()| file.sync_all()).map_err(failed)?;
    output::print(&format!("{}\n", RequestSigner::new(&secret).public_key_hex()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.key");
        make(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode, fs::read(&path).unwrap().len()), (OWNER_ONLY, 32));
        let first = read(&path).unwrap().public_key_hex();
        assert!(make(&path).is_err(), "what is there stays");
        assert_eq!(read(&path).unwrap().public_key_hex(), first);
        fs::write(&path, "short").unwrap();
        assert!(read(&path).err().unwrap().to_string().contains("32 bytes"));
    }
}
