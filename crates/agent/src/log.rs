//! The start command's log: one file of the driver's, bounded. When it is full, the newer half moves to the front
//! after a line that says so; whoever follows the file sees it shrink and reads on from its start. Where a container's
//! runtime keeps the log, it is a pipe to that, which bounds it itself.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const MARKER: &[u8] = b"[earlier output was dropped]\n";
const SMALLEST: u64 = 4096;
const PIECE: usize = 64 << 10;

/// Where the output of the start command goes.
pub enum Sink {
    Kept(Log),
    Passed(AsyncFd<File>),
}

impl Sink {
    /// Of a file, or of anything that can be waited for; only within the runtime.
    pub fn new(file: File, cap: u64) -> io::Result<Self> {
        if file.metadata()?.is_file() {
            return Log::new(file, cap).map(Self::Kept);
        }
        rustix::io::ioctl_fionbio(&file, true)?;
        // SAFETY: the file owns its descriptor, and nothing takes the file out before both are dropped together.
        Ok(Self::Passed(unsafe { AsyncFd::register_with_interest(file, Interest::WRITABLE) }?))
    }

    /// Adds to it. Whoever reads a pipe slowly is waited for.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Kept(log) => log.write(data),
            Self::Passed(pipe) => pass(pipe, data).await,
        }
    }
}

async fn pass(pipe: &AsyncFd<File>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let mut ready = pipe.writable().await?;
        // What would block waits for the next turn.
        if let Ok(written) = ready.try_io(|pipe| pipe.get_ref().write(data)) {
            data = data.get(written?..).unwrap_or_default();
        }
    }
    Ok(())
}

/// A bounded log in a file that was opened for reading and writing, not for appending.
pub struct Log {
    file: File,
    length: u64,
    cap: u64,
}

impl Log {
    pub fn new(file: File, cap: u64) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file, length, cap: cap.max(SMALLEST) })
    }

    /// Adds to the log; what does not fit is the oldest.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let most = usize::try_from(self.cap / 2).unwrap_or(usize::MAX);
        for piece in data.chunks(most.max(1)) {
            if self.length + piece.len() as u64 > self.cap {
                self.compact()?;
            }
            self.file.write_all_at(piece, self.length)?;
            self.length += piece.len() as u64;
        }
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        let keep = (self.cap / 2).saturating_sub(MARKER.len() as u64).min(self.length);
        let mut from = self.length - keep;
        let mut to = MARKER.len() as u64;
        let mut buffer = vec![0; PIECE];
        while from < self.length {
            // A file that cannot be read back loses its old part.
            let Ok(length @ 1..) = self.file.read_at(&mut buffer, from) else { break };
            let length = length.min(usize::try_from(self.length - from).unwrap_or(length));
            self.file.write_all_at(buffer.get(..length).unwrap_or_default(), to)?;
            from += length as u64;
            to += length as u64;
        }
        self.file.write_all_at(MARKER, 0)?;
        self.file.set_len(to)?;
        self.length = to;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_part_is_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log::new(file.reopen().unwrap(), SMALLEST).unwrap();
        for line in 0..2000 {
            log.write(format!("line {line}\n").as_bytes()).unwrap();
        }
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.len() as u64 <= SMALLEST);
        assert!(
            text.starts_with("[earlier output was dropped]\n") && text.ends_with("line 1998\nline 1999\n")
        );
        log.write(&vec![b'x'; 3 * SMALLEST as usize]).unwrap();
        assert!(std::fs::metadata(file.path()).unwrap().len() <= SMALLEST);
    }

    #[tokio::test]
    async fn a_pipe_gets_everything_however_slowly_it_is_read() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = Sink::new(File::from(std::os::fd::OwnedFd::from(writer)), SMALLEST).unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut heard = Vec::new();
            io::Read::read_to_end(&mut reader, &mut heard).unwrap();
            heard
        });
        let sent = vec![b'x'; 1 << 20];
        sink.write(&sent).await.unwrap();
        drop(sink);
        assert!(reading.await.unwrap() == sent);
    }

    #[test]
    fn a_log_goes_on_where_it_was() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["one\n", "two\n"] {
            Log::new(file.reopen().unwrap(), SMALLEST).unwrap().write(text.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "one\ntwo\n");
    }
}
