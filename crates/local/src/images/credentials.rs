//! Who we are to a registry: given by the caller, by the settings, or by a docker-style `config.json`.
//! Knows nothing of the registry's protocol. Secrets never appear in debug output.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use super::error::ImageError;

/// Credentials for a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// A user's name and password; exchanged for a token where the registry works with tokens.
    Basic {
        /// The user's name.
        username: String,
        /// The password, or an access token in its place.
        password: String,
    },
    /// A bearer token, sent as it is.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username}, ...)"),
            Self::Token(_) => write!(f, "Token(...)"),
        }
    }
}

impl From<Credentials> for RegistryAuth {
    fn from(credentials: Credentials) -> Self {
        match credentials {
            Credentials::Basic { username, password } => Self::Basic(username, password),
            Credentials::Token(token) => Self::Bearer(token),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    registrytoken: Option<String>,
}

impl fmt::Debug for DockerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DockerAuth(...)")
    }
}

/// What a docker-style `config.json` says about a registry; no file, no credentials.
pub(super) fn from_docker_config(path: &Path, registry: &str) -> Result<Option<Credentials>, ImageError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| ImageError::io("read", path, e))?,
    };
    let config: DockerConfig =
        serde_json::from_slice(&text).map_err(|error| invalid(path, &error.to_string()))?;
    let entry = config.auths.into_iter().find(|(key, _)| host_of(key) == canonical(registry));
    entry.map_or(Ok(None), |(_, auth)| auth.read().map_err(|reason| invalid(path, reason)))
}

impl DockerAuth {
    fn read(self) -> Result<Option<Credentials>, &'static str> {
        if let Some(token) = self.registrytoken.filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::Token(token)));
        }
        if let (Some(username), Some(password)) = (self.username, self.password) {
            return Ok(Some(Credentials::Basic { username, password }));
        }
        let Some(encoded) = self.auth.filter(|auth| !auth.is_empty()) else { return Ok(None) };
        let bad = "an `auth` entry is not base64 of user:password";
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| bad)?;
        let text = String::from_utf8(decoded).map_err(|_| bad)?;
        let (username, password) = text.split_once(':').ok_or(bad)?;
        let password = password.trim_end_matches('\0');
        Ok(Some(Credentials::Basic { username: username.to_owned(), password: password.to_owned() }))
    }
}

/// Keys are host names or addresses like `https://index.docker.io/v1/`.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    canonical(rest.split('/').next().unwrap_or(rest))
}

/// Docker Hub goes by several names.
fn canonical(host: &str) -> &str {
    if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host }
}

fn invalid(path: &Path, reason: &str) -> ImageError {
    ImageError::InvalidSetting { setting: path.display().to_string(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_login_writes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let read = |registry: &str| from_docker_config(&path, registry);
        assert_eq!(read("docker.io").unwrap(), None);
        let auth = STANDARD.encode("me:se:cret");
        let text = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}},
                "localhost:5000": {{"username": "u", "password": "p"}},
                "x.example": {{"registrytoken": "t"}}, "empty.example": {{}}, "bad.example": {{"auth": "%%"}}}},
                "credsStore": "desktop"}}"#
        );
        fs::write(&path, text).unwrap();
        let basic = |u: &str, p: &str| Some(Credentials::Basic { username: u.into(), password: p.into() });
        assert_eq!(read("docker.io").unwrap(), basic("me", "se:cret"));
        assert_eq!(read("localhost:5000").unwrap(), basic("u", "p"));
        assert_eq!(read("x.example").unwrap(), Some(Credentials::Token("t".into())));
        assert_eq!(read("empty.example").unwrap(), None);
        assert!(matches!(read("bad.example"), Err(ImageError::InvalidSetting { .. })));
        assert!(!format!("{:?}", read("docker.io").unwrap()).contains("cret"));
    }
}
