//! `/api/kata`, the API of a manager of Kata containers: JSON in camelCase, creation and commands as server-sent events. A
//! container is one of our sandboxes with a label, its pod's name a prefix and our id; both are understood. It must not
//! decide anything: what it lacks is a matter of the services.

mod containers;
mod create;
mod execute;
mod pool;
mod terminal;
mod types;

use atoll_core::{driver::ListQuery, sandbox::Sandbox};
use std::{collections::BTreeMap, sync::Arc};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::services::{Services, access::Caller, error::ServiceError};

/// The label by which this API knows its own.
const DIALECT: (&str, &str) = ("atoll.dev/dialect", "kata");
/// Labels that clients look for.
const LABELS: [(&str, &str); 2] = [("app", "kata-manager"), ("runtime", "kata")];

/// The routes, with their whole paths.
pub fn api() -> OpenApiRouter<Arc<Services>> {
    OpenApiRouter::new()
        .routes(routes!(create::create, containers::list, containers::delete_all))
        .routes(routes!(containers::get, containers::delete))
        .routes(routes!(execute::execute))
        .routes(routes!(terminal::terminal))
        .routes(routes!(pool::allocate))
        .routes(routes!(pool::status))
}

/// The container of a pod's name or a sandbox's id. Sandboxes that were not made here do not exist here.
async fn find(services: &Services, caller: &Caller, name: &str) -> Result<Sandbox, ServiceError> {
    let missing = || ServiceError::NotFound(format!("container {name}"));
    let id = services.base.config.kata.id_of(name);
    match services.sandbox(caller, id).await {
        Ok(sandbox) if is_ours(&sandbox) => Ok(sandbox),
        Ok(_) | Err(ServiceError::NotFound(_)) => Err(missing()),
        Err(error) => Err(error),
    }
}

fn is_ours(sandbox: &Sandbox) -> bool {
    sandbox.spec.labels.get(DIALECT.0).is_some_and(|dialect| dialect == DIALECT.1)
}

/// Which sandboxes are containers of the caller's tenant.
fn containers_of(caller: &Caller) -> ListQuery {
    let labels = BTreeMap::from([(DIALECT.0.to_owned(), DIALECT.1.to_owned())]);
    ListQuery { tenant: Some(caller.tenant.clone()), labels, ..ListQuery::default() }
}

/// A refusal, with the field as callers of this API write it.
fn in_their_words(error: ServiceError) -> ServiceError {
    let ServiceError::Invalid(mut invalid) = error else { return error };
    let (name, rest) = match invalid.field.split_once('.') {
        Some(("env", rest)) => ("environmentVariables", format!(".{rest}")),
        _ => (their_name(&invalid.field), String::new()),
    };
    invalid.field = format!("{name}{rest}");
    invalid.into()
}

fn their_name(field: &str) -> &str {
    match field {
        "cpu" => "resources.limits.cpuMillicores",
        "memory" => "resources.limits.memoryMi",
        "requests.cpu" => "resources.requests.cpuMillicores",
        "requests.memory" => "resources.requests.memoryMi",
        "start_command" => "command",
        "owner" => "userId",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_fields_that_were_sent() {
        for (ours, theirs) in [
            ("env.A=B", "environmentVariables.A=B"),
            ("memory", "resources.limits.memoryMi"),
            ("requests.cpu", "resources.requests.cpuMillicores"),
            ("labels.x", "labels.x"),
        ] {
            let told = in_their_words(ServiceError::invalid(ours, "is wrong")).tell();
            assert_eq!(told.field.as_deref(), Some(theirs));
        }
        let other = in_their_words(ServiceError::NotFound("it".into()));
        assert_eq!(other.tell().code, "not_found");
    }
}
