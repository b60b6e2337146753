//! Sandboxes that the path names: `/api/v1/sandbox/{id}/port/{port}/...`, for programs that resolve no names of sandboxes.
//! Pure. What comes back that way comes from the API's own host, so what would speak for that host is taken away.

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{self, CONTENT_SECURITY_POLICY, SET_COOKIE},
    request::Parts,
    uri::PathAndQuery,
};

const BEFORE: &str = "/api/v1/sandbox/";
const BETWEEN: &str = "/port/";
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// A page has no origin, and may not act in the API's: there `--no-auth` would make it admin.
const CONFINED: HeaderValue =
    HeaderValue::from_static("sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts");
/// What a server says about its whole host.
const OF_THE_HOST: [HeaderName; 3] = [
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
];

/// A path that names a port of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// What should be an id.
    pub id: &'a str,
    /// What should be a port.
    pub port: &'a str,
    /// The path up to there.
    pub prefix: &'a str,
}

/// What a path names.
pub fn read(path: &str) -> Option<Named<'_>> {
    let (id, rest) = path.strip_prefix(BEFORE)?.split_once(BETWEEN)?;
    if id.contains('/') {
        return None;
    }
    let port = rest.split('/').next().unwrap_or_default();
    let prefix = &path[..BEFORE.len() + id.len() + BETWEEN.len() + port.len()];
    Some(Named { id, port, prefix })
}

/// Makes the address what the application knows, and tells it under which it is reached.
pub fn strip(parts: &mut Parts, prefix: &str) {
    let whole = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let rest = whole.strip_prefix(prefix).unwrap_or(whole);
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    // A part of what was a valid path and query is one.
    uri.path_and_query = PathAndQuery::try_from(rest).ok();
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(prefix) {
        parts.headers.insert(PREFIX, value);
    }
}

/// Keeps an answer to its own part of the host.
pub fn confine(headers: &mut HeaderMap, prefix: &str) {
    for name in &OF_THE_HOST {
        headers.remove(name);
    }
    let cookies: Vec<HeaderValue> =
        headers.get_all(SET_COOKIE).iter().filter_map(|cookie| below(cookie, prefix)).collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
    headers.append(CONTENT_SECURITY_POLICY, CONFINED);
}

/// A cookie for the paths below `prefix` of one host.
fn below(cookie: &HeaderValue, prefix: &str) -> Option<HeaderValue> {
    let text = cookie.to_str().ok()?;
    let is_place = |part: &&str| {
        let name = part.split('=').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("path") || name.eq_ignore_ascii_case("domain")
    };
    let mut parts = text.split(';');
    let first = parts.next().unwrap_or_default();
    let kept: Vec<&str> = std::iter::once(first).chain(parts.filter(|part| !is_place(part))).collect();
    HeaderValue::from_str(&format!("{}; Path={prefix}", kept.join(";"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;

    fn stripped(uri: &str) -> (String, Option<String>) {
        let mut parts = Request::builder().uri(uri).body(()).unwrap().into_parts().0;
        let path = parts.uri.path().to_owned();
        strip(&mut parts, read(&path).unwrap().prefix);
        let told = parts.headers.get(PREFIX).map(|value| value.to_str().unwrap().to_owned());
        (parts.uri.to_string(), told)
    }

    #[test]
    fn a_path_names_a_port_and_loses_that() {
        let prefix = Some("/api/v1/sandbox/i1/port/80".to_owned());
        for (uri, rest) in [
            ("/api/v1/sandbox/i1/port/80", "/"),
            ("/api/v1/sandbox/i1/port/80/", "/"),
            ("/api/v1/sandbox/i1/port/80?a=b", "/?a=b"),
            ("/api/v1/sandbox/i1/port/80//a/port/81?b=/c", "//a/port/81?b=/c"),
            ("http://h:1/api/v1/sandbox/i1/port/80/x", "http://h:1/x"),
        ] {
            assert_eq!(stripped(uri), (rest.to_owned(), prefix.clone()), "{uri}");
        }
        for path in [
            "/",
            "/api/v1/sandboxes/i1/port/80",
            "/api/v1/sandbox/i1",
            "/api/v1/sandbox/a/b/port/1",
            "/x/port/1",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn an_answer_speaks_for_its_own_part_of_the_host() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("set-cookie", "a=b; Domain=localhost; Path=/; HttpOnly"),
            ("set-cookie", "path=of; path"),
            ("clear-site-data", "*"),
            ("strict-transport-security", "max-age=1"),
            ("content-security-policy", "default-src 'self'"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        confine(&mut headers, "/p");
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=b; HttpOnly; Path=/p", "path=of; Path=/p"]);
        assert!(
            !headers.contains_key("clear-site-data") && !headers.contains_key("strict-transport-security")
        );
        let policies: Vec<_> = headers.get_all("content-security-policy").iter().collect();
        assert!(policies.len() == 2 && !policies[1].to_str().unwrap().contains("allow-same-origin"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_it(rest in "[!-~]{0,40}", cookie in "[ -~]{0,40}") {
            let uri = format!("/api/v1/sandbox/{rest}");
            let Ok(request) = Request::builder().uri(&uri).body(()) else { return Ok(()) };
            let mut parts = request.into_parts().0;
            let path = parts.uri.path().to_owned();
            if let Some(named) = read(&path) {
                prop_assert!(path.starts_with(named.prefix));
                strip(&mut parts, named.prefix);
                prop_assert!(parts.uri.path().starts_with('/'));
            }
            let mut headers = HeaderMap::new();
            headers.insert(SET_COOKIE, cookie.parse().unwrap());
            confine(&mut headers, "/p");
            let end = headers.get(SET_COOKIE).unwrap().to_str().unwrap().to_owned();
            prop_assert!(end.ends_with("; Path=/p"), "{end}");
        }
    }
}
