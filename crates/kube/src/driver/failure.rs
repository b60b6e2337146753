//! What the cluster and the operator say, in the words of the driver port. Pure.

use atoll_core::{
    driver::{CreateStep, DriverError},
    id::SandboxId,
    phase::Phase,
    sandbox::Reason,
};
use kube::core::Status;

use super::{request::RequestError, seen::Seen};
use crate::{
    cluster::is_uncounted,
    names::{Namespaces, TENANT},
};

/// No such sandbox.
pub fn missing(id: &SandboxId) -> DriverError {
    DriverError::NotFound(format!("sandbox {id}"))
}

/// The phase of a sandbox does not allow it.
pub fn conflict(seen: &Seen, problem: impl Into<String>) -> DriverError {
    DriverError::Conflict { id: seen.id().clone(), phase: seen.phase(), problem: problem.into() }
}

/// What a request about a sandbox came to.
pub fn refused(error: RequestError, id: &SandboxId) -> DriverError {
    if error.is_missing() {
        return missing(id);
    }
    plain(error)
}

/// What a request for a new sandbox came to.
pub fn not_created(error: RequestError, tenant: &str, namespaces: &Namespaces) -> DriverError {
    match &error {
        RequestError::Refused(status) if status.code == 404 && is_about(status, "namespaces") => {
            DriverError::Invalid(no_namespace(tenant, namespaces))
        }
        RequestError::Refused(status) if status.code == 404 => {
            DriverError::Internal(format!("{}: {NO_DEFINITIONS}", status.message))
        }
        _ => plain(error),
    }
}

/// What a cluster without our objects needs.
pub const NO_DEFINITIONS: &str = "the cluster does not know Atoll's objects; an administrator makes them known with `atoll crd | kubectl apply -f -`";

/// What to say of a tenant that the cluster has no namespace for.
pub fn no_namespace(tenant: &str, namespaces: &Namespaces) -> String {
    let name = namespaces.of(tenant);
    format!(
        "tenant {tenant} has no namespace in the cluster; an administrator makes it with `kubectl create namespace {name}` \
         and `kubectl label namespace {name} {TENANT}={tenant}`"
    )
}

/// Whether a refusal is about an object of that kind.
pub fn is_about(status: &Status, kind: &str) -> bool {
    status.details.as_ref().is_some_and(|it| it.kind == kind)
}

/// What any other request came to.
pub fn plain(error: RequestError) -> DriverError {
    let RequestError::Refused(status) = error else { return DriverError::Internal(error.to_string()) };
    let message = status.message.clone();
    match status.code {
        404 => DriverError::NotFound(message),
        400 | 413 | 422 => DriverError::Invalid(message),
        403 if message.contains("exceeded quota") || is_uncounted(&message) => {
            DriverError::Exhausted(message)
        }
        403 if message.contains("because it is being terminated") => DriverError::Invalid(message),
        _ => DriverError::Internal(message),
    }
}

/// Why a sandbox that was waited for failed. Codes are those of the operator.
pub fn failed(reason: &Reason) -> DriverError {
    let message = reason.message.clone();
    match reason.code.as_str() {
        "quota_exceeded" | "unschedulable" | "volume_not_filled" | "node_lost" => {
            DriverError::Exhausted(message)
        }
        "volume_in_use" | "id_taken" | "name_in_use" => DriverError::InUse(message),
        "invalid" | "not_admitted" => DriverError::Invalid(message),
        code if code.starts_with("image_") || code.starts_with("registry_") => {
            DriverError::Image { code: code.to_owned(), message }
        }
        code if code.ends_with("_not_found") => DriverError::Invalid(message),
        code => DriverError::Internal(format!("{code}: {message}")),
    }
}

/// What the operator is doing, where it says so.
pub fn step(seen: &Seen) -> Option<CreateStep> {
    let Reason { code, message } = &seen.sandbox.reason;
    match (seen.phase(), code.as_str()) {
        (Phase::Creating, "queued" | "unschedulable") => Some(CreateStep::Queued),
        (Phase::Creating, "pulling") => Some(CreateStep::Pulling { percent: percent(message) }),
        (Phase::Creating, "preparing") => Some(CreateStep::Preparing),
        (Phase::Creating, "starting") => Some(CreateStep::Starting),
        _ => None,
    }
}

