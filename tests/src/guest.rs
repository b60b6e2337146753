//! A small machine of its own kernel: QEMU without hardware help, Debian's cloud kernel, busybox, and the binary under
//! test. For what the host's kernel is not set up for; never for speed.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Skip, cache, place::Place, scratch, tool};

/// Parts of the kernel's modules that the machine needs; the rest would only take time to unpack.
const MODULES: [&str; 7] = ["arch", "crypto", "lib", "net", "fs/btrfs", "fs/overlayfs", "drivers"];

/// Size of its disk. Sparse.
const DISK: u64 = 8 << 30;

/// Runs `init` as the machine's first process, with `files` beside it, a disk that holds the kept images, and returns
/// what it wrote to its console.
///
/// # Errors
/// [`Skip`] where QEMU or the kernel cannot be had; else what went wrong.
pub fn run(init: &str, files: &[(&str, &str)]) -> Result<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Skip("the guest's kernel is fetched for x86_64 only".into()).into());
    }
    let kernel = Kernel::fetch()?;
    let dir = tempfile::tempdir_in(scratch())?;
    let root = dir.path().join("root");
    build_root(&root, &kernel, init, files)?;
    let initramfs = pack(&root, dir.path())?;
    let disk = disk(dir.path())?;
    boot(&kernel, &initramfs, &disk)
}

fn boot(kernel: &Kernel, initramfs: &Path, disk: &Path) -> Result<String> {
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=10", "900", "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max"]);
    qemu.args(["-smp", "2", "-m", "3072", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]);
    qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()));
    let output = qemu.stdin(Stdio::null()).output()?;
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "qemu: {}: {errors}{console}", output.status);
    Ok(console)
}

/// Debian's cloud kernel, unpacked into the cache, not installed.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    version: String,
}

impl Kernel {
    fn fetch() -> Result<Self> {
        let skip = |what: &str| Skip(format!("no kernel for the guest: {what}"));
        let listed = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output();
        let listed = listed.map_err(|error| skip(&format!("apt-cache: {error}")))?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut names = text.split_whitespace().filter_map(|word| word.strip_prefix("linux-image-"));
        let version = names.find(|name| name.starts_with(|first: char| first.is_ascii_digit()));
        let version = version.ok_or_else(|| skip("not in the lists"))?.to_owned();
        let package = format!("linux-image-{version}");
        let dir = cache().join(&package);
        if !dir.exists() {
            unpack(&package, &dir).map_err(|error| skip(&format!("{error:#}")))?;
        }
        let image = dir.join(format!("boot/vmlinuz-{version}"));
        Ok(Self { image, modules: dir.join("lib/modules").join(&version), version })
    }
}

fn unpack(package: &str, to: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(to.parent().context("no folder")?)?;
    tool(Command::new("apt-get").args(["download", "-qq", package]).current_dir(work.path()))?;
    let name = fs::read_dir(work.path())?.flatten().next().context("apt-get downloaded nothing")?;
    let unfinished = work.path().join("unpacked");
    tool(Command::new("dpkg-deb").arg("-x").arg(name.path()).arg(&unfinished))?;
    Ok(fs::rename(&unfinished, to)?)
}

fn build_root(root: &Path, kernel: &Kernel, init: &str, files: &[(&str, &str)]) -> Result<()> {
    for dir in
        ["bin", "sbin", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var/lib"]
    {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::write(root.join("init"), init)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    for (name, content) in files {
        fs::write(root.join(name), content)?;
    }
    fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n")?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).map_err(|error| Skip(format!("busybox: {error}")))?;
    symlink("/bin/busybox", root.join("sbin/modprobe"))?;
    program(root, &crate::binary()?, "usr/bin/atoll")?;
    program(root, Path::new("/usr/sbin/nft"), "usr/sbin/nft")?;
    let modules = root.join("lib/modules").join(&kernel.version);
    fs::create_dir_all(modules.join("kernel"))?;
    for part in MODULES {
        let (from, to) = (kernel.modules.join("kernel").join(part), modules.join("kernel").join(part));
        fs::create_dir_all(to.parent().context("no folder")?)?;
        tool(Command::new("cp").arg("-a").arg(from).arg(to))?;
    }
    for index in ["modules.order", "modules.builtin"] {
        fs::copy(kernel.modules.join(index), modules.join(index))?;
    }
    tool(Command::new("/sbin/depmod").arg("-b").arg(root).arg(&kernel.version))
}

/// Copies a program and the libraries that it is linked with.
fn program(root: &Path, from: &Path, to: &str) -> Result<()> {
    fs::copy(from, root.join(to)).with_context(|| from.display().to_string())?;
    let output = Command::new("ldd").arg(from).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("no folder")?)?;
        fs::copy(library, target)?;
    }
    Ok(())
}

fn pack(root: &Path, dir: &Path) -> Result<PathBuf> {
    let file = dir.join("initramfs");
    let line = "find . | cpio --quiet -o -H newc >\"$1\"";
    tool(Command::new("bash").args(["-o", "pipefail", "-c", line, "pack"]).arg(&file).current_dir(root))?;
    fs::remove_dir_all(root)?;
    Ok(file)
}

/// A disk whose root is a server's directory with the kept images.
fn disk(dir: &Path) -> Result<PathBuf> {
    let place = Place::with_images()?;
    let (file, mounted) = (dir.join("disk.img"), dir.join("disk"));
    fs::File::create(&file)?.set_len(DISK)?;
    fs::create_dir(&mounted)?;
    tool(Command::new("mkfs.btrfs").arg("--quiet").arg(&file))?;
    tool(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&mounted))?;
    let copied = fs::create_dir(mounted.join("disk")).map_err(anyhow::Error::from).and_then(|()| {
        let from = place.path().join("disk/images");
        tool(Command::new("cp").arg("-a").arg(from).arg(mounted.join("disk/images")))
    });
    tool(Command::new("umount").arg(&mounted))?;
    copied.map(|()| file)
}
