//! The route of a terminal, on the same WebSocket as our own interactive commands.

use atoll_proto::api::InteractiveStart;
use axum::{
    extract::{Path, State, WebSocketUpgrade},
    response::Response,
};
use std::sync::Arc;

use super::find;
use crate::{
    http::{
        error::Answer,
        extract::Query,
        interactive::{Wire, open},
    },
    services::{Services, access::Caller},
};

/// A login shell: bash, or the plain one where there is no bash.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "[ -x /bin/bash ] && exec /bin/bash -l; exec /bin/sh -l"];

/// Opens a login shell on a terminal.
///
/// A WebSocket. What the client sends is typed, text and binary messages alike, but for the text message
/// `{"type":"resize","cols":C,"rows":R}` (also with both in a `payload`), which sets the terminal's size. What the terminal
/// shows comes as binary messages, byte for byte. The server closes with 1000 when the shell has ended, with 1011 and the
/// reason when it could not be had. The shell is killed when the connection is lost.
#[utoipa::path(get, path = "/api/kata/{podName}/terminal", operation_id = "kata_terminal", tag = "kata",
    params(("podName" = String, Path, description = "Name of the pod, or id of the sandbox"),
        ("cols" = Option<u16>, Query, description = "Columns; 80 when absent"),
        ("rows" = Option<u16>, Query, description = "Rows; 24 when absent")),
    responses((status = 101, description = "The WebSocket is open")))]
pub async fn terminal(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(name): Path<String>,
    query: Query,
    upgrade: WebSocketUpgrade,
) -> Answer<Response> {
    let sandbox = find(&services, &caller, &name).await?;
    let (cols, rows) = (query.number("cols")?, query.number("rows")?);
    let start = InteractiveStart { tty: true, cols, rows, ..InteractiveStart::of(SHELL) };
    Ok(open(services, caller, sandbox.id().to_string(), Some(start), Wire::Raw, upgrade))
}
