//! The API's description is kept in the repository, so that a change of the API shows in review.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use serde_json::Value;
use std::path::Path;

#[test]
fn the_description_is_the_one_in_the_repository() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let now = atoll_server::openapi();
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let hint = "write what `atoll openapi` prints there, and look at what changed";
    assert!(kept == now, "the API's description changed; {hint}");
}

#[test]
fn every_operation_is_described() {
    let api: Value = serde_json::from_str(&atoll_server::openapi()).unwrap();
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1."));
    assert_eq!(api["info"]["title"], "Atoll");
    let schemes = api["components"]["securitySchemes"].as_object().unwrap();
    assert!(schemes.contains_key("key") && schemes.contains_key("bearer") && api["security"].is_array());
    let (mut names, mut count) = (std::collections::BTreeSet::new(), 0);
    for (path, methods) in api["paths"].as_object().unwrap() {
        assert!(
            [
                "/api/v1/",
                "/api/kata",
                "/v1/sandbox/",
                "/sandboxes",
                "/snapshots",
                "/templates",
                "/v2/sandboxes",
                "/v2/templates",
                "/v3/templates"
            ]
            .iter()
            .any(|start| path.starts_with(start)),
            "{path}"
        );
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{method} {path}");
            names.insert(operation["operationId"].as_str().unwrap().to_owned());
            count += 1;
        }
    }
    assert_eq!(names.len(), count, "each operation has its own name");
    assert!(count > 35, "{count}");
}

#[test]
fn every_reference_leads_somewhere() {
    let api: Value = serde_json::from_str(&atoll_server::openapi()).unwrap();
    fn follow(api: &Value, at: &Value) {
        match at {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    assert!(api.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
                }
                map.values().for_each(|value| follow(api, value));
            }
            Value::Array(all) => all.iter().for_each(|value| follow(api, value)),
            _ => {}
        }
    }
    follow(&api, &api);
}
