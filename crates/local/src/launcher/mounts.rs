//! The root filesystem: overlay on ownership-mapped layers, made by the helper on the host's side; then, inside, the new
//! root with a minimal /dev, and /proc and /sys masked as the OCI runtime specification's defaults are.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{
    Launch, files, ids,
    raw::{self, During, Step, StepError, cstring},
};

/// The new root's place below the workplace.
pub const ROOT: &str = "root";
/// The place of the image below the workplace, where it is an overlay of its own.
const IMAGE: &str = "image";
/// The place of the sandbox's own layers below the workplace, where they are mapped.
const OWN: &str = "own";
const NODES: [&CStr; 6] =
    [c"/dev/null", c"/dev/zero", c"/dev/full", c"/dev/random", c"/dev/urandom", c"/dev/tty"];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];
/// Must show nothing. Files get /dev/null, directories an empty read-only filesystem.
pub const MASKED: [&CStr; 13] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/interrupts",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/proc/sysrq-trigger",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/sys/devices/virtual/powercap",
    c"/sys/firmware",
];
/// May be read only.
pub const READ_ONLY: [&CStr; 4] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys"];
const HARMLESS: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Nothing that is mounted here may be seen elsewhere, nor the other way round.
pub fn make_private() -> io::Result<()> {
    raw::mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")
}

/// The agent's program on a read-only mount of its own: whoever gets hold of its file cannot write it.
pub fn agent(path: &Path) -> Step<OwnedFd> {
    let tree = raw::clone_mount(&cstring(path)?).during("clone the agent's mount")?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    raw::set_attributes(tree.as_fd(), attributes, None).during("make the agent read-only")?;
    Ok(tree)
}

/// Mounts a small filesystem for the layers and the root, and goes there. What is forked from here finds both by relative
/// names: the sandbox's uid may not enter the data directory.
pub fn enter_workplace(mount_point: &Path) -> Step {
    let point = cstring(mount_point)?;
    raw::mount(c"atoll", &point, c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV, c"mode=0755,size=1m")
        .during("mount a place for the layers")?;
    std::env::set_current_dir(mount_point).during("enter the place for the layers")?;
    fs::create_dir(ROOT).during("make the place for the root")
}

/// Mounts the overlay at `root` in the workplace. The lower layers are mapped by the ids of `userns`, the upper one only
/// where its files are from another range. Names are short, because all of them must fit into one page.
pub fn overlay(launch: &Launch, userns: Option<BorrowedFd<'_>>) -> Step {
    if let Some(file) = &launch.file {
        files::mount(file, launch.empty, launch.uid_base)?;
    }
    let lower = image(launch, userns)?;
    let (upper, work) = own_layers(launch)?;
    let (upper, work) = (upper.display(), work.display());
    // One device for all files, though numbers of two filesystems are in it: what keeps to a filesystem keeps to all of it.
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work},xino=on");
    mount_overlay(c"root", options).during("mount the overlay")
}

/// Mounts the image's layers and says where. Where the sandbox's own are in a subvolume of the same btrfs, they are an overlay of
/// their own below that of the sandbox: each subvolume numbers its files from the same number on, and an overlay whose layers
/// are of one filesystem passes numbers on as they are. Two files would then be one to whoever tells them apart by their
/// numbers, as the loader of shared libraries does.
fn image(launch: &Launch, userns: Option<BorrowedFd<'_>>) -> Step<String> {
    let mut layers: Vec<&Path> = launch.lowers.iter().map(PathBuf::as_path).collect();
    if layers.len() == 1 && layers[0] != launch.bottom {
        // An overlay that nothing is written to has at least two.
        layers.push(&launch.bottom);
    }
    for (index, layer) in layers.iter().enumerate() {
        map_layer(layer, index, userns).during(format_args!("map the layer {}", layer.display()))?;
    }
    let names: Vec<String> = (0..layers.len()).map(|index| index.to_string()).collect();
    let lower = names.join(":");
    if launch.file.is_some() || layers.len() == 1 {
        return Ok(lower);
    }
    fs::create_dir(IMAGE).during("make the place for the image")?;
    mount_overlay(&cstring(Path::new(IMAGE))?, format!("lowerdir={lower}")).during("mount the image")?;
    Ok(IMAGE.to_owned())
}

fn mount_overlay(place: &CStr, options: String) -> io::Result<()> {
    raw::mount(c"overlay", place, c"overlay", 0, &CString::new(options)?)
}

/// Where the sandbox's own layers are, with the ids that they are to have.
fn own_layers(launch: &Launch) -> Step<(PathBuf, PathBuf)> {
    let own = (launch.upper.clone(), launch.work.clone());
    let map = launch.stored_base.and_then(|stored| ids::shift(stored, launch.uid_base));
    let (Some(map), Some(place)) = (map, launch.upper.parent()) else { return Ok(own) };
    let userns = ids::user_namespace(launch.uid_base, &map).during("make the map of the files' ids")?;
    fs::create_dir(OWN).during("make the place for the files")?;
    let tree = raw::clone_mount(&cstring(place)?).during("clone the mount of the files")?;
    raw::set_attributes(tree.as_fd(), libc::MOUNT_ATTR_NODEV, Some(userns.as_fd()))
        .during("map the files' ids")?;
    raw::attach(tree.as_fd(), &cstring(Path::new(OWN))?).during("attach the files")?;
    let below = |path: &Path| path.file_name().map(|name| Path::new(OWN).join(name)).unwrap_or_default();
    Ok((below(&launch.upper), below(&launch.work)))
}

