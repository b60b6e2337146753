//! The connection to one server: configuration, addresses, and the one way in which an answer is taken apart.

use atoll_proto::api::ErrorBody;
use reqwest::{Method, RequestBuilder, Response, Url, redirect::Policy};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

use crate::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How to reach a server.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where it is, e.g. `http://127.0.0.1:8080`.
    pub url: String,
    /// The API key; a server that was started without authentication needs none.
    pub api_key: Option<String>,
    /// Certificates (PEM) of a private authority, trusted beside the system's.
    pub ca_pem: Option<Vec<u8>>,
}

impl Config {
    /// A server without a key.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Sets the API key.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Trusts a private authority beside the system's.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }
}

/// A client of one server. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// Makes a client. Nothing is connected yet.
    ///
    /// # Errors
    /// The URL, the key or the certificates cannot be used.
    pub fn new(config: Config) -> Result<Self, Error> {
        let base = base_url(&config.url)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("atoll/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            // A WebSocket begins as a request of HTTP/1.1; over TLS an HTTP/2 connection could be chosen instead.
            .http1_only()
            // A key must not follow a redirect to somebody else, and no answer of Atoll's is one.
            .redirect(Policy::none())
            .default_headers(headers(config.api_key.as_deref())?);
        // Whoever embeds this crate may have chosen a provider already: theirs stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authorities = authorities(config.ca_pem.as_deref())?;
        // Reading the system's certificates takes longer than most calls; plain HTTP needs none.
        builder = if base.scheme() == "http" {
            builder.tls_certs_only([])
        } else {
            builder.tls_certs_merge(authorities)
        };
        let http = builder.build().map_err(|error| transport(&config.url, error))?;
        Ok(Self { http, base })
    }

    /// Where the server is.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.base
    }

    /// The address of something below the base.
    pub(crate) fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Only URLs that cannot be a base have no segments, and those were refused.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// The address of something below `/api/v1`.
    pub(crate) fn api(&self, segments: &[&str]) -> Url {
        self.at(&[&["api", "v1"], segments].concat())
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, Error> {
        json(send(self.request(Method::GET, url)).await?).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        url: Url,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        json(send(self.request(Method::POST, url).json(body)).await?).await
    }

    /// A POST that says all it has to say by its address.
    pub(crate) async fn act<T: DeserializeOwned>(&self, url: Url) -> Result<T, Error> {
        json(send(self.request(Method::POST, url)).await?).await
    }

    pub(crate) async fn delete(&self, url: Url) -> Result<(), Error> {
        send(self.request(Method::DELETE, url)).await.map(drop)
    }

    /// A POST that asks for events.
    pub(crate) async fn post_for_events(&self, url: Url, body: &impl Serialize) -> Result<Response, Error> {
        let request = self.request(Method::POST, url).header("accept", "text/event-stream").json(body);
        send(request).await
    }
}

fn base_url(text: &str) -> Result<Url, Error> {
    let wrong = |problem: &str| {
        Error::Config(format!(
            "{text:?} is not the address of a server: {problem}; write http://127.0.0.1:8080"
        ))
    };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        "http" | "https" => Err(wrong("it names no host")),
        scheme => Err(wrong(&format!("{scheme} is neither http nor https"))),
    }
}

fn headers(key: Option<&str>) -> Result<http::HeaderMap, Error> {
    let mut headers = http::HeaderMap::new();
    if let Some(key) = key {
        let mut value = http::HeaderValue::from_str(key)
            .map_err(|_| Error::Config("the API key holds characters that no key has".into()))?;
        value.set_sensitive(true);
        headers.insert("x-api-key", value);
    }
    Ok(headers)
}

fn authorities(pem: Option<&[u8]>) -> Result<Vec<reqwest::Certificate>, Error> {
    let Some(pem) = pem else { return Ok(Vec::new()) };
    match reqwest::Certificate::from_pem_bundle(pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Error::Config("the certificate file holds no certificate in PEM form".into())),
    }
}

/// A broken connection, with its address once and without its query, which may hold what is nobody's business.
pub(crate) fn transport(url: &str, source: reqwest::Error) -> Error {
    let address = Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.origin().ascii_serialization());
    Error::Transport { url: address, source: source.without_url() }
}

/// Sends, and turns every refusal into [`Error::Api`].
pub(crate) async fn send(request: RequestBuilder) -> Result<Response, Error> {
    let response = request.send().await.map_err(|error| {
        let url = error.url().map(ToString::to_string).unwrap_or_default();
        transport(&url, error)
    })?;
    let status = response.status();
    if status.is_success() || status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let url = response.url().origin().ascii_serialization();
    let request_id =
        response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let text = response.text().await.unwrap_or_default();
    match serde_json::from_str::<ErrorBody>(&text) {
        Ok(body) => Err(Error::from_body(status.as_u16(), body, request_id)),
        Err(_) => Err(Error::Protocol { url, problem: format!("HTTP {status} without Atoll's error body") }),
    }
}

pub(crate) async fn json<T: DeserializeOwned>(response: Response) -> Result<T, Error> {
    let url = response.url().origin().ascii_serialization();
    let bytes = response.bytes().await.map_err(|error| transport(&url, error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Protocol { url, problem: error.to_string() })
}
