//! HTTP to what listens in a sandbox, through the server's gateway. It must not know what listens there.

use reqwest::{Method, RequestBuilder, Response, Url};

use crate::{Client, Error, Sandbox, client::send};

/// A port of a sandbox, spoken to in HTTP.
#[derive(Clone, Debug)]
pub struct SandboxPort {
    client: Client,
    base: Url,
    token: Option<String>,
}

impl Sandbox {
    /// One of its ports. Whether anything listens there is seen when it is asked.
    ///
    /// # Errors
    /// The sandbox does not exist, or the server has no gateway.
    pub async fn port(&self, port: u16) -> Result<SandboxPort, Error> {
        let info = self.get().await?;
        let lacking = || Error::Protocol {
            url: self.client.url().origin().ascii_serialization(),
            problem:
                "it tells no address of the sandbox's ports; its gateway is off, or it is an older server"
                    .into(),
        };
        let address = info.access_url.ok_or_else(lacking)?;
        let base = Url::parse(&format!("{address}/port/{port}/")).map_err(|_| lacking())?;
        Ok(SandboxPort { client: self.client.clone(), base, token: info.access_token })
    }
}

impl SandboxPort {
    /// Where it is, for whoever has a key or the sandbox's token.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.base
    }

    /// A request for a path (with its query, without a slash at its beginning) of the application that listens there.
    ///
    /// # Errors
    /// The path is none.
    pub fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Error> {
        let url =
            self.base.join(path).map_err(|error| Error::Config(format!("{path:?} is no path: {error}")))?;
        if !url.as_str().starts_with(self.base.as_str()) {
            return Err(Error::Config(format!("{path:?} leads away from the sandbox's port")));
        }
        let request = self.client.request(method, url);
        Ok(match &self.token {
            Some(token) => request.header("x-access-token", token),
            None => request,
        })
    }

    /// Sends a request that was made here.
    ///
    /// # Errors
    /// [`Error::Api`] with code `port_closed` where nothing listens; else what the gateway refuses or the application
    /// answers with an error status.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        send(request).await
    }
}