fn map_layer(lower: &Path, index: usize, userns: Option<BorrowedFd<'_>>) -> Step {
    let name = index.to_string();
    fs::create_dir(&name).during("make its place")?;
    let tree = raw::clone_mount(&cstring(lower)?).during("clone its mount")?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV;
    raw::set_attributes(tree.as_fd(), attributes, userns).during("map its ids")?;
    raw::attach(tree.as_fd(), &cstring(Path::new(&name))?).during("attach it")
}

/// Makes the overlay the root of this process and fills in what programs expect. Everything after the pivot is resolved
/// inside the new root, so that an image cannot lead a mount astray with a link; the old root stays below until /proc and
/// /sys are there, because the kernel lets a user namespace mount those only while it sees them in full.
pub fn enter_root() -> Step {
    let nodes = NODES.map(raw::clone_mount);
    let old_root = open_directory("/").during("open the old root")?;
    let with_volumes = libc::MS_BIND | libc::MS_REC;
    raw::mount(c"root", c"root", c"", with_volumes, c"").during("bind the new root")?;
    std::env::set_current_dir(ROOT).during("enter the new root")?;
    raw::pivot_here().during("pivot the root")?;
    mount_kernel_filesystems()?;
    mount_devices(nodes)?;
    rustix::process::fchdir(&old_root).during("return to the old root")?;
    raw::leave_here().during("leave the old root")?;
    std::env::set_current_dir("/").during("enter the root")?;
    hide()
}

fn open_directory(path: &str) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

const QUIET: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

fn mount_kernel_filesystems() -> Step {
    at(c"/proc", c"proc", QUIET, c"")?;
    at(c"/sys", c"sysfs", QUIET | libc::MS_RDONLY, c"")?;
    // Version 1 hierarchies cannot be mounted here; version 2 shows the sandbox its own group and nothing above it.
    if Path::new("/sys/fs/cgroup").is_dir() {
        let _ = raw::mount(c"cgroup2", c"/sys/fs/cgroup", c"cgroup2", QUIET | libc::MS_RDONLY, c"");
    }
    Ok(())
}

fn mount_devices(nodes: [io::Result<OwnedFd>; NODES.len()]) -> Step {
    at(c"/dev", c"tmpfs", libc::MS_NOSUID, c"mode=0755,size=1m")?;
    for (node, target) in nodes.into_iter().zip(NODES) {
        let what = || format!("bind {}", target.to_string_lossy());
        let tree = node.during(what())?;
        touch(target).during(what())?;
        raw::attach(tree.as_fd(), target).during(what())?;
    }
    for (target, link) in LINKS {
        symlink(target, link).during(format_args!("link {link}"))?;
    }
    at(
        c"/dev/pts",
        c"devpts",
        libc::MS_NOSUID | libc::MS_NOEXEC,
        c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    at(c"/dev/shm", c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV, c"mode=1777")?;
    at(c"/dev/mqueue", c"mqueue", QUIET, c"")
}

fn touch(path: &CStr) -> io::Result<()> {
    let path = path.to_str().map_err(io::Error::other)?;
    fs::File::create(path).map(drop)
}

/// Makes the directory when the image has none, and mounts there.
fn at(target: &CStr, kind: &CStr, flags: libc::c_ulong, data: &CStr) -> Step {
    let path = target.to_str().during("name a mount")?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StepError(format!("make {path}: {error}")));
        }
        _ => {}
    }
    raw::mount(kind, target, kind, flags, data).during(format_args!("mount {path}"))
}

fn hide() -> Step {
    for path in MASKED {
        ignore_absent(mask(path)).during(format_args!("mask {}", path.to_string_lossy()))?;
    }
    for path in READ_ONLY {
        ignore_absent(read_only(path)).during(format_args!("protect {}", path.to_string_lossy()))?;
    }
    ignore_absent(own_boot_id()).during("give it a boot of its own")
}

/// Each start is a boot to what runs inside, and the host's is none of its business. The file's name goes in the end; the
/// mount holds what it had.
fn own_boot_id() -> io::Result<()> {
    let (file, path) = (c"/dev/boot_id", "/dev/boot_id");
    fs::write(path, fs::read("/proc/sys/kernel/random/uuid")?)?;
    let tree = raw::clone_mount(file)?;
    raw::set_attributes(tree.as_fd(), libc::MOUNT_ATTR_RDONLY | HARMLESS, None)?;
    raw::attach(tree.as_fd(), c"/proc/sys/kernel/random/boot_id")?;
    fs::remove_file(path)
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn mask(path: &CStr) -> io::Result<()> {
    let found = fs::metadata(path.to_str().map_err(io::Error::other)?)?;
    if found.is_dir() {
        return raw::mount(c"tmpfs", path, c"tmpfs", QUIET | libc::MS_RDONLY, c"size=0,nr_inodes=1");
    }
    let null = raw::clone_mount(c"/dev/null")?;
    raw::attach(null.as_fd(), path)
}

fn read_only(path: &CStr) -> io::Result<()> {
    let tree = raw::clone_mount(path)?;
    raw::set_attributes(tree.as_fd(), libc::MOUNT_ATTR_RDONLY | HARMLESS, None)?;
    raw::attach(tree.as_fd(), path)
}
