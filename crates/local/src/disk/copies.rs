//! Copies of sparse files: only what was written is read and written. Extents are never shared with the original, as
//! `copy_file_range` would where it can: a file whose room was set aside would need more at its next write. It must not know
//! what is in the files.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path};

use atoll_core::quantity::Bytes;
use rustix::fs::{SeekFrom, seek};

/// How much is in memory at a time.
const CHUNK: usize = 1 << 20;

/// Where something was written, in order. Room that was taken and never written to does not count.
///
/// # Errors
/// When the file cannot be read.
pub fn written(path: &Path) -> io::Result<Vec<Range<u64>>> {
    let file = File::open(path)?;
    let (mut ranges, mut at) = (Vec::new(), 0);
    loop {
        match seek(&file, SeekFrom::Data(at)) {
            Ok(begin) => {
                at = seek(&file, SeekFrom::Hole(begin))?;
                ranges.push(begin..at);
            }
            Err(rustix::io::Errno::NXIO) => return Ok(ranges),
            Err(error) => return Err(error.into()),
        }
    }
}

/// How much that is.
pub fn sum(ranges: &[Range<u64>]) -> Bytes {
    Bytes(ranges.iter().map(|range| range.end - range.start).sum())
}

/// Writes those ranges of a file to another, which is made as long where it is shorter, and waits for the disk.
///
/// # Errors
/// When one of the two fails; the copy is unfinished then.
pub fn copy(from: &Path, to: &Path, ranges: &[Range<u64>]) -> io::Result<()> {
    let source = File::open(from)?;
    let target = File::options().write(true).create(true).truncate(false).open(to)?;
    let length = source.metadata()?.len();
    if target.metadata()?.len() < length {
        target.set_len(length)?;
    }
    let mut buffer = vec![0; CHUNK];
    for range in ranges {
        copy_range(&source, &target, range.clone(), &mut buffer)?;
    }
    target.sync_all()
}

fn copy_range(source: &File, target: &File, range: Range<u64>, buffer: &mut [u8]) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let most = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
        let chunk = &mut buffer[..most];
        source.read_exact_at(chunk, at)?;
        target.write_all_at(chunk, at)?;
        at += most as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_and_room_that_was_only_taken_stay_out_of_a_copy() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let file = File::create(&from).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, 16 << 20).unwrap();
        let text = vec![7; 3 << 20];
        file.write_all_at(&text, 5 << 20).unwrap();
        file.write_all_at(b"end", (16 << 20) - 3).unwrap();
        file.sync_all().unwrap();
        let ranges = written(&from).unwrap();
        assert!((3 << 20..4 << 20).contains(&sum(&ranges).0), "{ranges:?}");
        copy(&from, &to, &ranges).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        assert!(std::fs::metadata(&to).unwrap().blocks() * 512 < 5 << 20);
        assert_eq!(written(&directory.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_empty_file_has_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("empty");
        File::create(&path).unwrap();
        assert_eq!(written(&path).unwrap(), []);
        assert_eq!(sum(&[]), Bytes(0));
    }
}
