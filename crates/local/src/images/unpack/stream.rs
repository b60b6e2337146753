//! The bytes of a layer: decompressed, counted, hashed. Knows nothing of what they mean.

use std::{
    io::{self, BufRead, BufReader, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::UnpackError;

const BUFFER: usize = 128 << 10;

/// gzip, zstd or nothing, told by the first bytes: what the media type says is not always true.
pub(super) fn decompress<'a>(compressed: impl Read + 'a) -> Result<Box<dyn Read + 'a>, UnpackError> {
    let mut source = BufReader::with_capacity(BUFFER, compressed);
    let start = source.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(source))));
    }
    let skippable = start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18];
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable {
        let decoder = zstd::Decoder::with_buffer(source)?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)));
    }
    Ok(Box::new(source))
}

/// Hashes and counts what passes, stops at the limit and when nobody wants the result any more.
pub(super) struct Checked<R> {
    inner: R,
    hash: Sha256,
    count: u64,
    limit: u64,
    cancel: Arc<AtomicBool>,
}

impl<R: Read> Checked<R> {
    pub(super) fn new(inner: R, limit: u64, cancel: Arc<AtomicBool>) -> Self {
        Self { inner, hash: Sha256::new(), count: 0, limit, cancel }
    }

    /// Reads what follows the archive's end, which the digest covers too, and gives size and digest.
    pub(super) fn finish(mut self) -> Result<(u64, String), UnpackError> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.count, format!("sha256:{}", hex::encode(self.hash.finalize()))))
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other(UnpackError::Cancelled));
        }
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.count += read as u64;
        if self.count > self.limit {
            let limit = format!("{} bytes", self.limit);
            return Err(io::Error::other(UnpackError::TooLarge { limit }));
        }
        Ok(read)
    }
}
