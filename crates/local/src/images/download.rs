//! Blobs on their way: fetched in pieces that survive a broken connection and a killed process, checked before use.
//! Knows nothing of layers or images.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use oci_client::{
    client::BlobResponse,
    errors::{DigestError, OciDistributionError},
    manifest::OciDescriptor,
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    error::{ImageError, is_full},
    layers::read_dir,
    reference::file_name,
    registry::{Endpoint, Refusal, conclude},
};

const ATTEMPTS: u32 = 4;

/// The directory of blobs that are being fetched.
#[derive(Debug)]
pub(super) struct Blobs {
    directory: PathBuf,
}

/// Why one attempt did not bring a blob.
enum Failed {
    /// This endpoint does not give it.
    Refused(Refusal),
    /// We cannot take it.
    Here(ImageError),
}

/// A partial blob, and what was hashed of it.
struct Partial {
    path: PathBuf,
    file: tokio::fs::File,
    hash: Sha256,
    length: u64,
}

impl Blobs {
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        let directory = root.join("blobs");
        fs::create_dir_all(&directory).map_err(|e| ImageError::io("create", &directory, e))?;
        Ok(Self { directory })
    }

    /// A blob's file, whole and checked. Endpoints are asked in order, each again after passing troubles.
    pub(super) async fn fetch(
        &self,
        reference: &str,
        endpoints: &[Endpoint],
        blob: &OciDescriptor,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<PathBuf, ImageError> {
        let done = self.directory.join(file_name(&blob.digest));
        if fs::metadata(&done).is_ok_and(|meta| meta.len() == blob.size.cast_unsigned()) {
            return Ok(done);
        }
        let mut refusals = Vec::new();
        for endpoint in endpoints {
            match self.fetch_from(endpoint, blob, &done, progress).await {
                Ok(()) => return Ok(done),
                Err(Failed::Here(error)) => return Err(error.or_full(reference)),
                Err(Failed::Refused(refusal)) => refusals.push(refusal.of_blob()),
            }
        }
        Err(conclude(reference, &format!("blob {}", blob.digest), refusals))
    }

    async fn fetch_from(
        &self,
        endpoint: &Endpoint,
        blob: &OciDescriptor,
        done: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Failed> {
        let mut attempt = 1;
        loop {
            match self.attempt(endpoint, blob, done, progress).await {
                Err(Failed::Refused(refusal)) if refusal.is_passing() && attempt < ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(attempt)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt(
        &self,
        endpoint: &Endpoint,
        blob: &OciDescriptor,
        done: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Failed> {
        let size = blob.size.cast_unsigned();
        let path = self.directory.join(format!("{}.partial", file_name(&blob.digest)));
        let mut partial = Partial::open(path, size).await.map_err(Failed::Here)?;
        progress(partial.length);
        if partial.length < size {
            partial.receive(endpoint, blob, progress).await?;
        }
        let actual = partial.finish().await.map_err(Failed::Here)?;
        if actual != blob.digest {
            // Never resume from bytes that are wrong.
            remove(&partial.path).map_err(Failed::Here)?;
            return Err(Failed::Refused(Refusal::wrong_digest(&endpoint.name, &blob.digest, actual)));
        }
        fs::rename(&partial.path, done).map_err(|e| Failed::Here(ImageError::io("move into place", done, e)))
    }

    /// Forgets a blob that is no longer needed.
    pub(super) fn forget(&self, digest: &str) -> Result<(), ImageError> {
        remove(&self.directory.join(file_name(digest)))
    }

    /// Removes everything that nobody fetches now; tells the bytes given back.
    pub(super) fn sweep(&self, is_busy: impl Fn(&str) -> bool) -> Result<u64, ImageError> {
        let mut bytes = 0;
        for path in read_dir(&self.directory)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if is_busy(&name.trim_end_matches(".partial").replacen('-', ":", 1)) {
                continue;
            }
            let size = fs::metadata(&path).map_or(0, |meta| meta.len());
            remove(&path)?;
            bytes += size;
        }
        Ok(bytes)
    }

    /// Keeps the newest partial blobs within a bound: they are worth having, but not without end.
    pub(super) fn bound(&self, limit: u64) -> Result<(), ImageError> {
        let mut files: Vec<_> = read_dir(&self.directory)?
            .into_iter()
            .filter_map(|path| fs::metadata(&path).ok().map(|meta| (meta.modified().ok(), meta.len(), path)))
            .collect();
        files.sort();
        let mut kept = 0;
        for (_, size, path) in files.into_iter().rev() {
            kept += size;
            if kept > limit {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

impl Partial {
    /// Opens what is there; what is longer than the blob is worth nothing.
    async fn open(path: PathBuf, size: u64) -> Result<Self, ImageError> {
        let opened = tokio::task::spawn_blocking(move || {
            let (hash, length) = hash_file(&path).map_err(|e| ImageError::io("read", &path, e))?;
            if length > size {
                remove(&path)?;
                return Ok((path, Sha256::new(), 0));
            }
            Ok((path, hash, length))
        });
        let (path, hash, length) = opened.await.map_err(|e| ImageError::io("read", "a blob", e.into()))??;
        let file = tokio::fs::OpenOptions::new().create(true).append(true).open(&path).await;
        let file = file.map_err(|e| ImageError::io("write", &path, e))?;
        Ok(Self { path, file, hash, length })
    }

    async fn receive(
        &mut self,
        endpoint: &Endpoint,
        blob: &OciDescriptor,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Failed> {
        let refused = |error: &OciDistributionError| Failed::Refused(endpoint.refusal(error));
        let offset = self.length;
        let answer = endpoint.client.pull_blob_stream_partial(&endpoint.image, blob, offset, None).await;
        let mut stream = match answer.map_err(|e| refused(&e))? {
            BlobResponse::Partial(stream) => stream.stream,
            BlobResponse::Full(stream) => {
                self.restart().await.map_err(Failed::Here)?;
                stream.stream
            }
        };
        while let Some(piece) = stream.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                // The client checks whole answers itself; ours is the check that counts.
                Err(error) if error.get_ref().is_some_and(|e| e.is::<DigestError>()) => break,
                Err(error) => {
                    // What came is kept for the next attempt; that it could not be is told by that attempt.
                    let _ = self.file.flush().await;
                    return Err(Failed::Refused(Refusal::broken(&endpoint.name, &error)));
                }
            };
            if self.length + piece.len() as u64 > blob.size.cast_unsigned() {
                remove(&self.path).map_err(Failed::Here)?;
                let longer = String::from("of a blob that is longer than its manifest says");
                return Err(Failed::Refused(Refusal::wrong_digest(&endpoint.name, &blob.digest, longer)));
            }
            self.write(&piece).await.map_err(Failed::Here)?;
            progress(self.length);
        }
        if self.length < blob.size.cast_unsigned() {
            let _ = self.file.flush().await;
            let short =
                io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before the blob did");
            return Err(Failed::Refused(Refusal::broken(&endpoint.name, &short)));
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).await.map_err(|e| ImageError::io("write", &self.path, e))?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    async fn write(&mut self, piece: &[u8]) -> Result<(), ImageError> {
        if let Err(error) = self.file.write_all(piece).await {
            if is_full(&error) {
                remove(&self.path)?; // give the room back: a full disk hurts everybody
            }
            return Err(ImageError::io("write", &self.path, error));
        }
        self.hash.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Everything written; the digest of it.
    async fn finish(&mut self) -> Result<String, ImageError> {
        if let Err(error) = self.file.flush().await {
            if is_full(&error) {
                remove(&self.path)?;
            }
            return Err(ImageError::io("write", &self.path, error));
        }
        Ok(format!("sha256:{}", hex::encode(self.hash.clone().finalize())))
    }
}

/// A file's hash so far and its length; of no file, those of nothing.
fn hash_file(path: &Path) -> io::Result<(Sha256, u64)> {
    let mut hash = Sha256::new();
    let mut file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((hash, 0)),
        file => file?,
    };
    let mut buffer = vec![0; 128 << 10];
    let mut length = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hash, length)),
            read => {
                hash.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}

fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path, error)),
        _ => Ok(()),
    }
}
