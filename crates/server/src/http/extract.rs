//! How a request is read: JSON bodies and query strings, with refusals that name the field.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::{convert::Infallible, str::FromStr, sync::Arc, time::Duration};

use super::error::ApiError;
use crate::services::{Services, error::ServiceError};

/// A body of JSON, and its bytes.
pub struct JsonBody<T> {
    pub value: T,
    pub bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<Arc<Services>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, services: &Arc<Services>) -> Result<Self, ApiError> {
        refuse_other_types(request.headers())?;
        let bytes = whole_body(request, services.base.config.limits.json_body).await?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

fn refuse_other_types(headers: &HeaderMap) -> Result<(), ServiceError> {
    let Some(sent) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = sent.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let json = essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json");
    if json {
        return Ok(());
    }
    Err(ServiceError::invalid("Content-Type", format!("send `application/json`, not {sent:?}")))
}

/// A body that is to be read whole must have come after so long.
const PATIENCE: Duration = Duration::from_secs(60);

async fn whole_body(request: Request, limit: usize) -> Result<Bytes, ServiceError> {
    let body = Limited::new(request.into_body(), limit).collect();
    let slow = |_| ServiceError::invalid("body", format!("did not come within {} s", PATIENCE.as_secs()));
    match tokio::time::timeout(PATIENCE, body).await.map_err(slow)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ServiceError::TooLarge(format!("a JSON body may have {limit} bytes")))
        }
        Err(error) => Err(ServiceError::invalid("body", format!("could not be read: {error}"))),
    }
}

/// Reads JSON; the refusal names the field as the caller wrote it. No body at all is an empty object.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ServiceError> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    // Serde would take a list for an object's fields in order.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(ServiceError::invalid("body", "is not a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.into_inner().to_string();
        ServiceError::invalid(field(&path, &problem), problem)
    })?;
    reader.end().map_err(|error| ServiceError::invalid("body", error.to_string()))?;
    Ok(value)
}

/// The path of what could not be read. One that is not known or missing is named in the problem only.
fn field(path: &str, problem: &str) -> String {
    let named = ["unknown field `", "missing field `"].iter().find_map(|start| problem.strip_prefix(start));
    let name = named.and_then(|rest| rest.split('`').next());
    match (path, name) {
        ("." | "?" | "", None) => "body".to_owned(),
        ("." | "?" | "", Some(name)) => name.to_owned(),
        (path, Some(name)) if !path.ends_with(name) => {
            format!("{}.{name}", path.trim_end_matches(['?', '.']))
        }
        (path, _) => path.to_owned(),
    }
}

/// The pairs of a query string, in order; a name may come several times.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::read(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    pub fn read(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a name; an empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// Every value of a name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A value that must be there.
    pub fn need(&self, name: &'static str) -> Result<&str, ServiceError> {
        self.get(name).ok_or_else(|| ServiceError::invalid(name, "is needed in the query string"))
    }

    /// A value of another type than text.
    pub fn number<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, ServiceError> {
        let refuse = |text: &str| ServiceError::invalid(name, format!("{text:?} is not a number that fits"));
        self.get(name).map(|text| text.parse().map_err(|_| refuse(text))).transpose()
    }

    /// A switch.
    pub fn switch(&self, name: &'static str) -> Result<Option<bool>, ServiceError> {
        match self.get(name) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(ServiceError::invalid(name, format!("{other:?} is neither true nor false"))),
        }
    }
}

/// Whether the caller wants a stream of events.
pub fn wants_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_proto::api::CreateSandbox;

    #[test]
    fn refusals_name_the_field_as_it_was_written() {
        for (body, expected) in [
            (r#"{"imag":"x"}"#, "imag"),
            (r#"{"cpu":5}"#, "cpu"),
            (r#"{"overrides":{"memory":5}}"#, "overrides.memory"),
            (r#"{"overrides":{"disk":"1Gi"}}"#, "overrides.disk"),
            (r#"{"start_command":["a",1]}"#, "start_command[1]"),
            ("{", "body"),
            ("[]", "body"),
            (r#"{"image":"x"} trailing"#, "body"),
        ] {
            let refused = parse::<CreateSandbox>(body.as_bytes()).unwrap_err();
            assert_eq!(refused.tell().field.as_deref(), Some(expected), "{body}: {refused}");
        }
    }

    #[test]
    fn queries_repeat_and_unescape() {
        let query = Query::read("label=a%3Db&label=c=d&limit=12&follow=true&empty=");
        assert_eq!(query.all("label").collect::<Vec<_>>(), ["a=b", "c=d"]);
        assert_eq!(query.number::<usize>("limit").unwrap(), Some(12));
        assert_eq!(query.switch("follow").unwrap(), Some(true));
        assert!(query.get("empty").is_none() && query.need("absent").is_err());
        assert!(query.number::<u8>("follow").is_err() && query.switch("limit").is_err());
    }
}
