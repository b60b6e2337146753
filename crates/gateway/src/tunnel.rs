//! Connections that changed their protocol, such as WebSockets: bytes both ways until both ends are done.

use futures::FutureExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    sync::OwnedSemaphorePermit,
};

use crate::activity::Pulse;

/// Bytes on their way in each direction of a tunnel; there may be thousands of tunnels.
const BUFFER: usize = 8 << 10;

/// Joins the two ends in a task of its own, once both have changed.
pub fn join(client: OnUpgrade, sandbox: OnUpgrade, pulse: Arc<Pulse>, place: OwnedSemaphorePermit) {
    tokio::spawn(async move {
        let _place = place;
        let Ok((client, sandbox)) = futures::try_join!(client, sandbox) else { return };
        let told = pulse.clone();
        let mut client = Watched::new(TokioIo::new(client), move |bytes| told.inward(bytes));
        let mut sandbox = Watched::new(TokioIo::new(sandbox), move |bytes| pulse.outward(bytes));
        // An end that breaks is how most of them end.
        copy_bidirectional_with_sizes(&mut client, &mut sandbox, BUFFER, BUFFER).map(drop).await;
    });
}

/// A stream that tells how much is read from it.
struct Watched<S, F> {
    stream: S,
    tell: F,
}

impl<S, F: Fn(usize)> Watched<S, F> {
    fn new(stream: S, tell: F) -> Self {
        Self { stream, tell }
    }
}

impl<S: AsyncRead + Unpin, F: Fn(usize) + Unpin> AsyncRead for Watched<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let new = buffer.filled().len() - before;
        if new > 0 {
            (self.tell)(new);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Watched<S, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
