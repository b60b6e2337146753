//! Fills new volumes with what the image has at their places, before anything of the sandbox runs: as a command of its own, where
//! the volumes are mounted elsewhere and so hide nothing. It must not know what volumes are for.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    os::unix::fs::chown,
    path::Path,
};

use rustix::process::geteuid;

use crate::users::{UserError, Users};

/// Lies in a volume that is being filled: what else is there then is from an attempt that was broken off.
const MARK: &str = ".atoll-filling";
/// What a file system brings along.
const ITS_OWN: &str = "lost+found";

/// Why a volume was not filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The command line.
    #[error("usage: atoll-agent fill USER (FROM TO)...")]
    Usage,
    /// The user that a volume should belong to.
    #[error(transparent)]
    User(#[from] UserError),
    /// A step of the copy.
    #[error("what the image has at {0} cannot be copied into its volume: {1}")]
    Copy(String, io::Error),
}

/// Fills each `TO` that is empty with what is in `FROM`; its top is then the user's, where we may give it away.
///
/// # Errors
/// The first that fails. It is begun anew the next time.
pub fn fill(arguments: &[String]) -> Result<(), FillError> {
    let (user, pairs) = arguments.split_first().ok_or(FillError::Usage)?;
    let owner = Users::read().resolve(user)?.uid;
    let (pairs, rest) = pairs.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(FillError::Usage);
    }
    pairs.iter().try_for_each(|[from, to]| {
        one(Path::new(from), Path::new(to), owner).map_err(|error| FillError::Copy(from.clone(), error))
    })
}

fn one(from: &Path, to: &Path, owner: u32) -> io::Result<()> {
    let mark = to.join(MARK);
    if mark.exists() {
        clear(to)?;
    } else if names(to)?.iter().any(|name| name != ITS_OWN) {
        return Ok(());
    }
    File::create(&mark)?;
    if from.is_dir() {
        atoll_tree::contents(File::open(from)?.as_fd(), File::open(to)?.as_fd())?;
    }
    if geteuid().is_root() {
        chown(to, Some(owner), None)?;
    }
    fs::remove_file(mark)
}

fn names(of: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(of)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn clear(volume: &Path) -> io::Result<()> {
    for name in names(volume)?.iter().filter(|name| *name != MARK && *name != ITS_OWN) {
        let path = volume.join(name);
        if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(from: &Path, to: &Path) -> Result<(), FillError> {
        let text = |path: &Path| path.display().to_string();
        fill(&["0".to_owned(), text(from), text(to)])
    }

    #[test]
    fn only_a_new_volume_is_filled_and_a_broken_attempt_is_begun_anew() {
        let (image, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(image.path().join("deep")).unwrap();
        fs::write(image.path().join("deep/file"), "image").unwrap();
        fs::create_dir(volume.path().join(ITS_OWN)).unwrap();
        run(image.path(), volume.path()).unwrap();
        let filled = volume.path().join("deep/file");
        assert_eq!(fs::read(&filled).unwrap(), b"image");
        fs::write(&filled, "mine").unwrap();
        run(image.path(), volume.path()).unwrap();
        assert_eq!(fs::read(&filled).unwrap(), b"mine", "somebody has it");
        File::create(volume.path().join(MARK)).unwrap();
        run(image.path(), volume.path()).unwrap();
        assert_eq!(fs::read(&filled).unwrap(), b"image");
        assert_eq!(names(volume.path()).unwrap().len(), 2, "no mark is left");
    }

    #[test]
    fn a_place_that_the_image_has_not_is_empty() {
        let volume = tempfile::tempdir().unwrap();
        run(Path::new("/no/such/place"), volume.path()).unwrap();
        assert!(names(volume.path()).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_is_told() {
        for line in [&[][..], &["root"], &["root", "/a"], &["root", "/a", "/b", "/c"]] {
            let line: Vec<String> = line.iter().map(ToString::to_string).collect();
            assert!(matches!(fill(&line), Err(FillError::Usage)), "{line:?}");
        }
        let refused = run(Path::new("/etc"), Path::new("/no/such/place")).unwrap_err();
        assert!(refused.to_string().contains("/etc"), "{refused}");
        let nobody = ["no-such-user", "/a", "/b"].map(str::to_owned);
        assert!(matches!(fill(&nobody), Err(FillError::User(_))));
    }
}
