//! Files of a sandbox. What is small goes over calls, what may be large is streamed, and nothing of a broken transfer is
//! left: the agent shows a file only when it is complete.

use atoll_core::sandbox::Sandbox;
use atoll_proto::{
    agent::filesystem::{
        EntryInfo, EventType, FileType, FilesystemClient, ListDirRequest, MakeDirRequest, MoveRequest,
        RemoveRequest, StatRequest, WatchDirRequest, WatchDirResponse, watch_dir_response::Event,
    },
    api,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use connectrpc::{ConnectError, ErrorCode, client::CallOptions};
use futures::{Stream, StreamExt, stream};
use http::{Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::Incoming;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Services,
    access::Caller,
    agent::{Agent, Agents, said},
    error::ServiceError,
};
use crate::world;

/// The most that an agent's answer to an upload, or its error, may have.
const ANSWER: usize = 64 << 10;

/// A place in a sandbox, and as whom.
#[derive(Clone, Debug)]
pub struct Place {
    pub path: String,
    pub user: Option<String>,
}

/// What is transferred: one file, or a directory as a tar archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    File,
    Directory,
}

impl Shape {
    fn route(self) -> &'static str {
        match self {
            Self::File => "/files",
            Self::Directory => "/dirs",
        }
    }
}

impl Place {
    fn options(&self) -> CallOptions {
        options(self.user.as_deref())
    }

    fn target(&self, shape: Shape) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("path", &self.path);
        if let Some(user) = &self.user {
            query.append_pair("username", user);
        }
        format!("{}?{}", shape.route(), query.finish())
    }
}

fn options(user: Option<&str>) -> CallOptions {
    let named = user.map(|user| format!("Basic {}", STANDARD.encode(format!("{user}:"))));
    named.map_or_else(CallOptions::default, |value| {
        CallOptions::default().with_header(header::AUTHORIZATION.as_str(), value)
    })
}

/// The agent of a sandbox, for what it does with files.
struct Reached {
    agents: Arc<Agents>,
    sandbox: Sandbox,
    client: FilesystemClient<Agent>,
}

impl Reached {
    async fn explain(&self, error: ConnectError) -> ServiceError {
        self.agents.explain(self.sandbox.id(), error).await
    }
}

impl Services {
    async fn filesystem(&self, caller: &Caller, id: &str) -> Result<Reached, ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        let client = FilesystemClient::new(self.agents.reach(&sandbox).await?, Agent::calls());
        Ok(Reached { agents: self.agents.clone(), sandbox, client })
    }

    /// What is at a place.
    pub async fn stat(&self, caller: &Caller, id: &str, at: Place) -> Result<api::FileInfo, ServiceError> {
        let reached = self.filesystem(caller, id).await?;
        let (options, ask) = (at.options(), StatRequest { path: at.path, ..StatRequest::default() });
        match reached.client.stat_with_options(ask, options).await {
            Ok(answer) => Ok(info(answer.into_owned().entry.into_option().unwrap_or_default())),
            Err(error) => Err(reached.explain(error).await),
        }
    }

    /// What is below a directory, down to a depth.
    pub async fn list_files(
        &self,
        caller: &Caller,
        id: &str,
        at: Place,
        depth: u32,
    ) -> Result<api::FileList, ServiceError> {
        let reached = self.filesystem(caller, id).await?;
        let (options, ask) =
            (at.options(), ListDirRequest { path: at.path, depth, ..ListDirRequest::default() });
        match reached.client.list_dir_with_options(ask, options).await {
            Ok(answer) => {
                let mut items: Vec<_> = answer.into_owned().entries.into_iter().map(info).collect();
                items.sort_by(|a, b| a.path.cmp(&b.path));
                Ok(api::FileList { items })
            }
            Err(error) => Err(reached.explain(error).await),
        }
    }

    /// Makes a directory with its parents.
    pub async fn make_directory(
        &self,
        caller: &Caller,
        id: &str,
        at: Place,
    ) -> Result<api::FileInfo, ServiceError> {
        let reached = self.filesystem(caller, id).await?;
        let (options, ask) = (at.options(), MakeDirRequest { path: at.path, ..MakeDirRequest::default() });
        match reached.client.make_dir_with_options(ask, options).await {
            Ok(answer) => Ok(info(answer.into_owned().entry.into_option().unwrap_or_default())),
            Err(error) => Err(reached.explain(error).await),
        }
    }

    /// Renames what is at one place to another.
    pub async fn move_file(
        &self,
        caller: &Caller,
        id: &str,
        ask: api::MoveFile,
    ) -> Result<api::FileInfo, ServiceError> {
        let reached = self.filesystem(caller, id).await?;
        let options = options(ask.user.as_deref());
        let ask = MoveRequest { source: ask.source, destination: ask.destination, ..MoveRequest::default() };
        match reached.client.move_with_options(ask, options).await {
            Ok(answer) => Ok(info(answer.into_owned().entry.into_option().unwrap_or_default())),
            Err(error) => Err(reached.explain(error).await),
        }
    }

    /// Removes what is at a place with everything below it.
    pub async fn remove_file(&self, caller: &Caller, id: &str, at: Place) -> Result<(), ServiceError> {
        let reached = self.filesystem(caller, id).await?;
        let found = StatRequest { path: at.path.clone(), ..StatRequest::default() };
        // The agent's own call does not tell a missing file from a removed one.
        if let Err(error) = reached.client.stat_with_options(found, at.options()).await {
            return Err(reached.explain(error).await);
        }
        let (options, ask) = (at.options(), RemoveRequest { path: at.path, ..RemoveRequest::default() });
        match reached.client.remove_with_options(ask, options).await {
            Ok(_) => Ok(()),
            Err(error) => Err(reached.explain(error).await),
        }
    }

    /// Changes in a directory, from now on.
    pub async fn watch_files(
        &self,
        caller: &Caller,
        id: &str,
        at: Place,
        recursive: bool,
    ) -> Result<impl Stream<Item = api::WatchEvent> + Send + use<>, ServiceError> {
        let reached = self.filesystem(caller, id).await?;
        let options = at.options();
        let ask = WatchDirRequest { path: at.path, recursive, ..WatchDirRequest::default() };
        let watching = match reached.client.watch_dir_with_options(ask, options).await {
            Ok(stream) => stream,
            Err(error) => return Err(reached.explain(error).await),
        };
        let mut watching = Box::pin(watching);
        // The first message says that the watch stands, or why it does not.
        if let Err(error) = watching.message::<WatchDirResponse>().await {
            return Err(reached.explain(error).await);
        }
        Ok(stream::unfold(watching, async |mut watching| {
            loop {
                let message = watching.message::<WatchDirResponse>().await.ok()??;
                if let Some(Event::Filesystem(change)) = message.to_owned_message().event {
                    let kind = kind_of_change(change.r#type.as_known()).to_owned();
                    return Some((api::WatchEvent { name: change.name, kind }, watching));
                }
            }
        }))
    }

    /// Begins to read a file, or a directory as a tar archive.
    pub async fn download(
        &self,
        caller: &Caller,
        id: &str,
        at: &Place,
        shape: Shape,
    ) -> Result<Response<Incoming>, ServiceError> {
        let sandbox = self.sandbox(caller, id).await?;
        let request =
            Request::builder().method(Method::GET).uri(at.target(shape)).header(header::HOST, "agent");
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| impossible(at))?;
        accepted(self.agents.transfer(&sandbox, request).await?).await
    }

    /// Writes a file, or unpacks a tar archive into a directory. Gives the absolute path and the bytes received.
    pub async fn upload<E>(
        &self,
        caller: &Caller,
        id: &str,
        at: &Place,
        shape: Shape,
        data: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    ) -> Result<api::Uploaded, ServiceError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let sandbox = self.sandbox(caller, id).await?;
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let frames = data.map(move |piece| {
            piece.map(|piece| {
                counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Frame::data(piece)
            })
        });
        let request = Request::builder()
            .method(Method::PUT)
            .uri(at.target(shape))
            .header(header::HOST, "agent")
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let request = request.body(StreamBody::new(frames)).map_err(|_| impossible(at))?;
        let answer = accepted(self.agents.transfer(&sandbox, request).await?).await?;
        let answer = whole(answer).await;
        let size = count.load(Ordering::Relaxed);
        let path = written_path(&answer).unwrap_or_else(|| at.path.clone());
        Ok(api::Uploaded { message: format!("{size} bytes were written to {path}"), path, size })
    }

    /// A name for a file that is not yet to be seen.
    pub fn spool_place(&self, user: Option<String>) -> Result<Place, ServiceError> {
        let name = hex::encode(world::bytes::<10>(&*self.base.world)?);
        Ok(Place { path: format!("/tmp/.atoll-upload-{name}"), user })
    }
}

