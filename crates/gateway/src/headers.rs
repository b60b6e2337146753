//! What a proxy does to headers (RFC 9110, 7.6): what is between two neighbours ends here, and the way that a request came
//! is written down. Pure.

use http::{
    HeaderMap, HeaderValue,
    header::{self, HeaderName},
};
use std::net::IpAddr;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Longest way that is written on; a longer one was made up.
const LONGEST_WAY: usize = 4096;

/// Never passed on, beside what `Connection` names. `Expect` is answered by the gateway itself, which reads the body.
const BETWEEN_NEIGHBOURS: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::EXPECT,
    KEEP_ALIVE,
    PROXY_CONNECTION,
];

/// Removes what is between two neighbours; what was asked for by `TE: trailers` stays.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = list(headers, &header::TE).any(|word| word.eq_ignore_ascii_case("trailers"));
    let named: Vec<HeaderName> =
        list(headers, &header::CONNECTION).filter_map(|name| name.parse().ok()).collect();
    // A peer could otherwise have headers removed that the next one needs to be safe.
    for name in named.iter().filter(|name| **name != header::HOST && **name != header::COOKIE) {
        headers.remove(name);
    }
    for name in &BETWEEN_NEIGHBOURS {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, TRAILERS);
    }
}

/// The protocol that the sender wants to change to.
pub fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = list(headers, &header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

/// Asks the next neighbour to change to `protocol`.
pub fn ask_for_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// Writes down how a request came. What was written before stays in front: whoever reads the list may believe as much of
/// its end as they have proxies, and the last is always what was seen here.
pub fn add_forwarded(headers: &mut HeaderMap, peer: IpAddr, host: &HeaderValue, is_https: bool) {
    let (peer, scheme) = (peer.to_canonical(), if is_https { "https" } else { "http" });
    append(headers, FORWARDED_FOR, &peer.to_string());
    headers.insert(FORWARDED_HOST, host.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    let node = match peer {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    // What would end the quoted text is in no host name.
    let host = host.to_str().ok().filter(|host| !host.contains(['"', '\\'])).unwrap_or_default();
    append(headers, header::FORWARDED, &format!("for={node};host=\"{host}\";proto={scheme}"));
}

fn append(headers: &mut HeaderMap, name: HeaderName, item: &str) {
    let before: Vec<&str> =
        headers.get_all(&name).into_iter().filter_map(|value| value.to_str().ok()).collect();
    let before = before.join(", ");
    let whole = match before.is_empty() || before.len() > LONGEST_WAY {
        true => item.to_owned(),
        false => format!("{before}, {item}"),
    };
    if let Ok(value) = HeaderValue::from_str(&whole) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn what_is_between_neighbours_goes_no_further() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "close"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("expect", "100-continue"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        assert_eq!(wanted_upgrade(&headers), None, "an upgrade that Connection does not name is none");
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("accept", "*/*")]));
    }

    #[test]
    fn connection_cannot_take_away_host_and_cookies() {
        let mut headers = map(&[("connection", "host, cookie"), ("host", "h"), ("cookie", "a=b")]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "h"), ("cookie", "a=b")]));
    }

    #[test]
    fn an_upgrade_is_asked_for_anew() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        let protocol = wanted_upgrade(&headers).unwrap();
        remove_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
        ask_for_upgrade(&mut headers, protocol);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    #[test]
    fn the_way_is_written_on() {
        let mut headers = map(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-for", "192.0.2.2"),
        ]);
        let host = HeaderValue::from_static("3000-x.localhost:8080");
        add_forwarded(&mut headers, "::ffff:127.0.0.1".parse().unwrap(), &host, false);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 192.0.2.2, 127.0.0.1");
        assert_eq!(headers["x-forwarded-host"], "3000-x.localhost:8080");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["forwarded"], "for=127.0.0.1;host=\"3000-x.localhost:8080\";proto=http");
        add_forwarded(&mut headers, "::1".parse().unwrap(), &host, true);
        let forwarded = headers["forwarded"].to_str().unwrap();
        assert!(
            forwarded.ends_with(", for=\"[::1]\";host=\"3000-x.localhost:8080\";proto=https"),
            "{forwarded}"
        );
        headers.insert("x-forwarded-for", "x".repeat(5000).parse().unwrap());
        add_forwarded(&mut headers, "::1".parse().unwrap(), &host, true);
        assert_eq!(headers["x-forwarded-for"], "::1");
    }
}
