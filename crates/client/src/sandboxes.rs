//! Sandboxes: made, found, listed, and moved between phases.

use atoll_proto::api::{
    CreateEvent, CreateLink, CreateSandbox, Link, Logs, Port, Sandbox as Info, SandboxList, UpdateSandbox,
    Usage,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use reqwest::Method;
use std::collections::BTreeMap;

use crate::{
    Client, Error,
    client::{json, send, transport},
    sse,
};

/// Which sandboxes to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct ListSandboxes {
    /// Only those that carry all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those in one of these phases, by name.
    pub phases: Vec<String>,
    /// Only this user's.
    pub owner: Option<String>,
    /// Sandboxes per page; the server's default when absent.
    pub page_size: Option<usize>,
}

/// The sandboxes of a server.
#[derive(Clone, Debug)]
pub struct Sandboxes {
    client: Client,
}

/// One sandbox, by its identifier. Making this asks nothing of the server.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub(crate) client: Client,
    id: String,
}

impl Client {
    /// The sandboxes of this server.
    #[must_use]
    pub fn sandboxes(&self) -> Sandboxes {
        Sandboxes { client: self.clone() }
    }

    /// One sandbox, by its identifier.
    #[must_use]
    pub fn sandbox(&self, id: impl Into<String>) -> Sandbox {
        Sandbox { client: self.clone(), id: id.into() }
    }
}

impl Sandboxes {
    /// Makes a sandbox and returns it when it runs.
    ///
    /// # Errors
    /// The request is refused, or the sandbox cannot be started.
    pub async fn create(&self, request: &CreateSandbox) -> Result<Info, Error> {
        self.client.post(self.client.api(&["sandboxes"]), request).await
    }

    /// As [`Sandboxes::create`], safe to repeat: a second call with the same key and request gives the same sandbox.
    ///
    /// # Errors
    /// As for [`Sandboxes::create`]; code `idempotency_mismatch` when the key was used for another request.
    pub async fn create_once(&self, key: &str, request: &CreateSandbox) -> Result<Info, Error> {
        let call = self.client.request(Method::POST, self.client.api(&["sandboxes"]));
        json(send(call.header("idempotency-key", key).json(request)).await?).await
    }

    /// Begins to make a sandbox and returns at once; poll it with [`Sandbox::get`].
    ///
    /// # Errors
    /// The request is refused.
    pub async fn begin(&self, request: &CreateSandbox) -> Result<Info, Error> {
        let mut url = self.client.api(&["sandboxes"]);
        url.query_pairs_mut().append_pair("wait", "false");
        self.client.post(url, request).await
    }

    /// Makes a sandbox and tells each step. Losing the stream does not stop the creation.
    ///
    /// # Errors
    /// The request is refused. Later failures come as [`CreateEvent::Failed`].
    pub async fn create_stream(
        &self,
        request: &CreateSandbox,
    ) -> Result<impl Stream<Item = Result<CreateEvent, Error>> + Send + Unpin + use<>, Error> {
        const KNOWN: &[&str] = &["queued", "pulling", "preparing", "starting", "ready", "failed"];
        let response = self.client.post_for_events(self.client.api(&["sandboxes"]), request).await?;
        Ok(Box::pin(sse::events(response, KNOWN)))
    }

    /// Every sandbox that matches, newest first; pages are fetched as they are needed.
    pub fn list(
        &self,
        query: ListSandboxes,
    ) -> impl Stream<Item = Result<Info, Error>> + Send + Unpin + use<> {
        let client = self.client.clone();
        let pages = stream::try_unfold(Some(String::new()), move |cursor| {
            let (client, query) = (client.clone(), query.clone());
            async move {
                let Some(cursor) = cursor else { return Ok(None) };
                let page = page(&client, &query, &cursor).await?;
                Ok::<_, Error>(Some((page.items, page.next_cursor)))
            }
        });
        Box::pin(pages.map_ok(|items| stream::iter(items.into_iter().map(Ok))).try_flatten())
    }
}

