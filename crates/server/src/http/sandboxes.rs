//! Routes of sandboxes.

use atoll_core::driver::{CreateStep, ListQuery};
use atoll_proto::api::{CreateEvent, CreateSandbox, ErrorBody, Sandbox, SandboxList, UpdateSandbox, Usage};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, stream};
use std::sync::Arc;
use tokio::sync::watch;

use super::{
    error::Answer,
    extract::{JsonBody, Query, wants_events},
    page, sse,
};
use crate::services::{
    Services,
    access::Caller,
    convert,
    creation::Course,
    error::ServiceError,
    idempotency::Promise,
    sandboxes::{Begun, Move},
};

/// Makes a sandbox from an image or a template.
///
/// The answer comes when it can be used; with `wait=false` at once, to be polled; with `Accept: text/event-stream` as a
/// stream of `CreateEvent`. Whoever leaves does not stop the creation.
#[utoipa::path(post, path = "/sandboxes", operation_id = "create_sandbox", tag = "sandboxes", request_body = CreateSandbox,
    params(("wait" = Option<bool>, Query, description = "`false`: answer 202 at once, with phase `creating`"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with the same key and body \
            gives the same sandbox, for 24 hours")),
    responses((status = 201, body = Sandbox), (status = 202, body = Sandbox),
        (status = 200, body = CreateEvent, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(
    State(services): State<Arc<Services>>,
    caller: Caller,
    headers: HeaderMap,
    query: Query,
    body: JsonBody<CreateSandbox>,
) -> Answer<Response> {
    let wait = query.switch("wait")?.unwrap_or(true);
    let promise = promise(&headers, &body.bytes)?;
    let begun = services.create(&caller, body.value, promise).await?;
    if wants_events(&headers) {
        return Ok(sse::events(events(services, begun)));
    }
    let (status, sandbox) = match wait {
        true => (StatusCode::CREATED, begun.ended().await?),
        false => (StatusCode::ACCEPTED, begun.sandbox().clone()),
    };
    let location = format!("/api/v1/sandboxes/{}", sandbox.id());
    Ok((status, [(header::LOCATION, location)], Json(services.shown(sandbox))).into_response())
}

/// What an `Idempotency-Key` promises, where there is one.
pub fn promise(headers: &HeaderMap, body: &[u8]) -> Result<Option<Promise>, ServiceError> {
    let key = headers.get("idempotency-key");
    key.map(|key| Promise::new(key.to_str().unwrap_or_default(), body)).transpose()
}

/// Everything that happens until the sandbox can be used or could not be made.
fn events(services: Arc<Services>, begun: Begun) -> impl Stream<Item = CreateEvent> + Send {
    let id = begun.sandbox().id().to_string();
    steps(begun).map(event_with(services, id))
}

/// A step of a creation, or its end.
pub enum Step {
    Did(CreateStep),
    Ended(Result<Box<atoll_core::sandbox::Sandbox>, ServiceError>),
}

/// Every step from the beginning, and the end.
pub fn steps(begun: Begun) -> impl Stream<Item = Step> + Send {
    match begun {
        Begun::Made(sandbox) => stream::iter([Step::Ended(Ok(sandbox))]).left_stream(),
        Begun::UnderWay(creation) => {
            stream::unfold(Some((creation.watch(), 0)), next_steps).flat_map(stream::iter).right_stream()
        }
    }
}

type Place = Option<(watch::Receiver<Course>, usize)>;

/// The steps since `seen`, and, when it is over, the end.
async fn next_steps(place: Place) -> Option<(Vec<Step>, Place)> {
    let (mut course, seen) = place?;
    course.changed().await.ok()?;
    let (new, end) = {
        let now = course.borrow_and_update();
        (now.steps[seen.min(now.steps.len())..].to_vec(), now.end.clone())
    };
    let seen = seen + new.len();
    let mut steps: Vec<Step> = new.into_iter().map(Step::Did).collect();
    match end {
        None => Some((steps, Some((course, seen)))),
        Some(end) => {
            steps.push(Step::Ended(end.map(Box::new)));
            Some((steps, None))
        }
    }
}

fn event_with(services: Arc<Services>, id: String) -> impl FnMut(Step) -> CreateEvent {
    move |step| match step {
        Step::Did(CreateStep::Queued) => CreateEvent::Queued { id: id.clone() },
        Step::Did(CreateStep::Pulling { percent }) => CreateEvent::Pulling { percent },
        Step::Did(CreateStep::Preparing) => CreateEvent::Preparing,
        Step::Did(CreateStep::Starting) => CreateEvent::Starting,
        Step::Ended(Ok(sandbox)) => CreateEvent::Ready { sandbox: Box::new(services.shown(*sandbox)) },
        Step::Ended(Err(error)) => CreateEvent::Failed { error: error.tell() },
    }
}

/// Lists sandboxes, newest first.
#[utoipa::path(get, path = "/sandboxes", operation_id = "list_sandboxes", tag = "sandboxes",
    params(("limit" = Option<usize>, Query, description = "Items of a page: 1 to 1000, 100 when absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("label" = Option<Vec<String>>, Query, description = "`key=value`; all that are given must match"),
        ("owner" = Option<String>, Query, description = "Only this user's"),
        ("phase" = Option<Vec<String>>, Query, description = "Any of these phases"),
        ("status" = Option<Vec<String>>, Query, description = "Any of these, in the words of older clients")),
    responses((status = 200, body = SandboxList), (status = 400, body = ErrorBody)))]
pub async fn list(
    State(services): State<Arc<Services>>,
    caller: Caller,
    query: Query,
) -> Answer<Json<SandboxList>> {
    Ok(Json(services.list(&caller, list_query(&query)?).await?))
}

fn list_query(query: &Query) -> Result<ListQuery, ServiceError> {
    let (limit, cursor) = (page::limit(query)?, page::position(query, "cursor")?);
    let mut phases = Vec::new();
    for field in ["phase", "status"] {
        for word in query.all(field).flat_map(|words| words.split(',')).filter(|word| !word.is_empty()) {
            phases.extend(convert::phases_named(field, word)?);
        }
    }
    let owner = query.get("owner").map(str::to_owned);
    let labels = convert::labels(query.all("label"))?;
    Ok(ListQuery { owner, labels, phases, limit, cursor, ..ListQuery::default() })
}

/// Gets a sandbox.
#[utoipa::path(get, path = "/sandboxes/{id}", operation_id = "get_sandbox", tag = "sandboxes",
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = Sandbox), (status = 404, body = ErrorBody)))]
pub async fn get(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Sandbox>> {
    Ok(Json(services.shown(services.sandbox(&caller, &id).await?)))
}

/// Changes the deadline or the network of a sandbox.
#[utoipa::path(patch, path = "/sandboxes/{id}", operation_id = "update_sandbox", tag = "sandboxes", request_body = UpdateSandbox,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = Sandbox), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn update(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<UpdateSandbox>,
) -> Answer<Json<Sandbox>> {
    Ok(Json(services.shown(services.update(&caller, &id, body.value).await?)))
}

