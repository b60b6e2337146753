//! A sandbox's own filesystem in a file: attached to a loop device and mounted where only the helper and then the sandbox
//! see it. Both go by themselves with the last mount of it, whoever dies before. It must not know what is in it.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::raw::{self, During, Step, check, cstring};
use crate::disk::{MOUNTED, alone, make_layer};

/// How often another may be quicker to take a free device.
const TRIES: usize = 1000;

// From `linux/loop.h`.
const CONFIGURE: u64 = 0x4c0a;
const GET_FREE: u64 = 0x4c82;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// `struct loop_config`, which begins with the backing file and the size of a block; all else but the flags stays 0.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    places: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u64; 20],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// Mounts a sandbox's file in the workplace. In an `empty` one the layers are made, for `uid`.
pub fn mount(file: &Path, empty: bool, uid: u32) -> Step {
    mount_at(file, Path::new(MOUNTED))?;
    if !empty {
        return Ok(());
    }
    let layers = ["upper", "work"].map(|name| Path::new(MOUNTED).join(name));
    layers.iter().try_for_each(|layer| make_layer(layer, uid)).during("make the sandbox's layers")
}

/// Mounts a file at a place, which is made.
pub fn mount_at(file: &Path, place: &Path) -> Step {
    fs::create_dir(place).during("make the place for the files")?;
    let (name, _device) = attach(file).during(format_args!("attach {}", file.display()))?;
    let flags = libc::MS_NOATIME | libc::MS_NODEV | libc::MS_NOSUID;
    // Its tables need no zeroing, see where it is made; after an I/O error of the host's disk nothing more is written.
    let options = c"noinit_itable,errors=remount-ro";
    raw::mount(&cstring(&name)?, &cstring(place)?, c"ext4", flags, options)
        .during(format_args!("mount {}", file.display()))
}

/// A loop device on the file. It is detached when nothing has it open or mounted any more.
fn attach(path: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let file = File::options().read(true).write(true).open(path)?;
    alone(&file)?;
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..TRIES {
        // SAFETY: takes no memory.
        let number = check(libc::c_long::from(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) }))?;
        let name = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::options().read(true).write(true).open(&name)?;
        match configure(&device, &file) {
            Ok(()) => return Ok((name, device.into())),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("every free loop device was taken by somebody else"))
}

/// Direct I/O, or every page would be cached twice; the kernel does without where the host's filesystem cannot.
fn configure(device: &File, file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd().unsigned_abs();
    let config = Config {
        fd,
        block_size: 0,
        places: [0; 5],
        number: 0,
        encryption: [0; 2],
        flags: AUTOCLEAR | DIRECT_IO,
        names: [0; 20],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the structure has the kernel's layout and outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
    check(libc::c_long::from(done)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_the_kernels() {
        assert_eq!(size_of::<Config>(), 304);
        assert_eq!(std::mem::offset_of!(Config, flags), 8 + 52);
    }
}
