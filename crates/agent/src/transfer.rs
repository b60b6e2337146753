//! `POST /files`: whole files, streamed at any size, each as a body or as a part of a form.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{self, Either};
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use serde::Serialize;

use crate::app::App;
use crate::entries::METADATA_PREFIX;
use crate::errors::ApiError;
use crate::gunzip::gunzip;
use crate::http::{self as web, Body};
use crate::paths;
use crate::spool::Spool;
use crate::users::Account;

/// Most bytes of an upload that wait while others are written. Large writes cost a file system less.
const BATCH: usize = 1 << 20;

/// Longest name of metadata: an attribute's has 255 bytes, of which some are ours.
const LONGEST_KEY: usize = 255 - METADATA_PREFIX.len();

/// The part of a form that is a file; others are none of ours.
const FILE: &str = "file";

/// What is answered for each file that was written.
#[derive(Serialize)]
pub struct Written {
    name: String,
    r#type: &'static str,
    path: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

impl Written {
    /// Of a file that was asked to be at `path` and is at `placed`.
    pub fn new(path: String, placed: &Path, metadata: BTreeMap<String, String>) -> Self {
        let name = Path::new(&path).file_name().or(placed.file_name());
        let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { name, r#type: "file", path, metadata }
    }
}

/// The path and user of a request.
pub fn target(app: &App, request: &Request<Incoming>) -> Result<(Account, String), ApiError> {
    let account = app.account(web::user(request.uri(), request.headers())?.as_deref())?;
    let path = web::query(request.uri(), "path")?;
    let path = path.ok_or_else(|| ApiError::BadRequest("the query names no path".into()))?;
    let path = paths::resolve(&path, &account.home)?;
    Ok((account, path))
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
    let headers = Headers::read(request.headers())?;
    let bad = |error: multer::Error| ApiError::BadRequest(format!("the form cannot be read: {error}"));
    // What is compressed is the form, not the files in it.
    let body = body_stream(request.into_body());
    let body = if headers.gzip { gunzip(body).left_stream() } else { body.right_stream() };
    let headers = Headers { gzip: false, ..headers };
    let mut form = multer::Multipart::new(body, boundary);
    let mut written: Vec<Written> = Vec::new();
    while let Some(field) = form.next_field().await.map_err(bad)? {
        if field.name() != Some(FILE) {
            continue;
        }
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
        return Err(ApiError::BadRequest(format!("the form has no part that is named '{FILE}'")));
    }
    Ok(written)
}

/// What the headers of an upload say.
struct Headers {
    gzip: bool,
    metadata: BTreeMap<String, String>,
}

impl Headers {
    fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let encoding =
            headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
        let gzip = match encoding.as_deref() {
            None | Some(b"identity" | b"") => false,
            Some(b"gzip") => true,
            Some(_) => return Err(ApiError::BadRequest("only gzip is known as content encoding".into())),
        };
        Ok(Self { gzip, metadata: metadata(headers)? })
    }
}

/// What clients want to be kept with a file, each under a name that the kernel takes as that of an attribute.
fn metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, ApiError> {
    let mut metadata = BTreeMap::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix("x-metadata-").filter(|key| !key.is_empty()) else {
            continue;
        };
        if key.len() > LONGEST_KEY {
            return Err(ApiError::BadRequest(format!(
                "metadata '{key}': the name is longer than {LONGEST_KEY}"
            )));
        }
        let value = value.to_str();
        let value =
            value.map_err(|_| ApiError::BadRequest(format!("metadata '{key}': the value is no text")))?;
        // Of several values the first one counts.
        metadata.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    Ok(metadata)
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
    Ok(Written::new(path, &placed, headers.metadata.clone()))
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