async fn page(client: &Client, query: &ListSandboxes, cursor: &str) -> Result<SandboxList, Error> {
    let mut url = client.api(&["sandboxes"]);
    {
        let mut pairs = url.query_pairs_mut();
        for (key, value) in &query.labels {
            pairs.append_pair("label", &format!("{key}={value}"));
        }
        for phase in &query.phases {
            pairs.append_pair("phase", phase);
        }
        if let Some(owner) = &query.owner {
            pairs.append_pair("owner", owner);
        }
        if let Some(size) = query.page_size {
            pairs.append_pair("limit", &size.to_string());
        }
        if !cursor.is_empty() {
            pairs.append_pair("cursor", cursor);
        }
    }
    client.get(url).await
}

impl Sandbox {
    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn at(&self, rest: &[&str]) -> reqwest::Url {
        self.client.api(&[&["sandboxes", &self.id], rest].concat())
    }

    /// How it is.
    ///
    /// # Errors
    /// It does not exist, or the server cannot be reached.
    pub async fn get(&self) -> Result<Info, Error> {
        self.client.get(self.at(&[])).await
    }

    /// Takes it down with its files. Returns when that is recorded.
    ///
    /// # Errors
    /// It does not exist, or the server cannot be reached.
    pub async fn delete(&self) -> Result<(), Error> {
        self.client.delete(self.at(&[])).await
    }

    /// Changes its deadline or what it may reach.
    ///
    /// # Errors
    /// The change is refused, or it does not exist.
    pub async fn update(&self, change: &UpdateSandbox) -> Result<Info, Error> {
        json(send(self.client.request(Method::PATCH, self.at(&[])).json(change)).await?).await
    }

    /// Ends its processes and keeps its files.
    ///
    /// # Errors
    /// Its phase does not allow it, or it does not exist.
    pub async fn stop(&self) -> Result<Info, Error> {
        self.client.act(self.at(&["stop"])).await
    }

    /// Starts it again on its files.
    ///
    /// # Errors
    /// Its phase does not allow it, or it does not exist.
    pub async fn start(&self) -> Result<Info, Error> {
        self.client.act(self.at(&["start"])).await
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// Its phase does not allow it, or it does not exist.
    pub async fn restart(&self) -> Result<Info, Error> {
        self.client.act(self.at(&["restart"])).await
    }

    /// Freezes it; memory and processes are kept.
    ///
    /// # Errors
    /// Its phase does not allow it, or it does not exist.
    pub async fn pause(&self) -> Result<Info, Error> {
        self.client.act(self.at(&["pause"])).await
    }

    /// Thaws it.
    ///
    /// # Errors
    /// Its phase does not allow it, or it does not exist.
    pub async fn resume(&self) -> Result<Info, Error> {
        self.client.act(self.at(&["resume"])).await
    }

    /// Makes a link that opens one of its ports to whoever has it, for so many seconds or an hour.
    ///
    /// # Errors
    /// It has no such port, the time is too long, or it does not exist.
    pub async fn link(&self, port: Port, expires_in: Option<u64>) -> Result<Link, Error> {
        self.client.post(self.at(&["links"]), &CreateLink { port, expires_in }).await
    }

    /// What it uses now.
    ///
    /// # Errors
    /// It does not exist, or the server cannot be reached.
    pub async fn usage(&self) -> Result<Usage, Error> {
        self.client.get(self.at(&["usage"])).await
    }

    /// The last `tail` bytes (all that is kept when absent) of what its start command wrote, and what happened to it.
    ///
    /// # Errors
    /// It does not exist, or the server cannot be reached.
    pub async fn logs(&self, tail: Option<u64>) -> Result<Logs, Error> {
        self.client.get(self.logs_url(tail)).await
    }

    /// As [`Sandbox::logs`], and then what comes, byte for byte, until the sandbox ends.
    ///
    /// # Errors
    /// It does not exist, or the server cannot be reached.
    pub async fn follow_logs(
        &self,
        tail: Option<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>, Error> {
        let mut url = self.logs_url(tail);
        url.query_pairs_mut().append_pair("follow", "true");
        let address = url.to_string();
        let request = self.client.request(Method::GET, url).header("accept", "text/plain");
        let bytes = send(request).await?.bytes_stream();
        Ok(Box::pin(bytes.map(move |piece| piece.map_err(|error| transport(&address, error)))))
    }

    fn logs_url(&self, tail: Option<u64>) -> reqwest::Url {
        let mut url = self.at(&["logs"]);
        if let Some(tail) = tail {
            url.query_pairs_mut().append_pair("tail", &tail.to_string());
        }
        url
    }
}
