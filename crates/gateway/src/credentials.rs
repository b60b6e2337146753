//! What a request shows to be let in, and taking it out again, so that the sandbox never sees it. Pure; whether any of it
//! is good is decided elsewhere.

use http::{HeaderMap, HeaderValue, Method, Uri, header, request::Parts, uri::PathAndQuery};

use crate::route::authority;

/// Carries a token of programs.
pub const TOKEN_HEADER: &str = "x-atoll-token";
/// Carries the token of a sandbox's ports that E2B's clients have.
pub const TRAFFIC_HEADER: &str = "e2b-traffic-access-token";
/// Carries a token in a link.
const TOKEN_PARAMETER: &str = "atoll_token";
/// Carries it afterwards; browsers keep a cookie of this prefix to one host name and to TLS.
const SECURE_COOKIE: &str = "__Host-atoll";
/// The same where there is no TLS, which is on a laptop.
const PLAIN_COOKIE: &str = "atoll_token";
const API_KEY_HEADER: &str = "x-api-key";

/// The name of the cookie.
pub fn cookie_name(is_https: bool) -> &'static str {
    if is_https { SECURE_COOKIE } else { PLAIN_COOKIE }
}

/// Tokens that came with a request. API keys stay where they are until they are known to be ours: an application behind
/// the gateway may have keys of its own, in the same headers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// From the header.
    pub header: Option<String>,
    /// From the address.
    pub link: Option<String>,
    /// From cookies; there may be several of one name.
    pub cookies: Vec<String>,
}

/// Takes tokens out of a request, wherever they are.
pub fn take_tokens(parts: &mut Parts, is_https: bool) -> Tokens {
    let header = parts.headers.remove(TOKEN_HEADER);
    Tokens {
        header: header.and_then(|value| value.to_str().ok().map(str::to_owned)),
        link: take_link(&mut parts.uri),
        cookies: take_cookies(&mut parts.headers, cookie_name(is_https)),
    }
}

/// Takes a header out of a request; text that cannot be read is no right token either.
pub fn take_header(headers: &mut HeaderMap, name: &'static str) -> Option<String> {
    headers.remove(name).map(|value| value.to_str().unwrap_or_default().to_owned())
}

fn take_link(uri: &mut Uri) -> Option<String> {
    let query = uri.query().filter(|query| query.contains(TOKEN_PARAMETER))?;
    let value = |pair: &str| pair.strip_prefix(TOKEN_PARAMETER)?.strip_prefix('=').map(str::to_owned);
    let token = query.split('&').find_map(value)?;
    let rest: Vec<_> = query.split('&').filter(|pair| value(pair).is_none()).collect();
    replace_query(uri, &rest.join("&"));
    Some(token)
}

/// Replaces what follows the path of an address; an empty query is none.
pub fn replace_query(uri: &mut Uri, query: &str) {
    let path = match query.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{query}", uri.path()),
    };
    let mut parts = std::mem::take(uri).into_parts();
    // A part of what was a valid path and query is one, and so is what was encoded.
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Takes out cookies of either name and gives those of the right one. What is left is one header again, as HTTP/1.1
/// demands where HTTP/2 allows several.
fn take_cookies(headers: &mut HeaderMap, name: &str) -> Vec<String> {
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    if !headers.contains_key(header::COOKIE) {
        return taken;
    }
    for value in headers.get_all(header::COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            if key == name.as_bytes() {
                taken.push(
                    String::from_utf8_lossy(pair.get(key.len() + 1..).unwrap_or_default()).into_owned(),
                );
            } else if key != SECURE_COOKIE.as_bytes() && key != PLAIN_COOKIE.as_bytes() && !pair.is_empty() {
                left.push(pair);
            }
        }
    }
    let left = left.join(&b"; "[..]);
    headers.remove(header::COOKIE);
    if let (false, Ok(value)) = (left.is_empty(), HeaderValue::from_bytes(&left)) {
        headers.insert(header::COOKIE, value);
    }
    taken
}

/// Where an API key may be, with what is there.
pub fn possible_keys(headers: &HeaderMap) -> Vec<(header::HeaderName, String)> {
    let key = headers.get(API_KEY_HEADER).and_then(|value| value.to_str().ok());
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let key = key.map(|key| (header::HeaderName::from_static(API_KEY_HEADER), key.to_owned()));
    key.into_iter().chain(bearer.map(|key| (header::AUTHORIZATION, key.to_owned()))).collect()
}

