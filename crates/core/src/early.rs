//! A connection whose other end may answer before it has read all that is sent to it, and then close. The answer is there
//! to be read, although nothing more can be written. And the other way round: how long the one who answers early listens on.
//! It must not know what is sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is still read after a refusal, in bytes, so that the one who sends it comes to read the answer.
pub const REST: usize = 64 << 20;
/// How long it is read.
pub const REST_FOR: Duration = Duration::from_secs(5);

/// Keeps the failure to write to a closed end back: what follows is read, the answer or the end.
pub struct HearsOut<S>(pub S);

/// A write that fails so waits for ever; whoever reads learns soon enough how it is.
fn hold_back<T>(written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match written {
        Poll::Ready(Err(error)) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Poll::Pending,
        written => written,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HearsOut<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HearsOut<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        hold_back(Pin::new(&mut self.0).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        hold_back(Pin::new(&mut self.0).poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        hold_back(Pin::new(&mut self.0).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn an_answer_before_the_end_is_heard() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(b"no").await.unwrap();
        drop(theirs);
        let (mut reader, mut writer) = tokio::io::split(HearsOut(ours));
        let writing = tokio::spawn(async move { writer.write_all(&[0; 1 << 20]).await });
        let mut answer = String::new();
        reader.read_to_string(&mut answer).await.unwrap();
        assert_eq!((answer.as_str(), writing.is_finished()), ("no", false));
        writing.abort();
    }
}
