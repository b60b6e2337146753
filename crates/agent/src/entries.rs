//! Files and directories as the protocol describes them: stat, list, make, move, remove. Blocking; whoever calls has
//! taken on the user's credentials.

use std::ffi::CStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use atoll_proto::agent::filesystem::{EntryInfo, FileType};
use buffa_types::google::protobuf::Timestamp;

use crate::users::Users;

/// Extended attributes that are metadata of the client.
pub const METADATA_PREFIX: &str = "user.e2b.";

/// Describes an entry; a link is described with what it leads to.
pub fn stat(path: &str, users: &Users) -> io::Result<EntryInfo> {
    Ok(describe(path, &fs::symlink_metadata(path)?, users))
}

fn describe(path: &str, metadata: &Metadata, users: &Users) -> EntryInfo {
    let is_symlink = metadata.file_type().is_symlink();
    let (kind, mode) = match is_symlink.then(|| fs::metadata(path)) {
        None => (kind(metadata), metadata.mode() & 0o7777),
        Some(Ok(target)) => (kind(&target), target.mode() & 0o7777),
        Some(Err(_dangling)) => (FileType::FILE_TYPE_SYMLINK, 0),
    };
    EntryInfo {
        name: Path::new(path)
            .file_name()
            .map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned()),
        r#type: kind.into(),
        path: path.to_owned(),
        size: i64::try_from(size(metadata)).unwrap_or(i64::MAX),
        mode,
        permissions: permissions(metadata),
        owner: users.user_name(metadata.uid()),
        group: users.group_name(metadata.gid()),
        modified_time: Timestamp {
            seconds: metadata.mtime(),
            nanos: i32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            ..Timestamp::default()
        }
        .into(),
        symlink_target: is_symlink.then(|| link_target(path)),
        metadata: if is_symlink { Vec::new() } else { client_metadata(path) }.into_iter().collect(),
        is_symlink,
        ..EntryInfo::default()
    }
}

/// A directory takes a block, also where the file system does not count it (btrfs says 0 of an empty one).
fn size(metadata: &Metadata) -> u64 {
    match metadata.len() {
        0 if metadata.is_dir() => metadata.blksize(),
        length => length,
    }
}

