//! Unpacks one layer's tar archive, which nobody trusts, into a directory that overlayfs can use as a lower layer.
//! Works on open directories only: no path is ever resolved outside of the layer. Knows nothing of images.

mod files;
mod stream;
mod tarball;

use std::{
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use rustix::fs::{self, Mode, OFlags};

use super::error::is_full;

/// Bounds of what one layer may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive, and of any one file in it.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 2_000_000 }
    }
}

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("entry `{entry}`: {reason}")]
    Refused { entry: String, reason: String },
    #[error("damaged: {reason}")]
    Damaged { reason: String },
    #[error("larger than {limit}")]
    TooLarge { limit: String },
    #[error("digest is {actual}, not {expected}")]
    WrongDigest { expected: String, actual: String },
    #[error("cancelled")]
    Cancelled,
    #[error("no room on the disk")]
    Full,
    #[error("entry `{entry}`: cannot {action}: {source}")]
    Write { entry: String, action: &'static str, source: io::Error },
}

impl UnpackError {
    fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged { reason: reason.into() }
    }

    fn refused(entry: &[u8], reason: impl Into<String>) -> Self {
        Self::Refused { entry: String::from_utf8_lossy(entry).into_owned(), reason: reason.into() }
    }

    /// A failed system call on an entry.
    fn write(entry: &[u8], action: &'static str, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        if is_full(&source) {
            return Self::Full;
        }
        Self::Write { entry: String::from_utf8_lossy(entry).into_owned(), action, source }
    }
}

/// Errors of reading the stream: our own ones travel inside of them through the decompressors.
impl From<io::Error> for UnpackError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) => Self::Damaged { reason: error.to_string() },
        }
    }
}

/// Unpacks a layer, compressed or not, into an empty directory, and gives the size of the archive in bytes.
/// The archive's sha256 must be the `diff_id`, where one is given; the digest that it has is the second value.
pub(super) fn unpack(
    compressed: impl Read,
    into: &Path,
    diff_id: Option<&str>,
    limits: Limits,
    cancel: &Arc<AtomicBool>,
) -> Result<(u64, String), UnpackError> {
    let root = open_root(into)?;
    let plain = stream::decompress(compressed)?;
    let counted = stream::Checked::new(plain, limits.bytes, Arc::clone(cancel));
    let mut reader = tarball::TarReader::new(counted);
    let mut unpacker = files::Unpacker::new(root, limits);
    while let Some(entry) = reader.next_entry()? {
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.finish()?;
    let (size, actual) = reader.into_inner().finish()?;
    match diff_id {
        Some(expected) if expected != actual => {
            Err(UnpackError::WrongDigest { expected: expected.to_owned(), actual })
        }
        _ => Ok((size, actual)),
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, UnpackError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    fs::open(path, flags, Mode::empty())
        .map_err(|e| UnpackError::write(b".", "open the layer's directory", e))
}

#[cfg(test)]
mod tests;
