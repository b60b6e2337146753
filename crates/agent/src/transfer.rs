//! `/files`: whole files in and out, streamed at any size.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{self, Either};
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Incoming;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use crate::app::App;
use crate::errors::ApiError;
use crate::http::{self as web, Body};
use crate::paths;
use crate::spool::Spool;
use crate::users::Account;

/// One read of a download, and about as much of one write of an upload.
const CHUNK: usize = 256 << 10;

/// Most bytes of an upload that wait while others are written. Large writes cost a file system less.
const BATCH: usize = 1 << 20;

/// What an upload answers for each file.
#[derive(Serialize)]
struct Written {
    name: String,
    r#type: &'static str,
    path: String,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    metadata: std::collections::BTreeMap<String, String>,
}

/// The path and user of a request.
pub fn target(app: &App, request: &Request<Incoming>) -> Result<(Account, String), ApiError> {
    let account = app.account(web::user(request.uri(), request.headers())?.as_deref())?;
    let path = web::query(request.uri(), "path")?;
    let path = path.ok_or_else(|| ApiError::BadRequest("the query names no path".into()))?;
    let path = paths::resolve(&path, &account.home)?;
    Ok((account, path))
}

/// Sends a file.
pub async fn download(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (account, path) = target(app, &request)?;
    let opened = path.clone();
    let open = app.workers.run(&account, move || open(&opened)).await;
    let (file, size) = open.map_err(ApiError::file(path.clone()))?;
    let gzip = request.headers().get(header::ACCEPT_ENCODING).is_some_and(|value| value == "gzip");
    let mut response = Response::new(if request.method() == http::Method::HEAD {
        web::empty()
    } else if gzip {
        let reader = flate2::read::GzEncoder::new(file, flate2::Compression::fast());
        stream(Arc::clone(app), account, reader)
    } else {
        stream(Arc::clone(app), account, file.take(if size == 0 { u64::MAX } else { size }))
    });
    describe(response.headers_mut(), &path, (size > 0 && !gzip).then_some(size), gzip);
    Ok(response)
}

fn describe(headers: &mut HeaderMap, path: &str, size: Option<u64>, gzip: bool) {
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    if let Some(size) = size {
        headers.insert(header::CONTENT_LENGTH, size.into());
    }
    if gzip {
        headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
    let name = paths::split(path).map_or("", |(_, name)| name);
    let encoded: String = name.bytes().map(encode).collect();
    if let Ok(value) = header::HeaderValue::from_str(&format!("inline; filename*=UTF-8''{encoded}")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
}

fn encode(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// Opens a regular file without waiting: a fifo would wait for a writer.
fn open(path: &str) -> io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "the path is a directory"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the path is not a regular file"));
    }
    // A hint: without it reading ahead is only less eager.
    let _ = rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::Sequential);
    Ok((file, metadata.len()))
}

