//! `/dirs`: directories as tar archives, streamed both ways. The archive code blocks and has a thread of its own for
//! as long as a transfer takes.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::app::App;
use crate::errors::ApiError;
use crate::http::{self as web, Body};
use crate::transfer::target;
use crate::unpack::Unpack;
use crate::workers::Workers;
use crate::{pack, unpack};

/// Pieces on their way between the connection and the thread.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 64 << 10;
/// Transfers at a time.
static TRANSFERS: Semaphore = Semaphore::const_new(16);

fn permit() -> Result<tokio::sync::SemaphorePermit<'static>, ApiError> {
    TRANSFERS.try_acquire().map_err(|_| ApiError::Busy("too many directories are being transferred".into()))
}

fn no_thread(error: io::Error) -> ApiError {
    ApiError::Busy(format!("cannot start the transfer: {error}"))
}

/// Sends a directory. An error in the middle breaks the connection off, so that half an archive is not taken for one.
pub async fn download(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (account, path) = target(app, &request)?;
    let permit = permit()?;
    let checked = path.clone();
    let check = app.workers.run(&account, move || std::fs::read_dir(checked).map(drop)).await;
    check.map_err(ApiError::file(path.clone()))?;
    let (send, receive) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let work = move || {
        let _permit = permit;
        let mut writer = ChannelWriter { send, piece: Vec::new() };
        if let Err(error) = pack::pack(&path, &mut writer).and_then(|()| writer.flush()) {
            // The client may have gone.
            let _ = writer.send.blocking_send(Err(error));
        }
    };
    Workers::dedicated(account, work).map_err(no_thread)?;
    let pieces = futures::stream::unfold(receive, |mut receive| async move {
        let piece = receive.recv().await?;
        Some((piece.map(Frame::data), receive))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

/// Receives a directory; nothing is seen of it before it is complete.
pub async fn upload(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (account, path) = target(app, &request)?;
    let permit = permit()?;
    let (send, receive) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let (tell, told) = oneshot::channel();
    let destination = path.clone();
    let work = move || {
        let _permit = permit;
        let reader = ChannelReader { receive, piece: Bytes::new(), over: false };
        // The client may have gone.
        let _ = tell.send(Unpack::begin(&destination).and_then(|unpack| unpack.run_packed(reader)));
    };
    Workers::dedicated(account, work).map_err(no_thread)?;
    forward(request.into_body(), send).await;
    let told = told.await.unwrap_or_else(|_| Err(io::Error::other("the transfer was abandoned").into()));
    let entries = told.map_err(|error| match error {
        unpack::UnpackError::File(error) => ApiError::File { path: path.clone(), error },
        other => ApiError::BadRequest(other.to_string()),
    })?;
    Ok(web::json(StatusCode::OK, &serde_json::json!({ "path": path, "entries": entries })))
}

/// Passes the body on; the thread sees the end only when the body is complete.
async fn forward(body: Incoming, send: mpsc::Sender<io::Result<Bytes>>) {
    let mut frames = BodyStream::new(body);
    while let Some(frame) = frames.next().await {
        let piece = frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(io::Error::other);
        let skipped = matches!(&piece, Ok(piece) if piece.is_empty());
        if !skipped && send.send(piece).await.is_err() {
            return;
        }
    }
    // An empty piece is the end; a channel that just closes is an upload that was broken off.
    let _ = send.send(Ok(Bytes::new())).await;
}

struct ChannelWriter {
    send: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for ChannelWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(data);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        if piece.is_empty() {
            return Ok(());
        }
        self.send.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct ChannelReader {
    receive: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    over: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.over {
            match self.receive.blocking_recv() {
                Some(Ok(piece)) if piece.is_empty() => self.over = true,
                Some(piece) => self.piece = piece?,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(buffer.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}
