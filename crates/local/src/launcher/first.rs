//! The sandbox's first process, until it becomes the agent: root of its own namespaces, on the way to much less.

use std::{
    ffi::{CStr, c_char},
    fs, io,
    io::{PipeReader, PipeWriter},
    os::fd::{AsRawFd, IntoRawFd, OwnedFd},
    ptr,
};

use super::{
    Launch,
    entry::Report,
    founder::wait,
    mounts, privileges,
    raw::{self, During, Step, check},
};

/// What the agent gets from outside, each at the descriptor that its arguments name.
pub struct Inherited {
    /// Its listening socket, bound outside the sandbox. Becomes 3.
    pub listener: OwnedFd,
    /// What it is told. Becomes 4.
    pub config: OwnedFd,
    /// Where the start command's output goes. Becomes 5.
    pub log: OwnedFd,
    /// The program itself, on a read-only mount of its own.
    pub agent: OwnedFd,
}

const ARGUMENTS: [&CStr; 7] = [c"atoll-agent", c"--listen-fd", c"3", c"--config-fd", c"4", c"--log-fd", c"5"];
const PATH: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Never returns: becomes the agent, or reports why not.
pub fn run(launch: &Launch, inherited: Inherited, mut report: PipeWriter, mut going: PipeReader) -> ! {
    let Err(problem) = settle(launch, inherited, &mut going);
    Report::fail(&problem, &mut report);
    raw::exit(1)
}

fn settle(launch: &Launch, inherited: Inherited, going: &mut PipeReader) -> Step<Never> {
    rustix::process::setsid().during("start a session")?;
    rustix::system::sethostname(launch.hostname.as_bytes()).during("set the host name")?;
    mounts::enter_root()?;
    if launch.fresh {
        write_names(launch).during("write host name and name server")?;
    }
    privileges::set_limits()?;
    wait(going)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let agent = place_descriptors(inherited).during("place descriptors")?;
    privileges::drop_privileges(launch.sudo)?;
    execute(agent).during("execute the agent")
}

/// Of which there is no value: success does not return.
enum Never {}

/// The files by which programs learn names. They replace whatever the image has, links included.
pub fn write_names(launch: &Launch) -> io::Result<()> {
    let name = &launch.hostname;
    fs::create_dir_all("/etc")?;
    replace("/etc/hostname", &format!("{name}\n"))?;
    replace("/etc/hosts", &format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost\n"))?;
    let nameserver = launch.network.as_ref().map(|routed| format!("nameserver {}\n", routed.plan.gateway()));
    replace("/etc/resolv.conf", &nameserver.unwrap_or_default())
}

fn replace(path: &str, content: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::write(path, content),
    }
}

/// Puts the agent's descriptors at 3, 4 and 5; all others but the standard streams close at exec.
fn place_descriptors(inherited: Inherited) -> io::Result<i32> {
    let Inherited { listener, config, log, agent } = inherited;
    // Far up first: one of the targets may be the source of another.
    let lifted = [listener, config, log].map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 64));
    let agent = rustix::io::fcntl_dupfd_cloexec(agent, 64)?;
    for (target, fd) in (3..).zip(lifted) {
        let fd = fd?;
        // SAFETY: dup2 takes no memory; what was at the target belongs to nobody who is still to run here.
        check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), target) }))?;
    }
    // Standard output is the helper's answer to the server; it must not stay open in the sandbox.
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let (from, to, flags) = (6_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: takes no memory; the descriptors close at exec only.
    check(unsafe { libc::syscall(libc::SYS_close_range, from, to, flags) })?;
    Ok(agent.into_raw_fd())
}

fn execute(agent: i32) -> io::Result<Never> {
    let mut arguments: [*const c_char; 8] = [ptr::null(); 8];
    for (slot, argument) in arguments.iter_mut().zip(ARGUMENTS) {
        *slot = argument.as_ptr();
    }
    let environment = [PATH.as_ptr(), ptr::null()];
    let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: both lists end with NULL and all strings with NUL; on success the call does not return.
    unsafe {
        libc::syscall(libc::SYS_execveat, agent, empty, arguments.as_ptr(), environment.as_ptr(), flags);
    }
    Err(io::Error::last_os_error())
}
