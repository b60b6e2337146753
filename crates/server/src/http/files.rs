//! Routes of files and directories. Bodies are streamed through, in both directions.

use atoll_core::early;
use atoll_proto::{
    api::{ErrorBody, FileInfo, FileList, MoveFile, Uploaded, WatchEvent},
    range::{Part, part},
};
use axum::{
    Json,
    body::{Body, BodyDataStream, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::BodyDataStream as Pieces;
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use super::{
    error::{Answer, plain},
    extract::{JsonBody, Query},
    sse,
};
use crate::services::{
    Services,
    access::Caller,
    error::ServiceError,
    files::{Place, Shape},
};

pub(super) fn place(query: &Query) -> Result<Place, ServiceError> {
    Ok(Place { path: query.need("path")?.to_owned(), user: query.get("user").map(str::to_owned) })
}

/// Reads a file.
///
/// A single `Range` of bytes is served.
#[utoipa::path(get, path = "/sandboxes/{id}/files", operation_id = "read_file", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("path" = String, Query, description = "Path; a relative one is below the user's home"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    responses((status = 200, body = [u8], content_type = "application/octet-stream"), (status = 206),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 416, body = ErrorBody)))]
pub async fn read(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: Query,
) -> Answer<Response> {
    let answer = services.download(&caller, &id, &place(&query)?, Shape::File).await?;
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    Ok(serve(answer, range))
}

fn serve(answer: http::Response<Incoming>, range: Option<&str>) -> Response {
    let (head, body) = answer.into_parts();
    let size: Option<u64> =
        head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut response = match size.map_or(Part::Whole, |size| part(range, size)) {
        Part::Whole => {
            let mut response = Body::new(body).into_response();
            if let Some(size) = size {
                response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
            }
            response
        }
        Part::Some { from, length } => partial(body, from, length, size.unwrap_or_default()),
        Part::Beyond => {
            let mut response = plain(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range",
                "the range begins beyond the end of the file",
            );
            content_range(response.headers_mut(), &format!("bytes */{}", size.unwrap_or_default()));
            return response;
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for name in [header::CONTENT_TYPE, header::CONTENT_DISPOSITION] {
        head.headers.get(&name).map(|value| headers.insert(name, value.clone()));
    }
    response
}

fn content_range(headers: &mut HeaderMap, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(header::CONTENT_RANGE, value);
    }
}

fn partial(body: Incoming, from: u64, length: u64, size: u64) -> Response {
    let pieces = Pieces::new(body);
    let wanted = stream::unfold((pieces, from, length), async |(mut pieces, mut skip, mut left)| {
        while left > 0 {
            let mut piece: Bytes = match pieces.next().await? {
                Ok(piece) => piece,
                Err(error) => return Some((Err(error), (pieces, skip, 0))),
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            piece = piece.slice(skipped..);
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= piece.len() as u64;
            if !piece.is_empty() {
                return Some((Ok(piece), (pieces, skip, left)));
            }
        }
        None
    });
    let mut response = (StatusCode::PARTIAL_CONTENT, Body::from_stream(wanted)).into_response();
    content_range(response.headers_mut(), &format!("bytes {from}-{}/{size}", from + length - 1));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// Writes a file; the body is its content.
///
/// Parents are made. The file is seen when it is complete.
#[utoipa::path(put, path = "/sandboxes/{id}/files", operation_id = "write_file", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("path" = String, Query, description = "Path; a relative one is below the user's home"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses((status = 200, body = Uploaded), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 507, body = ErrorBody)))]
pub async fn write(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
    request: Request,
) -> Answer<Json<Uploaded>> {
    Ok(Json(receive(&services, &caller, &id, &place(&query)?, Shape::File, request).await?))
}

/// Passes an upload on.
pub(super) async fn receive(
    services: &Services,
    caller: &Caller,
    id: &str,
    place: &Place,
    shape: Shape,
    request: Request,
) -> Result<Uploaded, ServiceError> {
    let body = SharedBody(Arc::new(Mutex::new(request.into_body().into_data_stream())));
    let uploaded = services.upload(caller, id, place, shape, body.clone()).await;
    if uploaded.is_err() {
        body.drain().await;
    }
    uploaded
}

/// A body that outlives the transfer that reads it, so that the rest can be read after a refusal.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<BodyDataStream>>);

impl Stream for SharedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    }
}

impl SharedBody {
    async fn drain(self) {
        let read = self.try_fold(0, async |total, piece| match total + piece.len() {
            total if total < early::REST => Ok(total),
            _ => Err(axum::Error::new("enough")),
        });
        // However it ends, the answer goes out.
        let _ = tokio::time::timeout(early::REST_FOR, read).await;
    }
}

/// Removes a file, or a directory with everything below it.
#[utoipa::path(delete, path = "/sandboxes/{id}/files", operation_id = "remove_file", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"), ("path" = String, Query, description = "Path"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    responses((status = 204), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn remove(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    services.remove_file(&caller, &id, place(&query)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says what is at a path.
#[utoipa::path(get, path = "/sandboxes/{id}/files/stat", operation_id = "stat_file", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"), ("path" = String, Query, description = "Path"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    responses((status = 200, body = FileInfo), (status = 404, body = ErrorBody)))]
pub async fn stat(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Json<FileInfo>> {
    Ok(Json(services.stat(&caller, &id, place(&query)?).await?))
}

/// Lists what is below a directory.
#[utoipa::path(get, path = "/sandboxes/{id}/files/list", operation_id = "list_files", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"), ("path" = String, Query, description = "Path"),
        ("depth" = Option<u32>, Query, description = "How far down; 1 when absent"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    responses((status = 200, body = FileList), (status = 404, body = ErrorBody)))]
pub async fn list(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Json<FileList>> {
    let depth = query.number("depth")?.unwrap_or(1);
    Ok(Json(services.list_files(&caller, &id, place(&query)?, depth).await?))
}

/// Makes a directory with its parents.
#[utoipa::path(post, path = "/sandboxes/{id}/files/mkdir", operation_id = "make_directory", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"), ("path" = String, Query, description = "Path"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    responses((status = 201, body = FileInfo), (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn mkdir(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<(StatusCode, Json<FileInfo>)> {
    Ok((StatusCode::CREATED, Json(services.make_directory(&caller, &id, place(&query)?).await?)))
}

/// Renames a file or directory.
#[utoipa::path(post, path = "/sandboxes/{id}/files/move", operation_id = "move_file", tag = "files", request_body = MoveFile,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = FileInfo), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn rename(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<MoveFile>,
) -> Answer<Json<FileInfo>> {
    Ok(Json(services.move_file(&caller, &id, body.value).await?))
}

/// Tells changes in a directory as events, from now on.
#[utoipa::path(get, path = "/sandboxes/{id}/files/watch", operation_id = "watch_files", tag = "files",
    params(("id" = String, Path, description = "Id of the sandbox"), ("path" = String, Query, description = "Path"),
        ("recursive" = Option<bool>, Query, description = "Also in directories below"),
        ("user" = Option<String>, Query, description = "As whom; the sandbox's default user when absent")),
    responses((status = 200, body = WatchEvent, content_type = "text/event-stream"), (status = 404, body = ErrorBody)))]
pub async fn watch(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Response> {
    let recursive = query.switch("recursive")?.unwrap_or(false);
    let changes = services.watch_files(&caller, &id, place(&query)?, recursive).await?;
    Ok(sse::events(sse::until(changes, services.base.stopping.clone())))
}
