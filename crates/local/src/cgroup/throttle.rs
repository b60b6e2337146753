//! I/O limits in the words of the kernel, and the block devices that they are about. It must not know whose they are.

use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use atoll_core::io::IoLimits;

/// A block device that I/O can be limited on: a whole one, not a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its driver.
    pub major: u32,
    /// Which of its driver's.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What to write into which file of a group of version 1.
pub fn v1(limits: &IoLimits, device: Device) -> Vec<(&'static str, String)> {
    let files = [
        "blkio.throttle.read_bps_device",
        "blkio.throttle.write_bps_device",
        "blkio.throttle.read_iops_device",
        "blkio.throttle.write_iops_device",
    ];
    set(limits, files).map(|(file, value)| (file, format!("{device} {value}"))).collect()
}

/// What to write into `io.max` of a group of version 2.
pub fn v2(limits: &IoLimits, device: Device) -> String {
    let keys = ["rbps", "wbps", "riops", "wiops"];
    set(limits, keys).fold(device.to_string(), |line, (key, value)| format!("{line} {key}={value}"))
}

/// The limits that are set, by their names in this order: bytes read and written, operations of both.
fn set(limits: &IoLimits, names: [&'static str; 4]) -> impl Iterator<Item = (&'static str, u64)> {
    let (read, written) = (limits.read_rate.map(|rate| rate.0), limits.write_rate.map(|rate| rate.0));
    let values = [read, written, limits.read_iops, limits.write_iops];
    names.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?)))
}

/// The block devices that hold what is at `path`: several, when a btrfs has several. None, when what is there is no
/// block device's: an overlay, a network's, memory.
///
/// # Errors
/// When the kernel does not say.
pub fn devices_of(path: &Path) -> io::Result<Vec<Device>> {
    let flags = rustix::fs::StatxFlags::MNT_ID;
    let found = rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::empty(), flags)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().find_map(|line| mount(line, found.stx_mnt_id));
    let Some(mount) = mount else { return Ok(Vec::new()) };
    let devices = if mount.device.major != 0 { vec![mount.device] } else { behind(Path::new(mount.source)) };
    Ok(devices.into_iter().map(whole).collect())
}

struct Mount<'a> {
    device: Device,
    source: &'a str,
}

/// A line of mountinfo (proc(5)), when it is of the mount with this id.
fn mount(line: &str, id: u64) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    if fields.next()?.parse() != Ok(id) {
        return None;
    }
    Some(Mount { device: parse(fields.nth(1)?)?, source: after.split(' ').nth(1)? })
}

fn parse(text: &str) -> Option<Device> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// A btrfs shows a number of no device, but names one of its devices; which others belong to it, sysfs says.
fn behind(source: &Path) -> Vec<Device> {
    let Ok(found) = fs::metadata(source) else { return Vec::new() };
    if !found.file_type().is_block_device() {
        return Vec::new();
    }
    let number = found.rdev();
    let own = Device { major: rustix::fs::major(number), minor: rustix::fs::minor(number) };
    let all = fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let members = all.map(|it| members(&it.path().join("devices"))).find(|devices| devices.contains(&own));
    members.unwrap_or_else(|| vec![own])
}

fn members(directory: &Path) -> Vec<Device> {
    let links = fs::read_dir(directory).into_iter().flatten().flatten();
    links.filter_map(|link| parse(&fs::read_to_string(link.path().join("dev")).ok()?)).collect()
}

/// The disk that a partition is on: the kernel limits whole devices only.
fn whole(device: Device) -> Device {
    let own = PathBuf::from(format!("/sys/dev/block/{device}"));
    if !own.join("partition").exists() {
        return device;
    }
    let disk =
        fs::canonicalize(&own).ok().and_then(|path| fs::read_to_string(path.parent()?.join("dev")).ok());
    disk.as_deref().and_then(parse).unwrap_or(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_core::quantity::Bytes;

    const LOOP: Device = Device { major: 7, minor: 3 };

    #[test]
    fn limits_are_said_as_each_version_wants_them() {
        let limits = IoLimits { write_rate: Some(Bytes::MIB), read_iops: Some(100), ..IoLimits::default() };
        let files = v1(&limits, LOOP);
        let wanted = [
            ("blkio.throttle.write_bps_device", "7:3 1048576".to_owned()),
            ("blkio.throttle.read_iops_device", "7:3 100".to_owned()),
        ];
        assert_eq!(files, wanted);
        assert_eq!(v2(&limits, LOOP), "7:3 wbps=1048576 riops=100");
        assert!(v1(&IoLimits::default(), LOOP).is_empty());
    }

    #[test]
    fn a_mount_is_found_by_its_id() {
        let line = "27 1 254:0 /a /b rw,relatime shared:1 - ext4 /dev/vda rw,discard";
        let found = mount(line, 27).unwrap();
        assert_eq!((found.device.to_string().as_str(), found.source), ("254:0", "/dev/vda"));
        assert!(mount(line, 2).is_none() && mount("", 27).is_none());
    }

    #[test]
    fn what_is_in_memory_has_no_device() {
        assert!(devices_of(Path::new("/proc")).unwrap().is_empty());
        assert!(devices_of(Path::new("/dev/shm")).unwrap().is_empty());
        assert!(devices_of(Path::new("/nowhere")).is_err());
    }
}
