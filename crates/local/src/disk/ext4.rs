//! An ext4 in a file for each sandbox, where there is no btrfs. The file is allocated in full when it is made: a sandbox
//! that fills its disk sees a full filesystem, and the machine's own disk cannot run out under it. Nobody mounts it here:
//! the launcher does, where only the sandbox sees it, so that the kernel takes mount and loop device away with the
//! sandbox's last process, whoever is left to do so.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use atoll_core::quantity::Bytes;

use super::{DiskError, at, copies, free, missing, run, set_aside};

/// What stays free for the machine, and for records and logs.
const RESERVE: Bytes = Bytes::GIB;
/// Below this, a journal of 1,024 blocks of 4 KiB would take most of it.
const SMALL: Bytes = Bytes(32 << 20);

/// How long the mount of a run before may take to be written back and to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the file; what was there is replaced.
///
/// # Errors
/// When there is no room, or mkfs.ext4 fails; no file is left then.
pub fn make(path: &Path, size: Bytes) -> Result<(), DiskError> {
    let made = allocate(path, size).and_then(|()| format(path, size));
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

/// Keeps what is in one as another file, which takes only the room of what was written, and mends that: the one may be
/// mounted, where nobody writes to it and all was written back.
///
/// # Errors
/// When there is no room, or what was copied is no sound filesystem; no file is left then.
pub fn keep(from: &Path, to: &Path) -> Result<(), DiskError> {
    let kept = copies::written(from).map_err(at(from)).and_then(|ranges| {
        {
            let _turn = turn();
            room(to, copies::sum(&ranges))?;
        }
        copies::copy(from, to, &ranges).map_err(at(to))?;
        check(to)
    });
    if kept.is_err() {
        let _ = fs::remove_file(to);
    }
    kept
}

/// Makes a file of `size` that begins with what is in another one that nobody has mounted, all its room taken.
///
/// # Errors
/// When there is no room, or what is in it does not fit; no file is left then.
pub fn make_from(from: &Path, to: &Path, size: Bytes) -> Result<(), DiskError> {
    let made = fill_from(from, to, size);
    if made.is_err() {
        let _ = fs::remove_file(to);
    }
    made
}

fn fill_from(from: &Path, to: &Path, size: Bytes) -> Result<(), DiskError> {
    let had = Bytes(fs::metadata(from).map_err(at(from))?.len());
    allocate(to, had.max(size))?;
    let ranges = copies::written(from).map_err(at(from))?;
    copies::copy(from, to, &ranges).map_err(at(to))?;
    if had == size {
        return Ok(());
    }
    check(to)?;
    let blocks = format!("{}K", size.0 / 1024);
    let resized = run("resize2fs", Command::new("resize2fs").arg(to).arg(blocks));
    if had < size {
        return resized;
    }
    resized.map_err(|_| DiskError::TooSmall { wanted: size })?;
    let file = fs::File::options().write(true).open(to).map_err(at(to))?;
    file.set_len(size.0).map_err(at(to))
}

/// Makes one larger that nobody has mounted; one that is as large stays. After a crash in between it is done again.
///
/// # Errors
/// When there is no room, it is mounted for too long, or a tool fails. The file may be larger than what is in it then,
/// which harms nothing.
pub fn grow(path: &Path, size: Bytes) -> Result<(), DiskError> {
    let file = fs::File::options().read(true).write(true).open(path).map_err(at(path))?;
    // The same lock as a mount's: see the launcher.
    alone(&file).map_err(at(path))?;
    let had = file.metadata().map_err(at(path))?.len();
    if had < size.0 {
        extend(path, &file, Bytes(had), size)?;
    }
    // resize2fs takes none that was mounted since it was checked.
    check(path)?;
    run("resize2fs", Command::new("resize2fs").arg(path))
}

fn extend(path: &Path, file: &fs::File, had: Bytes, size: Bytes) -> Result<(), DiskError> {
    let _turn = turn();
    let more = Bytes(size.0 - had.0);
    room(path, more)?;
    let taken = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), had.0, more.0);
    taken.map_err(|error| at(path)(error.into()))
}

/// Its journal is played back on the way. An exit code of 1 says that something was mended.
fn check(path: &Path) -> Result<(), DiskError> {
    let output = Command::new("e2fsck").args(["-f", "-p"]).arg(path).output();
    let output = output.map_err(|error| missing("e2fsck", &error))?;
    match output.status.code() {
        Some(0 | 1) => Ok(()),
        _ => Err(DiskError::Tool {
            tool: "e2fsck",
            problem: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        }),
    }
}

/// One at a time: between the look and the taking, another one could take what was seen.
fn allocate(path: &Path, size: Bytes) -> Result<(), DiskError> {
    let _turn = turn();
    room(path, size)?;
    set_aside(path, size)
}

