//! Builds of templates: asked for, fed with files, begun, followed.

use atoll_core::{
    build::{Build, BuildState, Level},
    image::RegistryLogin,
};
use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
};
use jiff::Timestamp;
use std::sync::Arc;

use super::{
    shape::E2bError,
    template_types::{
        BuildLine, BuildLog, BuildReason, BuildStatus, NewBuild, NewStep, Registry, RequestedBuild,
        StartBuild, UploadPlace, status,
    },
};
use crate::{
    http::{
        error::Answer,
        extract::{JsonBody, Query},
    },
    services::{
        Services,
        access::Caller,
        builds::{LogQuery, RequestBuild, Wanted, WantedStep},
        error::ServiceError,
    },
};

/// Lines that belong to a failure.
const REASONS: usize = 10;

/// Asks for a build. Its steps come with another request.
#[utoipa::path(post, path = "/v3/templates", operation_id = "e2b_request_build", tag = "e2b", request_body = NewBuild,
    responses((status = 202, body = RequestedBuild), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 501, body = E2bError)))]
pub async fn request(
    State(services): State<Arc<Services>>,
    caller: Caller,
    body: JsonBody<NewBuild>,
) -> Answer<(StatusCode, Json<RequestedBuild>)> {
    let NewBuild { name, alias, tags, cpu_count, memory_mb } = body.value;
    let name = name.or(alias).ok_or_else(|| ServiceError::invalid("name", "is needed: the template's"))?;
    let ask = RequestBuild { name, tags: tags.unwrap_or_default(), cpu_count, memory_mb };
    let build = services.request_build(&caller, ask).await?;
    Ok((StatusCode::ACCEPTED, Json(build.into())))
}

/// Says where the files of a step are to be brought, and whether they are here already.
#[utoipa::path(get, path = "/templates/{id}/files/{hash}", operation_id = "e2b_get_upload", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template"), ("hash" = String, Path, description = "Hash of the files")),
    responses((status = 201, body = UploadPlace), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError), (status = 501, body = E2bError)))]
pub async fn files(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path((id, hash)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer<(StatusCode, Json<UploadPlace>)> {
    let (token, present) = services.upload_token(&caller, &id, &hash).await?;
    let here = own_address(&services, &uri, &headers)?;
    let url = format!("{here}{}?token={token}", uri.path());
    Ok((StatusCode::CREATED, Json(UploadPlace { present, url })))
}

/// How the caller has reached this server: what it was told may stand behind something that knows better.
fn own_address(services: &Services, uri: &Uri, headers: &HeaderMap) -> Result<String, ServiceError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("x-forwarded-host").or_else(|| text(header::HOST.as_str()));
    let host = host.or_else(|| uri.authority().map(|it| it.as_str()));
    let host = host.ok_or_else(|| ServiceError::invalid("Host", "is needed"))?;
    let own = if services.base.config.tls.is_some() { "https" } else { "http" };
    let scheme = text("x-forwarded-proto").filter(|scheme| matches!(*scheme, "http" | "https"));
    Ok(format!("{}://{host}", scheme.unwrap_or(own)))
}

/// Takes the files of a step in, a tar archive that may be gzipped. Whoever has the address may bring them.
#[utoipa::path(put, path = "/templates/{id}/files/{hash}", operation_id = "e2b_upload", tag = "e2b", security(()),
    params(("id" = String, Path, description = "Name of the template"), ("hash" = String, Path, description = "Hash of the files"),
        ("token" = String, Query, description = "Part of the address that was given")),
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses((status = 200), (status = 400, body = E2bError), (status = 403, body = E2bError), (status = 413, body = E2bError),
        (status = 501, body = E2bError), (status = 503, body = E2bError)))]
pub async fn upload(
    State(services): State<Arc<Services>>,
    Path(path): Path<(String, String)>,
    query: Query,
    request: Request,
) -> Answer<StatusCode> {
    let token = query.need("token")?;
    services.receive_upload(token, &path.1, request.into_body().into_data_stream()).await?;
    Ok(StatusCode::OK)
}

/// Begins a build.
#[utoipa::path(post, path = "/v2/templates/{id}/builds/{build}", operation_id = "e2b_start_build", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template"), ("build" = String, Path, description = "Id of the build")),
    request_body = StartBuild,
    responses((status = 202), (status = 400, body = E2bError), (status = 401, body = E2bError), (status = 403, body = E2bError),
        (status = 404, body = E2bError), (status = 409, body = E2bError), (status = 501, body = E2bError),
        (status = 503, body = E2bError)))]
pub async fn start(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path((id, build)): Path<(String, String)>,
    body: JsonBody<StartBuild>,
) -> Answer<StatusCode> {
    services.start_build(&caller, &id, &build, wanted(body.value)?).await?;
    Ok(StatusCode::ACCEPTED)
}

fn wanted(asked: StartBuild) -> Result<Wanted, ServiceError> {
    let login = asked.from_image_registry.map(login).transpose()?;
    let steps = asked.steps.unwrap_or_default().into_iter().map(|step: NewStep| WantedStep {
        kind: step.kind,
        args: step.args.unwrap_or_default(),
        files: step.files_hash,
        force: step.force.unwrap_or_default(),
    });
    Ok(Wanted {
        from_image: asked.from_image,
        from_template: asked.from_template,
        login,
        force: asked.force.unwrap_or_default(),
        steps: steps.collect(),
        start: asked.start_cmd,
        ready: asked.ready_cmd,
    })
}