/// `43` of `Pulling image 43%`; 0 where no number is told.
fn percent(message: &str) -> u8 {
    let before = message.split_once('%').map_or("", |(before, _)| before);
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0).min(100)
}

#[cfg(test)]
mod tests {
    use super::{super::seen::tests::seen, *};
    use crate::crd;
    use kube::core::response::StatusDetails;

    fn status(code: u16, message: &str, kind: &str) -> RequestError {
        let details = StatusDetails { kind: kind.into(), ..serde_json::from_str("{}").unwrap() };
        RequestError::Refused(Status::failure(message, "x").with_code(code).with_details(details).boxed())
    }

    #[test]
    fn failures_are_told_by_their_code() {
        let of = |code: &str| failed(&Reason::new(code, "m"));
        assert!(matches!(of("quota_exceeded"), DriverError::Exhausted(m) if m == "m"));
        assert!(
            matches!(of("image_pull_failed"), DriverError::Image { code, .. } if code == "image_pull_failed")
        );
        assert!(matches!(of("registry_unreachable"), DriverError::Image { .. }));
        assert!(matches!(of("volume_in_use"), DriverError::InUse(_)));
        for code in ["invalid", "not_admitted", "template_not_found", "runtime_class_not_found"] {
            assert!(matches!(of(code), DriverError::Invalid(_)), "{code}");
        }
        assert!(matches!(of("agent_died"), DriverError::Internal(m) if m == "agent_died: m"));
    }

    #[test]
    fn a_tenant_without_a_namespace_hears_what_to_do() {
        let error = status(404, "namespaces \"tenant-acme\" not found", "namespaces");
        let DriverError::Invalid(text) = not_created(error, "acme", &Namespaces::default()) else { panic!() };
        assert!(
            text.contains("create namespace tenant-acme") && text.contains("atoll.dev/tenant=acme"),
            "{text}"
        );
        let error = status(404, "the server could not find the requested resource", "");
        let DriverError::Internal(text) = not_created(error, "acme", &Namespaces::default()) else {
            panic!()
        };
        assert!(text.contains("atoll crd"), "{text}");
    }

    #[test]
    fn refusals_are_told_apart() {
        let id = seen("a", 1, 1, None).id().clone();
        let of = |code, message: &str| refused(status(code, message, ""), &id);
        assert!(matches!(of(404, "x"), DriverError::NotFound(what) if what.contains(id.as_str())));
        assert!(matches!(of(422, "spec.cpu: too long"), DriverError::Invalid(_)));
        assert!(matches!(of(403, "exceeded quota: q, requested: count/x"), DriverError::Exhausted(_)));
        assert!(matches!(of(403, "status unknown for quota: q"), DriverError::Exhausted(_)));
        assert!(matches!(of(403, "namespace x because it is being terminated"), DriverError::Invalid(_)));
        assert!(matches!(of(403, "User cannot create"), DriverError::Internal(_)));
        assert!(matches!(refused(RequestError::Silent("x".into()), &id), DriverError::Internal(_)));
    }

    #[test]
    fn steps_are_what_the_operator_says() {
        let of = |code: &str, message: &str| {
            let mut it = seen("a", 1, 1, Some(crd::Phase::Creating));
            it.sandbox.reason = Reason::new(code, message);
            step(&it)
        };
        assert_eq!(of("unschedulable", ""), Some(CreateStep::Queued));
        assert_eq!(of("pulling", "Pulling image 43%"), Some(CreateStep::Pulling { percent: 43 }));
        assert_eq!(of("pulling", "Pulling image x:1"), Some(CreateStep::Pulling { percent: 0 }));
        assert_eq!(of("starting", ""), Some(CreateStep::Starting));
        assert_eq!(of("requested", ""), None);
        assert_eq!(step(&seen("a", 1, 1, Some(crd::Phase::Running))), None);
    }
}
