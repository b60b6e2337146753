//! What registries say about images: digest, environment, user. Answers are kept for a while. Nodes pull by
//! themselves; nothing of an image's content comes here.

use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::crd::ImageMeta;

/// How long an image is believed to be there: a tag may be moved.
const FRESH: Duration = Duration::from_secs(300);
/// How long it is believed not to be there: somebody may be pushing it just now.
const FRESH_LACK: Duration = Duration::from_secs(10);
/// How long a registry may take; what it says is worth less than a quick start.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many answers are kept.
const KEPT: usize = 1024;

/// What a registry answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageAnswer {
    /// The image.
    Found(ImageMeta),
    /// It has no such image, or the reference cannot be read: why.
    Missing(String),
    /// It gave no answer that settles it: why. A node may still be able to pull, with credentials that are not here.
    Silent(String),
}

/// Asks registries.
pub struct Registry {
    secure: Client,
    insecure: Client,
    plain: Vec<String>,
    known: Mutex<HashMap<String, (ImageAnswer, Instant)>>,
}

/// The part of an image's configuration that matters to a start (OCI image specification, `config`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    config: Option<Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

impl Registry {
    /// `insecure` are registries that are spoken to without TLS.
    #[must_use]
    pub fn new(insecure: Vec<String>) -> Self {
        let client = |protocol| {
            let config = ClientConfig {
                protocol,
                connect_timeout: Some(PATIENCE),
                read_timeout: Some(PATIENCE),
                user_agent: concat!("atoll/", env!("CARGO_PKG_VERSION")),
                ..ClientConfig::default()
            };
            Client::new(config)
        };
        let (secure, open) = (client(ClientProtocol::Https), client(ClientProtocol::Http));
        Self { secure, insecure: open, plain: insecure, known: Mutex::default() }
    }

    /// Asks about an image by its full name, unless the answer is known.
    pub async fn resolve(&self, reference: &str) -> ImageAnswer {
        if let Some(answer) = self.remembered(reference) {
            return answer;
        }
        let asked = tokio::time::timeout(PATIENCE, self.ask(reference)).await;
        let answer = asked.unwrap_or_else(|_| ImageAnswer::Silent("the registry does not answer".into()));
        if !matches!(answer, ImageAnswer::Silent(_)) {
            self.remember(reference, &answer);
        }
        answer
    }

    fn remembered(&self, reference: &str) -> Option<ImageAnswer> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = |(answer, since): &&(ImageAnswer, Instant)| match answer {
            ImageAnswer::Found(_) => since.elapsed() < FRESH,
            ImageAnswer::Missing(_) | ImageAnswer::Silent(_) => since.elapsed() < FRESH_LACK,
        };
        known.get(reference).filter(believed).map(|(answer, _)| answer.clone())
    }

    fn remember(&self, reference: &str, answer: &ImageAnswer) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(reference.to_owned(), (answer.clone(), Instant::now()));
    }

    async fn ask(&self, text: &str) -> ImageAnswer {
        let reference: Reference = match text.parse() {
            Ok(reference) => reference,
            Err(error) => return ImageAnswer::Missing(format!("{text:?} is no image reference: {error}")),
        };
        let plain = self.plain.iter().any(|host| host == reference.registry());
        let client = if plain { &self.insecure } else { &self.secure };
        match client.pull_manifest_and_config(&reference, &RegistryAuth::Anonymous).await {
            Ok((_, digest, config)) => ImageAnswer::Found(meta(text, digest, &config)),
            Err(error) if is_missing(&error) => {
                ImageAnswer::Missing(format!("the registry has no image {text}"))
            }
            Err(error) => ImageAnswer::Silent(format!("{text}: {error}")),
        }
    }
}

fn is_missing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|it| {
            matches!(
                it.code,
                OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
            )
        }),
        _ => false,
    }
}

fn meta(reference: &str, digest: String, config: &str) -> ImageMeta {
    let file: ConfigFile = serde_json::from_str(config).unwrap_or_default();
    let config = file.config.unwrap_or_default();
    ImageMeta {
        reference: reference.to_owned(),
        digest,
        env: config.env.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        workdir: config.working_dir.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_in_a_configuration_are_nothing() {
        let text =
            r#"{"config": {"Env": ["A=b"], "User": "1000", "WorkingDir": null, "Cmd": null}, "more": {}}"#;
        let meta = meta("x", "sha256:0".into(), text);
        assert_eq!((meta.env.len(), meta.user.as_str(), meta.workdir.as_str()), (1, "1000", ""));
        assert_eq!(
            super::meta("x", String::new(), "nonsense"),
            ImageMeta { reference: "x".into(), ..Default::default() }
        );
    }

    #[tokio::test]
    async fn what_is_no_reference_is_missing() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = Registry::new(Vec::new());
        assert!(matches!(registry.resolve("A B").await, ImageAnswer::Missing(_)));
        let silent = Registry::new(vec!["127.0.0.1:1".into()]).resolve("127.0.0.1:1/x:1").await;
        assert!(matches!(silent, ImageAnswer::Silent(_)), "{silent:?}");
    }
}
