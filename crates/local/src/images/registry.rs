//! Registries: which ones to ask for an image, how to reach them, and what their answers mean.
//! Knows nothing of the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use oci_client::{
    Client, Reference,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};

use super::{
    credentials::{Credentials, from_docker_config},
    error::ImageError,
    unpack::Limits,
};

const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Where images come from. A TLS provider for `rustls` must have been installed in the process.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// For a registry (`docker.io`), addresses to ask before it: `https://mirror.example[/prefix]`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries and mirrors (`host[:port]`) that may be spoken to without TLS; those on loopback always may.
    pub insecure: BTreeSet<String>,
    /// Credentials by registry or mirror (`host[:port]`).
    pub credentials: BTreeMap<String, Credentials>,
    /// A docker-style `config.json`, read at each pull, for those not named above.
    pub docker_config: Option<PathBuf>,
    /// Certificates (PEM) to trust besides the system's.
    pub extra_roots: Vec<PathBuf>,
    /// The system has no certificates of authorities: what fails over TLS then says that.
    pub no_authorities: bool,
    /// Variables such as `https_proxy` and `PIP_INDEX_URL`, which builds from packages pass on to the package tools.
    pub reach: BTreeMap<String, String>,
    /// Layers fetched at the same time, for one image.
    pub parallel_downloads: usize,
    /// Bounds of what one layer may unpack to.
    pub limits: Limits,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            insecure: BTreeSet::new(),
            credentials: BTreeMap::new(),
            docker_config: None,
            extra_roots: Vec::new(),
            no_authorities: false,
            reach: BTreeMap::new(),
            parallel_downloads: 4,
            limits: Limits::default(),
        }
    }
}

/// A place to ask, decided before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: String,
    repository: String,
    plain: bool,
    is_mirror: bool,
}

/// A registry or mirror, ready to be asked about one image.
pub(super) struct Endpoint {
    pub(super) name: String,
    /// The image as this endpoint calls it.
    pub(super) image: Reference,
    pub(super) client: Client,
    auth: RegistryAuth,
    /// This machine has no certificates to tell it by.
    untrusting: bool,
}

/// The places to ask: mirrors in their order, then the registry itself.
fn places(config: &RegistryConfig, image: &Reference) -> Result<Vec<Place>, ImageError> {
    let mut places = Vec::new();
    for address in config.mirrors.get(image.registry()).into_iter().flatten() {
        let place = mirror_place(config, address, image.repository())
            .map_err(|reason| ImageError::InvalidSetting { setting: format!("mirror {address}"), reason })?;
        places.push(place);
    }
    let host = image.registry().to_owned();
    let plain = config.insecure.contains(&host) || is_loopback(&host);
    places.push(Place { host, repository: image.repository().to_owned(), plain, is_mirror: false });
    Ok(places)
}

