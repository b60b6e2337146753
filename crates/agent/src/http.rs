//! The agent's entrance: connections, trust, and which request goes where.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_proto::agent::{AWAKE_ONLY_HEADER, RESTING_HEADER};
use atoll_proto::sign::{RequestVerifier, SIGNATURE_HEADER};
use bytes::Bytes;
use connectrpc::ConnectRpcService;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::Service;

use crate::app::{self, App};
use crate::clock::now_ms;
use crate::errors::ApiError;
use crate::{compose, dirs, download, executor, metrics, rpc, transfer, tunnel};

/// Of a request's line and headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call may take, in milliseconds (Connect protocol).
const TIMEOUT_HEADER: &str = "connect-timeout-ms";
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What every answer's body is.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Serves connections.
#[derive(Clone)]
pub struct Server {
    app: Arc<App>,
    rpc: ConnectRpcService,
    /// Absent on a unix socket, whose other end is trusted.
    verifier: Option<Arc<RequestVerifier>>,
    /// The address at which a connection over TCP came in.
    own: Option<IpAddr>,
    /// It answers as the executor, to everybody, and as nothing else.
    executor: bool,
}

impl Server {
    pub fn new(app: Arc<App>, verifier: Option<RequestVerifier>) -> Self {
        Self { rpc: rpc::service(&app), app, verifier: verifier.map(Arc::new), own: None, executor: false }
    }

    /// The same agent behind the executor's port.
    pub fn executor(&self) -> Self {
        Self { executor: true, ..self.clone() }
    }

    /// Serves one connection over TCP in the background.
    pub fn serve_tcp(&self, stream: TcpStream) {
        // Without it small answers only come later.
        let _ = stream.set_nodelay(true);
        tunnel::keep_alive(&stream);
        let own = stream.local_addr().ok().map(|address| address.ip());
        Self { own, ..self.clone() }.serve(stream);
    }

    /// Serves one connection in the background, HTTP/1.1 or HTTP/2.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let server = self.clone();
        tokio::spawn(async move {
            let mut builder = Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            builder
                .http2()
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(1024);
            let service = hyper::service::service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            // A connection that breaks has nobody to tell.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }

    async fn answer(mut self, request: Request<Incoming>) -> Response<Body> {
        let result = match self.trust(&request).and_then(|()| self.answers(&request)) {
            _ if self.executor => executor::answer(&self.app, request).await,
            Ok(()) => self.route(request).await,
            Err(error) => Err(error),
        };
        result.unwrap_or_else(|error| failure(&error))
    }

    /// `GET /health` is for everybody, since probes cannot sign.
    fn trust(&self, request: &Request<Incoming>) -> Result<(), ApiError> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        if request.method() == Method::GET && request.uri().path() == "/health" {
            return Ok(());
        }
        let signature = request.headers().get(SIGNATURE_HEADER).and_then(|value| value.to_str().ok());
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let trusted = verifier.verify(now_ms(), signature, request.method().as_str(), target);
        trusted.map_err(|error| ApiError::NotTrusted(error.to_string()))
    }

    /// A frozen sandbox is not for those who may not wake it.
    fn answers(&self, request: &Request<Incoming>) -> Result<(), ApiError> {
        let only_awake = request.headers().contains_key(AWAKE_ONLY_HEADER);
        if only_awake && self.app.frozen.load(Ordering::Relaxed) { Err(ApiError::Resting) } else { Ok(()) }
    }

    async fn route(&mut self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let app = &self.app;
        if wakes(request.uri().path()) {
            app.table.touch();
        }
        match (request.method().as_str(), request.uri().path()) {
            ("GET", "/health") => Ok(health()),
            ("GET", "/metrics") => Ok(json(StatusCode::OK, &metrics_json(app))),
            ("GET", "/envs") => Ok(json(StatusCode::OK, &app.config.env)),
            ("GET" | "HEAD", "/files") => download::download(app, request).await,
            ("POST" | "PUT", "/files") => transfer::upload(app, request).await,
            ("POST", "/files/compose") => compose::compose(app, request).await,
            ("GET", "/dirs") => dirs::download(app, request).await,
            ("PUT" | "POST", "/dirs") => dirs::upload(app, request).await,
            ("GET", path) if path.starts_with(tunnel::PATH) => self.tunnel(request).await,
            _ => {
                let Ok(response) = self.rpc.call(without_empty_timeout(request)).await;
                Ok(response.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
            }
        }
    }

    /// Whoever is trusted for a unix socket reaches the ports without the agent.
    async fn tunnel(&self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        match (self.own, &self.verifier) {
            (Some(own), Some(_)) => tunnel::open(own, request).await,
            _ => Err(ApiError::NotFound("ports are reached through the agent only over TCP".into())),
        }
    }
}

/// A time-out of nothing is none: so clients say that they have time.
fn without_empty_timeout(mut request: Request<Incoming>) -> Request<Incoming> {
    if request.headers().get(TIMEOUT_HEADER).is_some_and(|value| value == "0") {
        request.headers_mut().remove(TIMEOUT_HEADER);
    }
    request
}

/// Looking at a sandbox is no use of it.
fn wakes(path: &str) -> bool {
    let looks = ["/health", "/metrics", "/envs"];
    !looks.contains(&path) && !path.starts_with("/atoll.agent.v1.Agent/")
}

fn health() -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert("atoll-agent-version", header::HeaderValue::from_static(app::VERSION));
    response
}

fn metrics_json(app: &App) -> serde_json::Value {
    let now = metrics::measure(&app.config);
    serde_json::json!({
        "ts": now.timestamp_ms / 1000,
        "cpu_count": now.cpu_count,
        "cpu_used_pct": app.cpu.percent(&now),
        "cpu_used_us": now.cpu_micros,
        "mem_total": now.memory_limit_bytes,
        "mem_used": now.memory_bytes,
        "mem_cache": now.memory_cache_bytes,
        "disk_used": now.disk_used_bytes,
        "disk_total": now.disk_total_bytes,
    })
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn failure(error: &ApiError) -> Response<Body> {
    let status = error.status();
    let body = serde_json::json!({
        "code": status.as_u16(),
        "error_code": error.name(),
        "message": error.to_string(),
    });
    let mut response = json(status, &body);
    if matches!(error, ApiError::Resting) {
        response.headers_mut().insert(RESTING_HEADER, header::HeaderValue::from_static("1"));
    }
    response
}

/// A body that is there at once.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A value of the query, decoded; and whether the name comes once.
pub fn query(uri: &http::Uri, name: &str) -> Result<Option<String>, ApiError> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value));
    let value = values.next().transpose()?;
    match values.next() {
        None => Ok(value),
        Some(_) => Err(ApiError::BadRequest(format!("'{name}' is given twice"))),
    }
}

/// The user of a plain request: the query's, else the E2B header's.
pub fn user(uri: &http::Uri, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    Ok(query(uri, "username")?.or_else(|| rpc::basic_user(headers)))
}

fn decode(text: &str) -> Result<String, ApiError> {
    let bad = || ApiError::BadRequest("the query is not valid".into());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(bad);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).map_err(|_| bad())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(uri: &str) -> Result<Option<String>, ApiError> {
        query(&uri.parse().unwrap(), "path")
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(path("/files").unwrap(), None);
        assert_eq!(path("/files?username=u&path=%2Fa%20b+c%C3%A9").unwrap().as_deref(), Some("/a b cé"));
        for bad in ["/files?path=%2", "/files?path=%zz", "/files?path=%ff", "/files?path=a&path=b"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
