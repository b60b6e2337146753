//! The WebSocket of a command with input: text messages, or binary frames when the URL says so, or, for clients of other
//! APIs, nothing but what is typed and shown.

use atoll_proto::api::{FRAME_STDERR, FRAME_STDOUT, InteractiveMessage, InteractiveStart};
use axum::{
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    response::Response,
};
use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

use super::{error::Answer, extract::Query};
use crate::{
    request_id,
    services::{
        Services,
        access::Caller,
        error::ServiceError,
        exec::{Command, Happened, Input, Run},
        text::Decoder,
    },
};

/// How long the first message may take, when the URL does not say what to run.
const FIRST: Duration = Duration::from_secs(30);
/// A ping goes out so often, so that nobody between takes the connection for dead.
const PING: Duration = Duration::from_secs(30);
/// How many bytes of a reason a closing frame can carry (RFC 6455, 5.5).
const LONGEST_REASON: usize = 123;
/// The largest message that a client may send: a long command line with its environment.
const LARGEST: usize = 16 << 20;

/// Runs a command with input and, with `tty`, a terminal.
///
/// A WebSocket; see `InteractiveMessage` for what is said. The command is killed when the connection is lost.
#[utoipa::path(get, path = "/sandboxes/{id}/exec/interactive", operation_id = "exec_interactive", tag = "commands",
    params(("id" = String, Path, description = "Id of the sandbox"),
        ("command" = Option<Vec<String>>, Query, description = "Program and arguments, one each; a single one is split \
            at white space. When absent, the first message says what to run"),
        ("tty" = Option<bool>, Query, description = "Whether it gets a terminal; true when absent"),
        ("cols" = Option<u16>, Query, description = "Columns of the terminal"),
        ("rows" = Option<u16>, Query, description = "Rows of the terminal"),
        ("user" = Option<String>, Query, description = "User; the sandbox's default when absent"),
        ("workdir" = Option<String>, Query, description = "Directory; the sandbox's default when absent"),
        ("binary" = Option<bool>, Query, description = "Input and output as binary frames")),
    responses((status = 101, description = "The WebSocket is open")))]
pub async fn interactive(
    State(services): State<Arc<Services>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
    upgrade: WebSocketUpgrade,
) -> Answer<Response> {
    services.sandbox(&caller, &id).await?;
    let start = start(&query)?;
    let wire = if query.switch("binary")?.unwrap_or(false) { Wire::Frames } else { Wire::Messages };
    Ok(open(services, caller, id, start, wire, upgrade))
}

/// How input and output travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// As text messages of `InteractiveMessage`.
    Messages,
    /// Input and output as binary frames, output with its stream in front.
    Frames,
    /// What is typed in, what is shown out, and a text message for the terminal's size. Nothing else is said.
    Raw,
}

/// Answers with a WebSocket of the command that `start` or the first message names.
pub fn open(
    services: Arc<Services>,
    caller: Caller,
    id: String,
    start: Option<InteractiveStart>,
    wire: Wire,
    upgrade: WebSocketUpgrade,
) -> Response {
    let request = request_id::current().unwrap_or_default();
    upgrade.max_message_size(LARGEST).max_frame_size(LARGEST).on_upgrade(async move |socket| {
        let stopping = services.base.stopping.clone();
        let talk = request_id::scope(request, talk(&services, &caller, &id, start, wire, socket));
        tokio::select! {
            () = talk => {}
            () = stopping.cancelled() => {}
        }
    })
}

/// What the URL says is to be run.
fn start(query: &Query) -> Result<Option<InteractiveStart>, ServiceError> {
    let mut command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if let [line] = command.as_slice() {
        command = line.split_whitespace().map(str::to_owned).collect();
    }
    if command.is_empty() {
        return Ok(None);
    }
    Ok(Some(InteractiveStart {
        command,
        tty: query.switch("tty")?.unwrap_or(true),
        cols: query.number("cols")?,
        rows: query.number("rows")?,
        user: query.get("user").map(str::to_owned),
        workdir: query.get("workdir").map(str::to_owned),
        ..InteractiveStart::default()
    }))
}

