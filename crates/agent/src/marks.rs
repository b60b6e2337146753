//! Files by which programs learn that they are in a sandbox, and in which, also where they get another environment: as E2B's
//! daemon leaves them, `/run/e2b/.NAME` holds what the variable `NAME` of the sandbox's environment says. It must not know what
//! they mean.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Where they are.
const PLACE: &str = "/run/e2b";
/// Those that tell of the sandbox. Others may be secret.
const NAMES: [&str; 3] = ["E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID"];

/// Leaves them. A sandbox that cannot have them does without: the environment says the same.
pub fn leave(env: &BTreeMap<String, String>) {
    if let Err(error) = leave_in(Path::new(PLACE), env) {
        eprintln!("atoll-agent: {PLACE}: {error}");
    }
}

fn leave_in(place: &Path, env: &BTreeMap<String, String>) -> io::Result<()> {
    let marks: Vec<_> = NAMES.iter().filter_map(|name| env.get_key_value(*name)).collect();
    if marks.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(place)?;
    marks.into_iter().try_for_each(|(name, value)| put(&place.join(format!(".{name}")), value))
}

/// A copy of another sandbox has that one's files, so they are written anew.
fn put(path: &Path, value: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::write(path, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_leaves_what_is_true_of_it() {
        let place = std::env::temp_dir().join(format!("atoll-marks-{}", std::process::id()));
        let env = |id: &str| {
            [("E2B_SANDBOX_ID", id), ("HOME", "/"), ("E2B_API_KEY", "y")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        };
        leave_in(&place, &env("one")).unwrap();
        leave_in(&place, &env("two")).unwrap();
        assert_eq!(fs::read_to_string(place.join(".E2B_SANDBOX_ID")).unwrap(), "two");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        fs::remove_dir_all(&place).unwrap();
        leave_in(&place, &BTreeMap::from([("HOME".into(), "/".into())])).unwrap();
        assert!(!place.exists(), "where there is nothing to say, there is nothing");
    }
}
