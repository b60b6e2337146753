//! The tools over HTTP, on this machine alone. Every request must show the token; pages of browsers are refused by their
//! origin, and names that somebody made lead here by the host.

use atoll_core::link::is_same;
use atoll_server::{RealWorld, new_secret};
use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::tools::Tools;
use crate::{failure::Failure, output};

/// Where the tools are.
const PATH: &str = "/mcp";
/// A session without a request for so long is over, and its sandbox is removed.
const SESSION: Duration = Duration::from_secs(60 * 60);
/// Bytes of one request: a file in base64 is among them.
const LARGEST: usize = 64 << 20;

/// Serves until `stop`.
pub async fn serve(
    address: SocketAddr,
    token: Option<String>,
    tools: Tools,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    if !address.ip().is_loopback() {
        return Err(Failure::Wrong(format!(
            "--http: {address} can be reached from other machines, and tokens could be read on the way: listen on 127.0.0.1, \
             behind something that encrypts"
        )));
    }
    let failed = |source| Failure::io(format!("listen on {address}"), source);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let token = match token.filter(|token| !token.is_empty()) {
        Some(token) => token,
        None => announced(new_secret(&RealWorld).map_err(|source| Failure::io("make a token", source))?),
    };
    output::note(&format!("serving agents at http://{address}{PATH}"));
    let cancel = CancellationToken::new();
    let app = app(tools, token, cancel.clone());
    let stopped = async move {
        stop.await;
        cancel.cancel();
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(stopped)
        .await
        .map_err(|source| Failure::io("serve", source))
}

fn announced(token: String) -> String {
    output::note(&format!("ATOLL_MCP_TOKEN is not set; agents need this token: {token}"));
    token
}

fn app(tools: Tools, token: String, cancel: CancellationToken) -> Router {
    let config = StreamableHttpServerConfig::default()
        .with_cancellation_token(cancel)
        .with_max_request_body_bytes(LARGEST)
        .enforce_origin_validation();
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(SESSION);
    let service =
        StreamableHttpService::new(move || Ok(tools.of_another_session()), Arc::new(sessions), config);
    let token: Arc<str> = token.into();
    Router::new().route_service(PATH, service).layer(from_fn_with_state(token, guard))
}

async fn guard(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match shown {
        Some((_, shown)) if is_same(shown.trim().as_bytes(), token.as_bytes()) => next.run(request).await,
        _ => {
            let problem = "send the token of `atoll mcp` as `Authorization: Bearer TOKEN`\n";
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
        }
    }
}