fn mirror_place(config: &RegistryConfig, address: &str, repository: &str) -> Result<Place, String> {
    let (scheme, rest) = address.split_once("://").ok_or("write it with https:// in front")?;
    let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = match scheme {
        "https" => false,
        "http" if config.insecure.contains(host) || is_loopback(host) => true,
        "http" => return Err(format!("http is not safe there; use https, or list {host} as insecure")),
        _ => return Err("only http and https can be used".into()),
    };
    let prefix = prefix.trim_matches('/');
    let repository = if prefix.is_empty() { repository.to_owned() } else { format!("{prefix}/{repository}") };
    Ok(Place { host: host.to_owned(), repository, plain, is_mirror: true })
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Everything to ask about an image. The caller's credentials go to the registry that the image names, never to a mirror.
pub(super) fn endpoints(
    config: &RegistryConfig,
    image: &Reference,
    given: Option<&Credentials>,
) -> Result<Vec<Endpoint>, ImageError> {
    let roots = read_roots(&config.extra_roots)?;
    let connect = |place: Place| {
        let credentials =
            match given.filter(|_| !place.is_mirror).or_else(|| config.credentials.get(&place.host)) {
                Some(credentials) => Some(credentials.clone()),
                None => config
                    .docker_config
                    .as_deref()
                    .map_or(Ok(None), |path| from_docker_config(path, &place.host))?,
            };
        let untrusting = config.no_authorities && roots.is_empty() && !place.plain;
        endpoint(place, image, credentials, roots.clone()).map(|endpoint| Endpoint { untrusting, ..endpoint })
    };
    places(config, image)?.into_iter().map(connect).collect()
}

fn endpoint(
    place: Place,
    image: &Reference,
    credentials: Option<Credentials>,
    roots: Vec<Certificate>,
) -> Result<Endpoint, ImageError> {
    let settings = ClientConfig {
        protocol: if place.plain { ClientProtocol::Http } else { ClientProtocol::Https },
        extra_root_certificates: roots,
        connect_timeout: Some(Duration::from_secs(10)),
        read_timeout: Some(Duration::from_secs(30)),
        user_agent: concat!("atoll/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    let client = Client::try_from(settings).map_err(|error| ImageError::InvalidSetting {
        setting: format!("registry {}", place.host),
        reason: chain(&error),
    })?;
    let (host, repository) = (place.host.clone(), place.repository);
    let image = match (image.digest(), image.tag()) {
        (Some(digest), _) => Reference::with_digest(host, repository, digest.to_owned()),
        (None, tag) => Reference::with_tag(host, repository, tag.unwrap_or("latest").to_owned()),
    };
    let auth = credentials.map_or(RegistryAuth::Anonymous, RegistryAuth::from);
    Ok(Endpoint { name: place.host, image, client, auth, untrusting: false })
}

fn read_roots(paths: &[PathBuf]) -> Result<Vec<Certificate>, ImageError> {
    let read = |path: &PathBuf| {
        let data = fs::read(path).map_err(|e| ImageError::io("read", path, e))?;
        Ok(Certificate { encoding: CertificateEncoding::Pem, data })
    };
    paths.iter().map(read).collect()
}

impl Endpoint {
    /// What its refusal of a request means.
    pub(super) fn refusal(&self, error: &OciDistributionError) -> Refusal {
        let mut refusal = Refusal::new(&self.name, error);
        if self.untrusting && refusal.verdict == Verdict::Unreachable {
            refusal.detail.push_str(
                "; this machine has no certificates of authorities: install the package ca-certificates and start the \
                 server again, or name some with --registry-ca",
            );
        }
        refusal
    }

    /// The manifest or index that the reference means, as it is.
    pub(super) async fn manifest(&self) -> Result<Bytes, OciDistributionError> {
        self.client.pull_manifest_raw(&self.image, &self.auth, ACCEPTED).await.map(|(bytes, _)| bytes)
    }

    /// The manifest with a digest, in the same repository.
    pub(super) async fn manifest_by_digest(&self, digest: &str) -> Result<Bytes, OciDistributionError> {
        let image = self.image.clone_with_digest(digest.to_owned());
        self.client.pull_manifest_raw(&image, &self.auth, ACCEPTED).await.map(|(bytes, _)| bytes)
    }
}

/// The kinds of answers that tell what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    NotFound,
    Unauthorized,
    Forbidden,
    RateLimited,
    WrongDigest,
    Fault,
    Unreachable,
}

/// An endpoint's refusal.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    registry: String,
    pub(super) verdict: Verdict,
    detail: String,
    digests: Option<(String, String)>,
}

impl Refusal {
    fn new(registry: &str, error: &OciDistributionError) -> Self {
        let digests = match error {
            OciDistributionError::DigestError(oci_client::errors::DigestError::VerificationError {
                expected,
                actual,
            }) => Some((expected.clone(), actual.clone())),
            _ => None,
        };
        Self { registry: registry.to_owned(), verdict: verdict(error), detail: chain(error), digests }
    }

    /// A stream that broke off.
    pub(super) fn broken(registry: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            registry: registry.to_owned(),
            verdict: Verdict::Unreachable,
            detail: chain(error),
            digests: None,
        }
    }

    /// The image is there and a part of it is not: that is the registry's fault, not a wrong name.
    pub(super) fn of_blob(mut self) -> Self {
        if self.verdict == Verdict::NotFound {
            self.verdict = Verdict::Fault;
        }
        self
    }

    /// Whether the same request may succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.verdict, Verdict::Fault | Verdict::Unreachable)
    }
}

fn verdict(error: &OciDistributionError) -> Verdict {
    use OciDistributionError as E;
    match error {
        E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => Verdict::Unauthorized,
        E::ImageManifestNotFoundError(_) => Verdict::NotFound,
        E::DigestError(_) => Verdict::WrongDigest,
        E::RegistryError { envelope, .. } => {
            envelope.errors.first().map_or(Verdict::Fault, |error| verdict_of_code(&error.code))
        }
        E::ServerError { code, .. } => verdict_of_status(*code),
        E::RequestError(error) => {
            error.status().map_or(Verdict::Unreachable, |s| verdict_of_status(s.as_u16()))
        }
        E::IoError(_) => Verdict::Unreachable,
        _ => Verdict::Fault,
    }
}

