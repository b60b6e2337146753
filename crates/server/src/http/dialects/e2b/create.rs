//! Making a sandbox. The older path has another default and a switch that opens commands to everybody.

use atoll_proto::{
    api::{CreateSandbox, OnDeadline},
    init::ID_MARK,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use jiff::SignedDuration;
use std::sync::Arc;

use super::{
    network::{is_empty, policy},
    sandboxes::keep_for,
    shape::E2bError,
    snapshots,
    types::{MadeSandbox, NewSandbox},
};
use crate::{
    http::{error::Answer, extract::JsonBody, sandboxes::promise},
    services::{
        Services,
        access::Caller,
        error::{Kind, ServiceError},
    },
};

/// Seconds until the end where the caller says nothing, by path.
const TIMEOUT_V1: i64 = 15;
const TIMEOUT_V2: i64 = 300;
/// What a creation may take of a sandbox's time; after a longer one, that begins when the caller can use it.
const NOTICEABLE: SignedDuration = SignedDuration::from_secs(2);
/// Seconds after which a paused sandbox gives its memory back: its processes end, its files stay.
const STOP_AFTER: u64 = 24 * 60 * 60;
/// The same where only the files are to be kept.
pub const STOP_SOON: u64 = 1;
/// Seconds after which one that nobody wakes is taken down.
const TERMINATE_AFTER: u64 = 30 * 24 * 60 * 60;

/// Makes a sandbox from a template; `secure: false` opens it to whoever knows its id.
#[utoipa::path(post, path = "/sandboxes", operation_id = "e2b_create_sandbox", tag = "e2b", request_body = NewSandbox,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body give the same sandbox")),
    responses((status = 201, body = MadeSandbox), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError), (status = 409, body = E2bError), (status = 503, body = E2bError)))]
pub async fn create_v1(
    State(services): State<Arc<Services>>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody<NewSandbox>,
) -> Answer<(StatusCode, Json<MadeSandbox>)> {
    let open = body.value.secure == Some(false);
    create(&services, &caller, &headers, body, (open, TIMEOUT_V1)).await
}

/// Makes a sandbox from a template.
#[utoipa::path(post, path = "/v2/sandboxes", operation_id = "e2b_create_sandbox_v2", tag = "e2b", request_body = NewSandbox,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body give the same sandbox")),
    responses((status = 201, body = MadeSandbox), (status = 400, body = E2bError), (status = 401, body = E2bError),
        (status = 404, body = E2bError), (status = 409, body = E2bError), (status = 503, body = E2bError)))]
pub async fn create_v2(
    State(services): State<Arc<Services>>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody<NewSandbox>,
) -> Answer<(StatusCode, Json<MadeSandbox>)> {
    create(&services, &caller, &headers, body, (false, TIMEOUT_V2)).await
}

async fn create(
    services: &Arc<Services>,
    caller: &Caller,
    headers: &HeaderMap,
    body: JsonBody<NewSandbox>,
    (agent_open, timeout): (bool, i64),
) -> Answer<(StatusCode, Json<MadeSandbox>)> {
    let promise = promise(headers, &body.bytes)?;
    let recipe = recipe(services, caller, &body.value.template_id).await?;
    let timeout = seconds("timeout", body.value.timeout.unwrap_or(timeout))?;
    let ask = CreateSandbox { agent_open, ttl: Some(Some(timeout)), ..request(body.value, recipe)? };
    let begun = services.create_soon(caller, ask, promise).await.map_err(in_their_words)?;
    let sandbox = begun.ended().await?;
    if services.base.world.now().duration_since(sandbox.spec.created_at) > NOTICEABLE {
        keep_for(services, caller, &sandbox, timeout).await?;
    }
    Ok((StatusCode::CREATED, Json(MadeSandbox::of(services, &sandbox))))
}

/// What the name or id of a template or a snapshot leads to.
async fn recipe(services: &Services, caller: &Caller, id: &str) -> Result<CreateSandbox, ServiceError> {
    if id.is_empty() {
        return Err(ServiceError::invalid("templateID", "is needed: the name or id of a template"));
    }
    let unknown = match services.sandbox_named(caller, id).await {
        Err(_) if snapshots::is_id(id) => ServiceError::NotFound(format!("template {id:?}")),
        Err(error) if matches!(error.classify().0, Kind::NotFound | Kind::BadInput) => error,
        found => return found,
    };
    snapshots::recipe(services, caller, id).await?.ok_or(unknown)
}