/// Takes a sandbox down with its files.
///
/// The answer comes when that is recorded.
#[utoipa::path(delete, path = "/sandboxes/{id}", operation_id = "delete_sandbox", tag = "sandboxes",
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub async fn delete(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    services.delete(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a sandbox uses now.
#[utoipa::path(get, path = "/sandboxes/{id}/usage", operation_id = "get_usage", tag = "sandboxes",
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 200, body = Usage), (status = 404, body = ErrorBody)))]
pub async fn usage(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Usage>> {
    Ok(Json(services.usage(&caller, &id).await?))
}

/// A route that moves a sandbox to another phase.
macro_rules! move_route {
    ($name:ident, $path:literal, $id:literal, $change:expr, $text:literal) => {
        #[doc = $text]
        #[utoipa::path(post, path = $path, operation_id = $id, tag = "sandboxes",
                            params(("id" = String, Path, description = "Id of the sandbox")),
                            responses((status = 200, body = Sandbox), (status = 404, body = ErrorBody),
                                (status = 409, body = ErrorBody)))]
        pub async fn $name(
            State(services): State<Arc<Services>>,
            caller: Caller,
            Path(id): Path<String>,
        ) -> Answer<Json<Sandbox>> {
            Ok(Json(services.shown(services.change_phase(&caller, &id, $change).await?)))
        }
    };
}

move_route!(
    start,
    "/sandboxes/{id}/start",
    "start_sandbox",
    Move::Start,
    "Starts a stopped or failed sandbox on its files."
);
move_route!(
    stop,
    "/sandboxes/{id}/stop",
    "stop_sandbox",
    Move::Stop,
    "Ends the processes of a sandbox and keeps its files."
);
move_route!(
    restart,
    "/sandboxes/{id}/restart",
    "restart_sandbox",
    Move::Restart,
    "Stops a sandbox and starts it on its files."
);
move_route!(
    pause,
    "/sandboxes/{id}/pause",
    "pause_sandbox",
    Move::Pause,
    "Freezes a sandbox: memory and processes are kept."
);
move_route!(resume, "/sandboxes/{id}/resume", "resume_sandbox", Move::Resume, "Lets a frozen sandbox go on.");
