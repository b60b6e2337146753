//! A command as a stream of events, the same for every protocol.

use std::sync::Arc;
use std::time::{Duration, Instant};

use connectrpc::ConnectError;
use futures::Stream;

use crate::process::{Exit, KillOnDrop, Output, Process, Reader};
use crate::ring::Piece;

/// What a follower is told.
pub enum Event {
    Started { id: u64, pid: u32 },
    Piece(Piece),
    Gap { pieces: u64, next: u64 },
    Exit(Exit),
    KeepAlive,
}

/// How to follow.
pub struct Follow {
    pub process: Arc<Process>,
    pub after: u64,
    pub keepalive: Duration,
    /// The client's own deadline.
    pub deadline: Option<Instant>,
    /// The command dies with the deadline.
    pub kill_at_deadline: bool,
    /// Held as long as somebody follows.
    pub _held: (Option<KillOnDrop>, Option<AbortOnDrop>),
}

/// A task that ends with its owner.
pub struct AbortOnDrop(pub tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Phase {
    Start,
    Following,
    Over,
}

struct State {
    follow: Follow,
    reader: Reader,
    phase: Phase,
    last: u64,
}

/// The stream: started, output, exit.
pub fn events(follow: Follow) -> impl Stream<Item = Result<Event, ConnectError>> + Send + 'static {
    let reader = follow.process.read_after(follow.after);
    let last = follow.after;
    let state = State { follow, reader, phase: Phase::Start, last };
    futures::stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((event, state))
    })
}

impl State {
    async fn next(&mut self) -> Option<Result<Event, ConnectError>> {
        match self.phase {
            Phase::Over => None,
            Phase::Start => {
                self.phase = Phase::Following;
                Some(Ok(started(&self.follow.process)))
            }
            Phase::Following => Some(self.following().await),
        }
    }

    async fn following(&mut self) -> Result<Event, ConnectError> {
        let deadline = self.follow.deadline;
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = expired => Err(self.expire()),
            output = self.reader.next() => Ok(self.event(output)),
            () = tokio::time::sleep(self.follow.keepalive) => Ok(Event::KeepAlive),
        }
    }

    fn event(&mut self, output: Output) -> Event {
        match output {
            Output::Piece(piece) => {
                self.last = piece.sequence;
                Event::Piece(piece)
            }
            Output::Gap(pieces) => {
                self.last += pieces;
                Event::Gap { pieces, next: self.last + 1 }
            }
            Output::Exit(exit) => {
                self.phase = Phase::Over;
                Event::Exit(exit)
            }
        }
    }

    fn expire(&mut self) -> ConnectError {
        self.phase = Phase::Over;
        if self.follow.kill_at_deadline {
            self.follow.process.kill_session();
        }
        ConnectError::deadline_exceeded("the time of the request is over")
    }
}

fn started(process: &Process) -> Event {
    Event::Started { id: process.description.id, pid: process.pid.unsigned_abs() }
}