/// A body from a reader, one chunk at a time.
fn stream(app: Arc<App>, account: Account, reader: impl Read + Send + 'static) -> Body {
    let chunks = futures::stream::unfold(Some(reader), move |reader| {
        let (app, account) = (Arc::clone(&app), account.clone());
        async move {
            let reader = reader?;
            match app.workers.run(&account, move || read_chunk(reader)).await {
                Ok((chunk, _)) if chunk.is_empty() => None,
                Ok((chunk, reader)) => Some((Ok(Frame::data(chunk)), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        }
    });
    StreamBody::new(chunks).boxed_unsync()
}

fn read_chunk<R: Read>(mut reader: R) -> io::Result<(Bytes, R)> {
    // Not `read_to_end`, which begins with small reads.
    let (mut chunk, mut length) = (vec![0; CHUNK], 0);
    while length < CHUNK {
        match reader.read(&mut chunk[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(length);
    Ok((chunk.into(), reader))
}

/// Receives files: one as the whole body, or several as the parts of a form.
pub async fn upload(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(|value| multer::parse_boundary(value).ok());
    let written = match boundary {
        Some(boundary) => upload_form(app, request, &boundary).await?,
        None => {
            let (account, path) = target(app, &request)?;
            let headers = Headers::read(request.headers())?;
            let body = body_stream(request.into_body());
            vec![receive(app, &account, path, &headers, body).await?]
        }
    };
    Ok(web::json(StatusCode::OK, &written))
}

async fn upload_form(
    app: &Arc<App>,
    request: Request<Incoming>,
    boundary: &str,
) -> Result<Vec<Written>, ApiError> {
    let account = app.account(web::user(request.uri(), request.headers())?.as_deref())?;
    let given = web::query(request.uri(), "path")?;
    let headers = Headers { gzip: false, ..Headers::read(request.headers())? };
    let bad = |error: multer::Error| ApiError::BadRequest(format!("the form cannot be read: {error}"));
    let mut form = multer::Multipart::new(body_stream(request.into_body()), boundary);
    let mut written: Vec<Written> = Vec::new();
    while let Some(field) = form.next_field().await.map_err(bad)? {
        let path = given.as_deref().or(field.file_name());
        let path = path.ok_or_else(|| ApiError::BadRequest("a part of the form has no file name".into()))?;
        let path = paths::resolve(path, &account.home)?;
        if written.iter().any(|earlier| earlier.path == path) {
            return Err(ApiError::BadRequest(format!("{path} is uploaded twice")));
        }
        let data = field.map(|chunk| chunk.map_err(io::Error::other));
        written.push(receive(app, &account, path, &headers, data).await?);
    }
    if written.is_empty() {
        return Err(ApiError::BadRequest("the form has no files".into()));
    }
    Ok(written)
}

/// What the headers of an upload say.
struct Headers {
    gzip: bool,
    metadata: Vec<(String, String)>,
}

impl Headers {
    fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let gzip = match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => false,
            Some(b"gzip") => true,
            Some(_) => return Err(ApiError::BadRequest("only gzip is known as content encoding".into())),
        };
        let bad = || ApiError::BadRequest("metadata must be text".into());
        let named = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().strip_prefix("x-metadata-")?, value)));
        let metadata =
            named.map(|(name, value)| Ok((name.to_owned(), value.to_str().map_err(|_| bad())?.to_owned())));
        Ok(Self { gzip, metadata: metadata.collect::<Result<_, ApiError>>()? })
    }
}

fn body_stream(body: Incoming) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let frames = BodyStream::new(body).map(|frame| match frame {
        Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
        Err(error) => Err(io::Error::other(error)),
    });
    Box::pin(frames)
}

/// Writes one file. While one batch is written, the next is received.
async fn receive(
    app: &App,
    account: &Account,
    path: String,
    headers: &Headers,
    mut data: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
) -> Result<Written, ApiError> {
    let (target, gzip) = (path.clone(), headers.gzip);
    let mut spool = app
        .workers
        .run(account, move || Spool::create(&target, gzip))
        .await
        .map_err(ApiError::file(path.clone()))?;
    let mut batch = collect(&mut data, future::ready(())).await.1.map_err(aborted)?;
    while !batch.is_empty() {
        let writing = app.workers.run(account, move || spool.write(&batch).map(|()| spool));
        let (written, next) = collect(&mut data, writing).await;
        spool = written.map_err(ApiError::file(path.clone()))?;
        batch = next.map_err(aborted)?;
    }
    let metadata = headers.metadata.clone();
    let placed = app
        .workers
        .run(account, move || spool.commit(&metadata))
        .await
        .map_err(ApiError::file(path.clone()))?;
    let name = Path::new(&path).file_name().or(placed.file_name());
    Ok(Written {
        name: name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        r#type: "file",
        path,
        metadata: headers.metadata.iter().cloned().collect(),
    })
}

fn aborted(error: io::Error) -> ApiError {
    ApiError::BadRequest(format!("the upload ended early: {error}"))
}

/// What comes until `other` is done, but one piece at least and [`BATCH`] bytes at most. Empty at the end.
async fn collect<T>(
    data: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
    other: impl Future<Output = T>,
) -> (T, io::Result<Vec<Bytes>>) {
    let other = other.fuse();
    let mut other = pin!(other);
    let (mut batch, mut length, mut done) = (Vec::new(), 0, None);
    let ended = loop {
        if length >= BATCH || (done.is_some() && length > 0) {
            break Ok(());
        }
        match future::select(data.next(), &mut other).await {
            Either::Left((Some(Ok(piece)), _)) => {
                length += piece.len();
                batch.push(piece);
            }
            Either::Left((Some(Err(error)), _)) => break Err(error),
            Either::Left((None, _)) => break Ok(()),
            Either::Right((result, _)) => done = Some(result),
        }
    };
    let done = match done {
        Some(done) => done,
        None => other.await,
    };
    batch.retain(|piece: &Bytes| !piece.is_empty());
    (done, ended.map(|()| batch))
}
