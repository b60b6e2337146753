//! Archives of files that clients uploaded for builds, by the hash that clients gave them: kept for a while, within bounds,
//! never looked into. They are unpacked inside sandboxes, as the sandbox's own root.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use crate::services::error::ServiceError;
use atoll_core::{driver::DriverError, key};

/// What an archive's file begins with while it comes in.
const HIDDEN: &str = ".";
/// The first bytes of what gzip writes (RFC 1952, 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Where a tar archive says that it is one, and what it says there (POSIX.1-2017, pax, ustar interchange format).
const USTAR: (usize, &[u8]) = (257, b"ustar");

/// Bounds of the archives.
#[derive(Clone, Debug)]
pub struct SpoolLimits {
    /// Bytes of one.
    pub each: u64,
    /// Bytes of all.
    pub all: u64,
    /// How long one is kept after its last use.
    pub keep: Duration,
}

/// A directory of archives.
#[derive(Clone, Debug)]
pub struct Spool {
    root: PathBuf,
    limits: SpoolLimits,
}

/// A file that goes away again unless it is kept.
struct Half {
    path: PathBuf,
}

impl Drop for Half {
    fn drop(&mut self) {
        // It was renamed when it was kept; otherwise the sweep finds what cannot be removed now.
        let _ = fs::remove_file(&self.path);
    }
}

fn broken(what: &str) -> impl FnOnce(io::Error) -> ServiceError {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ServiceError::Driver(DriverError::Exhausted(format!("the server's disk is full: cannot {what}")))
        }
        _ => ServiceError::Internal(format!("cannot {what}: {error}")),
    }
}

impl Spool {
    pub fn new(root: PathBuf, limits: SpoolLimits) -> Self {
        Self { root, limits }
    }

    /// Whether an archive is here; if so, it stays for another while.
    pub async fn has(&self, tenant: &str, hash: &str) -> bool {
        let path = self.path(tenant, hash);
        let used = move || {
            let file = fs::File::options().write(true).open(path)?;
            file.set_modified(SystemTime::now())
        };
        matches!(tokio::task::spawn_blocking(used).await, Ok(Ok(())))
    }

    /// An archive, to be read.
    pub async fn open(&self, tenant: &str, hash: &str) -> io::Result<File> {
        File::open(self.path(tenant, hash)).await
    }

    /// Takes an archive in. Of one that breaks off or is too large, nothing is left.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        tenant: &str,
        (hash, suffix): (&str, &str),
        mut data: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), ServiceError> {
        let path = self.path(tenant, hash);
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        let mut room = self.room(&folder).await?;
        let half = Half { path: folder.join(format!("{HIDDEN}{hash}.{suffix}")) };
        let options = File::options().read(true).write(true).create_new(true).open(&half.path).await;
        let mut file = options.map_err(broken("keep an upload"))?;
        let mut size = 0_u64;
        while let Some(piece) = data.next().await {
            let piece =
                piece.map_err(|error| ServiceError::invalid("body", format!("broke off: {error}")))?;
            size += piece.len() as u64;
            if size > self.limits.each {
                let most = self.limits.each;
                return Err(ServiceError::TooLarge(format!("the files of one step may have {most} bytes")));
            }
            room = room.checked_sub(piece.len() as u64).ok_or_else(|| self.full())?;
            file.write_all(&piece).await.map_err(broken("keep an upload"))?;
        }
        file.flush().await.map_err(broken("keep an upload"))?;
        check(&mut file).await?;
        tokio::fs::rename(&half.path, &path).await.map_err(broken("keep an upload"))
    }

    fn full(&self) -> ServiceError {
        let most = self.limits.all;
        let why = format!("uploaded files have the {most} bytes that they may have; try again later");
        ServiceError::Driver(DriverError::Exhausted(why))
    }

    /// How many bytes there is room for; makes the folder.
    async fn room(&self, folder: &Path) -> Result<u64, ServiceError> {
        let (root, folder) = (self.root.clone(), folder.to_owned());
        let measured = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(folder)?;
            let mut used = 0;
            each_file(&root, &mut |_, about| used += about.len())?;
            Ok(used)
        });
        let used = measured.await.map_err(|error| ServiceError::Internal(error.to_string()))?;
        Ok(self.limits.all.saturating_sub(used.map_err(broken("look at the uploads"))?))
    }

    /// Removes what nobody used for long, also what a killed server left half there.
    pub async fn sweep(&self) -> io::Result<()> {
        let (root, keep) = (self.root.clone(), self.limits.keep);
        let swept = tokio::task::spawn_blocking(move || {
            each_file(&root, &mut |path, about| {
                let age = about.modified().ok().and_then(|used| used.elapsed().ok()).unwrap_or_default();
                if age > keep {
                    // Whoever reads it goes on; what cannot be removed is tried again.
                    let _ = fs::remove_file(path);
                }
            })
        });
        swept.await.map_err(io::Error::other)?
    }

    /// Tenants' names may have any characters; what is theirs is kept apart.
    fn path(&self, tenant: &str, hash: &str) -> PathBuf {
        self.root.join(&key::hash(tenant)[..32]).join(hash)
    }
}