fn login(registry: Registry) -> Result<RegistryLogin, ServiceError> {
    match (registry.kind.as_str(), registry.username, registry.password) {
        ("registry", Some(username), Some(password)) => Ok(RegistryLogin { username, password }),
        ("registry", ..) => {
            let problem = "needs `username` and `password`";
            Err(ServiceError::invalid("fromImageRegistry", problem))
        }
        (kind, ..) => {
            let problem = format!(
                "{kind:?} is not supported: only `registry`, with a user name and a password or token that the registry takes"
            );
            Err(ServiceError::invalid("fromImageRegistry.type", problem))
        }
    }
}

/// Says how a build stands, with the next lines of its log.
#[utoipa::path(get, path = "/templates/{id}/builds/{build}/status", operation_id = "e2b_get_build_status", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template"), ("build" = String, Path, description = "Id of the build"),
        ("logsOffset" = Option<usize>, Query, description = "Lines that are known"),
        ("limit" = Option<usize>, Query, description = "Most lines; never more than 100"),
        ("level" = Option<String>, Query, description = "`debug`, `info`, `warn` or `error`: only lines that matter as much")),
    responses((status = 200, body = BuildStatus), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn build_status(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path((id, build)): Path<(String, String)>,
    query: Query,
) -> Answer<Json<BuildStatus>> {
    let build = services.build(&caller, &id, &build).await?;
    let offset = query.number("logsOffset")?.unwrap_or_default();
    let ask =
        LogQuery { offset, level: level(&query)?, limit: query.number("limit")?, ..LogQuery::default() };
    let log_entries = lines(&services, &build, &ask).await?;
    let reason = reason(&services, &build).await?;
    let status = status(&build.state);
    let (template_id, build_id) = (build.template, build.id);
    Ok(Json(BuildStatus { logs: Vec::new(), log_entries, template_id, build_id, status, reason }))
}

async fn lines(services: &Services, build: &Build, ask: &LogQuery) -> Result<Vec<BuildLine>, ServiceError> {
    Ok(services.build_log(build, ask).await?.into_iter().map(BuildLine::from).collect())
}

/// Why it failed, with the last lines that tell of it.
async fn reason(services: &Services, build: &Build) -> Result<Option<BuildReason>, ServiceError> {
    let BuildState::Failed { message, step } = &build.state else { return Ok(None) };
    let ask = LogQuery { level: Some(Level::Error), backward: true, ..LogQuery::default() };
    let mut told = services.build_log(build, &ask).await?;
    told.retain(|line| line.step == *step);
    told.truncate(REASONS);
    let log_entries = told.into_iter().rev().map(BuildLine::from).collect();
    Ok(Some(BuildReason { message: message.clone(), step: step.clone(), log_entries }))
}

fn level(query: &Query) -> Result<Option<Level>, ServiceError> {
    match query.get("level") {
        None => Ok(None),
        Some("debug") => Ok(Some(Level::Debug)),
        Some("info") => Ok(Some(Level::Info)),
        Some("warn") => Ok(Some(Level::Warn)),
        Some("error") => Ok(Some(Level::Error)),
        Some(other) => {
            Err(ServiceError::invalid("level", format!("{other:?} is not debug, info, warn or error")))
        }
    }
}

/// Reads a build's log, in either direction.
#[utoipa::path(get, path = "/templates/{id}/builds/{build}/logs", operation_id = "e2b_get_build_logs", tag = "e2b",
    params(("id" = String, Path, description = "Name of the template"), ("build" = String, Path, description = "Id of the build"),
        ("cursor" = Option<i64>, Query, description = "Milliseconds since the epoch: lines from then on or, backward, up to then"),
        ("limit" = Option<usize>, Query, description = "Most lines; never more than 100"),
        ("direction" = Option<String>, Query, description = "`forward` or `backward`"),
        ("level" = Option<String>, Query, description = "`debug`, `info`, `warn` or `error`: only lines that matter as much")),
    responses((status = 200, body = BuildLog), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError)))]
pub async fn build_logs(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path((id, build)): Path<(String, String)>,
    query: Query,
) -> Answer<Json<BuildLog>> {
    let build = services.build(&caller, &id, &build).await?;
    let backward = match query.get("direction") {
        None | Some("forward") => false,
        Some("backward") => true,
        Some(other) => {
            let problem = format!("{other:?} is neither forward nor backward");
            return Err(ServiceError::invalid("direction", problem).into());
        }
    };
    let refuse = || ServiceError::invalid("cursor", "is no time in milliseconds since the epoch");
    let from = query.number::<i64>("cursor")?.map(|ms| Timestamp::from_millisecond(ms).map_err(|_| refuse()));
    let ask = LogQuery {
        level: level(&query)?,
        limit: query.number("limit")?,
        from: from.transpose()?,
        backward,
        ..LogQuery::default()
    };
    Ok(Json(BuildLog { logs: lines(&services, &build, &ask).await? }))
}
