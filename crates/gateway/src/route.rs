//! Which port of which sandbox a request is for. Pure: looks at host name, headers and path, asks nobody.

use atoll_core::{
    address::{ContentAddress, Destination, Host},
    id::SandboxId,
};
use http::{HeaderMap, Uri, header};

use crate::path::{self, Named};

/// Names the sandbox where host names cannot; the spelling is that of E2B's clients.
pub const SANDBOX_ID: &str = "e2b-sandbox-id";
/// Names its port.
pub const SANDBOX_PORT: &str = "e2b-sandbox-port";

/// What said where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The host name.
    Host,
    /// Headers.
    Headers,
    /// The path, up to this.
    Path(String),
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a sandbox.
    To {
        /// Which port of which.
        destination: Destination,
        /// What said so.
        by: By,
    },
    /// To what cannot be any sandbox's id.
    Nobody,
    /// Its host name is below the content domain and no sandbox's.
    Nothing,
    /// It names a sandbox and cannot be read; says what is wrong.
    Malformed(&'static str),
    /// Not to a sandbox.
    Elsewhere,
}

/// The authority that a request is for: HTTP/2's, that of an absolute URL, or the `Host` header.
pub fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let host = || headers.get(header::HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(http::uri::Authority::as_str).or_else(host)
}

/// Reads host name and headers.
pub fn route(address: &ContentAddress, uri: &Uri, headers: &HeaderMap) -> Route {
    let Some(authority) = authority(uri, headers) else { return Route::Elsewhere };
    match address.read(authority) {
        Host::Sandbox(_) | Host::Nothing if headers.get_all(header::HOST).iter().count() > 1 => {
            Route::Malformed("the request has more than one Host header")
        }
        Host::Sandbox(destination) => Route::To { destination, by: By::Host },
        Host::Nothing => Route::Nothing,
        Host::Elsewhere { local: true } if headers.contains_key(SANDBOX_ID) => by_headers(headers),
        Host::Elsewhere { .. } => path::read(uri.path()).map_or(Route::Elsewhere, by_path),
    }
}

fn by_path(named: Named<'_>) -> Route {
    let Some(port) = named.port.parse().ok().filter(|port| *port != 0) else {
        return Route::Malformed("the port in the path must be a number from 1 to 65535");
    };
    match SandboxId::parse(named.id) {
        Ok(id) => {
            Route::To { destination: Destination::Port { port, id }, by: By::Path(named.prefix.to_owned()) }
        }
        Err(_) => Route::Nobody,
    }
}

fn by_headers(headers: &HeaderMap) -> Route {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let port = text(SANDBOX_PORT).and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let Some(port) = port else {
        return Route::Malformed("E2b-Sandbox-Port must be a number from 1 to 65535");
    };
    match text(SANDBOX_ID).map(SandboxId::parse) {
        Some(Ok(id)) => Route::To { destination: Destination::Port { port, id }, by: By::Headers },
        _ => Route::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn routed(uri: &str, headers: &[(&str, &str)]) -> Route {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        let address = ContentAddress::new("localhost", "http://{host}").unwrap();
        route(&address, &uri.parse().unwrap(), &map)
    }

    fn to(port: u16, by: By) -> Route {
        let id = SandboxId::from_entropy([0; 19]);
        Route::To { destination: Destination::Port { port, id }, by }
    }

    const ID: &str = "iaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn the_host_name_leads_the_way() {
        let host = format!("80-{ID}.localhost:1");
        assert_eq!(routed("/", &[("host", &host)]), to(80, By::Host));
        assert_eq!(routed(&format!("http://{host}/x"), &[]), to(80, By::Host), "HTTP/2");
        assert_eq!(routed(&format!("http://{host}/x"), &[("host", "other")]), to(80, By::Host));
        assert_eq!(routed("/", &[("host", "foo.localhost")]), Route::Nothing);
        for host in ["localhost", "api.localhost", "example.com"] {
            assert_eq!(routed("/", &[("host", host)]), Route::Elsewhere, "{host}");
        }
        assert_eq!(routed("/", &[]), Route::Elsewhere);
        assert!(matches!(routed("/", &[("host", &host), ("host", &host)]), Route::Malformed(_)));
    }

    #[test]
    fn headers_lead_the_way_where_names_cannot() {
        let headers = |host| [("host", host), (SANDBOX_ID, ID), (SANDBOX_PORT, "80")];
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]", "sandbox.example.com", "sandbox.localhost"]
        {
            assert_eq!(routed("/", &headers(host)), to(80, By::Headers), "{host}");
        }
        assert_eq!(routed("/", &headers("example.com")), Route::Elsewhere);
        assert_eq!(
            routed("/", &headers(&format!("81-{ID}.localhost"))),
            to(81, By::Host),
            "a name goes before"
        );
    }

    #[test]
    fn a_path_leads_the_way_where_the_host_is_nobodys() {
        let path = format!("/api/v1/sandbox/{ID}/port/80");
        for host in ["localhost:8080", "127.0.0.1", "api.localhost", "example.com"] {
            let routed = routed(&format!("{path}/a?b"), &[("host", host)]);
            assert_eq!(routed, to(80, By::Path(path.clone())), "{host}");
        }
        let host = format!("81-{ID}.localhost");
        assert_eq!(routed(&path, &[("host", &host)]), to(81, By::Host), "a name goes before");
        let headers = [("host", "localhost"), (SANDBOX_ID, ID), (SANDBOX_PORT, "82")];
        assert_eq!(routed(&path, &headers), to(82, By::Headers), "and so do headers");
        for port in ["", "0", "65536", "http", "-1"] {
            let path = format!("/api/v1/sandbox/{ID}/port/{port}/");
            assert!(matches!(routed(&path, &[("host", "localhost")]), Route::Malformed(_)), "{port}");
        }
        assert_eq!(routed("/api/v1/sandbox/nobody/port/80", &[("host", "localhost")]), Route::Nobody);
        assert_eq!(routed("/api/v1/sandboxes", &[("host", "localhost")]), Route::Elsewhere);
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_it(
            host in "[!-~]{0,40}", prefix in "[0-9]{0,6}-?", id in "[!-~]{0,24}", port in "[ -~]{0,8}",
        ) {
            let hosts = [host.clone(), "localhost".into(), format!("{prefix}{id}.localhost"), format!("{prefix}{ID}.LOCALHOST.:{port}")];
            for host in hosts {
                for route in [
                    routed("/", &[("host", &host)]),
                    routed("/", &[("host", &host), (SANDBOX_ID, &id), (SANDBOX_PORT, &port)]),
                ] {
                    let named = matches!(route, Route::To { destination: Destination::Port { port: 0, .. }, .. });
                    prop_assert!(!named, "{} leads to no port: {:?}", host, route);
                }
            }
        }
    }

    #[test]
    fn headers_that_name_nothing_are_told_apart() {
        let with = |id, port| routed("/", &[("host", "localhost"), (SANDBOX_ID, id), (SANDBOX_PORT, port)]);
        assert_eq!(with("nobody", "80"), Route::Nothing);
        for port in ["", "0", "65536", "http"] {
            assert!(matches!(with(ID, port), Route::Malformed(_)), "{port}");
        }
        assert!(matches!(routed("/", &[("host", "localhost"), (SANDBOX_ID, ID)]), Route::Malformed(_)));
        assert_eq!(routed("/", &[("host", "localhost"), (SANDBOX_PORT, "80")]), Route::Elsewhere);
    }
}
