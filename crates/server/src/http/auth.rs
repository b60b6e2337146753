//! Who sends a request: the key in its headers, and, where no key is asked for, that it comes from this machine and not
//! from a web page that somebody is looking at.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{net::IpAddr, sync::Arc};

use super::error::{ApiError, plain};
use crate::services::{Services, access::Caller, error::ServiceError};

/// Lets a request through when its sender is known, and notes who it is.
pub async fn identify(State(services): State<Arc<Services>>, mut request: Request, next: Next) -> Response {
    match services.access.caller(secret(request.headers())).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => ApiError(error).into_response(),
    }
}

pub fn secret(headers: &HeaderMap) -> Option<&str> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let key = headers.get("x-api-key").and_then(|value| value.to_str().ok());
    let bearer = || {
        let (scheme, token) = text(header::AUTHORIZATION)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    };
    key.or_else(bearer)
}

/// Without keys, refuses what a foreign web page could have sent: a host name that is not this machine's (a name that
/// was made to point here), or an origin that is not.
pub async fn same_machine(State(services): State<Arc<Services>>, request: Request, next: Next) -> Response {
    if services.base.config.no_auth && !is_local(request.uri(), request.headers()) {
        let message = "without keys, only requests to localhost that no other web page made are served";
        return plain(StatusCode::FORBIDDEN, "foreign_origin", message);
    }
    next.run(request).await
}

fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text("host").or_else(|| uri.authority().map(|authority| authority.as_str()));
    let origin_is_local =
        |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| is_loopback(authority));
    host.is_some_and(is_loopback)
        && text("origin").is_none_or(origin_is_local)
        && text("sec-fetch-site") != Some("cross-site")
}

/// Whether `host[:port]` is a name of this machine that no name server can change.
fn is_loopback(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| ApiError(ServiceError::Unauthorized("nobody is known to send this".into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(host: &str, more: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("host", host.parse().unwrap());
        for (name, value) in more {
            headers.insert(*name, value.parse().unwrap());
        }
        is_local(&Uri::from_static("/api/v1/sandboxes"), &headers)
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"] {
            assert!(local(host, &[]), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8080", "192.0.2.1", "", "127.0.0.1.nip.example"]
        {
            assert!(!local(host, &[]), "{host}");
        }
    }

    #[test]
    fn pages_of_others_are_refused() {
        assert!(local("localhost", &[("origin", "http://127.0.0.1:3000")]));
        for origin in ["null", "https://evil.example", "http://localhost.evil.example"] {
            assert!(!local("localhost", &[("origin", origin)]), "{origin}");
        }
        assert!(!local("localhost", &[("sec-fetch-site", "cross-site")]));
    }
}
