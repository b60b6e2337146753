//! Why a request does not get through, and how that is said: a page to people, JSON in the API's error shape to programs,
//! and in E2B's words to its clients, which name the sandbox by header or ask for its agent.

use atoll_core::{
    address::{AGENT_PORT, Destination},
    driver::DriverError,
    id::SandboxId,
    phase::Phase,
    store::StoreError,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::{
    body::Body,
    route::{Route, SANDBOX_ID},
    signature::Bad,
};

/// What E2B says of a sandbox that is not there, or rests.
const MISSING: &str = "The sandbox was not found";
/// What E2B says of a port on which nothing listens.
const CLOSED: &str = "The sandbox is running but port is not open";

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request cannot be read.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its host name cannot be any sandbox's.
    #[error(
        "this host name leads nowhere; names of sandboxes are PORT-ID and USER-PORTNAME below the domain of this server"
    )]
    UnknownHost,
    /// Nothing was shown that opens this address, if there is anything.
    #[error(
        "this address is not open to everybody: send an API key as `X-API-Key`, a token as `X-Atoll-Token`, or ask its \
         owner for a link"
    )]
    Unauthorized,
    /// A client of E2B's has no token of the sandbox's ports, or a wrong one.
    #[error("Sandbox is secured with traffic access token. {}", traffic_problem(*.wrong))]
    NoTraffic {
        /// Whether one was shown.
        wrong: bool,
    },
    /// No token of the sandbox's agent, or a wrong one.
    #[error("unauthorized access, please provide a valid access token or method signing if supported")]
    Untrusted,
    /// No token, and no signature that opens the file.
    #[error("{0}")]
    Unsigned(Bad),
    /// The agent does that for the server alone, or not at all.
    #[error("the sandbox has no such endpoint")]
    NoEndpoint,
    /// A link that was good once.
    #[error("this link has expired; ask its owner for another")]
    Expired,
    /// Another site's page speaks for somebody.
    #[error(
        "a page of another site cannot use this address in your name; open it yourself, or send a key or token"
    )]
    OtherSite,
    /// There is no such sandbox, for whoever asks.
    #[error("there is no such sandbox")]
    NotFound,
    /// There was such a sandbox, and everybody could see it.
    #[error("the sandbox is gone")]
    Gone,
    /// The sandbox has no port of that name.
    #[error("the sandbox names no port {0:?}; its address by number is PORT-ID")]
    UnknownPort(String),
    /// Nothing listens there.
    #[error("nothing listens on port {0} of the sandbox")]
    PortClosed(u16),
    /// It rests, and requests do not wake it.
    #[error("the sandbox rests and is not woken by requests; resume it first")]
    Resting,
    /// It rests and cannot be woken.
    #[error("the sandbox cannot be used: {0}")]
    Asleep(String),
    /// What listens there does not speak HTTP, or broke off.
    #[error("what listens on port {0} of the sandbox gave no answer in HTTP")]
    NoAnswer(u16),
    /// What listens there answers, and does not change the protocol.
    #[error("what listens on port {0} of the sandbox does not speak the protocol that was asked for")]
    NoTunnel(u16),
    /// As many connections are open as may be.
    #[error("too many connections are open; try again in a moment")]
    Busy,
    /// Something broke that should not have; the text is for the log alone.
    #[error("{0}")]
    Internal(String),
}

impl From<DriverError> for Refusal {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::NotFound(_) | DriverError::Conflict { phase: Phase::Terminating, .. } => {
                Self::NotFound
            }
            DriverError::PortClosed(port) => Self::PortClosed(port),
            DriverError::Conflict { .. }
            | DriverError::Exists(_)
            | DriverError::Exhausted(_)
            | DriverError::InUse(_)
            | DriverError::Invalid(_)
            | DriverError::Image { .. }
            | DriverError::Unsupported(_) => Self::Asleep(error.to_string()),
            DriverError::Internal(problem) => Self::Internal(problem),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}

fn traffic_problem(wrong: bool) -> &'static str {
    match wrong {
        true => "Provided token in header 'e2b-traffic-access-token' is invalid",
        false => "Token header 'e2b-traffic-access-token' is missing",
    }
}

