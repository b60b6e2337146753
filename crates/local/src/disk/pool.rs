//! A btrfs in a preallocated file of the data directory, so that the limits hold and the file cannot run out under it.
//! It must not know what is stored.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use atoll_core::quantity::Bytes;

use super::{DiskError, at, free, missing, run, set_aside};

/// The least with which a machine is of any use.
const LEAST: u64 = 1 << 30;
/// The most that is taken unasked.
const MOST_UNASKED: u64 = 256 << 30;

/// The file behind a data directory's btrfs.
pub fn image(data: &Path) -> PathBuf {
    data.join("disk.img")
}

/// Mounts it at `root`, and makes it when there is none. `size` counts only then.
pub fn mount(data: &Path, root: &Path, size: Option<Bytes>) -> Result<(), DiskError> {
    let image = image(data);
    if !image.exists() {
        make(data, &image, size)?;
    }
    let device = losetup(&image)?;
    let mounted = run(
        "mount",
        Command::new("mount").args(["-t", "btrfs", "-o", "noatime,nodev,nosuid"]).arg(&device).arg(root),
    );
    // Detaching a device in use only marks it: it goes with the mount, also when nobody is left to detach it.
    run("losetup", Command::new("losetup").arg("--detach").arg(&device))?;
    mounted
}

/// Direct I/O, or every page would be cached twice.
fn losetup(image: &Path) -> Result<String, DiskError> {
    let arguments = ["--find", "--show", "--nooverlap", "--direct-io=on"];
    let output = Command::new("losetup").args(arguments).arg(image).output();
    let output = output.map_err(|error| missing("losetup", &error))?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DiskError::Tool { tool: "losetup", problem });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Formatted under another name, so that a half-made one is never taken for a disk.
fn make(data: &Path, image: &Path, size: Option<Bytes>) -> Result<(), DiskError> {
    let size = size.map_or_else(|| default_size(data), Ok)?;
    let unfinished = data.join("disk.img.new");
    let made = set_aside(&unfinished, size)
        .and_then(|()| {
            run("mkfs.btrfs", Command::new("mkfs.btrfs").args(["-q", "-K", "-f"]).arg(&unfinished))
        })
        .and_then(|()| fs::rename(&unfinished, image).map_err(at(image)));
    if made.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    made
}

fn default_size(data: &Path) -> Result<Bytes, DiskError> {
    let free = free(data)?;
    if free.0 / 2 < LEAST {
        return Err(DiskError::NoRoom { path: data.to_owned(), free });
    }
    Ok(Bytes((free.0 / 2).min(MOST_UNASKED)))
}