fn verdict_of_code(code: &OciErrorCode) -> Verdict {
    use OciErrorCode as C;
    match code {
        C::ManifestUnknown | C::NameUnknown | C::NotFound | C::BlobUnknown | C::NameInvalid => {
            Verdict::NotFound
        }
        C::Unauthorized => Verdict::Unauthorized,
        C::Denied => Verdict::Forbidden,
        C::Toomanyrequests => Verdict::RateLimited,
        _ => Verdict::Fault,
    }
}

fn verdict_of_status(code: u16) -> Verdict {
    match code {
        401 => Verdict::Unauthorized,
        403 => Verdict::Forbidden,
        404 => Verdict::NotFound,
        429 => Verdict::RateLimited,
        _ => Verdict::Fault,
    }
}

/// An error with its causes, each once: the first one alone often says only that sending failed.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// What to tell when nobody gave the image: the registry's own word, or a mirror's where the registry has none.
pub(super) fn conclude(reference: &str, what: &str, refusals: Vec<Refusal>) -> ImageError {
    let last = refusals.len().saturating_sub(1);
    let chosen = match refusals.last() {
        Some(own) if own.verdict != Verdict::Unreachable => last,
        _ => refusals.iter().position(|refusal| refusal.verdict != Verdict::Unreachable).unwrap_or(last),
    };
    let others = refusals.iter().enumerate().filter(|(at, _)| *at != chosen);
    let other: String = others.map(|(_, r)| format!("; {}: {}", r.registry, r.detail)).collect();
    match refusals.into_iter().nth(chosen) {
        Some(refusal) => refusal.into_error(reference, what, other),
        None => ImageError::Cancelled { reference: reference.to_owned() },
    }
}

impl Refusal {
    fn into_error(self, reference: &str, what: &str, other: String) -> ImageError {
        let (reference, registry, reason) = (reference.to_owned(), self.registry, self.detail);
        match self.verdict {
            Verdict::NotFound => ImageError::NotFound { reference, registry, other },
            Verdict::Unauthorized => ImageError::Unauthorized { reference, registry, other },
            Verdict::Forbidden => ImageError::Forbidden { reference, registry, other },
            Verdict::RateLimited => ImageError::RateLimited { reference, registry, other },
            Verdict::Fault => ImageError::RegistryFault { reference, registry, reason, other },
            Verdict::Unreachable => ImageError::Unreachable { reference, registry, reason, other },
            Verdict::WrongDigest => {
                let (expected, actual) = self.digests.unwrap_or_else(|| (String::from("another"), reason));
                ImageError::WrongDigest { reference, what: what.to_owned(), expected, actual }
            }
        }
    }

    /// Bytes came that are not the ones named.
    pub(super) fn wrong_digest(registry: &str, expected: &str, actual: String) -> Self {
        Self {
            registry: registry.to_owned(),
            verdict: Verdict::WrongDigest,
            detail: format!("digest {actual} instead of {expected}"),
            digests: Some((expected.to_owned(), actual)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_asked_first_and_plain_http_only_where_allowed() {
        let image: Reference = "python:3.11-slim".parse().unwrap();
        let mut config = RegistryConfig::default();
        let mirrors = |list: &[&str]| {
            BTreeMap::from([("docker.io".into(), list.iter().map(|m| (*m).into()).collect())])
        };
        config.mirrors = mirrors(&["http://127.0.0.1:5000", "https://mirror.example/hub/"]);
        let found = places(&config, &image).unwrap();
        let seen: Vec<_> = found.iter().map(|p| (p.host.as_str(), p.repository.as_str(), p.plain)).collect();
        assert_eq!(
            seen,
            [
                ("127.0.0.1:5000", "library/python", true),
                ("mirror.example", "hub/library/python", false),
                ("docker.io", "library/python", false)
            ]
        );
        config.mirrors = mirrors(&["http://mirror.example:80"]);
        assert!(matches!(places(&config, &image), Err(ImageError::InvalidSetting { .. })));
        config.insecure = BTreeSet::from(["mirror.example:80".into()]);
        assert!(places(&config, &image).unwrap()[0].plain);
    }

    #[test]
    fn loopback_is_told_from_names_that_look_like_it() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example:5000", "127.0.0.1.example", "10.0.0.1:5000", "registry"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
