//! Builds the base image from the machine's own packages and looks at it through a real overlay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock},
};

use atoll_local::images::{Image, ImageError, ImageStore, PullEvent, Recipe, RegistryConfig};

/// A mounted overlay of an image, unmounted at the end.
struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    fn new(image: &Image) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "root"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let lowers: Vec<String> = image.layers.iter().map(|path| path.display().to_string()).collect();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), at("upper"), at("work"));
        run("mount", &["-t", "overlay", "overlay", "-o", &options, &at("root")]);
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn sh(&self, script: &str) -> String {
        let root = self.root().display().to_string();
        // Devices and processes as a sandbox would have them, in a mount namespace that ends with the command.
        let mounts = "mount --bind /dev $0/dev && mount -t proc proc $0/proc";
        let enter = "exec chroot $0 /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -ec \"$1\"";
        run("unshare", &["--mount", "sh", "-c", &format!("{mounts} && {enter}"), &root, script])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.root()).status();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {stdout}{stderr}");
    stdout.trim().to_owned()
}

/// Why this machine cannot build, if it cannot.
fn reason_to_skip() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON.get_or_init(find_reason_to_skip).clone()
}

fn find_reason_to_skip() -> Option<String> {
    let works = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !works("mmdebstrap", &["--version"]) && !works("debootstrap", &["--version"]) {
        return Some("neither mmdebstrap nor debootstrap is installed".into());
    }
    let lists = tempfile::tempdir().unwrap();
    let state = format!("Dir::State::Lists={}", lists.path().display());
    let update = ["-qq", "-o", &state, "-o", "APT::Update::Error-Mode=any", "update"];
    (!works("apt-get", &update)).then(|| "no source of packages is reachable".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_image_is_built_and_works() {
    if let Some(reason) = reason_to_skip() {
        eprintln!("skipped: {reason}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path(), RegistryConfig::default()).unwrap();
    let lines = Mutex::new(Vec::new());
    let progress = |event| {
        if let PullEvent::Line(line) = event {
            lines.lock().unwrap().push(line);
        }
    };
    let image = store.provision(&Recipe::carried("base").unwrap().unwrap(), &progress).await.unwrap();
    assert!(lines.lock().unwrap().len() > 3);
    assert_eq!(store.get("base").await.unwrap().as_ref(), Some(&image));
    assert_eq!((image.config.user.as_str(), image.config.workdir.as_str()), ("user", "/home/user"));
    println!("{} bytes, {}", image.size_bytes, image.digest);
    look_inside(&Mounted::new(&image));
    assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    assert!(
        !std::fs::read_to_string("/proc/self/mounts").unwrap().contains(directory.path().to_str().unwrap())
    );
}

fn look_inside(mounted: &Mounted) {
    assert_eq!(mounted.sh("python3 -c 'print(6 * 7)'; python -c 'print(1)'"), "42\n1");
    assert!(mounted.sh("node --version").starts_with('v'));
    mounted.sh("git --version; curl --version; sudo --version; pip --version; python3 -m venv /tmp/v; ps -V; ip -V; less -V; xz -V; gzip -V; tar --version");
    assert_eq!(mounted.sh("su user -c 'id -u; cd; pwd; echo $SHELL'"), "1000\n/home/user\n/bin/bash");
    assert_eq!(mounted.sh("su user -c 'sudo -n id -u' 2>/dev/null"), "0");
    assert_eq!(mounted.sh("LC_ALL=C.UTF-8 locale charmap"), "UTF-8");
    let sources = mounted
        .sh("cat /etc/apt/sources.list; ls /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/auth.conf.d");
    assert!(sources.contains("deb ") && !sources.contains('@') && !sources.contains("build"), "{sources}");
    assert_eq!(
        mounted.sh("find /var/lib/apt/lists /usr/share/man /var/cache/apt -type f ! -name lock | head -5"),
        ""
    );
    for file in ["etc/resolv.conf", "etc/hostname", "etc/machine-id", "etc/hosts"] {
        assert_eq!(
            std::fs::metadata(mounted.root().join(file)).unwrap().len(),
            0,
            "{file} is the sandbox's own"
        );
    }
    assert!(mounted.sh("apt-get -s check 2>&1; dpkg --audit").len() < 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_why_and_leaves_nothing() {
    if let Some(reason) = reason_to_skip() {
        eprintln!("skipped: {reason}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path(), RegistryConfig::default()).unwrap();
    let recipe = Recipe::parse("name='odd'\npackages=['no-such-package-anywhere']\n[config]\n").unwrap();
    let error = store.provision(&recipe, &|_| {}).await.unwrap_err();
    let ImageError::BuildFailed { output, .. } = &error else { panic!("{error}") };
    assert!(output.contains("no-such-package-anywhere"), "{output}");
    assert!(is_clean(directory.path()));
    assert_eq!(store.get("odd").await.unwrap(), None);

    // Nobody waits any more: the build is stopped and its processes end.
    let recipe = Recipe::carried("base").unwrap().unwrap();
    let given_up =
        tokio::time::timeout(std::time::Duration::from_secs(3), store.provision(&recipe, &|_| {})).await;
    assert!(given_up.is_err());
    for _ in 0..100 {
        if is_clean(directory.path()) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(is_clean(directory.path()));
    assert!(!processes_mention(directory.path()));
}

fn is_clean(root: &Path) -> bool {
    ["tmp", "layers", "names", "images"]
        .iter()
        .all(|name| std::fs::read_dir(root.join(name)).unwrap().count() == 0)
}

fn processes_mention(path: &Path) -> bool {
    let path = path.to_str().unwrap();
    let command_lines = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    command_lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(path))
}
