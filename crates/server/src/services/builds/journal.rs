//! The log of a build while it is written: lines gather and go to the store in batches, within a bound.

use atoll_core::{
    build::{Level, LogLine},
    store::StoreError,
};
use jiff::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{services::Base, services::text::Decoder};

/// Most bytes of messages, and most lines: what is read with each question about a build.
const MOST_BYTES: usize = 1 << 20;
const MOST_LINES: usize = 10_000;
/// So many more are for what the platform itself has to say when commands have filled the log.
const RESERVE: usize = 200;
/// Longest line; the rest goes to the next one.
const LONGEST_LINE: usize = 4096;

/// A log that is being written.
pub struct Journal {
    base: Arc<Base>,
    build: String,
    gathered: Mutex<Gathered>,
    /// Number of the next line in the store; held while lines go there, so that they do in order.
    written: tokio::sync::Mutex<u64>,
}

#[derive(Default)]
struct Gathered {
    lines: Vec<LogLine>,
    count: usize,
    bytes: usize,
    full: bool,
}

impl Gathered {
    /// Adds a line; of those of commands only as many as fit.
    fn add(&mut self, line: LogLine, ours: bool) {
        let most = if ours { MOST_LINES + RESERVE } else { MOST_LINES };
        let fits = self.count < most && (ours || self.bytes + line.message.len() <= MOST_BYTES);
        if !fits && (ours || self.full) {
            return;
        }
        let line = if fits { line } else { LogLine { message: FULL.to_owned(), level: Level::Warn, ..line } };
        self.full |= !fits;
        self.count += 1;
        self.bytes += line.message.len();
        self.lines.push(line);
    }
}

const FULL: &str = "the log is full: what commands write from here on is not kept";

impl Journal {
    pub fn new(base: Arc<Base>, build: String) -> Self {
        Self { base, build, gathered: Mutex::default(), written: tokio::sync::Mutex::new(0) }
    }

    /// What the platform says.
    pub fn say(&self, level: Level, step: &str, message: impl Into<String>) {
        self.add(level, step, message.into(), true);
    }

    /// What a command wrote: complete lines, as they come.
    pub fn lines(&self, level: Level, step: &str, prefix: &str, lines: &mut Lines, piece: &[u8]) {
        for line in lines.feed(piece) {
            self.add(level, step, format!("{prefix}{line}"), false);
        }
    }

    /// What it left unfinished.
    pub fn last_line(&self, level: Level, step: &str, prefix: &str, lines: &mut Lines) {
        if let Some(line) = lines.end() {
            self.add(level, step, format!("{prefix}{line}"), false);
        }
    }

    fn add(&self, level: Level, step: &str, message: String, ours: bool) {
        let at = Timestamp::from_microsecond(self.base.world.now().as_microsecond()).unwrap_or_default();
        self.lock().add(LogLine { at, level, step: Some(step.to_owned()), message }, ours);
    }

    /// Writes what has gathered. What was begun is ended, also when whoever waits for it stops waiting: lines that arrive
    /// without being counted would come twice. What the store refuses is tried again with the next lines.
    pub async fn flush(self: &Arc<Self>) -> Result<(), StoreError> {
        let journal = self.clone();
        let writing = tokio::spawn(async move { journal.write().await });
        writing.await.unwrap_or_else(|error| Err(StoreError::Database(error.to_string())))
    }

    async fn write(&self) -> Result<(), StoreError> {
        let mut written = self.written.lock().await;
        let lines = std::mem::take(&mut self.lock().lines);
        if let Err(error) = self.base.store.append_log(&self.build, *written, &lines).await {
            self.lock().lines.splice(0..0, lines);
            return Err(error);
        }
        *written += lines.len() as u64;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of one stream, cut into lines.
#[derive(Debug, Default)]
pub struct Lines {
    decoder: Decoder,
    rest: String,
}

impl Lines {
    /// The lines that are complete with this piece; empty ones are left out.
    fn feed(&mut self, piece: &[u8]) -> Vec<String> {
        self.rest += &self.decoder.feed(piece);
        let mut lines = Vec::new();
        while let Some(end) = self.end_of_line() {
            let line: String = self.rest.drain(..end).collect();
            lines.push(line.trim_end().to_owned());
        }
        lines.retain(|line| !line.is_empty());
        lines
    }

    fn end_of_line(&self) -> Option<usize> {
        let end = self.rest.find('\n').map(|at| at + 1);
        end.filter(|end| *end <= LONGEST_LINE)
            .or_else(|| (self.rest.len() > LONGEST_LINE).then(|| self.rest.floor_char_boundary(LONGEST_LINE)))
    }

    fn end(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.rest) + &self.decoder.end();
        let line = line.trim_end();
        (!line.is_empty()).then(|| line.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> LogLine {
        LogLine { at: Timestamp::UNIX_EPOCH, level: Level::Info, step: None, message: message.into() }
    }

    #[test]
    fn bytes_become_lines_wherever_they_are_cut() {
        let text = "one\r\n\n  two é\nthree".as_bytes();
        for cut in 0..=text.len() {
            let mut lines = Lines::default();
            let mut read = lines.feed(&text[..cut]);
            read.extend(lines.feed(&text[cut..]));
            read.extend(lines.end());
            assert_eq!(read, ["one", "  two é", "three"], "cut at {cut}");
        }
        let mut lines = Lines::default();
        let long = lines.feed("é".repeat(LONGEST_LINE).as_bytes());
        assert!(long.iter().all(|line| line.len() <= LONGEST_LINE) && !long.is_empty());
        assert_eq!(Lines::default().end(), None);
    }

    #[test]
    fn a_full_log_says_so_once_and_still_takes_the_end() {
        let mut gathered = Gathered::default();
        for _ in 0..MOST_LINES + 10 {
            gathered.add(line("x"), false);
        }
        gathered.add(line("it failed"), true);
        let messages: Vec<_> = gathered.lines[MOST_LINES..].iter().map(|it| it.message.as_str()).collect();
        assert_eq!(messages, [FULL, "it failed"]);
        let mut gathered = Gathered::default();
        for _ in 0..3 {
            gathered.add(line(&"x".repeat(MOST_BYTES / 2)), false);
        }
        assert_eq!((gathered.lines.len(), gathered.lines[2].message.as_str()), (3, FULL));
    }
}
