//! What a sandbox may reach, from their words to ours, and the route that replaces it.

use atoll_proto::api::{self, NetworkMode, UpdateSandbox};
use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::Value;
use std::sync::Arc;

use super::{find, shape::E2bError, types::Network};
use crate::{
    http::{error::Answer, extract::JsonBody},
    services::{Services, access::Caller, error::ServiceError},
};

/// The range of all addresses.
pub const EVERYTHING: &str = "0.0.0.0/0";

/// Replaces what a sandbox may reach.
#[utoipa::path(put, path = "/sandboxes/{id}/network", operation_id = "e2b_replace_network", tag = "e2b", request_body = Network,
    params(("id" = String, Path, description = "Id of the sandbox")),
    responses((status = 204), (status = 400, body = E2bError), (status = 401, body = E2bError), (status = 404, body = E2bError),
        (status = 409, body = E2bError)))]
pub async fn replace(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<Network>,
) -> Answer<StatusCode> {
    if body.value.https_ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
        let problem = "is said when the sandbox is made, and cannot be changed; leave it out";
        return Err(ServiceError::invalid("network.httpsPorts", problem).into());
    }
    let network = policy(&body.value, None)?;
    find(&services, &caller, &id).await?;
    let change = UpdateSandbox { network: Some(network), ..UpdateSandbox::default() };
    services.update(&caller, &id, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The policy that their words mean: all that is public, but what is denied; what is allowed goes before.
pub fn policy(asked: &Network, internet: Option<bool>) -> Result<api::Network, ServiceError> {
    refuse_what_is_not_there(asked)?;
    let allow = addresses("network.allowOut", asked.allow_out.as_deref().unwrap_or_default())?;
    let mut deny = addresses("network.denyOut", asked.deny_out.as_deref().unwrap_or_default())?;
    let all = deny.len();
    deny.retain(|range| range != EVERYTHING);
    let closed = internet.or(asked.allow_internet_access) == Some(false) || deny.len() < all;
    Ok(match closed {
        true => api::Network { mode: NetworkMode::Restricted, allow, deny: Vec::new() },
        false => api::Network { mode: NetworkMode::Internet, allow, deny },
    })
}

/// What would silently not hold is refused.
fn refuse_what_is_not_there(asked: &Network) -> Result<(), ServiceError> {
    for (field, value) in [
        ("network.egressProxy", &asked.egress_proxy),
        ("network.rules", &asked.rules),
        ("network.dnsServers", &asked.dns_servers),
    ] {
        if value.as_ref().is_some_and(|value| !is_empty(value)) {
            return Err(ServiceError::invalid(field, "cannot be had here; leave it out"));
        }
    }
    Ok(())
}

/// Whether a value asks for nothing.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}

fn addresses(field: &str, asked: &[String]) -> Result<Vec<String>, ServiceError> {
    asked.iter().enumerate().map(|(i, text)| address(&format!("{field}[{i}]"), text)).collect()
}

fn address(field: &str, text: &str) -> Result<String, ServiceError> {
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'/');
    if text.bytes().all(plain) && !text.is_empty() {
        return Ok(text.to_owned());
    }
    let problem = format!("{text:?} is no IPv4 address or range; rules for domain names cannot be had here");
    Err(ServiceError::invalid(field, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value, internet: Option<bool>) -> Result<api::Network, ServiceError> {
        policy(&serde_json::from_value(body).unwrap(), internet)
    }

    #[test]
    fn what_is_allowed_goes_before_what_is_denied() {
        let one = read(json!({"allowOut": ["1.1.1.1"], "denyOut": [EVERYTHING]}), None).unwrap();
        assert_eq!((one.mode, one.allow.len(), one.deny.len()), (NetworkMode::Restricted, 1, 0));
        let all_but_one = read(json!({"denyOut": ["1.1.1.0/24"]}), None).unwrap();
        assert_eq!((all_but_one.mode, all_but_one.deny.len()), (NetworkMode::Internet, 1));
        for closed in [read(json!({}), Some(false)), read(json!({"allow_internet_access": false}), None)] {
            assert_eq!(closed.unwrap().mode, NetworkMode::Restricted);
        }
        assert_eq!(read(json!({}), Some(true)).unwrap(), api::Network::default());
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        for (body, field) in [
            (json!({"allowOut": ["1.1.1.1", "example.com"]}), "network.allowOut[1]"),
            (json!({"denyOut": ["::/0"]}), "network.denyOut[0]"),
            (json!({"rules": {"example.com": [{"transform": {"headers": {"a": "b"}}}]}}), "network.rules"),
            (json!({"egressProxy": {"address": "x:1"}}), "network.egressProxy"),
        ] {
            assert_eq!(read(body, None).unwrap_err().tell().field.as_deref(), Some(field));
        }
        assert!(read(json!({"rules": {}, "dnsServers": [], "egressProxy": null}), None).is_ok());
    }
}
