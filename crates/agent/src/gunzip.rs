//! A compressed body on its way in, where its reader needs it as it was. It must not know what is in it.

use std::collections::VecDeque;
use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::GzDecoder;
use futures::{Stream, StreamExt};

/// So much is decompressed at once: at a thousand to one, which is the most that gzip does, it becomes 4 MiB.
const STEP: usize = 4 << 10;

struct State<S> {
    source: S,
    decoder: GzDecoder<Vec<u8>>,
    /// What has come and is compressed still.
    waiting: VecDeque<Bytes>,
    ended: bool,
}

/// What was compressed. A body that is no gzip, or breaks off, is an error.
pub fn gunzip(
    source: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let state = State { source, decoder: GzDecoder::new(Vec::new()), waiting: VecDeque::new(), ended: false };
    Box::pin(futures::stream::try_unfold(state, |mut state| async move {
        let piece = state.next().await?;
        Ok((!piece.is_empty()).then_some((piece, state)))
    }))
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> State<S> {
    /// The next piece; empty at the end.
    async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(mut piece) = self.waiting.pop_front() {
                let rest = piece.split_off(piece.len().min(STEP));
                if !rest.is_empty() {
                    self.waiting.push_front(rest);
                }
                self.decoder.write_all(&piece)?;
            } else if self.ended {
                return Ok(Bytes::new());
            } else if let Some(piece) = self.source.next().await {
                self.waiting.push_back(piece?);
            } else {
                self.decoder.try_finish()?;
                self.ended = true;
            }
            let done = std::mem::take(self.decoder.get_mut());
            if !done.is_empty() {
                return Ok(done.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn unpacked(packed: Vec<u8>, cut: usize) -> io::Result<Vec<u8>> {
        let pieces: Vec<_> = packed.chunks(cut).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut pieces = gunzip(futures::stream::iter(pieces));
        let mut whole = Vec::new();
        while let Some(piece) = pieces.next().await {
            whole.extend(piece?);
        }
        Ok(whole)
    }

    #[tokio::test]
    async fn what_was_packed_comes_out_and_nothing_else_does() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![7; 3 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        for cut in [1, 100, packed.len()] {
            assert_eq!(unpacked(packed.clone(), cut).await.unwrap(), vec![7; 3 << 20], "{cut}");
        }
        assert!(unpacked(packed[..packed.len() / 2].to_vec(), 100).await.is_err(), "it broke off");
        assert!(unpacked(b"this is no gzip at all".to_vec(), 5).await.is_err());
        assert!(unpacked(Vec::new(), 1).await.is_err());
    }
}