fn kind(metadata: &Metadata) -> FileType {
    let kind = metadata.file_type();
    if kind.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else if kind.is_file() {
        FileType::FILE_TYPE_FILE
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

/// Where a link leads in the end, or what it says when it leads nowhere.
fn link_target(path: &str) -> String {
    let target = fs::canonicalize(path).or_else(|_| fs::read_link(path));
    target.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default()
}

/// As `ls` writes them, with the letters clients of the E2B SDK know.
fn permissions(metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let first = match () {
        () if kind.is_dir() => "d",
        () if kind.is_symlink() => "L",
        () if kind.is_fifo() => "p",
        () if kind.is_socket() => "S",
        () if kind.is_char_device() || kind.is_block_device() => "D",
        () => "-",
    };
    let bits = "rwxrwxrwx".chars().enumerate();
    let letters =
        bits.map(|(index, letter)| if metadata.mode() & (0o400 >> index) == 0 { '-' } else { letter });
    first.chars().chain(letters).collect()
}

fn client_metadata(path: &str) -> Vec<(String, String)> {
    let mut names = vec![0_u8; 4096];
    let Ok(length) = rustix::fs::listxattr(path, &mut names[..]) else { return Vec::new() };
    names.truncate(length);
    let names =
        names.split_inclusive(|byte| *byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    names.filter_map(|name| client_attribute(path, name)).collect()
}

fn client_attribute(path: &str, name: &CStr) -> Option<(String, String)> {
    let key = name.to_str().ok()?.strip_prefix(METADATA_PREFIX)?;
    let mut value = vec![0_u8; 4096];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some((key.to_owned(), String::from_utf8(value).ok()?))
}

/// Lists a directory down to a depth, in the order of names.
pub fn list(path: &str, depth: u32, users: &Users) -> io::Result<Vec<EntryInfo>> {
    let mut found = Vec::new();
    list_into(path, depth.max(1), users, &mut found)?;
    Ok(found)
}

fn list_into(path: &str, depth: u32, users: &Users, found: &mut Vec<EntryInfo>) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(path)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let child = format!("{}/{}", path.trim_end_matches('/'), name.to_string_lossy());
        // What has gone since the directory was read is no part of the answer.
        let Ok(metadata) = fs::symlink_metadata(Path::new(path).join(&name)) else { continue };
        found.push(describe(&child, &metadata, users));
        if metadata.is_dir() && depth > 1 {
            match list_into(&child, depth - 1, users, found) {
                // A directory that may not be read is an entry without content.
                Err(error)
                    if !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Makes a directory with its parents. One that exists is an error, and anything else in its place is another: who asks
/// for a directory that is there already has what they want, who has a file there has not.
pub fn make_directory(path: &str) -> io::Result<()> {
    make_parents(path)?;
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !Path::new(path).is_dir() => {
            Err(io::ErrorKind::NotADirectory.into())
        }
        result => result,
    }
}

/// Makes the directories above a path.
pub fn make_parents(path: impl AsRef<Path>) -> io::Result<()> {
    match path.as_ref().parent() {
        Some(parent) => fs::DirBuilder::new().recursive(true).mode(0o755).create(parent),
        None => Ok(()),
    }
}

/// Removes an entry with everything below it; what is not there needs no removing.
pub fn remove(path: &str) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Renames an entry, also from one volume to another.
pub fn rename(source: &str, destination: &str) -> io::Result<()> {
    fs::symlink_metadata(source)?;
    make_parents(destination)?;
    match fs::rename(source, destination) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(Path::new(source), Path::new(destination))?;
            remove(source)
        }
        result => result,
    }
}

/// Copies a tree between volumes; special files cannot be moved that way.
fn copy(source: &Path, destination: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    if metadata.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(destination)?;
        for entry in fs::read_dir(source)? {
            let name = entry?.file_name();
            copy(&source.join(&name), &destination.join(&name))?;
        }
        fs::set_permissions(destination, fs::Permissions::from_mode(metadata.mode()))
    } else if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(source)?, destination)
    } else if metadata.is_file() {
        fs::copy(source, destination).map(drop)
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a special file cannot be moved to another volume"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_listed_to_its_depth() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        make_directory(&format!("{root}/b/c")).unwrap();
        fs::write(format!("{root}/b/c/f"), "12345").unwrap();
        std::os::unix::fs::symlink("nowhere", format!("{root}/a")).unwrap();
        let users = Users::read();
        let names = |depth| {
            list(root, depth, &users).unwrap().iter().map(|entry| entry.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["a", "b"]);
        assert_eq!(names(3), ["a", "b", "c", "f"]);
        let file = stat(&format!("{root}/b/c/f"), &users).unwrap();
        assert_eq!((file.size, file.mode, file.permissions.as_str()), (5, 0o644, "-rw-r--r--"));
        let link = stat(&format!("{root}/a"), &users).unwrap();
        assert_eq!((link.is_symlink, link.symlink_target.as_deref()), (true, Some("nowhere")));
    }

    #[test]
    fn making_twice_fails_and_removing_twice_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}/x/y", dir.path().display());
        make_directory(&path).unwrap();
        assert_eq!(make_directory(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::write(format!("{path}/file"), "").unwrap();
        assert_eq!(make_directory(&format!("{path}/file")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert!(stat(&path, &Users::read()).unwrap().size > 0, "a directory takes room");
        remove(&path).unwrap();
        remove(&path).unwrap();
    }

    #[test]
    fn a_copy_between_volumes_keeps_links_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("f"), "x").unwrap();
        fs::set_permissions(from.join("f"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("f", from.join("l")).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::metadata(to.join("f")).unwrap().mode() & 0o777, 0o750);
        assert_eq!(fs::read_link(to.join("l")).unwrap(), Path::new("f"));
    }
}
