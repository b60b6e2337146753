//! Paths as clients write them. Pure.

/// Why a path cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is empty")]
    Empty,
    #[error("the path contains a zero byte")]
    ZeroByte,
}

/// The absolute path that a client means: relative ones start at the user's home, `~` is the home, and `.` and `..`
/// are resolved without looking at the files.
pub fn resolve(path: &str, home: &str) -> Result<String, PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.contains('\0') {
        return Err(PathError::ZeroByte);
    }
    let below_home = path.strip_prefix("~/").or_else(|| (path == "~").then_some(""));
    let full = match below_home {
        Some(rest) => format!("{home}/{rest}"),
        None if path.starts_with('/') => path.to_owned(),
        None => format!("{home}/{path}"),
    };
    let mut parts = Vec::new();
    for part in full.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Directory and name of an absolute path; the root has no name.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    (!name.is_empty()).then_some((if parent.is_empty() { "/" } else { parent }, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve() {
        let cases = [
            ("a", "/home/user/a"),
            ("./a/../b", "/home/user/b"),
            ("~", "/home/user"),
            ("~/a", "/home/user/a"),
            ("~other", "/home/user/~other"),
            ("/a//b/", "/a/b"),
            ("/../../etc", "/etc"),
            ("..", "/home"),
            ("/", "/"),
        ];
        for (path, expected) in cases {
            assert_eq!(resolve(path, "/home/user").unwrap(), expected, "{path}");
        }
        assert_eq!(resolve("", "/"), Err(PathError::Empty));
        assert_eq!(resolve("a\0", "/"), Err(PathError::ZeroByte));
    }

    #[test]
    fn paths_split() {
        assert_eq!(split("/a/b"), Some(("/a", "b")));
        assert_eq!(split("/a"), Some(("/", "a")));
        assert_eq!(split("/"), None);
    }
}