fn impossible(at: &Place) -> ServiceError {
    ServiceError::invalid("path", format!("{:?} cannot be a path", at.path))
}

/// Gives back an answer that is none of the agent's refusals.
async fn accepted(answer: Response<Incoming>) -> Result<Response<Incoming>, ServiceError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let body: serde_json::Value = serde_json::from_slice(&whole(answer).await).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let code = serde_json::from_value::<ErrorCode>(body.get("error_code").cloned().unwrap_or_default());
    let refused = said(code.unwrap_or(ErrorCode::Internal), text("message"));
    Err(refused.unwrap_or_else(|message| ServiceError::AgentFailed(failed(status, message))))
}

/// What the agent said, or that it said nothing.
fn failed(status: http::StatusCode, message: String) -> String {
    if message.is_empty() { format!("the agent answered {status} and nothing else") } else { message }
}

async fn whole(answer: Response<Incoming>) -> Bytes {
    let body = Limited::new(answer.into_body(), ANSWER).collect().await;
    body.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

/// The path of the first file, as the agent resolved it.
fn written_path(answer: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let entry = answer.get(0).unwrap_or(&answer);
    Some(entry.get("path")?.as_str()?.to_owned())
}

fn info(it: EntryInfo) -> api::FileInfo {
    let modified = it.modified_time.into_option();
    let modified_at = modified.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
    api::FileInfo {
        name: it.name,
        path: it.path,
        kind: kind(it.is_symlink, it.r#type.as_known()),
        size: it.size,
        mode: it.mode & 0o7777,
        owner: it.owner,
        group: it.group,
        modified_at,
        symlink_target: it.symlink_target,
    }
}

fn kind(is_symlink: bool, of: Option<FileType>) -> api::FileKind {
    match of {
        _ if is_symlink => api::FileKind::Symlink,
        Some(FileType::FILE_TYPE_FILE) => api::FileKind::File,
        Some(FileType::FILE_TYPE_DIRECTORY) => api::FileKind::Directory,
        Some(FileType::FILE_TYPE_SYMLINK) => api::FileKind::Symlink,
        _ => api::FileKind::Other,
    }
}

fn kind_of_change(kind: Option<EventType>) -> &'static str {
    match kind {
        Some(EventType::EVENT_TYPE_CREATE) => "create",
        Some(EventType::EVENT_TYPE_REMOVE) => "remove",
        Some(EventType::EVENT_TYPE_RENAME) => "rename",
        Some(EventType::EVENT_TYPE_CHMOD) => "chmod",
        _ => "write",
    }
}
