//! Reads a tar archive entry by entry, with bounds on everything it keeps in memory. Knows nothing of files on disk.
//! The `tar` crate reads the header fields; the records around them are read here, because its reader splits extended
//! attributes at newlines (file capabilities contain such bytes) and keeps names of any length in memory.

use std::{
    io::{self, Read},
    str,
};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::UnpackError;

const BLOCK: usize = 512;
/// Long names and extended records: more than any honest archive has for one entry.
const MAX_RECORD: u64 = 1 << 20;
const MAX_SPARSE_PARTS: usize = 1 << 16;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Fifo,
    CharDevice,
    BlockDevice,
    Other(u8),
}

/// One entry's description; its data is read from the [`TarReader`].
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, i64),
    /// Parts of a sparse file, and its whole size.
    pub(super) sparse: Option<Sparse>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where the data of a sparse file goes.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) parts: Vec<(u64, u64)>,
    pub(super) size: u64,
}

/// What extended headers say about the next entry.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, i64)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_map: Option<Vec<u64>>,
    sparse_in_data: bool,
    sparse_unknown: bool,
}

/// The archive, read once from front to back. Reading from it gives the current entry's data.
pub(super) struct TarReader<R> {
    inner: R,
    data: u64,
    padding: u64,
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..room])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data -= read as u64;
        Ok(read)
    }
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, data: 0, padding: 0 }
    }

    /// How many bytes of data the current entry still has.
    pub(super) fn remaining(&self) -> u64 {
        self.data
    }

    /// What the archive was read from, at the place reached.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; what was not read of the last one is skipped.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extended = Extended::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            let size = header.entry_size().map_err(damaged)?;
            self.set_size(size)?;
            match header.entry_type() {
                EntryType::GNULongName => extended.path = Some(cut_at_nul(self.read_record()?)),
                EntryType::GNULongLink => extended.link = Some(cut_at_nul(self.read_record()?)),
                EntryType::XHeader => extended.read(&self.read_record()?)?,
                EntryType::XGlobalHeader => drop(self.read_record()?),
                _ => return self.describe(&header, extended).map(Some),
            }
        }
    }

    fn set_size(&mut self, size: u64) -> Result<(), UnpackError> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        self.padding =
            padded.ok_or_else(|| UnpackError::damaged("an entry's size is beyond all bounds"))? - size;
        self.data = size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), UnpackError> {
        let rest = self.data + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        (self.data, self.padding) = (0, 0);
        if skipped < rest { Err(truncated()) } else { Ok(()) }
    }

    /// A header whose checksum is right; none at the end of the archive.
    fn read_header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut header = Header::new_old();
        let bytes = header.as_mut_bytes();
        let mut have = 0;
        while have < BLOCK {
            match self.inner.read(&mut bytes[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(truncated()),
                read => have += read,
            }
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        if header.cksum().map_err(damaged)? != sum {
            return Err(UnpackError::damaged("a tar header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    /// A long name or an extended record, whole.
    fn read_record(&mut self) -> Result<Vec<u8>, UnpackError> {
        if self.data > MAX_RECORD {
            return Err(UnpackError::damaged("an extended header is larger than 1 MiB"));
        }
        let mut record = Vec::new();
        self.read_to_end(&mut record)?;
        Ok(record)
    }

    fn describe(&mut self, header: &Header, extended: Extended) -> Result<Entry, UnpackError> {
        if let Some(size) = extended.size {
            self.set_size(size)?;
        }
        let sparse = self.sparse(header, &extended)?;
        let path = extended.sparse_name.or(extended.path).unwrap_or_else(|| header.path_bytes().into_owned());
        let link =
            extended.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        let mut kind = kind_of(header.entry_type());
        if kind == Kind::File && path.ends_with(b"/") {
            kind = Kind::Directory; // the oldest archives have no other sign of a directory
        }
        if !matches!(kind_of(header.entry_type()), Kind::File | Kind::Other(_)) {
            // Some archivers write a target's size into the header of a link, with no data after it.
            (self.data, self.padding) = (0, 0);
        }
        Ok(Entry {
            path,
            link,
            kind,
            mode: number(header.mode(), &header.as_old().mode)? & 0o7777,
            uid: id(extended.uid.map_or_else(|| number64(header.uid(), &header.as_old().uid), Ok)?)?,
            gid: id(extended.gid.map_or_else(|| number64(header.gid(), &header.as_old().gid), Ok)?)?,
            mtime: extended.mtime.unwrap_or((header.mtime().unwrap_or(0).cast_signed(), 0)),
            sparse,
            xattrs: extended.xattrs,
        })
    }

    fn sparse(&mut self, header: &Header, extended: &Extended) -> Result<Option<Sparse>, UnpackError> {
        if extended.sparse_unknown {
            return Err(UnpackError::damaged("sparse files of PAX format 0.0 are not supported"));
        }
        let sparse = if header.entry_type() == EntryType::GNUSparse {
            self.gnu_sparse(header)?
        } else if extended.sparse_in_data {
            Sparse { parts: self.sparse_map_in_data()?, size: extended.sparse_size.unwrap_or(0) }
        } else if let Some(numbers) = &extended.sparse_map {
            Sparse { parts: pairs(numbers)?, size: extended.sparse_size.unwrap_or(0) }
        } else {
            return Ok(None);
        };
        check_sparse(&sparse, self.data)?;
        Ok(Some(sparse))
    }

    fn gnu_sparse(&mut self, header: &Header) -> Result<Sparse, UnpackError> {
        let gnu =
            header.as_gnu().ok_or_else(|| UnpackError::damaged("a sparse entry without a GNU header"))?;
        let mut sparse = Sparse { parts: Vec::new(), size: gnu.real_size().map_err(damaged)? };
        push_parts(&mut sparse.parts, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.inner.read_exact(block.as_mut_bytes())?;
            push_parts(&mut sparse.parts, block.sparse())?;
            more = block.is_extended();
        }
        Ok(sparse)
    }

    /// PAX format 1.0: decimal numbers, one a line, in whole blocks before the data.
    fn sparse_map_in_data(&mut self) -> Result<Vec<(u64, u64)>, UnpackError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = Vec::new();
        loop {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            for byte in block {
                if byte != b'\n' {
                    digits.push(byte);
                    continue;
                }
                numbers.push(decimal(&digits)?);
                digits.clear();
                if numbers.len() as u64 == 1 + numbers[0].saturating_mul(2) {
                    return pairs(&numbers[1..]);
                }
            }
            if numbers.len() > 2 * MAX_SPARSE_PARTS || digits.len() > BLOCK {
                return Err(UnpackError::damaged("a sparse file has too many parts"));
            }
        }
    }
}

impl Extended {
    /// Records are `length key=value\n`, where the length counts the whole record.
    fn read(&mut self, mut rest: &[u8]) -> Result<(), UnpackError> {
        let bad = || UnpackError::damaged("an extended header is malformed");
        while !rest.is_empty() && rest[0] != 0 {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length = usize::try_from(decimal(&rest[..space])?).map_err(|_| bad())?;
            let record = rest.get(space + 1..length).ok_or_else(bad)?;
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), UnpackError> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse_in_data = value == b"1",
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(decimal(value)?),
            b"GNU.sparse.map" => self.sparse_map = Some(numbers(value)?),
            b"GNU.sparse.offset" => self.sparse_unknown = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn kind_of(kind: EntryType) -> Kind {
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::Hardlink,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        other => Kind::Other(other.as_byte()),
    }
}

/// Parts must ascend, lie within the file, and be exactly the data that follows.
fn check_sparse(sparse: &Sparse, data: u64) -> Result<(), UnpackError> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for (offset, length) in &sparse.parts {
        if *offset < end {
            return Err(UnpackError::damaged("parts of a sparse file overlap"));
        }
        end = offset
            .checked_add(*length)
            .ok_or_else(|| UnpackError::damaged("a sparse file is beyond all bounds"))?;
        sum += length;
    }
    if end > sparse.size || sum != data {
        return Err(UnpackError::damaged("parts of a sparse file do not fit its data"));
    }
    Ok(())
}

fn push_parts(parts: &mut Vec<(u64, u64)>, headers: &[GnuSparseHeader]) -> Result<(), UnpackError> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        parts.push((header.offset().map_err(damaged)?, header.length().map_err(damaged)?));
    }
    if parts.len() > MAX_SPARSE_PARTS {
        return Err(UnpackError::damaged("a sparse file has too many parts"));
    }
    Ok(())
}

fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, UnpackError> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_SPARSE_PARTS {
        return Err(UnpackError::damaged("the map of a sparse file is malformed"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn numbers(text: &[u8]) -> Result<Vec<u64>, UnpackError> {
    text.split(|b| *b == b',').map(decimal).collect()
}

fn decimal(text: &[u8]) -> Result<u64, UnpackError> {
    let number = str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| UnpackError::damaged("a number in an extended header is malformed"))
}

/// Seconds since 1970 with an optional fraction, as seconds and nanoseconds.
fn time(text: &[u8]) -> Result<(i64, i64), UnpackError> {
    let bad = || UnpackError::damaged("a time in an extended header is malformed");
    let text = str::from_utf8(text).map_err(|_| bad())?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().map_err(|_| bad())?;
    let nanos: i64 = format!("{fraction:0<9.9}").parse().map_err(|_| bad())?;
    if seconds.starts_with('-') && nanos > 0 {
        return Ok((whole.saturating_sub(1), 1_000_000_000 - nanos));
    }
    Ok((whole, nanos))
}

/// A header's field; some archivers leave fields blank that mean nothing for the entry.
fn number(read: io::Result<u32>, field: &[u8]) -> Result<u32, UnpackError> {
    number64(read.map(u64::from), field).map(|number| number as u32)
}

fn number64(read: io::Result<u64>, field: &[u8]) -> Result<u64, UnpackError> {
    let blank = field.iter().all(|b| matches!(b, 0 | b' '));
    if blank { Ok(0) } else { read.map_err(damaged) }
}

fn id(number: u64) -> Result<u32, UnpackError> {
    // The last value means "leave it" to chown.
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| UnpackError::damaged("an owner's number is beyond 32 bits"))
}

fn cut_at_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|b| *b == 0) {
        name.truncate(end);
    }
    name
}

fn damaged(error: io::Error) -> UnpackError {
    UnpackError::damaged(error.to_string())
}

fn truncated() -> UnpackError {
    UnpackError::damaged("the archive ends in the middle of an entry")
}