async fn talk(
    services: &Services,
    caller: &Caller,
    id: &str,
    start: Option<InteractiveStart>,
    wire: Wire,
    mut socket: WebSocket,
) {
    let begun = begin(services, caller, id, start, &mut socket).await;
    let (mut to_client, from_client) = socket.split();
    let last = match begun {
        Ok(Some((run, input))) => {
            let mut output = Output { run, wire, text: Decoder::default() };
            // Both ways at once: a command that does not read must not keep its own output back.
            tokio::select! {
                last = output.pass_on(&mut to_client) => last,
                () = pass_on(from_client, input, wire) => None,
            }
        }
        Ok(None) => None,
        Err(error) => Some(failure(&error)),
    };
    if let Some(last) = last {
        // The client may be gone; then there is nobody to say it to.
        if wire != Wire::Raw {
            let _ = say(&mut to_client, &last).await;
        }
        let _ = to_client.send(Message::Close(Some(farewell(wire, &last)))).await;
    }
}

/// Where nothing is said, the closing frame tells what failed.
fn farewell(wire: Wire, last: &InteractiveMessage) -> CloseFrame {
    match last {
        InteractiveMessage::Error { message, .. } if wire == Wire::Raw => {
            let reason = &message[..message.floor_char_boundary(LONGEST_REASON)];
            CloseFrame { code: close_code::ERROR, reason: reason.into() }
        }
        _ => CloseFrame { code: close_code::NORMAL, reason: "".into() },
    }
}

fn failure(error: &ServiceError) -> InteractiveMessage {
    let body = error.tell();
    InteractiveMessage::Error { message: body.error, code: Some(body.code) }
}

type ToClient = SplitSink<WebSocket, Message>;

async fn say(client: &mut ToClient, message: &InteractiveMessage) -> Result<(), axum::Error> {
    let text = serde_json::to_string(message).map_err(axum::Error::new)?;
    client.send(Message::text(text)).await
}

/// Starts the command that the URL or the first message names. Nothing, when the client left before.
async fn begin(
    services: &Services,
    caller: &Caller,
    id: &str,
    start: Option<InteractiveStart>,
    socket: &mut WebSocket,
) -> Result<Option<(Run, Input)>, ServiceError> {
    let start = match start {
        Some(start) => start,
        None => match first(socket).await? {
            Some(start) => start,
            None => return Ok(None),
        },
    };
    let size = (start.cols.unwrap_or(80), start.rows.unwrap_or(24));
    let command = Command {
        argv: start.command,
        env: start.env,
        workdir: start.workdir,
        user: start.user,
        tty: start.tty.then_some(size),
        timeout: start.timeout,
        detached: false,
        stdin: true,
    };
    services.run(caller, id, command, "interactive").await.map(Some)
}

async fn first(socket: &mut WebSocket) -> Result<Option<InteractiveStart>, ServiceError> {
    let refuse = || {
        ServiceError::invalid(
            "start",
            "the first message says what to run: {\"type\":\"start\",\"command\":[…]}",
        )
    };
    let text = loop {
        match tokio::time::timeout(FIRST, socket.recv()).await.map_err(|_| refuse())? {
            Some(Ok(Message::Text(text))) => break text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Binary(_))) => return Err(refuse()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
        }
    };
    match super::extract::parse(text.as_bytes())? {
        InteractiveMessage::Start(start) => Ok(Some(start)),
        _ => Err(refuse()),
    }
}

/// What a command says, on its way to the client.
struct Output {
    run: Run,
    wire: Wire,
    text: Decoder,
}

impl Output {
    /// Passes everything on. Gives the last message, unless the client left first.
    async fn pass_on(&mut self, client: &mut ToClient) -> Option<InteractiveMessage> {
        loop {
            match self.next(client).await? {
                Ok(Happened::Ended(exit)) => {
                    let rest = self.text.end();
                    if !rest.is_empty() {
                        say(client, &InteractiveMessage::Output { data: rest }).await.ok()?;
                    }
                    return Some(InteractiveMessage::Exit {
                        exit_code: exit.exit_code,
                        signal: exit.signal,
                        timed_out: exit.timed_out,
                        oom_killed: exit.oom_killed,
                    });
                }
                Ok(happened) => self.tell(happened, client).await.ok()?,
                Err(error) => return Some(failure(&error)),
            }
        }
    }

