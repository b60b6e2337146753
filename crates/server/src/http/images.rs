//! Routes of images.

use atoll_proto::api::{ErrorBody, Image, ImageList, Pruned, PullEvent, PullImage};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use std::sync::Arc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    error::Answer,
    extract::{JsonBody, Query, wants_events},
    sse,
};
use crate::services::{Services, access::Caller};

/// Lists the images that sandboxes can start from without waiting.
#[utoipa::path(get, path = "/images", operation_id = "list_images", tag = "images", responses((status = 200, body = ImageList)))]
pub async fn list(State(services): State<Arc<Services>>, _: Caller) -> Answer<Json<ImageList>> {
    Ok(Json(services.images().await?))
}

/// Fetches an image, or refreshes it.
///
/// With `Accept: text/event-stream` the answer is a stream of `PullEvent`.
#[utoipa::path(post, path = "/images", operation_id = "pull_image", tag = "images", request_body = PullImage,
    responses((status = 201, body = Image), (status = 200, body = PullEvent, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 502, body = ErrorBody)))]
pub async fn pull(
    State(services): State<Arc<Services>>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody<PullImage>,
) -> Answer<Response> {
    if wants_events(&headers) {
        let events = services.pull_image(&caller, body.value)?;
        return Ok(sse::events(UnboundedReceiverStream::new(events)));
    }
    let image = services.pull_image_now(&caller, body.value).await?;
    Ok((StatusCode::CREATED, Json(image)).into_response())
}

/// Forgets an image.
///
/// One that a sandbox uses is refused.
#[utoipa::path(delete, path = "/images", operation_id = "remove_image", tag = "images",
    params(("reference" = String, Query, description = "The name it was pulled by")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn remove(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Query,
) -> Answer<StatusCode> {
    services.remove_image(&caller, query.need("reference")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes every image that neither a sandbox nor a template uses.
#[utoipa::path(post, path = "/images/prune", operation_id = "prune_images", tag = "images", responses((status = 200, body = Pruned)))]
pub async fn prune(State(services): State<Arc<Services>>, caller: Caller) -> Answer<Json<Pruned>> {
    Ok(Json(services.prune_images(&caller).await?))
}
