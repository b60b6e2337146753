//! Files and directories of a sandbox, streamed at any size.

use atoll_proto::api::{FileInfo, FileList, MoveFile, Uploaded, WatchEvent};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::{Body, Method, Response, Url};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use crate::{
    Error, Sandbox,
    client::{json, send, transport},
    sse,
};

/// Large enough that a gigabyte is not a million wake-ups, small enough that a client stays small.
const PIECE: usize = 256 << 10;

/// The files of a sandbox, seen as one of its users.
#[derive(Clone, Debug)]
pub struct Files {
    sandbox: Sandbox,
    user: Option<String>,
}

/// What is being downloaded.
#[derive(Debug)]
pub struct Download {
    response: Response,
}

impl Sandbox {
    /// Its files, seen as its default user.
    #[must_use]
    pub fn files(&self) -> Files {
        Files { sandbox: self.clone(), user: None }
    }
}

/// A body that is read from `reader` as it is sent.
pub fn body_of(reader: impl AsyncRead + Send + 'static) -> Body {
    Body::wrap_stream(ReaderStream::with_capacity(reader, PIECE))
}

impl Files {
    /// The same files, seen as another user.
    #[must_use]
    pub fn as_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    fn at(&self, rest: &[&str], path: &str) -> Url {
        let mut url = self.sandbox.at(rest);
        url.query_pairs_mut().append_pair("path", path);
        if let Some(user) = &self.user {
            url.query_pairs_mut().append_pair("user", user);
        }
        url
    }

    /// Writes a file, whole or not at all. Directories on the way are made.
    ///
    /// # Errors
    /// The path cannot be written, there is no room, or the body failed.
    pub async fn upload(&self, path: &str, body: impl Into<Body>) -> Result<Uploaded, Error> {
        self.put(self.at(&["files"], path), body).await
    }

    /// Reads a file.
    ///
    /// # Errors
    /// There is no such file, or it may not be read.
    pub async fn download(&self, path: &str) -> Result<Download, Error> {
        self.read(self.at(&["files"], path)).await
    }

    /// Unpacks a tar stream below a directory.
    ///
    /// # Errors
    /// The directory cannot be written, the tar is not one or leads out of the directory, or the body failed.
    pub async fn upload_archive(&self, path: &str, tar: impl Into<Body>) -> Result<(), Error> {
        let request = self.sandbox.client.request(Method::PUT, self.at(&["archive"], path));
        send(request.header("content-type", "application/x-tar").body(tar)).await.map(drop)
    }

    /// Reads a directory as a tar stream; its entries are named relative to it.
    ///
    /// # Errors
    /// There is no such directory, or it may not be read.
    pub async fn download_archive(&self, path: &str) -> Result<Download, Error> {
        self.read(self.at(&["archive"], path)).await
    }

    /// What is at a path.
    ///
    /// # Errors
    /// Nothing is there.
    pub async fn stat(&self, path: &str) -> Result<FileInfo, Error> {
        self.sandbox.client.get(self.at(&["files", "stat"], path)).await
    }

    /// What is below a directory, `depth` levels deep.
    ///
    /// # Errors
    /// There is no such directory.
    pub async fn list(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, Error> {
        let mut url = self.at(&["files", "list"], path);
        url.query_pairs_mut().append_pair("depth", &depth.to_string());
        let list: FileList = self.sandbox.client.get(url).await?;
        Ok(list.items)
    }

    /// Makes a directory and those on the way.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn mkdir(&self, path: &str) -> Result<(), Error> {
        let request = self.sandbox.client.request(Method::POST, self.at(&["files", "mkdir"], path));
        send(request).await.map(drop)
    }

    /// Moves a file or directory.
    ///
    /// # Errors
    /// It is not there, or cannot go where it should.
    pub async fn rename(&self, source: &str, destination: &str) -> Result<(), Error> {
        let body =
            MoveFile { source: source.into(), destination: destination.into(), user: self.user.clone() };
        let url = self.sandbox.at(&["files", "move"]);
        send(self.sandbox.client.request(Method::POST, url).json(&body)).await.map(drop)
    }

    /// Removes a file, or a directory with all below it.
    ///
    /// # Errors
    /// It is not there or may not be removed.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.sandbox.client.delete(self.at(&["files"], path)).await
    }

    /// What changes below a directory, as it changes.
    ///
    /// # Errors
    /// There is no such directory.
    pub async fn watch(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent, Error>> + Send + Unpin + use<>, Error> {
        let request = self.sandbox.client.request(Method::GET, self.at(&["files", "watch"], path));
        let response = send(request.header("accept", "text/event-stream")).await?;
        Ok(Box::pin(sse::events(response, &[])))
    }

    async fn put(&self, url: Url, body: impl Into<Body>) -> Result<Uploaded, Error> {
        let request = self.sandbox.client.request(Method::PUT, url);
        json(send(request.header("content-type", "application/octet-stream").body(body)).await?).await
    }

    async fn read(&self, url: Url) -> Result<Download, Error> {
        let request = self.sandbox.client.request(Method::GET, url);
        Ok(Download { response: send(request).await? })
    }
}

impl Download {
    /// How many bytes will come, where that is known.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The bytes as they come.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + Unpin {
        let url = self.response.url().to_string();
        Box::pin(self.response.bytes_stream().map(move |piece| piece.map_err(|error| transport(&url, error))))
    }

    /// Writes all of it to `writer`; says how many bytes that were.
    ///
    /// # Errors
    /// The connection broke, or the writer failed.
    pub async fn write_to(self, writer: &mut (impl AsyncWrite + Unpin)) -> Result<u64, Error> {
        let mut stream = self.into_stream();
        let mut count = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            writer.write_all(&piece).await?;
            count += piece.len() as u64;
        }
        writer.flush().await?;
        Ok(count)
    }
}