/// The sandbox that is asked for. Nothing is done about idleness: only its time-out ends it.
fn request(asked: NewSandbox, recipe: CreateSandbox) -> Result<CreateSandbox, ServiceError> {
    refuse_what_is_not_there(&asked)?;
    let pauses = asked.auto_pause == Some(true);
    let keeps_memory = asked.auto_pause_memory != Some(false);
    let wakes = asked.auto_resume.unwrap_or_default().enabled;
    if wakes && pauses && !keeps_memory {
        let problem = "cannot wake what was paused without its memory; leave one of the two out";
        return Err(ServiceError::invalid("autoResume", problem));
    }
    let network = asked.network.unwrap_or_default();
    let mut env = asked.env_vars.unwrap_or_default();
    env.insert("E2B_SANDBOX".into(), "true".into());
    env.insert("E2B_SANDBOX_ID".into(), ID_MARK.into());
    env.insert("E2B_TEMPLATE_ID".into(), asked.template_id);
    Ok(CreateSandbox {
        pause_after: Some(0),
        stop_after: Some(if keeps_memory { STOP_AFTER } else { STOP_SOON }),
        terminate_after: Some(TERMINATE_AFTER),
        on_deadline: Some(if pauses { OnDeadline::Pause } else { OnDeadline::Terminate }),
        wake_on_request: Some(wakes),
        public: Some(network.allow_public_traffic.unwrap_or(true)),
        mask_host: network.mask_request_host.clone(),
        https_ports: network.https_ports.clone().unwrap_or_default(),
        network: Some(policy(&network, asked.allow_internet_access)?),
        metadata: asked.metadata.unwrap_or_default(),
        env,
        ..recipe
    })
}

/// 0 is "at once", for which ours has no word.
pub fn seconds(field: &str, asked: i64) -> Result<i64, ServiceError> {
    match asked {
        0 => Ok(1),
        1.. => Ok(asked),
        _ => Err(ServiceError::invalid(field, format!("{asked} is no number of seconds; give 0 or more"))),
    }
}

fn refuse_what_is_not_there(asked: &NewSandbox) -> Result<(), ServiceError> {
    let mounts = asked.volume_mounts.as_ref().is_some_and(|all| !all.is_empty());
    for (field, is_there) in [
        ("mcp", asked.mcp.as_ref().is_some_and(|it| !is_empty(it))),
        ("iam", asked.iam.as_ref().is_some_and(|it| !is_empty(it))),
        ("volumeMounts", mounts),
    ] {
        if is_there {
            return Err(ServiceError::invalid(field, "cannot be had here; leave it out"));
        }
    }
    Ok(())
}

/// A refusal, with the field as these callers write it.
fn in_their_words(error: ServiceError) -> ServiceError {
    let ServiceError::Invalid(mut invalid) = error else { return error };
    invalid.field = match invalid.field.as_str() {
        "ttl" => "timeout".into(),
        "mask_host" => "network.maskRequestHost".into(),
        "network" => "network".into(),
        "template" | "image" => "templateID".into(),
        field => match field.strip_prefix("env.") {
            Some(name) => format!("envVars.{name}"),
            None => field
                .replace("network.allow[", "network.allowOut[")
                .replace("network.deny[", "network.denyOut[")
                .replace("https_ports[", "network.httpsPorts["),
        },
    };
    invalid.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(body: serde_json::Value) -> Result<CreateSandbox, ServiceError> {
        request(serde_json::from_value(body).unwrap(), CreateSandbox::of_image("base"))
    }

    #[test]
    fn a_sandbox_lives_by_its_timeout_alone() {
        let made = asked(json!({"templateID": "base"})).unwrap();
        assert_eq!(made.pause_after, Some(0));
        assert_eq!((made.on_deadline, made.wake_on_request), (Some(OnDeadline::Terminate), Some(false)));
        assert_eq!((seconds("timeout", 0).unwrap(), seconds("timeout", 60).unwrap()), (1, 60));
        assert_eq!(seconds("timeout", -1).unwrap_err().tell().field.as_deref(), Some("timeout"));
        let pausing = asked(json!({"autoPause": true, "autoPauseMemory": false})).unwrap();
        assert_eq!((pausing.on_deadline, pausing.stop_after), (Some(OnDeadline::Pause), Some(STOP_SOON)));
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        for (body, field) in [
            (json!({"mcp": {"browserbase": {"apiKey": "x"}}}), "mcp"),
            (json!({"iam": {"tokens": {"a": {"audience": "x"}}}}), "iam"),
            (json!({"volumeMounts": [{"name": "v", "path": "/v"}]}), "volumeMounts"),
            (
                json!({"autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true}}),
                "autoResume",
            ),
        ] {
            assert_eq!(asked(body).unwrap_err().tell().field.as_deref(), Some(field));
        }
        assert!(asked(json!({"mcp": null, "iam": {"tokens": {}}, "volumeMounts": [], "unknown": 1})).is_ok());
    }

    #[test]
    fn refusals_name_the_fields_that_were_sent() {
        for (ours, theirs) in [
            ("ttl", "timeout"),
            ("env.A=B", "envVars.A=B"),
            ("network.deny[2]", "network.denyOut[2]"),
            ("https_ports[0]", "network.httpsPorts[0]"),
        ] {
            let told = in_their_words(ServiceError::invalid(ours, "is wrong")).tell();
            assert_eq!(told.field.as_deref(), Some(theirs));
        }
    }
}
