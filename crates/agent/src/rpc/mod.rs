//! The services, each a thin translation onto the process table and the file operations.
#![allow(
    refining_impl_trait,
    reason = "the generated traits leave the type of the answer open; here it is named"
)]

pub mod agent;
pub mod exec;
pub mod filesystem;
pub mod follow;
pub mod process;

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectRpcService, Limits, RequestContext, Router};
use http::HeaderMap;

use crate::app::App;

/// Command lines and input may be this long in one message.
const MESSAGE_LIMIT: usize = 16 << 20;
const KEEPALIVE: Duration = Duration::from_secs(90);

/// All services behind one entrance.
pub fn service(app: &Arc<App>) -> ConnectRpcService {
    use atoll_proto::agent::filesystem::FilesystemExt;
    use atoll_proto::agent::process::ProcessExt;
    use atoll_proto::agent::v1::{AgentExt, ExecExt};
    let mut router = Router::new();
    router = Arc::new(agent::AgentService(Arc::clone(app))).register(router);
    router = Arc::new(exec::ExecService(Arc::clone(app))).register(router);
    router = Arc::new(filesystem::FilesystemService(Arc::clone(app))).register(router);
    router = Arc::new(process::ProcessService(Arc::clone(app))).register(router);
    let limits = Limits::default()
        .with_max_message_size(MESSAGE_LIMIT)
        .with_max_request_body_size(MESSAGE_LIMIT + 1024);
    ConnectRpcService::new(router).with_limits(limits)
}

/// The user named by `Authorization: Basic`, as the E2B SDK does.
pub fn basic_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let text = String::from_utf8(decode_base64(value.strip_prefix("Basic ")?.trim())?).ok()?;
    text.split(':').next().map(str::to_owned)
}

/// How often a stream without news says that it lives.
fn keepalive(context: &RequestContext) -> Duration {
    let asked = context.header("keepalive-ping-interval").and_then(|value| value.to_str().ok()?.parse().ok());
    asked.filter(|seconds| *seconds > 0).map_or(KEEPALIVE, Duration::from_secs)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut buffer, mut bits) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        buffer = (buffer << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((buffer >> bits) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, value.parse().unwrap());
        basic_user(&headers)
    }

    #[test]
    fn the_basic_user_is_read() {
        assert_eq!(user("Basic dXNlcjo=").as_deref(), Some("user"));
        assert_eq!(user("Basic cm9vdDpzZWNyZXQ=").as_deref(), Some("root"));
        assert_eq!(user("Basic Og==").as_deref(), Some(""));
        for bad in ["Bearer dXNlcjo=", "Basic ###", "Basic /////w=="] {
            assert_eq!(user(bad), None, "{bad}");
        }
    }
}
