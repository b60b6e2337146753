//! Commands with input: a WebSocket in binary mode, split into a half that writes and one that reads.

use atoll_proto::api::{FRAME_STDERR, FRAME_STDOUT, InteractiveMessage, InteractiveStart};
use bytes::{Buf, Bytes};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http::{StatusCode, header};
use reqwest::{Method, Upgraded};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

use crate::{Error, Sandbox, client::send};

type Socket = WebSocketStream<Upgraded>;

/// What an interactive command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// It runs.
    Started {
        /// Process id inside the sandbox.
        pid: u32,
    },
    /// It wrote to standard output, or to its terminal.
    Stdout(Bytes),
    /// It wrote to standard error.
    Stderr(Bytes),
    /// It ended; the last message.
    Exit(Exit),
}

/// How an interactive command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + the signal's number when a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether its time was up.
    pub timed_out: bool,
    /// Whether it was killed for want of memory.
    pub oom_killed: bool,
}

/// The half of an interactive command that is written to. Dropping both halves ends the command.
#[derive(Debug)]
pub struct Input {
    sink: SplitSink<Socket, Message>,
}

/// The half of an interactive command that is read.
#[derive(Debug)]
pub struct Outputs {
    source: SplitStream<Socket>,
    url: String,
}

impl Sandbox {
    /// Runs a command with input, and with a terminal when `start.tty` says so.
    ///
    /// # Errors
    /// The sandbox refuses it or cannot be reached. What is wrong with the command comes from [`Outputs::next`].
    pub async fn exec_interactive(&self, start: InteractiveStart) -> Result<(Input, Outputs), Error> {
        let mut url = self.at(&["exec", "interactive"]);
        url.query_pairs_mut().append_pair("binary", "true");
        let address = url.origin().ascii_serialization();
        let protocol = |problem: &str| Error::Protocol { url: address.clone(), problem: problem.into() };
        let key = generate_key();
        let request = self
            .client
            .request(Method::GET, url)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        let response = send(request).await?;
        let accept =
            response.headers().get(header::SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes().to_vec());
        if response.status() != StatusCode::SWITCHING_PROTOCOLS
            || accept.as_deref() != Some(derive_accept_key(key.as_bytes()).as_bytes())
        {
            return Err(protocol("it does not speak WebSocket there"));
        }
        let stream = response.upgrade().await.map_err(|error| crate::client::transport(&address, error))?;
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        let (sink, source) = socket.split();
        let mut input = Input { sink };
        input.say(&InteractiveMessage::Start(start)).await?;
        Ok((input, Outputs { source, url: address }))
    }
}

impl Input {
    async fn say(&mut self, message: &InteractiveMessage) -> Result<(), Error> {
        let text = serde_json::to_string(message).map_err(std::io::Error::other)?;
        self.sink.send(Message::text(text)).await.map_err(|error| Box::new(error).into())
    }

    /// Writes to the command's standard input or terminal. Waits while the command does not read.
    ///
    /// # Errors
    /// The connection broke, or the command has ended.
    pub async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.sink.send(Message::Binary(bytes.into())).await.map_err(|error| Box::new(error).into())
    }

    /// Ends the command's standard input. A terminal has no end: type Ctrl-D there.
    ///
    /// # Errors
    /// The connection broke, or the command has ended.
    pub async fn eof(&mut self) -> Result<(), Error> {
        self.say(&InteractiveMessage::Eof).await
    }

    /// Tells the command the new size of its terminal.
    ///
    /// # Errors
    /// The connection broke, or the command has ended.
    pub async fn resize(&mut self, cols: u16, rows: u16) -> Result<(), Error> {
        self.say(&InteractiveMessage::Resize { cols, rows }).await
    }

    /// Sends a signal, by its number, to the command's process group.
    ///
    /// # Errors
    /// The connection broke, or the command has ended.
    pub async fn signal(&mut self, signal: i32) -> Result<(), Error> {
        self.say(&InteractiveMessage::Signal { signal }).await
    }
}

impl Outputs {
    /// The next thing the command does.
    ///
    /// # Errors
    /// The command cannot be started, or the connection broke before its end.
    pub async fn next(&mut self) -> Result<Output, Error> {
        loop {
            let message = match self.source.next().await {
                None | Some(Ok(Message::Close(_))) => return Err(Error::Interrupted),
                Some(message) => message.map_err(Box::new)?,
            };
            let output = match message {
                Message::Binary(frame) => Some(self.frame(frame)?),
                Message::Text(text) => self.text(&text)?,
                _ => None,
            };
            if let Some(output) = output {
                return Ok(output);
            }
        }
    }

    fn frame(&self, mut frame: Bytes) -> Result<Output, Error> {
        match frame.first() {
            Some(&FRAME_STDOUT) => frame.advance(1),
            Some(&FRAME_STDERR) => {
                frame.advance(1);
                return Ok(Output::Stderr(frame));
            }
            _ => return Err(self.protocol("a binary frame of no known stream")),
        }
        Ok(Output::Stdout(frame))
    }

    fn text(&self, text: &str) -> Result<Option<Output>, Error> {
        let message = serde_json::from_str(text).map_err(|error| self.protocol(&error.to_string()))?;
        Ok(match message {
            InteractiveMessage::Started { pid } => Some(Output::Started { pid }),
            InteractiveMessage::Output { data } => Some(Output::Stdout(data.into())),
            InteractiveMessage::Exit { exit_code, signal, timed_out, oom_killed } => {
                Some(Output::Exit(Exit { exit_code, signal, timed_out, oom_killed }))
            }
            InteractiveMessage::Error { message, code } => {
                let code = code.unwrap_or_else(|| "failed".into());
                return Err(Error::from_event(atoll_proto::api::ErrorBody {
                    error: message,
                    code,
                    field: None,
                }));
            }
            _ => None,
        })
    }

    fn protocol(&self, problem: &str) -> Error {
        Error::Protocol { url: self.url.clone(), problem: problem.into() }
    }
}
