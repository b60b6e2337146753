//! All routes, what is around every one of them, and their description.

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, OriginalUri, Request, State},
    http::{HeaderValue, StatusCode},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::get,
};
use std::{any::Any, sync::Arc};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use utoipa::openapi::{
    InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement,
    security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    archive, auth, dialects, docs, error::plain, exec, files, form, images, interactive, keys, links, logs,
    refusals, sandboxes, snapshots, system, templates, volumes,
};
use crate::{
    request_id,
    services::{Services, error},
    world,
};

/// Longest request id that is taken over from a caller.
const LONGEST_ID: usize = 128;

fn api() -> OpenApiRouter<Arc<Services>> {
    OpenApiRouter::new()
        .routes(routes!(sandboxes::create, sandboxes::list))
        .routes(routes!(sandboxes::get, sandboxes::update, sandboxes::delete))
        .routes(routes!(sandboxes::start))
        .routes(routes!(sandboxes::stop))
        .routes(routes!(sandboxes::restart))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(sandboxes::usage))
        .routes(routes!(links::create))
        .routes(routes!(logs::logs))
        .routes(routes!(exec::exec))
        .routes(routes!(interactive::interactive))
        .routes(routes!(exec::processes))
        .routes(routes!(exec::signal))
        .routes(routes!(files::read, files::write, form::upload, files::remove))
        .routes(routes!(files::stat))
        .routes(routes!(files::list))
        .routes(routes!(files::mkdir))
        .routes(routes!(files::rename))
        .routes(routes!(files::watch))
        .routes(routes!(archive::read, archive::write))
        .routes(routes!(images::list, images::pull, images::remove))
        .routes(routes!(images::prune))
        .routes(routes!(templates::list))
        .routes(routes!(templates::put, templates::get, templates::delete))
        .routes(routes!(templates::versions))
        .routes(routes!(templates::rollback))
        .routes(routes!(volumes::list))
        .routes(routes!(volumes::remove))
        .routes(routes!(snapshots::take))
        .routes(routes!(snapshots::list))
        .routes(routes!(snapshots::get, snapshots::delete))
        .routes(routes!(snapshots::fork))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::delete))
        .routes(routes!(system::doctor))
        .routes(routes!(system::version))
}

fn description() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Atoll")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Sandboxes for people and programs. Every error has one shape, `ErrorBody`; every answer has the header \
             `X-Request-Id`.",
        ));
    let mut api = OpenApiBuilder::new().info(info.build()).build();
    let mut components = utoipa::openapi::Components::new();
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    components.add_security_scheme("key", header);
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    api.components = Some(components);
    let either = ["key", "bearer"].map(|name| SecurityRequirement::new(name, Vec::<String>::new()));
    api.security = Some(either.to_vec());
    api
}

/// The API's description, OpenAPI 3.1, as JSON.
#[must_use]
pub fn openapi() -> String {
    let (_, mut api) = OpenApiRouter::with_openapi(description())
        .nest("/api/v1", api())
        .merge(dialects::kata::api())
        .merge(dialects::per_user::api())
        .merge(dialects::e2b::api())
        .merge(dialects::e2b::signed())
        .split_for_parts();
    refusals::describe(&mut api);
    let mut text = api.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// The API and its documentation.
fn native(services: &Arc<Services>) -> Router<Arc<Services>> {
    let (api, _) = api().split_for_parts();
    let (dialects, _) = dialects::kata::api().merge(dialects::per_user::api()).split_for_parts();
    let (e2b, _) = dialects::e2b::api().split_for_parts();
    let (signed, _) = dialects::e2b::signed().split_for_parts();
    let known = from_fn_with_state(services.clone(), auth::identify);
    Router::new()
        .nest("/api/v1", api.fallback(unknown).route_layer(known.clone()))
        .merge(dialects.route_layer(known.clone()))
        .merge(e2b.route_layer(known).merge(signed).layer(from_fn(dialects::e2b::in_their_shape)))
        .route("/openapi.json", get(docs::description))
        .route("/docs", get(docs::page))
        .route("/scalar/v1", get(docs::page))
        .route("/docs/docs.js", get(docs::script))
        .route("/docs/docs.css", get(docs::style))
}

/// Everything that the server answers.
pub fn router(services: Arc<Services>) -> Router {
    let health = Router::new()
        .route("/healthz", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .route("/metrics", get(system::metrics));
    let routes = if services.base.config.gateway_only { health } else { health.merge(native(&services)) };
    routes
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(services.clone(), auth::same_machine))
        .layer(CatchPanicLayer::custom(broken))
        .layer(from_fn_with_state(services.clone(), observe))
        .with_state(services)
}

async fn unknown(request: Request) -> Response {
    let message = format!("there is nothing at {}; see /docs", path_of(&request));
    let answer = plain(StatusCode::NOT_FOUND, "unknown_route", &message);
    in_their_shape(path_of(&request), answer)
}

/// The path as it was asked for: a nested router is shown the rest of it.
fn path_of(request: &Request) -> &str {
    request.extensions().get::<OriginalUri>().map_or_else(|| request.uri().path(), |uri| uri.path())
}

/// Nothing is known of the path but how it begins.
fn in_their_shape(path: &str, answer: Response) -> Response {
    if dialects::e2b::is_theirs(path) { dialects::e2b::reshaped(answer) } else { answer }
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("{} cannot be done at {}; see /docs", request.method(), path_of(&request));
    let answer = plain(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", &message);
    in_their_shape(path_of(&request), answer)
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over by value")]
fn broken(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    tracing::error!(panic = text, "a handler broke");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error::broken())
}

/// Names every request, counts it and notes how it ended.
async fn observe(State(services): State<Arc<Services>>, request: Request, next: Next) -> Response {
    let id = request_id(&services, &request);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", %id, %method, path = request.uri().path());
    let began = std::time::Instant::now();
    let answering = request_id::scope(id.clone(), next.run(request));
    let mut response = answering.instrument(span.clone()).await;
    let (status, took) = (response.status().as_u16(), began.elapsed());
    span.in_scope(|| tracing::info!(status, took_ms = took.as_millis(), "answered"));
    services.base.metrics.requested(method.as_str(), &route, status);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// The caller's id, when it is a harmless one, or a new one.
fn request_id(services: &Services, request: &Request) -> String {
    let given = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    let plain = |id: &&str| {
        (1..=LONGEST_ID).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/=+".contains(&b))
    };
    let made = || hex::encode(world::bytes::<8>(&*services.base.world).unwrap_or_default());
    given.filter(plain).map_or_else(made, str::to_owned)
}