fn each_file(root: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) -> io::Result<()> {
    let folders = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        folders => folders?,
    };
    for folder in folders {
        for file in fs::read_dir(folder?.path())? {
            let path = file?.path();
            // It may have gone meanwhile.
            if let Ok(about) = fs::symlink_metadata(&path) {
                visit(&path, &about);
            }
        }
    }
    Ok(())
}

/// What is no archive is refused at once, not in the middle of a build.
async fn check(file: &mut File) -> Result<(), ServiceError> {
    let mut head = Vec::new();
    file.rewind().await.map_err(broken("read an upload"))?;
    file.take((USTAR.0 + USTAR.1.len()) as u64)
        .read_to_end(&mut head)
        .await
        .map_err(broken("read an upload"))?;
    if head.starts_with(&GZIP) || head.get(USTAR.0..) == Some(USTAR.1) {
        return Ok(());
    }
    Err(ServiceError::invalid("body", "is neither a tar archive nor one that gzip packed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use std::convert::Infallible;

    fn spool(dir: &Path) -> Spool {
        let limits = SpoolLimits { each: 1000, all: 1500, keep: Duration::from_secs(60) };
        Spool::new(dir.join("uploads"), limits)
    }

    fn gzip(size: usize) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
        let mut bytes = vec![0; size];
        bytes[..2].copy_from_slice(&GZIP);
        let pieces: Vec<_> = bytes.chunks(100).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        stream::iter(pieces)
    }

    fn left(dir: &Path) -> usize {
        let mut count = 0;
        each_file(&dir.join("uploads"), &mut |_, _| count += 1).unwrap();
        count
    }

    #[tokio::test]
    async fn an_archive_is_its_tenants_until_it_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path());
        spool.sweep().await.unwrap();
        assert!(!spool.has("red", "ab").await);
        spool.receive("red", ("ab", "1"), gzip(800)).await.unwrap();
        assert!(spool.has("red", "ab").await && !spool.has("blue", "ab").await);
        assert_eq!(spool.open("red", "ab").await.unwrap().metadata().await.unwrap().len(), 800);
        spool.sweep().await.unwrap();
        assert!(spool.has("red", "ab").await, "it was used just now");
        let old = SystemTime::now() - Duration::from_secs(61);
        let file = fs::File::options().write(true).open(spool.path("red", "ab")).unwrap();
        file.set_modified(old).unwrap();
        spool.sweep().await.unwrap();
        assert_eq!(left(dir.path()), 0);
    }

    #[tokio::test]
    async fn what_is_refused_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path());
        let code = |refused: Result<(), ServiceError>| refused.unwrap_err().tell().code;
        assert_eq!(code(spool.receive("red", ("a", "1"), gzip(1001)).await), "too_large");
        let text = || stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"no archive"))]);
        assert_eq!(code(spool.receive("red", ("a", "1"), text()).await), "invalid");
        let broken = stream::iter([Ok(Bytes::from_static(&GZIP)), Err("the connection is gone")]);
        assert_eq!(code(spool.receive("red", ("a", "1"), broken).await), "invalid");
        assert_eq!(left(dir.path()), 0);
        spool.receive("red", ("a", "1"), gzip(900)).await.unwrap();
        assert_eq!(code(spool.receive("blue", ("b", "1"), gzip(900)).await), "exhausted");
        assert_eq!(left(dir.path()), 1);
    }

    #[tokio::test]
    async fn a_plain_archive_is_one_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = vec![0; 600];
        tar[USTAR.0..USTAR.0 + 5].copy_from_slice(USTAR.1);
        let data = stream::iter([Ok::<_, Infallible>(Bytes::from(tar))]);
        spool(dir.path()).receive("red", ("a", "1"), data).await.unwrap();
        assert_eq!(left(dir.path()), 1);
    }
}