fn turn() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn room(path: &Path, size: Bytes) -> Result<(), DiskError> {
    let directory = path.parent().unwrap_or(path);
    let free = free(directory)?;
    if free.0.saturating_sub(RESERVE.0) < size.0 {
        return Err(DiskError::Full { path: directory.to_owned(), wanted: size, free });
    }
    Ok(())
}

/// Its tables stay unwritten: a file that was just allocated reads as zeros. With a journal, because what is in it must
/// survive a power cut.
fn format(path: &Path, size: Bytes) -> Result<(), DiskError> {
    let block = if size < SMALL { "1024" } else { "4096" };
    let unwritten = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-m", "0", "-I", "256", "-i", "16384", "-b", block, "-E", unwritten]).arg(path);
    run("mkfs.ext4", &mut mkfs)
}

/// Two mounts of one file would destroy it. The lock goes with the open file, which the loop device keeps open: so it is
/// held for as long as there is a mount, in whatever namespace.
///
/// # Errors
/// When it is mounted for too long.
pub fn alone(file: &fs::File) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::other("it is still mounted from the run before"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Bytes that files take in one that is not mounted.
///
/// # Errors
/// When it cannot be read.
pub fn usage(path: &Path) -> io::Result<u64> {
    let mut superblock = [0; 1024];
    fs::File::open(path)?.read_exact_at(&mut superblock, 1024)?;
    used(&superblock).ok_or_else(|| io::Error::other("it is not an ext4"))
}

/// Offsets from `Documentation/filesystems/ext4/super.rst` of the kernel. What the filesystem itself takes is not counted,
/// as statfs does not count it.
fn used(superblock: &[u8; 1024]) -> Option<u64> {
    let word = |at: usize| Some(u32::from_le_bytes(superblock.get(at..at + 4)?.try_into().ok()?));
    let wide = |low, high| Some(u64::from(word(low)?) | u64::from(word(high)?) << 32);
    if superblock.get(0x38..0x3a)? != [0x53, 0xef] {
        return None;
    }
    let (blocks, free, overhead) = (wide(0x4, 0x150)?, wide(0xc, 0x158)?, u64::from(word(0x248)?));
    let block = 1024_u64.checked_shl(word(0x18)?)?;
    Some(blocks.saturating_sub(free).saturating_sub(overhead) * block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_made_in_full_and_says_what_is_used() {
        let directory = tempfile::tempdir().unwrap();
        for mib in [8, 31, 32, 64] {
            let (path, size) = (directory.path().join("files"), Bytes(mib << 20));
            make(&path, size).unwrap();
            let found = fs::metadata(&path).unwrap();
            let taken = std::os::unix::fs::MetadataExt::blocks(&found) * 512;
            assert!(found.len() == size.0 && taken >= size.0, "{mib} MiB: {taken} bytes are taken");
            let used = usage(&path).unwrap();
            assert!((1..1 << 20).contains(&used), "{mib} MiB: {used} bytes of an empty one are used");
        }
    }

    #[test]
    fn one_grows_once_and_only_where_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("files");
        make(&path, Bytes(16 << 20)).unwrap();
        let blocks = || {
            let mut superblock = [0; 1024];
            fs::File::open(&path).unwrap().read_exact_at(&mut superblock, 1024).unwrap();
            u32::from_le_bytes(superblock[4..8].try_into().unwrap())
        };
        let had = blocks();
        for _ in 0..2 {
            grow(&path, Bytes(48 << 20)).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), 48 << 20);
            assert_eq!(blocks(), had * 3);
        }
        let all = free(directory.path()).unwrap();
        assert!(matches!(grow(&path, Bytes(all.0 * 2)), Err(DiskError::Full { .. })));
        assert_eq!(fs::metadata(&path).unwrap().len(), 48 << 20);
    }

    #[test]
    fn one_that_does_not_fit_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("files");
        let all = free(directory.path()).unwrap();
        for size in [Bytes(all.0 * 2), Bytes(all.0 - (64 << 20))] {
            let refused = make(&path, size).unwrap_err();
            assert!(matches!(refused, DiskError::Full { .. }), "{refused}");
            assert!(refused.to_string().contains("disk") && !path.exists(), "{refused}");
        }
    }

    #[test]
    fn what_is_no_ext4_has_no_usage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("files");
        fs::write(&path, vec![0; 4096]).unwrap();
        assert!(usage(&path).is_err() && usage(directory.path()).is_err());
    }

    #[test]
    fn a_file_that_is_mounted_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("files");
        let first = fs::File::create(&path).unwrap();
        alone(&first).unwrap();
        let second = thread::spawn(move || alone(&fs::File::open(&path).unwrap()));
        thread::sleep(Duration::from_millis(5));
        assert!(!second.is_finished());
        drop(first);
        second.join().unwrap().unwrap();
    }
}
