//! Changes in directories, by inotify: as a stream, or collected for clients that poll. Knows nothing of RPC.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::descriptor::watched;
use crate::spool::HIDDEN_PREFIX;

/// Events kept for a client that polls; older ones are dropped.
const KEPT: usize = 4096;
/// Polled watchers at a time.
const WATCHERS: usize = 64;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Create,
    Write,
    Remove,
    Rename,
    Chmod,
}

/// A change; the name is relative to the watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    pub kind: Kind,
}

/// Watches one directory.
pub struct Watch {
    inotify: AsyncFd<OwnedFd>,
    root: PathBuf,
    recursive: bool,
    /// Path below the root of each watched directory.
    directories: BTreeMap<i32, PathBuf>,
    pending: VecDeque<Change>,
    /// The rename of a hidden upload whose other half is still to come.
    upload: Option<u32>,
}

/// A watch that was set up, before it meets the event loop. Set up with the user's credentials.
pub struct Prepared {
    inotify: OwnedFd,
    root: PathBuf,
    recursive: bool,
    directories: BTreeMap<i32, PathBuf>,
}

/// Sets up a watch; blocking.
pub fn prepare(path: &str, recursive: bool) -> io::Result<Prepared> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let mut directories = BTreeMap::new();
    add(&inotify, Path::new(path), Path::new(""), recursive, &mut directories)?;
    Ok(Prepared { inotify, root: path.into(), recursive, directories })
}

fn add(
    inotify: &OwnedFd,
    root: &Path,
    below: &Path,
    recursive: bool,
    directories: &mut BTreeMap<i32, PathBuf>,
) -> io::Result<()> {
    let flags = WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::MODIFY
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB
        | WatchFlags::ONLYDIR;
    let directory = root.join(below);
    let watch = inotify::add_watch(inotify, &directory, flags)?;
    directories.insert(watch, below.to_owned());
    if !recursive {
        return Ok(());
    }
    for entry in std::fs::read_dir(&directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match add(inotify, root, &below.join(entry.file_name()), true, directories) {
                // No watch is left: say so instead of missing changes. What is gone or closed is no loss.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

impl Watch {
    pub fn new(prepared: Prepared) -> io::Result<Self> {
        Ok(Self {
            inotify: watched(prepared.inotify)?,
            root: prepared.root,
            recursive: prepared.recursive,
            directories: prepared.directories,
            pending: VecDeque::new(),
            upload: None,
        })
    }

    /// The watched directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The next change.
    pub async fn next(&mut self) -> io::Result<Change> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            let mut ready = self.inotify.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let events = ready.try_io(|fd| read(fd.get_ref(), &mut buffer));
            if let Ok(events) = events {
                for event in events? {
                    self.take(event);
                }
            }
        }
    }

    fn take(&mut self, RawEvent { watch, flags, cookie, name }: RawEvent) {
        if flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&watch);
            return;
        }
        let (Some(directory), Some(name)) = (self.directories.get(&watch), name) else { return };
        if name.starts_with(HIDDEN_PREFIX) {
            self.upload = flags.contains(ReadFlags::MOVED_FROM).then_some(cookie);
            return;
        }
        let below = directory.join(name);
        let Some(kind) = kind(flags) else { return };
        let change = |kind| Change { name: below.to_string_lossy().into_owned(), kind };
        self.pending.push_back(change(kind));
        if flags.contains(ReadFlags::MOVED_TO) && self.upload.take() == Some(cookie) {
            // An upload that was put in its place: to everybody else the file was written.
            self.pending.push_back(change(Kind::Write));
        }
        if self.recursive && kind == Kind::Create && flags.contains(ReadFlags::ISDIR) {
            // It may be gone again, or the limit be reached; its content is then not seen.
            let _ = add(self.inotify.get_ref(), &self.root, &below, true, &mut self.directories);
        }
    }
}

struct RawEvent {
    watch: i32,
    flags: ReadFlags,
    /// Joins the two halves of a rename.
    cookie: u32,
    name: Option<String>,
}

fn read(inotify: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Vec<RawEvent>> {
    let mut reader = inotify::Reader::new(inotify, buffer);
    let mut events = Vec::new();
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
        events.push(RawEvent { watch: event.wd(), flags: event.events(), cookie: event.cookie(), name });
        if reader.is_buffer_empty() {
            return Ok(events);
        }
    }
}

fn kind(flags: ReadFlags) -> Option<Kind> {
    let kinds = [
        (ReadFlags::CREATE | ReadFlags::MOVED_TO, Kind::Create),
        (ReadFlags::MODIFY, Kind::Write),
        (ReadFlags::DELETE, Kind::Remove),
        (ReadFlags::MOVED_FROM, Kind::Rename),
        (ReadFlags::ATTRIB, Kind::Chmod),
    ];
    kinds.iter().find(|(mask, _)| flags.intersects(*mask)).map(|(_, kind)| *kind)
}

/// Watchers that are polled, by name.
#[derive(Default)]
pub struct Watchers(Mutex<BTreeMap<String, Polled>>);

struct Polled {
    changes: Arc<Mutex<VecDeque<Change>>>,
    root: PathBuf,
    include_entry: bool,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a polled watcher has seen.
pub struct Seen {
    pub changes: Vec<Change>,
    pub root: PathBuf,
    pub include_entry: bool,
}

impl Watchers {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Polled>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a watch until it is removed; false when there are too many.
    pub fn insert(&self, id: String, mut watch: Watch, include_entry: bool) -> bool {
        let mut watchers = self.lock();
        if watchers.len() >= WATCHERS {
            return false;
        }
        let changes = Arc::new(Mutex::new(VecDeque::new()));
        let sink = Arc::clone(&changes);
        let root = watch.root().to_owned();
        let task = tokio::spawn(async move {
            while let Ok(change) = watch.next().await {
                let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                sink.push_back(change);
                if sink.len() > KEPT {
                    sink.pop_front();
                }
            }
        });
        watchers.insert(id, Polled { changes, root, include_entry, task });
        true
    }

    /// What a watcher has seen since the last call.
    pub fn take(&self, id: &str) -> Option<Seen> {
        let watchers = self.lock();
        let polled = watchers.get(id)?;
        let changes = polled.changes.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        Some(Seen { changes, root: polled.root.clone(), include_entry: polled.include_entry })
    }

    /// Ends a watcher; whether there was one.
    pub fn remove(&self, id: &str) -> bool {
        self.lock().remove(id).is_some()
    }
}