/// Whether what a browser adds by itself (a cookie, or simply being on this machine) may count: not when another site's
/// page makes the request, unless somebody follows a link from there. Sandboxes are other sites to each other: their
/// pages would otherwise speak for whoever looks at them, through WebSockets even with the answers.
pub fn ambient_counts(parts: &Parts) -> bool {
    let text = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let safe = matches!(parts.method, Method::GET | Method::HEAD);
    let follows = safe && text("sec-fetch-mode") == Some("navigate");
    let host = authority(&parts.uri, &parts.headers).unwrap_or_default();
    let own = |origin: &str| {
        origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
    };
    let site = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none") || follows);
    site && text("origin").is_none_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn tokens_are_taken_out_wherever_they_are() {
        let mut it = parts(
            "/a?x=1&atoll_token=L&y=2",
            &[
                ("x-atoll-token", "H"),
                ("cookie", "a=b; atoll_token=C"),
                ("cookie", "atoll_token=D; c=d; __Host-atoll=E"),
            ],
        );
        let tokens = take_tokens(&mut it, false);
        assert_eq!((tokens.header.as_deref(), tokens.link.as_deref()), (Some("H"), Some("L")));
        assert_eq!(tokens.cookies, ["C", "D"]);
        assert_eq!(it.uri, "/a?x=1&y=2");
        let cookies: Vec<_> = it.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=b; c=d"]);
        assert!(!it.headers.contains_key("x-atoll-token"));
    }

    #[test]
    fn over_tls_only_the_cookie_of_one_host_counts() {
        let mut it = parts("/", &[("cookie", "atoll_token=C; __Host-atoll=E")]);
        assert_eq!(take_tokens(&mut it, true).cookies, ["E"]);
        assert!(!it.headers.contains_key("cookie"));
    }

    #[test]
    fn what_is_the_applications_stays() {
        for uri in ["/", "/a?b", "/?atoll_tokens=1", "/?x=atoll_token", "http://h/p?q=%20&q"] {
            let mut it = parts(uri, &[("cookie", "atoll=1; a=\"b c\"")]);
            assert_eq!(take_tokens(&mut it, false), Tokens::default(), "{uri}");
            assert_eq!(
                (it.uri.to_string().as_str(), it.headers["cookie"].to_str().unwrap()),
                (uri, "atoll=1; a=\"b c\"")
            );
        }
        let mut it = parts("http://h:1/p?atoll_token=", &[]);
        assert_eq!(take_tokens(&mut it, false).link.as_deref(), Some(""));
        assert_eq!(it.uri, "http://h:1/p");
    }

    #[test]
    fn keys_are_looked_for_in_two_places() {
        let it = parts("/", &[("x-api-key", "A"), ("authorization", "bearer B")]);
        let found: Vec<_> = possible_keys(&it.headers).into_iter().map(|(_, key)| key).collect();
        assert_eq!(found, ["A", "B"]);
        assert!(possible_keys(&parts("/", &[("authorization", "Basic dXNlcjo=")]).headers).is_empty());
    }

    #[test]
    fn a_cookie_counts_only_where_it_was_meant_to() {
        let counts = |method: &str, headers: &[(&str, &str)]| {
            let mut it = parts("/", &[&[("host", "a-b.localhost:1")], headers].concat());
            it.method = method.parse().unwrap();
            ambient_counts(&it)
        };
        assert!(counts("POST", &[]) && counts("POST", &[("origin", "http://a-b.localhost:1")]));
        assert!(counts("GET", &[("sec-fetch-site", "same-origin")]));
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(counts("GET", &link) && !counts("POST", &link), "a link may be followed, a form not sent");
        for site in ["cross-site", "same-site"] {
            assert!(!counts("GET", &[("sec-fetch-site", site), ("sec-fetch-mode", "websocket")]), "{site}");
        }
        for origin in ["http://c-d.localhost:1", "null", "http://a-b.localhost", "a-b.localhost:1"] {
            assert!(!counts("GET", &[("origin", origin)]), "{origin}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_it(path in "/[!-~]{0,60}", cookie in "[ -~]{0,80}") {
            let Ok(request) = Request::builder().uri(path).header("cookie", cookie).body(()) else { return Ok(()) };
            let mut it = request.into_parts().0;
            take_tokens(&mut it, false);
            prop_assert_eq!(take_tokens(&mut it, false), Tokens::default(), "nothing is left of them");
        }
    }
}
