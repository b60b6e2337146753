//! Bodies on their way. Frame by frame: nothing is kept, and nothing is asked for before the receiver took what came.

use atoll_core::early;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{activity::Pulse, envelopes::Envelopes, pool::Lease};

/// The body of an answer: a sandbox's, or a short text of the gateway's own.
pub struct Body(Kind);

enum Kind {
    Text(Full<Bytes>),
    Streamed { incoming: Incoming, pulse: Arc<Pulse>, lease: Option<Lease>, ending: Option<Ending> },
}

/// What ends a stream of messages that breaks off.
pub struct Ending {
    envelopes: Envelopes,
    why: String,
}

impl Ending {
    /// For a stream at its beginning; clients are told `why`.
    pub fn new(why: String) -> Self {
        Self { envelopes: Envelopes::default(), why }
    }
}

impl Body {
    /// A short text.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self(Kind::Text(Full::new(text.into())))
    }

    /// What comes from a sandbox; its connection can be used again afterwards.
    pub(crate) fn streamed(
        incoming: Incoming,
        pulse: Arc<Pulse>,
        lease: Lease,
        ending: Option<Ending>,
    ) -> Self {
        let mut lease = Some(lease);
        if incoming.is_end_stream() {
            lease.take().into_iter().for_each(Lease::give_back);
        }
        Self(Kind::Streamed { incoming, pulse, lease, ending })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Kind::Text(text) => Pin::new(text).poll_frame(context).map_err(|never| match never {}),
            Kind::Streamed { incoming, pulse, lease, ending } => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(context));
                if let Some(Ok(frame)) = &frame {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    pulse.outward(data.len());
                    ending.iter_mut().for_each(|ending| ending.envelopes.pass(data));
                }
                if let Some(Err(_)) = &frame
                    && let Some(end) = ending.take().and_then(|it| it.envelopes.end(&it.why))
                {
                    self.0 = Kind::Text(Full::default());
                    return Poll::Ready(Some(Ok(Frame::data(end))));
                }
                if frame.is_none() || incoming.is_end_stream() {
                    lease.take().into_iter().for_each(Lease::give_back);
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Text(text) => text.is_end_stream(),
            Kind::Streamed { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Text(text) => text.size_hint(),
            Kind::Streamed { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// The body of a request, from whoever sends it. What nobody wanted of it is read when it is dropped: a client that still
/// sends when the connection closes takes that for a failure, and does not see the answer that is already there.
pub struct Inbound(Option<Incoming>);

impl Inbound {
    /// What comes.
    pub fn new(incoming: Incoming) -> Self {
        Self(Some(incoming))
    }

    /// Whether all of it was read.
    pub fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.0 else { return Poll::Ready(None) };
        Pin::new(incoming).poll_frame(context)
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if let Some(incoming) = self.0.take().filter(|incoming| !incoming.is_end_stream())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(early::REST_FOR, read_rest(incoming)));
        }
    }
}

async fn read_rest(mut incoming: Incoming) {
    let mut total = 0;
    while let Some(Ok(frame)) = incoming.frame().await {
        total += frame.data_ref().map_or(0, Bytes::len);
        if total > early::REST {
            return;
        }
    }
}

/// The body of a request on its way to a sandbox.
pub enum Outgoing {
    /// None.
    Nothing,
    /// The sender's.
    Streamed {
        /// What comes.
        incoming: Inbound,
        /// Is told.
        pulse: Arc<Pulse>,
    },
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Nothing => Poll::Ready(None),
            Self::Streamed { incoming, pulse } => {
                let frame = ready!(incoming.poll_frame(context));
                if let Some(Ok(frame)) = &frame {
                    pulse.inward(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Streamed { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Streamed { incoming, .. } => incoming.size_hint(),
        }
    }
}