/// What whoever asks can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Somebody at a browser.
    Page,
    /// A program, and the sandbox that it named by its identifier.
    Json(Option<SandboxId>),
    /// A client of E2B, and the sandbox that it named.
    E2b(String),
}

impl Manner {
    /// From what is asked for. Only clients of E2B ask for an agent, by whatever name.
    pub fn of(route: &Route, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (port, id) = match route {
            Route::To { destination: Destination::Port { port, id }, .. } => (Some(*port), Some(id)),
            _ => (None, None),
        };
        match (text(SANDBOX_ID), text("accept")) {
            (Some(_), _) => Self::E2b(id.map(ToString::to_string).unwrap_or_default()),
            _ if port == Some(AGENT_PORT) => Self::E2b(id.map(ToString::to_string).unwrap_or_default()),
            (None, accept) if is_for_people(accept, text("user-agent")) => Self::Page,
            _ => Self::Json(id.cloned()),
        }
    }
}

/// Every browser says to be Mozilla, and what asks in one for no kind of answer can show a page.
fn is_for_people(accept: Option<&str>, agent: Option<&str>) -> bool {
    match accept {
        Some(accept) if accept.contains("text/html") => true,
        Some(accept) if accept.trim() != "*/*" => false,
        _ => agent.is_some_and(|agent| agent.starts_with("Mozilla/")),
    }
}

