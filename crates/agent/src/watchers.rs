//! Changes in directories, by inotify: as a stream, or collected for clients that poll. Knows nothing of RPC.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::descriptor::watched;
use crate::spool::{HIDDEN_PREFIX, REPLACING_PREFIX};

/// Events kept for a client that polls; older ones are dropped.
const KEPT: usize = 4096;
/// Polled watchers at a time.
const WATCHERS: usize = 64;
/// Uploads between the two halves of their renames; more than there are threads that rename.
const UPLOADS: usize = 64;
/// File systems of other machines, and those of programs, tell only some changes: NFS, CIFS, SMB, SMB2 and FUSE, as
/// linux/magic.h numbers them.
const NETWORK: [i64; 5] = [0x6969, 0xff53_4d42, 0x517b, 0xfe53_4d42, 0x6573_5546];

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
    inotify: Arc<AsyncFd<OwnedFd>>,
    root: PathBuf,
    recursive: bool,
    /// Path below the root of each watched directory.
    directories: BTreeMap<i32, PathBuf>,
    pending: VecDeque<Change>,
    /// Renames of hidden uploads whose other half is still to come, and whether they replace a file.
    uploads: VecDeque<(u32, bool)>,
    /// What was found in new directories, and may be told of once more.
    found: BTreeSet<PathBuf>,
}

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Also what is below, to any depth.
    pub recursive: bool,
    /// Also where only some changes are seen.
    pub on_network: bool,
}

/// A watch that was set up, before it meets the event loop. Set up with the user's credentials.
pub struct Prepared {
    inotify: OwnedFd,
    root: PathBuf,
    recursive: bool,
    directories: BTreeMap<i32, PathBuf>,
}

/// Sets up a watch; blocking.
pub fn prepare(path: &str, How { recursive, on_network }: How) -> io::Result<Prepared> {
    if !on_network && is_on_network(path)? {
        let problem = "cannot watch a path on a network file system, unless that is asked for";
        return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
    }
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let mut directories = BTreeMap::new();
    add(&inotify, Path::new(path), Path::new(""), recursive, &mut directories)?;
    Ok(Prepared { inotify, root: path.into(), recursive, directories })
}

/// Whether a path lies on a file system of another kind than the sandbox's own, which tells only some changes.
fn is_on_network(path: &str) -> io::Result<bool> {
    let kind = |path: &str| rustix::fs::statfs(path).map(|stat| stat.f_type);
    let kind_there = kind(path)?;
    Ok(NETWORK.contains(&kind_there) && kind("/")? != kind_there)
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
            inotify: Arc::new(watched(prepared.inotify)?),
            root: prepared.root,
            recursive: prepared.recursive,
            directories: prepared.directories,
            pending: VecDeque::new(),
            uploads: VecDeque::new(),
            found: BTreeSet::new(),
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

    /// Takes in everything that has happened until now.
    fn collect(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        loop {
            match read(self.inotify.get_ref(), &mut buffer) {
                Ok(events) => events.into_iter().for_each(|event| self.take(event)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
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
            if flags.contains(ReadFlags::MOVED_FROM) {
                self.uploads.push_back((cookie, name.starts_with(REPLACING_PREFIX)));
                let surplus = self.uploads.len().saturating_sub(UPLOADS);
                self.uploads.drain(..surplus);
            }
            return;
        }
        let below = directory.join(name);
        let Some(kind) = kind(flags) else { return };
        if self.found.remove(&below) && kind == Kind::Create {
            return;
        }
        let kinds = if flags.contains(ReadFlags::MOVED_TO) { self.arrival(cookie) } else { &[] };
        let kinds = if kinds.is_empty() { &[kind][..] } else { kinds };
        kinds.iter().for_each(|kind| self.tell(&below, *kind));
        if self.recursive && kind == Kind::Create && flags.contains(ReadFlags::ISDIR) {
            // It may be gone again, or the limit be reached; its content is then not seen.
            let _ = add(self.inotify.get_ref(), &self.root, &below, true, &mut self.directories);
            if flags.contains(ReadFlags::CREATE) {
                self.find(&below);
            }
        }
    }

    fn tell(&mut self, below: &Path, kind: Kind) {
        self.pending.push_back(Change { name: below.to_string_lossy().into_owned(), kind });
    }

    /// What an upload that is put in its place is to everybody else: the file was made, given to its user and written, or
    /// only written where it was there before. Nothing for other renames.
    fn arrival(&mut self, cookie: u32) -> &'static [Kind] {
        let place = self.uploads.iter().position(|(known, _)| *known == cookie);
        match place.and_then(|place| self.uploads.remove(place)) {
            Some((_, true)) => &[Kind::Write],
            Some((_, false)) => &[Kind::Create, Kind::Chmod, Kind::Write],
            None => &[],
        }
    }

    /// Tells of what came into a new directory before it was watched.
    fn find(&mut self, below: &Path) {
        let Ok(entries) = std::fs::read_dir(self.root.join(below)) else { return };
        for entry in entries.flatten() {
            let (path, kind) = (below.join(entry.file_name()), entry.file_type());
            if entry.file_name().to_string_lossy().starts_with(HIDDEN_PREFIX) {
                continue;
            }
            self.tell(&path, Kind::Create);
            self.found.insert(path.clone());
            match kind {
                Ok(kind) if kind.is_dir() => self.find(&path),
                Ok(kind) if kind.is_file() => self.tell(&path, Kind::Write),
                _ => {}
            }
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
    watch: Arc<Mutex<Watch>>,
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

fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes in what happens, before the kernel has no room for it, and looks into new directories in time.
async fn follow(watch: Arc<Mutex<Watch>>) {
    let inotify = Arc::clone(&lock(&watch).inotify);
    while let Ok(mut ready) = inotify.readable().await {
        let mut watch = lock(&watch);
        if watch.collect().is_err() {
            return;
        }
        let surplus = watch.pending.len().saturating_sub(KEPT);
        watch.pending.drain(..surplus);
        drop(watch);
        ready.clear_ready();
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Polled>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a watch until it is removed; false when there are too many.
    pub fn insert(&self, id: String, watch: Watch, include_entry: bool) -> bool {
        let mut watchers = self.lock();
        if watchers.len() >= WATCHERS {
            return false;
        }
        let root = watch.root().to_owned();
        let watch = Arc::new(Mutex::new(watch));
        let task = tokio::spawn(follow(Arc::clone(&watch)));
        watchers.insert(id, Polled { watch, root, include_entry, task });
        true
    }

    /// What a watcher has seen since the last call, up to this moment.
    pub fn take(&self, id: &str) -> Option<io::Result<Seen>> {
        let watchers = self.lock();
        let polled = watchers.get(id)?;
        let mut watch = lock(&polled.watch);
        let collected = watch.collect();
        let changes = watch.pending.drain(..).collect();
        Some(collected.map(|()| Seen {
            changes,
            root: polled.root.clone(),
            include_entry: polled.include_entry,
        }))
    }

    /// Ends a watcher; whether there was one.
    pub fn remove(&self, id: &str) -> bool {
        self.lock().remove(id).is_some()
    }
}
