//! What is right and wrong with this machine, and how to mend it. Looks only; changes nothing.

use std::{fs, path::Path, time::Duration};

use atoll_core::driver::{Check, CheckStatus};

use crate::{
    StorageKind,
    cgroup::Cgroups,
    disk::{self, Storage},
    images::RegistryConfig,
    net::{self, State},
    oci::{self, Runtimes},
};

/// Overlay on ownership-mapped mounts came with this.
const LEAST_KERNEL: (u32, u32) = (5, 19);
/// How long a registry may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// Every finding, the most basic first.
pub async fn doctor(data: &Path, registries: &RegistryConfig, runtimes: &Runtimes) -> Vec<Check> {
    let mut checks =
        vec![root(), kernel(), user_namespaces(), filesystem("overlay", "overlayfs"), cgroups(), io_limits()];
    checks.push(storage(data));
    checks.extend(net::doctor().into_iter().map(network));
    checks.extend([disk(data), tool("mmdebstrap", "mmdebstrap"), oci_runtimes(runtimes)]);
    checks.push(registry(registries).await);
    checks
}

fn check(name: &str, status: CheckStatus, detail: impl Into<String>, mend: Option<&str>) -> Check {
    Check { name: name.into(), status, detail: detail.into(), mend: mend.map(str::to_owned) }
}

fn root() -> Check {
    if rustix::process::geteuid().is_root() {
        return check("root", CheckStatus::Ok, "running as root", None);
    }
    check("root", CheckStatus::Fail, "not running as root", Some("run it with sudo"))
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= LEAST_KERNEL {
        return check("kernel", CheckStatus::Ok, release, None);
    }
    let mend = "use Linux 5.19 or newer: overlay on id-mapped mounts is needed";
    check("kernel", CheckStatus::Fail, release, Some(mend))
}

fn user_namespaces() -> Check {
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match most.trim().parse::<u64>() {
        Ok(most) if most > 0 => check("user namespaces", CheckStatus::Ok, format!("at most {most}"), None),
        _ => {
            let mend = "sysctl user.max_user_namespaces=65536";
            check("user namespaces", CheckStatus::Fail, "none may be made", Some(mend))
        }
    }
}

fn filesystem(kind: &str, name: &str) -> Check {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some(kind)) {
        return check(name, CheckStatus::Ok, "known to the kernel", None);
    }
    let detail = "not known to the kernel, unless as a module that loads by itself";
    check(name, CheckStatus::Warn, detail, Some(&format!("modprobe {kind}")))
}

fn cgroups() -> Check {
    match Cgroups::discover("atoll") {
        Ok(groups) => check("control groups", CheckStatus::Ok, format!("version {}", groups.version()), None),
        Err(error) => {
            let mend =
                "mount the cgroup2 filesystem at /sys/fs/cgroup, or the version 1 controllers below it";
            check("control groups", CheckStatus::Fail, error.to_string(), Some(mend))
        }
    }
}

fn io_limits() -> Check {
    let throttling = Cgroups::discover("atoll").ok().filter(Cgroups::throttles);
    match throttling.map(|groups| groups.version()) {
        Some(2) => check("I/O limits", CheckStatus::Ok, "hold for all reads and writes", None),
        Some(_) => {
            let detail = "control groups version 1: hold for reads and for writes that a program waits for (O_DIRECT, fsync), \
                          not for what the kernel writes back by itself";
            let mend = "boot with systemd.unified_cgroup_hierarchy=1";
            check("I/O limits", CheckStatus::Warn, detail, Some(mend))
        }
        None => {
            let detail =
                "no control group controller for I/O: a sandbox that asks for such limits is refused";
            let mend =
                "boot a kernel with CONFIG_BLK_DEV_THROTTLING and its `io` (version 1: `blkio`) controller";
            check("I/O limits", CheckStatus::Warn, detail, Some(mend))
        }
    }
}

fn tool(name: &str, package: &str) -> Check {
    match oci::program(name) {
        Some(path) => check(name, CheckStatus::Ok, path.display().to_string(), None),
        None => check(name, CheckStatus::Fail, "not installed", Some(&format!("apt-get install {package}"))),
    }
}