impl Refusal {
    /// The status and the machine-readable code.
    pub fn classify(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::UnknownHost => (StatusCode::NOT_FOUND, "unknown_host"),
            Self::Unauthorized => (StatusCode::FORBIDDEN, "unauthorized"),
            Self::NoTraffic { .. } => (StatusCode::FORBIDDEN, "no_traffic_token"),
            Self::Untrusted => (StatusCode::UNAUTHORIZED, "untrusted"),
            Self::Unsigned(_) => (StatusCode::UNAUTHORIZED, "unsigned"),
            Self::NoEndpoint => (StatusCode::NOT_FOUND, "no_endpoint"),
            Self::Expired => (StatusCode::UNAUTHORIZED, "expired"),
            Self::OtherSite => (StatusCode::FORBIDDEN, "foreign_origin"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::Gone => (StatusCode::BAD_GATEWAY, "gone"),
            Self::UnknownPort(_) => (StatusCode::NOT_FOUND, "unknown_port"),
            Self::PortClosed(_) => (StatusCode::BAD_GATEWAY, "port_closed"),
            Self::NoAnswer(_) => (StatusCode::BAD_GATEWAY, "no_answer"),
            Self::NoTunnel(_) => (StatusCode::BAD_GATEWAY, "no_upgrade"),
            Self::Resting => (StatusCode::BAD_GATEWAY, "resting"),
            Self::Asleep(_) => (StatusCode::SERVICE_UNAVAILABLE, "cannot_wake"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// The answer.
    pub fn answer(&self, manner: &Manner) -> Response<Body> {
        let (status, code) = self.classify();
        let message = match self {
            Self::Internal(problem) => {
                tracing::error!(error = %problem, "the gateway failed");
                "the gateway failed; its log has the details".to_owned()
            }
            other => other.to_string(),
        };
        let (status, kind, text) = match manner {
            Manner::Page => (status, "text/html; charset=utf-8", page(self.title(status), &message)),
            Manner::Json(id) => {
                let mut body = json!({"error": message, "code": code});
                self.add_e2b(&mut body, id.as_ref());
                (status, "application/json", body.to_string())
            }
            Manner::E2b(id) => {
                let (status, body) = self.e2b(status, &message, id);
                (status, "application/json", body.to_string())
            }
        };
        let mut response = Response::new(Body::text(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// What a page is called; that of a closed port as E2B calls it.
    fn title(&self, status: StatusCode) -> &'static str {
        match self {
            Self::PortClosed(_) => "Closed Port Error",
            _ => status.canonical_reason().unwrap_or("Error"),
        }
    }

    /// Who asks for a port by its host name may use a client of E2B to know that name, and look for its words.
    fn add_e2b(&self, body: &mut serde_json::Value, id: Option<&SandboxId>) {
        let Some(id) = id else { return };
        let message = match self {
            Self::PortClosed(_) => CLOSED,
            Self::Gone | Self::Resting => MISSING,
            _ => return,
        };
        (body["sandboxId"], body["message"]) = (json!(id), json!(message));
        match self {
            Self::PortClosed(port) => body["port"] = json!(port),
            // Of what is gone, they compare the code too, which is a number in their words.
            Self::Gone => body["code"] = json!(StatusCode::BAD_GATEWAY.as_u16()),
            _ => {}
        }
    }

    /// E2B's clients take a sandbox that is gone, and a port that is closed, from these words and this status.
    fn e2b(&self, status: StatusCode, message: &str, id: &str) -> (StatusCode, serde_json::Value) {
        let gone = StatusCode::BAD_GATEWAY;
        match self {
            Self::NotFound | Self::Gone | Self::UnknownHost | Self::Resting | Self::Asleep(_) => {
                (gone, json!({"sandboxId": id, "message": MISSING, "code": gone.as_u16()}))
            }
            Self::PortClosed(port) => {
                (gone, json!({"sandboxId": id, "message": CLOSED, "port": port, "code": gone.as_u16()}))
            }
            Self::Untrusted | Self::Unsigned(_) | Self::NoEndpoint => {
                (status, json!({"message": message, "code": status.as_u16()}))
            }
            _ => (status, json!({"sandboxId": id, "message": message, "code": status.as_u16()})),
        }
    }
}

fn page(title: &str, message: &str) -> String {
    let message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><body style=\"font:16px/1.5 sans-serif;max-width:36em;margin:15vh auto;padding:0 1em\">\
         <h1>{title}</h1><p>{message}</p></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::By;
    use http_body_util::BodyExt;

    async fn said(refusal: &Refusal, manner: &Manner) -> (u16, String) {
        let response = refusal.answer(manner);
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn people_programs_and_e2b_are_told_in_their_words() {
        let closed = Refusal::PortClosed(81);
        let (status, json) = said(&closed, &Manner::Json(None)).await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((status, &json["code"]), (502, &json!("port_closed")));
        assert!(json["error"].as_str().unwrap().contains("81"));
        let (status, page) = said(&Refusal::UnknownPort("<x>".into()), &Manner::Page).await;
        assert!(status == 404 && page.contains("&lt;x&gt;") && !page.contains("<x>"), "{page}");
        let (status, e2b) = said(&closed, &Manner::E2b("i1".into())).await;
        let e2b: serde_json::Value = serde_json::from_str(&e2b).unwrap();
        let message = "The sandbox is running but port is not open";
        assert_eq!(
            (status, e2b),
            (502, json!({"sandboxId": "i1", "message": message, "port": 81, "code": 502}))
        );
        let (status, e2b) = said(&Refusal::NotFound, &Manner::E2b("i1".into())).await;
        let e2b: serde_json::Value = serde_json::from_str(&e2b).unwrap();
        assert_eq!(
            (status, e2b),
            (502, json!({"sandboxId": "i1", "message": "The sandbox was not found", "code": 502}))
        );
    }

    #[tokio::test]
    async fn what_broke_inside_is_not_told() {
        let (status, text) = said(&Refusal::Internal("/secret/path".into()), &Manner::Json(None)).await;
        assert!(status == 500 && !text.contains("secret"), "{text}");
    }

    #[test]
    fn the_manner_is_the_askers() {
        let manner = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            Manner::of(&Route::Nothing, &pairs.collect())
        };
        assert_eq!(manner(&[("accept", "text/html,*/*;q=0.8")]), Manner::Page);
        assert_eq!(manner(&[("accept", "*/*")]), Manner::Json(None));
        let browser = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)");
        assert_eq!(manner(&[("accept", "*/*"), browser]), Manner::Page);
        assert_eq!(manner(&[("accept", "application/json"), browser]), Manner::Json(None));
        assert_eq!(manner(&[]), Manner::Json(None));
        assert_eq!(manner(&[("e2b-sandbox-id", "<x>"), ("accept", "text/html")]), Manner::E2b(String::new()));
        let id = SandboxId::from_entropy([1; 19]);
        let to = |port| Route::To { destination: Destination::Port { port, id: id.clone() }, by: By::Host };
        assert_eq!(Manner::of(&to(AGENT_PORT), &HeaderMap::new()), Manner::E2b(id.to_string()));
        assert_eq!(Manner::of(&to(80), &HeaderMap::new()), Manner::Json(Some(id.clone())));
    }
}
