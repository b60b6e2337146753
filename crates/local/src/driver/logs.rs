//! The start command's log, which outlives it and its sandbox's processes.

use futures::stream;
use std::{io::SeekFrom, path::PathBuf, sync::Weak, time::Duration};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

use atoll_core::driver::{DriverError, LogStream};

use super::{internal, table::Entry};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(100);
const CHUNK: usize = 64 << 10;

struct Follower {
    path: PathBuf,
    /// Kept open: what was written before a sandbox was deleted can then still be read.
    file: Option<File>,
    position: u64,
    /// Gone, or at rest: what is there is read to its end, and that is all.
    entry: Option<Weak<Entry>>,
}

/// The last `tail` bytes, and with `entry` what comes as long as that one lives.
pub async fn open(path: PathBuf, tail: u64, entry: Option<Weak<Entry>>) -> Result<LogStream, DriverError> {
    let mut follower = Follower { path, file: None, position: 0, entry };
    if let Some(file) = follower.file().await.map_err(internal)? {
        follower.position = file.metadata().await.map_err(internal)?.len().saturating_sub(tail);
    }
    Ok(Box::pin(stream::try_unfold(follower, next)))
}

async fn next(mut follower: Follower) -> Result<Option<(Vec<u8>, Follower)>, DriverError> {
    loop {
        // Asked before reading: what is written until the end is then still read.
        let lives = follower
            .entry
            .as_ref()
            .and_then(Weak::upgrade)
            .is_some_and(|e| e.record().sandbox.phase.is_live());
        let chunk = read(&mut follower).await.map_err(internal)?;
        if !chunk.is_empty() {
            return Ok(Some((chunk, follower)));
        }
        if !lives {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What was added since the last time. A log that became shorter was cut by its cap, and is read from its start.
async fn read(follower: &mut Follower) -> std::io::Result<Vec<u8>> {
    let position = follower.position;
    let Some(file) = follower.file().await? else { return Ok(Vec::new()) };
    let from = if file.metadata().await?.len() < position { 0 } else { position };
    file.seek(SeekFrom::Start(from)).await?;
    let mut chunk = Vec::with_capacity(CHUNK);
    file.take(CHUNK as u64).read_to_end(&mut chunk).await?;
    follower.position = from + chunk.len() as u64;
    Ok(chunk)
}

impl Follower {
    /// The log, once there is one.
    async fn file(&mut self) -> std::io::Result<Option<&mut File>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path).await {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                opened => Some(opened?),
            };
        }
        Ok(self.file.as_mut())
    }
}