/// What keeps images and sandboxes' files, or would.
fn storage(data: &Path) -> Check {
    let found = match disk::choose(data, Storage::Auto) {
        Ok(found) => found,
        Err(error) => {
            let mend = "write what it was made with, btrfs or ext4, or `atoll destroy` it";
            return check("storage", CheckStatus::Fail, error.to_string(), Some(mend));
        }
    };
    let lacking = found.lacking.map(|reason| format!(" (no btrfs: {reason})")).unwrap_or_default();
    if found.kind == StorageKind::Btrfs {
        return check("storage", CheckStatus::Ok, "btrfs", None);
    }
    if let Some(problem) = disk::lacks_ext4() {
        let mend = "apt-get install e2fsprogs util-linux, with a kernel that has ext4 and loop devices";
        return check("storage", CheckStatus::Fail, format!("none: {problem}{lacking}"), Some(mend));
    }
    let detail = format!(
        "an ext4 in a file for each sandbox{lacking}: a launch takes some 20 ms longer, a fork has to copy, and a sandbox's \
         whole disk limit is taken at once"
    );
    let mend = "apt-get install btrfs-progs, with a kernel that has btrfs, and begin with a new --data";
    check("storage", CheckStatus::Warn, detail, Some(mend))
}

fn oci_runtimes(runtimes: &Runtimes) -> Check {
    let found = runtimes.installed();
    if found.is_empty() {
        let detail = "none beside our own launcher, which needs none";
        return check("OCI runtimes", CheckStatus::Ok, detail, None);
    }
    let refused: Vec<_> = found.iter().filter_map(|it| Some(it.options().err()?.to_string())).collect();
    if !refused.is_empty() {
        let mend = "templates that name it are refused; install a newer one, or none";
        return check("OCI runtimes", CheckStatus::Warn, refused.join("; "), Some(mend));
    }
    let programs: Vec<_> = found.iter().map(|it| it.program.display().to_string()).collect();
    check("OCI runtimes", CheckStatus::Ok, programs.join(", "), None)
}

fn network(finding: net::Finding) -> Check {
    let status = match finding.state {
        State::Good => CheckStatus::Ok,
        State::Limited => CheckStatus::Warn,
        State::Bad => CheckStatus::Fail,
    };
    check(finding.what, status, finding.detail, finding.mend)
}

fn disk(data: &Path) -> Check {
    let existing = data.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(found) = rustix::fs::statvfs(existing) else {
        return check("disk", CheckStatus::Fail, format!("{} cannot be looked at", existing.display()), None);
    };
    let free = found.f_bavail * found.f_frsize;
    let detail = format!("{} MiB free at {}", free >> 20, existing.display());
    match free >> 30 {
        0..2 => check("disk", CheckStatus::Fail, detail, Some("free 2 GiB or name another --data")),
        2..10 => check("disk", CheckStatus::Warn, detail, Some("10 GiB or more are of use")),
        _ => check("disk", CheckStatus::Ok, detail, None),
    }
}

/// Whether the default registry, or the first mirror of it, accepts a connection.
async fn registry(config: &RegistryConfig) -> Check {
    let mirror = config.mirrors.get("docker.io").and_then(|mirrors| mirrors.first());
    let (host, port) = mirror.map_or(("registry-1.docker.io".to_owned(), 443), |url| host_and_port(url));
    let connecting = tokio::net::TcpStream::connect((host.as_str(), port));
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(_)) => check("registry", CheckStatus::Ok, format!("{host} accepts connections"), None),
        _ => {
            let mend =
                "name a mirror with --registry-mirror, or use images made from packages, such as `base`";
            check("registry", CheckStatus::Warn, format!("{host} cannot be reached"), Some(mend))
        }
    }
}

fn host_and_port(url: &str) -> (String, u16) {
    let (default, rest) = match url.split_once("://") {
        Some(("http", rest)) => (80, rest),
        Some((_, rest)) => (443, rest),
        None => (443, url),
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse().unwrap_or(default)),
        None => (authority.to_owned(), default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_split_into_host_and_port() {
        assert_eq!(host_and_port("http://127.0.0.1:5000/v2"), ("127.0.0.1".into(), 5000));
        assert_eq!(host_and_port("https://mirror.example"), ("mirror.example".into(), 443));
        assert_eq!(host_and_port("http://mirror.example"), ("mirror.example".into(), 80));
    }
}
