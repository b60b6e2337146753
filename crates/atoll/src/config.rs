//! Where the server is and with which key: flags and environment, then the configuration file, then this machine's own
//! server. Only here are configuration files found and read.

use atoll_client::Config;
use serde::Deserialize;
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::{cli::Global, failure::Failure};

/// Where a server listens unless it is told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// Where a server keeps everything unless it is told otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/atoll";

/// The configuration file.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    url: Option<String>,
    api_key: Option<String>,
    ca: Option<PathBuf>,
}

/// What flags, environment and files say together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolved {
    url: String,
    api_key: Option<String>,
    ca: Option<PathBuf>,
}

/// Reads whatever says how to reach the server.
pub fn load(global: &Global) -> Result<Config, Failure> {
    let file = match path() {
        Some(path) => read(&path)?,
        None => File::default(),
    };
    let resolved = resolve(global, file, || own_key(Path::new(DEFAULT_DATA)));
    let mut config = Config::new(resolved.url);
    config.api_key = resolved.api_key;
    if let Some(path) = resolved.ca {
        config.ca_pem = Some(fs::read(&path).map_err(|source| Failure::file("read", &path, source))?);
    }
    Ok(config)
}

/// A key goes only to the server it was meant for: the file's to the file's, this machine's to this machine's.
fn resolve(global: &Global, file: File, own_key: impl FnOnce() -> Option<String>) -> Resolved {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let given = filled(&global.url);
    let files_server = match (&given, &file.url) {
        (Some(given), Some(named)) => given.trim_end_matches('/') == named.trim_end_matches('/'),
        _ => true,
    };
    let url = given.or(file.url).unwrap_or_else(|| DEFAULT_URL.into());
    let own_server = url.trim_end_matches('/') == DEFAULT_URL;
    let api_key = filled(&global.api_key)
        .or(file.api_key.filter(|_| files_server))
        .or_else(|| if own_server { own_key() } else { None });
    Resolved { url, api_key, ca: global.ca.clone().or(file.ca) }
}

/// The admin key of the server on this machine, when whoever asks may read it.
fn own_key(data: &Path) -> Option<String> {
    let text = fs::read_to_string(data.join("admin.key")).ok()?;
    Some(text.trim().to_owned()).filter(|key| !key.is_empty())
}

fn read(path: &Path) -> Result<File, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|error| Failure::Wrong(format!("{}: {}", path.display(), error.message()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(File::default()),
        Err(error) => Err(Failure::file("read", path, error)),
    }
}

fn path() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(base.join("atoll/config.toml"))
}

/// The configuration file's path, for messages.
pub fn path_for_people() -> String {
    path().map_or_else(|| "~/.config/atoll/config.toml".into(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(url: Option<&str>, key: Option<&str>) -> Global {
        Global { url: url.map(Into::into), api_key: key.map(Into::into), ..Global::default() }
    }

    fn file(url: Option<&str>, key: Option<&str>) -> File {
        File { url: url.map(Into::into), api_key: key.map(Into::into), ca: None }
    }

    fn outcome(global: Global, file: File) -> (String, Option<String>) {
        let resolved = resolve(&global, file, || Some("own".into()));
        (resolved.url, resolved.api_key)
    }

    fn pair(url: &str, key: Option<&str>) -> (String, Option<String>) {
        (url.into(), key.map(Into::into))
    }

    #[test]
    fn what_is_given_goes_before_the_file_and_the_file_before_the_default() {
        let both = || file(Some("http://file"), Some("file"));
        assert_eq!(outcome(given(Some("http://a"), Some("k")), both()), pair("http://a", Some("k")));
        assert_eq!(outcome(given(None, Some("k")), both()), pair("http://file", Some("k")));
        assert_eq!(outcome(given(None, None), both()), pair("http://file", Some("file")));
        assert_eq!(outcome(given(None, None), File::default()), pair(DEFAULT_URL, Some("own")));
        assert_eq!(outcome(given(Some(""), Some("")), both()), pair("http://file", Some("file")));
    }

    #[test]
    fn a_key_goes_only_to_the_server_it_was_meant_for() {
        let both = || file(Some("http://file"), Some("file"));
        assert_eq!(outcome(given(Some("http://a"), None), both()), pair("http://a", None));
        assert_eq!(outcome(given(Some("http://file/"), None), both()), pair("http://file/", Some("file")));
        assert_eq!(
            outcome(given(Some("http://a"), None), file(None, Some("k"))),
            pair("http://a", Some("k"))
        );
        assert_eq!(outcome(given(Some("http://127.0.0.1:9"), None), File::default()).1, None);
    }

    #[test]
    fn a_slip_in_the_file_is_named() {
        let path = env::temp_dir().join(format!("atoll-config-{}.toml", std::process::id()));
        fs::write(&path, "apikey = \"x\"\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert!(error.contains("apikey") && error.contains("api_key"), "{error}");
        assert_eq!(read(&path).unwrap(), File::default());
    }
}
