//! What lets pages of any site use a sandbox's agent, as E2B's clients in browsers do: they bring a token, so nothing hangs
//! on where they come from. Pure.

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
        ACCESS_CONTROL_REQUEST_METHOD,
    },
    request::Parts,
};

use crate::body::Body;

const METHODS: HeaderValue = HeaderValue::from_static("HEAD, GET, POST, PUT, PATCH, DELETE");
/// Two hours; no browser believes one longer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
/// Headers of answers that pages may read: those of the protocols, and what a download says of itself.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, Location, Cache-Control, X-Content-Type-Options, \
     Content-Disposition, Content-Encoding, Content-Range",
);

/// The answer to a browser that asks beforehand whether its page may send something.
pub fn preflight(parts: &Parts) -> Option<Response<Body>> {
    let asks = parts.method == Method::OPTIONS && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    asks.then(|| {
        let mut response = Response::new(Body::text(""));
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        if let Some(asked) = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        response
    })
}

/// Marks an answer as readable for every page.
pub fn open(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn only_a_question_beforehand_is_answered_here() {
        let parts = |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.body(()).unwrap().into_parts().0
        };
        let asks =
            [("access-control-request-method", "POST"), ("access-control-request-headers", "x-access-token")];
        let answer = preflight(&parts("OPTIONS", &asks)).unwrap();
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.headers()["access-control-allow-headers"], "x-access-token");
        assert!(preflight(&parts("OPTIONS", &[])).is_none() && preflight(&parts("POST", &asks)).is_none());
    }
}
