//! The launcher's helper when a runtime does the work: it makes the root filesystem and the bundle in its own mount
//! namespace, has the runtime make a container of them, and goes away. The container's own namespaces keep what they need.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown, chroot},
    },
    path::{Path, PathBuf},
    process,
};

use super::{
    Kind, Through,
    command::Cli,
    spec::{self, Joined},
};
use crate::launcher::{
    Launch,
    entry::{connect, log_file},
    first::write_names,
    ids, mounts, privileges,
    raw::{self, During, Step, StepError, cstring},
    volumes,
};

const CONTENT: &str = "inside";

/// Starts the sandbox and returns the pid of its first process. Nothing is left when a step fails.
pub fn serve(launch: &Launch, through: &Through) -> Step<i32> {
    let log = File::from(log_file(&launch.log).during("open the log")?);
    let agent = mounts::agent(&launch.agent)?;
    let range = ids::range(launch.uid_base);
    let user = through.maps_ids().then(|| ids::user_namespace(launch.uid_base, &range)).transpose();
    let user = user.during("make the user namespace")?;
    mounts::overlay(launch, user.as_ref().map(AsFd::as_fd))?;
    volumes::mount(launch, user.as_ref().map(AsFd::as_fd))?;
    if launch.fresh {
        in_new_root(launch).during("write host name and name server")?;
    }
    fill_content(launch, &agent)?;
    let joined = Joined { user: user.as_ref().map(path_of), network: ready_network(launch, through)? };
    write_config(launch, through, joined)?;
    let cli = Cli { program: &through.program, options: &through.options, state: &through.state };
    let first = cli.create(&launch.hostname, log).during("make the container")?;
    go_on(launch, through, &cli, first).inspect_err(|_| {
        // The failure that led here is the one to be told.
        let _ = cli.delete(&launch.hostname);
    })
}

fn go_on(launch: &Launch, through: &Through, cli: &Cli<'_>, first: i32) -> Step<i32> {
    check_network(through.kind, first)?;
    if through.kind == Kind::Host {
        connect(launch, first)?;
    }
    cli.start(&launch.hostname).during("start the container")?;
    Ok(first)
}

/// A container's network is its own, or the one that was made for it. Settings must never reach the machine's.
fn check_network(kind: Kind, first: i32) -> Step {
    let inode = |path: String| fs::metadata(&path).map(|found| found.ino()).during(path);
    let same = inode("/proc/self/ns/net".into())? == inode(format!("/proc/{first}/ns/net"))?;
    if same == (kind == Kind::Gvisor) {
        return Ok(());
    }
    Err(StepError("the runtime put the container into another network namespace than it was told".into()))
}

/// A descriptor of this process as a path that the runtime can open.
fn path_of(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", process::id(), fd.as_raw_fd()))
}

/// Writes the files of names as the sandbox's root inside the new root, where no link leads out.
fn in_new_root(launch: &Launch) -> io::Result<()> {
    raw::apart(|| {
        chroot(mounts::ROOT)?;
        std::env::set_current_dir("/")?;
        raw::become_id(launch.uid_base)?;
        write_names(launch)
    })
}

/// The agent and what it is told, for the sandbox's root alone.
fn fill_content(launch: &Launch, agent: &OwnedFd) -> Step {
    let directory = Path::new(CONTENT);
    let program = directory.join("agent");
    fs::create_dir(directory).during("make the agent's place")?;
    File::create(&program).during("make the agent's place")?;
    raw::attach(agent.as_fd(), &cstring(&program)?).during("attach the agent")?;
    let config = directory.join("config.json");
    let text = serde_json::to_vec(&launch.config).during("write the agent's configuration")?;
    fs::write(&config, text).during("write the agent's configuration")?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o400)).during("protect the configuration")?;
    chown(&config, Some(launch.uid_base), Some(launch.uid_base)).during("give the configuration away")
}

/// gVisor reads its network when the container is made. The namespace is this process's, and then the container's.
fn ready_network(launch: &Launch, through: &Through) -> Step<Option<PathBuf>> {
    if through.kind != Kind::Gvisor {
        return Ok(None);
    }
    let own = process::id();
    raw::unshare(libc::CLONE_NEWNET).during("make the network namespace")?;
    connect(launch, own.cast_signed())?;
    Ok(Some(PathBuf::from(format!("/proc/{own}/ns/net"))))
}

fn write_config(launch: &Launch, through: &Through, joined: Joined) -> Step {
    let limits = privileges::limits()?;
    // Inherited: to set another user's, the runtime would need CAP_SYS_RESOURCE, which a root in a guest may not have.
    privileges::set_limits()?;
    let limits = if through.maps_ids() { &[][..] } else { &limits[..] };
    let inside = through.workplace.join(CONTENT);
    let spec = spec::spec(launch, through, limits, joined, inside).during("describe the container")?;
    let text = serde_json::to_vec(&spec).during("describe the container")?;
    fs::write("config.json", text).during("write the container's description")
}
