//! HTTP as it is on the wire: for cases about statuses, headers and bodies that the client crate hides.

use anyhow::{Context, Result, ensure};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

/// A client that sends the key and interprets nothing.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    url: String,
    key: Option<String>,
}

/// A status and the JSON that came with it; `Null` when there was none.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Value,
}

impl Http {
    /// Speaks to the server at `url`, with `key` when there is one.
    ///
    /// # Errors
    /// The client could not be set up.
    pub fn new(url: &str, key: Option<&str>) -> Result<Self> {
        Self::trusting(url, key, None)
    }

    /// The same, where over TLS this authority (PEM) is trusted and no other.
    ///
    /// # Errors
    /// The client could not be set up.
    pub fn trusting(url: &str, key: Option<&str>, authority: Option<&[u8]>) -> Result<Self> {
        // Somebody else in this process may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = authority.map(reqwest::Certificate::from_pem).transpose()?;
        let client = reqwest::Client::builder().tls_certs_only(authority).build()?;
        Ok(Self { client, url: url.to_owned(), key: key.map(str::to_owned) })
    }

    /// The same, as somebody else.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// A request to a path of the server.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.header("X-API-Key", key),
            None => request,
        }
    }

    /// Sends it, with a JSON body unless that is `Null`.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> Result<Answer> {
        let mut request = self.request(method, path);
        if !body.is_null() {
            request = request.json(&body);
        }
        Answer::of(request.send().await.with_context(|| path.to_owned())?).await
    }

    /// A GET.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, Value::Null).await
    }

    /// A POST.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.call(Method::POST, path, body).await
    }

    /// A DELETE.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.call(Method::DELETE, path, Value::Null).await
    }
}

impl Answer {
    /// Reads an answer to its end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn of(response: Response) -> Result<Self> {
        let status = response.status();
        let bytes = response.bytes().await?;
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        };
        Ok(Self { status, body })
    }

    /// The body, when the status is this one.
    ///
    /// # Errors
    /// It is another.
    pub fn expect(self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "{} instead of {status}: {}", self.status, self.body);
        Ok(self.body)
    }

    /// Checks that it is a refusal with this status and one error shape, and returns its code.
    ///
    /// # Errors
    /// It is not.
    pub fn refusal(&self, status: u16) -> Result<String> {
        ensure!(self.status == status, "{} instead of {status}: {}", self.status, self.body);
        let text = |key: &str| self.body[key].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        text("error").with_context(|| format!("no error text in {}", self.body))?;
        text("code").with_context(|| format!("no code in {}", self.body))
    }
}
