//! Where a copy comes from and goes to: `SANDBOX:path` or a path on this machine. Pure.

use std::path::{Path, PathBuf};

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A path inside a sandbox.
    Sandbox {
        /// Its id, or the beginning of it.
        id: String,
        /// The path there; relative ones start at the default user's home.
        path: String,
    },
    /// A path on this machine.
    Here(PathBuf),
}

impl Place {
    /// What is before the first `:` is a sandbox, unless it has a `/`: `./a:b` is a file.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((id, path)) if !id.is_empty() && !id.contains('/') && id != "." && id != ".." => {
                let path = if path.is_empty() { "." } else { path };
                Self::Sandbox { id: id.into(), path: path.into() }
            }
            _ => Self::Here(text.into()),
        }
    }
}

/// The name that `source` has in the directory it is copied into; none when its content is meant (`dir/.`, `/`).
pub fn own_name(source: &str) -> Option<&str> {
    if source.ends_with("/.") || source == "." {
        return None;
    }
    match source.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "..") => None,
        name => name,
    }
}

/// Where `source` ends up, given where it should go and whether that is a directory already.
pub fn target(source: &str, destination: &str, is_directory: bool) -> String {
    let into = is_directory || destination.ends_with('/');
    match own_name(source) {
        Some(name) if into => format!("{}/{name}", destination.trim_end_matches('/')),
        _ => destination.to_owned(),
    }
}

/// As [`target`], on this machine.
pub fn target_here(source: &str, destination: &Path) -> PathBuf {
    let text = destination.as_os_str().as_encoded_bytes();
    match own_name(source) {
        Some(name) if destination.is_dir() || text.ends_with(b"/") => destination.join(name),
        _ => destination.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(id: &str, path: &str) -> Place {
        Place::Sandbox { id: id.into(), path: path.into() }
    }

    #[test]
    fn sandboxes_and_files_are_told_apart() {
        assert_eq!(Place::parse("i12:/etc/hosts"), inside("i12", "/etc/hosts"));
        assert_eq!(Place::parse("i12:a:b"), inside("i12", "a:b"));
        assert_eq!(Place::parse("i12:"), inside("i12", "."));
        for here in ["a", "./a:b", "/a:b", "dir/a:b", ":a", "..:a", ".:a"] {
            assert_eq!(Place::parse(here), Place::Here(here.into()), "{here}");
        }
    }

    #[test]
    fn a_directory_takes_things_in_under_their_name() {
        assert_eq!(target("a/b", "/tmp", true), "/tmp/b");
        assert_eq!(target("a/b/", "/tmp/", false), "/tmp/b");
        assert_eq!(target("a/b", "/tmp/c", false), "/tmp/c");
        assert_eq!(target("a", "/", true), "/a");
        assert_eq!(target("a", ".", true), "./a");
    }

    #[test]
    fn content_goes_in_without_a_name() {
        assert_eq!(target("a/.", "/tmp", true), "/tmp");
        assert_eq!(target(".", "/tmp", true), "/tmp");
        assert_eq!(target("/", "/tmp", true), "/tmp");
        assert_eq!(own_name("a/.."), None);
    }
}
