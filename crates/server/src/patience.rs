//! A stream whose peer must begin to speak within a time. HTTP's own header time-out only begins once the protocol's
//! version is known; until then a peer that says nothing, or HTTP/2's greeting one byte at a time, would be waited for.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How HTTP/2 with prior knowledge begins.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Wraps a stream with that rule.
pub struct Patient<S> {
    stream: S,
    waiting: Option<Pin<Box<Sleep>>>,
    greeted: usize,
}

impl<S> Patient<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, waiting: Some(Box::pin(tokio::time::sleep(patience))), greeted: 0 }
    }

    /// Ends the wait once the bytes so far tell the version.
    fn note(&mut self, new: &[u8]) {
        let rest = GREETING.get(self.greeted..).unwrap_or_default();
        let same = rest.iter().zip(new).take_while(|(a, b)| a == b).count();
        self.greeted += same;
        if same < new.len() || self.greeted == GREETING.len() {
            self.waiting = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(waiting) = &mut self.waiting else { return read };
        if read.is_pending() && waiting.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer said nothing")));
        }
        let new = buffer.filled().get(before..).unwrap_or_default().to_vec();
        self.note(&new);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
