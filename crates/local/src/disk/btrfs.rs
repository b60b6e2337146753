//! The btrfs ioctls that we need, from `linux/btrfs.h` and `linux/btrfs_tree.h`: a subvolume and its limit cost tens of
//! microseconds this way. It must not know what subvolumes are for.

use std::{fs::File, io, os::fd::AsRawFd, path::Path};

const MAGIC: u32 = 0x94;
const NAME_MAX: usize = 4087;
const SNAPSHOT_NAME_MAX: usize = 4039;
/// Of a snapshot that nobody may write.
const READ_ONLY: u64 = 2;
/// Simple quotas charge a block to whoever wrote it, without scanning back references; Linux 6.7.
const ENABLE_SIMPLE: u64 = 4;
const ENABLE: u64 = 1;
const LIMIT_REFERENCED: u64 = 1;
const LIMIT_EXCLUSIVE: u64 = 2;
const QUOTA_TREE: u64 = 8;
const QGROUP_INFO_KEY: u32 = 242;
/// Inode number of every subvolume's root directory.
const ROOT_INODE: u64 = 256;

const fn request(direction: u32, number: u32, size: usize) -> u64 {
    ((direction << 30) | ((size as u32) << 16) | (MAGIC << 8) | number) as u64
}

const WRITE: u32 = 1;
const READ: u32 = 2;
const SUBVOL_CREATE: u64 = request(WRITE, 14, size_of::<VolArgs>());
const SNAP_DESTROY: u64 = request(WRITE, 15, size_of::<VolArgs>());
const TREE_SEARCH: u64 = request(WRITE | READ, 17, size_of::<SearchArgs>());
const INO_LOOKUP: u64 = request(WRITE | READ, 18, size_of::<LookupArgs>());
const SNAP_CREATE: u64 = request(WRITE, 23, size_of::<SnapshotArgs>());
const QUOTA_CTL: u64 = request(WRITE | READ, 40, size_of::<QuotaArgs>());
const QGROUP_LIMIT: u64 = request(READ, 43, size_of::<LimitArgs>());

#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; NAME_MAX + 1],
}

#[repr(C)]
struct SnapshotArgs {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; SNAPSHOT_NAME_MAX + 1],
}

#[repr(C)]
struct QuotaArgs {
    command: u64,
    status: u64,
}

#[repr(C)]
struct LimitArgs {
    qgroup: u64,
    flags: u64,
    referenced: u64,
    exclusive: u64,
    reserved: [u64; 2],
}

#[repr(C)]
struct LookupArgs {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

#[repr(C)]
#[derive(Default)]
struct SearchKey {
    tree: u64,
    objects: [u64; 2],
    offsets: [u64; 2],
    transactions: [u64; 2],
    types: [u32; 2],
    items: u32,
    unused: u32,
    unused_too: [u64; 4],
}

#[repr(C)]
struct SearchArgs {
    key: SearchKey,
    found: [u8; 4096 - size_of::<SearchKey>()],
}

fn ioctl<T>(file: &File, request: u64, argument: &mut T) -> io::Result<()> {
    // SAFETY: each request above encodes the size of the structure that its callers pass, and the structure outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes a name so that a NUL is behind it.
fn put_name(name: &str, into: &mut [u8]) -> io::Result<()> {
    let most = into.len() - 1;
    let place = into.get_mut(..name.len()).filter(|place| place.len() <= most);
    place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?.copy_from_slice(name.as_bytes());
    Ok(())
}

fn vol_args(name: &str) -> io::Result<VolArgs> {
    let mut args = VolArgs { fd: 0, name: [0; NAME_MAX + 1] };
    put_name(name, &mut args.name)?;
    Ok(args)
}

/// Whether `path` is on a btrfs.
pub fn is_btrfs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == libc::BTRFS_SUPER_MAGIC)
}

/// Switches quotas on: simple ones, or on an older kernel the accounting ones. Being on already is fine.
pub fn enable_quota(root: &Path) -> io::Result<()> {
    let file = File::open(root)?;
    let enable = |command| ioctl(&file, QUOTA_CTL, &mut QuotaArgs { command, status: 0 });
    match enable(ENABLE_SIMPLE) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => enable(ENABLE),
        result => result,
    }
    .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

/// Makes an empty subvolume `name` in `parent`.
pub fn create_subvolume(parent: &Path, name: &str) -> io::Result<()> {
    ioctl(&File::open(parent)?, SUBVOL_CREATE, &mut vol_args(name)?)
}

/// Makes `name` in `parent` what the subvolume `source` is now: whatever was written to it before is in it. It is on the
/// disk when this returns.
pub fn snapshot(source: &Path, parent: &Path, name: &str, read_only: bool) -> io::Result<()> {
    let source = File::open(source)?;
    let flags = if read_only { READ_ONLY } else { 0 };
    let (fd, no_name) = (source.as_raw_fd().into(), [0; SNAPSHOT_NAME_MAX + 1]);
    let mut args = SnapshotArgs { fd, transaction: 0, flags, unused: [0; 4], name: no_name };
    put_name(name, &mut args.name)?;
    ioctl(&File::open(parent)?, SNAP_CREATE, &mut args)
}

/// Removes a subvolume with all that is in it; its blocks are given back in the background.
pub fn remove_subvolume(parent: &Path, name: &str) -> io::Result<()> {
    ioctl(&File::open(parent)?, SNAP_DESTROY, &mut vol_args(name)?)
}

/// Limits what a subvolume may hold.
pub fn limit(subvolume: &Path, bytes: u64) -> io::Result<()> {
    let flags = LIMIT_REFERENCED | LIMIT_EXCLUSIVE;
    let mut args = LimitArgs { qgroup: 0, flags, referenced: bytes, exclusive: bytes, reserved: [0; 2] };
    ioctl(&File::open(subvolume)?, QGROUP_LIMIT, &mut args)
}

/// Bytes charged to a subvolume, or `None` when it is not counted.
pub fn usage(subvolume: &Path) -> io::Result<Option<u64>> {
    let file = File::open(subvolume)?;
    let mut lookup = LookupArgs { tree: 0, object: ROOT_INODE, name: [0; 4080] };
    ioctl(&file, INO_LOOKUP, &mut lookup)?;
    let key = SearchKey {
        tree: QUOTA_TREE,
        objects: [0, 0],
        offsets: [lookup.tree, lookup.tree],
        transactions: [0, u64::MAX],
        types: [QGROUP_INFO_KEY, QGROUP_INFO_KEY],
        items: 1,
        ..SearchKey::default()
    };
    let mut search = SearchArgs { key, found: [0; 4096 - size_of::<SearchKey>()] };
    ioctl(&file, TREE_SEARCH, &mut search)?;
    Ok((search.key.items == 1).then(|| referenced(&search.found)).flatten())
}

/// After a header of 32 bytes comes the item: generation, then referenced bytes, both little-endian.
fn referenced(found: &[u8]) -> Option<u64> {
    let bytes = found.get(32 + 8..32 + 16)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