    /// Waits for what happens next, and shows the client meanwhile that the connection lives.
    async fn next(&mut self, client: &mut ToClient) -> Option<Result<Happened, ServiceError>> {
        let next = self.run.next();
        tokio::pin!(next);
        loop {
            tokio::select! {
                happened = &mut next => return happened.transpose(),
                () = tokio::time::sleep(PING) => client.send(Message::Ping(Bytes::new())).await.ok()?,
            }
        }
    }

    async fn tell(&mut self, happened: Happened, client: &mut ToClient) -> Result<(), axum::Error> {
        let (stream, piece) = match happened {
            Happened::Started { .. } if self.wire == Wire::Raw => return Ok(()),
            Happened::Started { pid } => return say(client, &InteractiveMessage::Started { pid }).await,
            Happened::Stdout(piece) => (FRAME_STDOUT, piece),
            Happened::Stderr(piece) => (FRAME_STDERR, piece),
            Happened::Ended(_) => return Ok(()),
        };
        let frame: Vec<u8> = match self.wire {
            Wire::Raw => piece,
            Wire::Frames => std::iter::once(stream).chain(piece).collect(),
            Wire::Messages => return self.tell_text(&piece, client).await,
        };
        client.send(Message::Binary(frame.into())).await
    }

    async fn tell_text(&mut self, piece: &[u8], client: &mut ToClient) -> Result<(), axum::Error> {
        match self.text.feed(piece) {
            data if data.is_empty() => Ok(()),
            data => say(client, &InteractiveMessage::Output { data }).await,
        }
    }
}

/// A message of [`Wire::Raw`] that is not typed: the terminal's size, as it is or in a `payload`.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum RawMessage {
    Resize { payload: Option<Size>, cols: Option<u16>, rows: Option<u16> },
}

#[derive(Deserialize)]
struct Size {
    cols: u16,
    rows: u16,
}

/// The size that a text names, unless it is something typed.
fn size(text: &str) -> Option<(u16, u16)> {
    let RawMessage::Resize { payload, cols, rows } = serde_json::from_str(text).ok()?;
    payload.map(|size| (size.cols, size.rows)).or_else(|| cols.zip(rows))
}

async fn typed(input: &mut Input, text: &str) -> bool {
    match size(text) {
        Some((cols, rows)) => input.resize(cols, rows).await,
        None => input.write(text.as_bytes()).await,
    }
}

/// Does what the client says, until it leaves.
async fn pass_on(mut client: SplitStream<WebSocket>, mut input: Input, wire: Wire) {
    while let Some(Ok(message)) = client.next().await {
        // What an ended command does not take any more is lost, as in a pipe; its end is told by itself.
        match message {
            Message::Binary(bytes) => input.write(&bytes).await,
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => true,
            Message::Text(text) if wire == Wire::Raw => typed(&mut input, &text).await,
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(InteractiveMessage::Input { data }) => input.write(data.as_bytes()).await,
                Ok(InteractiveMessage::Eof) => input.end().await,
                Ok(InteractiveMessage::Resize { cols, rows }) => input.resize(cols, rows).await,
                Ok(InteractiveMessage::Signal { signal }) => input.signal(signal).await,
                // Later clients may say more.
                Ok(_) | Err(_) => true,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_from_what_is_typed() {
        assert_eq!(size(r#"{"type":"resize","cols":100,"rows":40}"#), Some((100, 40)));
        assert_eq!(size(r#"{"type":"resize","payload":{"cols":100,"rows":40}}"#), Some((100, 40)));
        for typed in [
            "ls\n",
            "{",
            r#"{"type":"resize"}"#,
            r#"{"type":"resize","cols":-1,"rows":1}"#,
            r#"{"cols":1,"rows":1}"#,
        ] {
            assert_eq!(size(typed), None, "{typed}");
        }
    }

    #[test]
    fn a_farewell_fits_into_its_frame() {
        let error = |message: String| InteractiveMessage::Error { message, code: None };
        let told = farewell(Wire::Raw, &error("é".repeat(200)));
        assert_eq!((told.code, told.reason.len()), (close_code::ERROR, 122));
        assert_eq!(farewell(Wire::Messages, &error("x".into())).code, close_code::NORMAL);
    }
}
