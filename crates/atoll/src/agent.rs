//! The program inside each sandbox: carried in this one, and written out for whoever needs it as a file. It must not know
//! what runs it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::failure::Failure;

/// The agent: a static program that runs in an image with nothing else in it.
pub static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/atoll-agent"));

/// Its name in the folder that it is written to, and in the image volume that pods mount.
const FILE: &str = "atoll-agent";
const FOR_EVERYBODY: u32 = 0o755;

/// `atoll install-agent`
pub fn install(folder: &Path) -> Result<(), Failure> {
    let path = folder.join(FILE);
    write(&path).map_err(|source| Failure::file("write the agent to", &path, source))
}

/// Appears with its whole content or not at all; a container that is tried again finds what the first try left.
fn write(path: &Path) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FOR_EVERYBODY).open(&beside)?;
    file.write_all(PROGRAM)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, process::Command};

    #[test]
    fn it_is_a_program_also_when_it_is_written_twice() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            install(folder.path()).unwrap();
        }
        let path = folder.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, FOR_EVERYBODY);
        let said = Command::new(&path).output().unwrap();
        assert!(String::from_utf8_lossy(&said.stderr).contains("usage: atoll-agent"), "{said:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let why = install(Path::new("/nowhere/agent")).unwrap_err().to_string();
        assert!(why.contains("/nowhere/agent/atoll-agent"), "{why}");
    }
}
