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
    position: u64,
    /// Gone, or at rest: what is there is read to its end, and that is all.
    entry: Option<Weak<Entry>>,
}

/// The last `tail` bytes, and with `entry` what comes as long as that one lives.
pub async fn open(path: PathBuf, tail: u64, entry: Option<Weak<Entry>>) -> Result<LogStream, DriverError> {
    let length = match tokio::fs::metadata(&path).await {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(internal(error)),
    };
    let follower = Follower { path, position: length.saturating_sub(tail), entry };
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
    let mut file = match File::open(&follower.path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result?,
    };
    if file.metadata().await?.len() < follower.position {
        follower.position = 0;
    }
    file.seek(SeekFrom::Start(follower.position)).await?;
    let mut chunk = Vec::with_capacity(CHUNK);
    file.take(CHUNK as u64).read_to_end(&mut chunk).await?;
    follower.position += chunk.len() as u64;
    Ok(chunk)
}
