//! What calls of the API may be refused with, written into its description: the same for all of a kind, so it is said once.
//! Pure.

use utoipa::openapi::{
    ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
    path::{Operation, PathItem},
};

/// The calls whose errors have the shape of `ErrorBody`.
const OURS: [&str; 3] = ["/api/v1/", "/api/kata", "/v1/sandbox/"];

/// A kind of refusal.
struct Refusal {
    status: &'static str,
    says: &'static str,
    concerns: fn(&str) -> bool,
}

const REFUSALS: [Refusal; 8] = [
    Refusal { status: "400", says: "A field, parameter or header is wrong", concerns: |_| true },
    Refusal { status: "401", says: "No key, or none of this server's", concerns: |_| true },
    Refusal {
        status: "403",
        says: "The key's role, or the sandbox's user, may not do that",
        concerns: |_| true,
    },
    Refusal {
        status: "404",
        says: "There is no such thing for this caller",
        concerns: |path| path.contains('{'),
    },
    Refusal {
        status: "409",
        says: "Its phase, or what is there already, does not allow it",
        concerns: may_collide,
    },
    Refusal { status: "502", says: "A registry cannot be reached, or gave no image", concerns: may_start },
    Refusal {
        status: "503",
        says: "Too much is asked for at once, or this server cannot do that",
        concerns: may_start,
    },
    Refusal { status: "507", says: "There is no room", concerns: may_start },
];

/// Whether a call is about something that may be in a state that forbids it, or was asked for before.
fn may_collide(path: &str) -> bool {
    path.contains('{') || may_start(path)
}

/// Whether a call may have a sandbox made or woken, or an image fetched.
fn may_start(path: &str) -> bool {
    ["sandbox", "images", "kata"].iter().any(|word| path.contains(word))
}

/// Adds what is not described yet.
pub fn describe(api: &mut OpenApi) {
    for (path, item) in &mut api.paths.paths {
        if OURS.iter().any(|ours| path.starts_with(ours)) {
            operations(item).for_each(|operation| add(path, operation));
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn add(path: &str, operation: &mut Operation) {
    let known = &mut operation.responses.responses;
    for refusal in REFUSALS.iter().filter(|refusal| (refusal.concerns)(path)) {
        known.entry(refusal.status.to_owned()).or_insert_with(|| RefOr::T(answer(refusal.says)));
    }
}

fn answer(says: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    ResponseBuilder::new().description(says).content("application/json", body).build()
}
