//! A small machine of its own kernel: QEMU without hardware help, Debian's cloud kernel, busybox, a registry with one
//! small image, and the binary under test. For what the host's kernel is not set up for; never for speed.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Skip, cache,
    registry::{Registry, architecture},
    scratch, tool,
};

/// The image in the guest's registry: busybox and no more.
const IMAGE: &str = "library/small:latest";

/// Parts of the kernel's modules that the machine needs; the rest would only take room.
const MODULES: [&str; 8] =
    ["arch", "crypto", "lib", "net", "fs/btrfs", "fs/overlayfs", "drivers/block", "drivers/net"];

/// What the machine runs besides busybox and the binary under test, and where it is looked for.
const PROGRAMS: [&str; 8] =
    ["nft", "ip", "losetup", "mount", "umount", "mkfs.btrfs", "docker-registry", "crun"];
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Certificates that a client wants to see, though the guest's registry has none.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// Size of its disk. Sparse.
const DISK: &str = "6G";

/// Longest life of the machine in seconds. A guard, not a measure.
const PATIENCE: &str = "1200";

/// Runs `init` as the machine's first process, with `files` beside it, and returns what it wrote to its console.
///
/// # Errors
/// [`Skip`] where QEMU, the kernel or a tool cannot be had; else what went wrong.
pub async fn run(init: &str, files: &[(&str, &str)]) -> Result<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Skip("the guest's kernel is fetched for x86_64 only".into()).into());
    }
    find("qemu-system-x86_64")?;
    let kernel = Kernel::fetch()?;
    let dir = tempfile::tempdir_in(scratch())?;
    let root = dir.path().join("root");
    build_root(&root, &kernel, init, files)?;
    fill_registry(dir.path(), &root.join("registry")).await?;
    let disk = dir.path().join("disk.img");
    tool(Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&root).arg(&disk).arg(DISK))?;
    fs::remove_dir_all(&root)?;
    tokio::task::spawn_blocking(move || boot(&kernel, &disk)).await?
}

/// The kernel has drivers for this disk and its file system built in, so that no initial file system is needed.
fn boot(kernel: &Kernel, disk: &Path) -> Result<String> {
    let mut qemu = Command::new("timeout");
    qemu.args([
        "--kill-after=10",
        PATIENCE,
        "qemu-system-x86_64",
        "-machine",
        "q35,accel=tcg",
        "-cpu",
        "max",
    ]);
    qemu.args(["-smp", "2", "-m", "2048", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.image);
    qemu.args([
        "-append",
        "console=ttyS0 loglevel=1 panic=-1 root=/dev/nvme0n1 rootfstype=ext4 rw init=/init",
    ]);
    qemu.arg("-drive").arg(format!("if=none,id=disk,file={},format=raw,cache=unsafe", disk.display()));
    qemu.args(["-device", "nvme,serial=atoll,drive=disk"]);
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
    let parent = to.parent().context("no folder")?;
    fs::create_dir_all(parent)?;
    let work = tempfile::tempdir_in(parent)?;
    tool(Command::new("apt-get").args(["download", "-qq", package]).current_dir(work.path()))?;
    let name = fs::read_dir(work.path())?.flatten().next().context("apt-get downloaded nothing")?;
    let unfinished = work.path().join("unpacked");
    tool(Command::new("dpkg-deb").arg("-x").arg(name.path()).arg(&unfinished))?;
    Ok(fs::rename(&unfinished, to)?)
}

fn build_root(root: &Path, kernel: &Kernel, init: &str, files: &[(&str, &str)]) -> Result<()> {
    for dir in ["usr/bin", "etc/ssl/certs", "proc", "sys", "dev", "run", "tmp", "root", "var/lib", "data"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::write(root.join("init"), init)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    for (name, content) in files {
        fs::write(root.join(name), content)?;
    }
    fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n")?;
    fs::copy(Path::new("/").join(CERTIFICATES), root.join(CERTIFICATES)).context(CERTIFICATES)?;
    busybox(root)?;
    program(root, &crate::binary()?, "usr/bin/atoll")?;
    for name in PROGRAMS {
        program(root, &find(name)?, &format!("usr/bin/{name}"))?;
    }
    modules(root, kernel)
}

/// The kernel loads what it lacks by `/sbin/modprobe`, which wants an index.
fn modules(root: &Path, kernel: &Kernel) -> Result<()> {
    fs::create_dir_all(root.join("sbin"))?;
    symlink("/bin/busybox", root.join("sbin/modprobe"))?;
    let modules = root.join("lib/modules").join(&kernel.version);
    for part in MODULES {
        let (from, to) = (kernel.modules.join("kernel").join(part), modules.join("kernel").join(part));
        fs::create_dir_all(to.parent().context("no folder")?)?;
        tool(Command::new("cp").arg("-a").arg(from).arg(to))?;
    }
    for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(kernel.modules.join(index), modules.join(index))?;
    }
    tool(Command::new(find("depmod")?).arg("-b").arg(root).arg(&kernel.version))
}

fn find(name: &str) -> Result<PathBuf> {
    let path = PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    path.ok_or_else(|| Skip(format!("{name} is not installed")).into())
}

/// A user land of one file, and the one user.
fn busybox(root: &Path) -> Result<()> {
    let (from, bin) = (find("busybox")?, root.join("bin"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::copy(&from, bin.join("busybox"))?;
    let listed = Command::new(&from).arg("--list").output()?;
    for name in String::from_utf8(listed.stdout)?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", bin.join(name)).with_context(|| name.to_owned())?;
    }
    Ok(())
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

/// Puts the storage of a registry that has [`IMAGE`] at `to`, with the settings by which the guest starts it.
async fn fill_registry(work: &Path, to: &Path) -> Result<()> {
    let (image, layer) = (work.join("image"), work.join("layer.tar"));
    for dir in ["tmp", "root"] {
        fs::create_dir_all(image.join(dir))?;
    }
    busybox(&image)?;
    tool(
        Command::new("tar")
            .arg("-cf")
            .arg(&layer)
            .args(["--owner=0", "--group=0", "-C"])
            .arg(&image)
            .arg("."),
    )?;
    let registry = Registry::start(to).await?;
    registry.push(IMAGE, &layer, &json!({"Cmd": ["sh"]}), architecture())?;
    drop(registry);
    let settings = json!({
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": "/registry"}},
        "http": {"addr": "127.0.0.1:5000"},
    });
    Ok(fs::write(to.join("config.json"), settings.to_string())?)
}
