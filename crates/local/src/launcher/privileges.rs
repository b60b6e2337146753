//! What the first process may do: capabilities, system calls, resource limits. It must not know what it will do.

use std::{io, ptr};

use super::raw::{During, Step, check};

/// Kept in the bounding set, because ordinary administration inside the sandbox needs them; numbers and names are those of
/// `linux/capability.h`. SYS_PTRACE, SYS_ADMIN and NET_RAW are not among them, so root inside cannot take over the agent
/// or forge packets.
pub const KEPT: [(u32, &str); 10] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (10, "CAP_NET_BIND_SERVICE"),
    (18, "CAP_SYS_CHROOT"),
    (31, "CAP_SETFCAP"),
];

/// The list of system calls as a filter. Compiled by the build script.
static FILTER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/seccomp.bpf"));

/// Gives up everything but [`KEPT`], and installs the filter. The order matters: a filter needs CAP_SYS_ADMIN or
/// no_new_privs, emptying the bounding set needs CAP_SETPCAP, and both go with the last step.
pub fn drop_privileges(sudo: bool) -> Step {
    shrink_bounding_set().during("drop capabilities from the bounding set")?;
    clear_ambient().during("clear ambient capabilities")?;
    if !sudo {
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1).during("set no_new_privs")?;
    }
    install(FILTER).during("install the seccomp filter")?;
    set_capabilities().during("set capabilities")
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    check(libc::c_long::from(unsafe { libc::prctl(option, value, 0, 0, 0) })).map(drop)
}

fn shrink_bounding_set() -> io::Result<()> {
    for capability in (0..64).filter(|c| KEPT.iter().all(|kept| kept.0 != *c)) {
        match prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) {
            // The kernel does not know so high a number.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)
}

fn install(program: &[u8]) -> io::Result<()> {
    let count = u16::try_from(program.len() / size_of::<libc::sock_filter>()).map_err(io::Error::other)?;
    let mut aligned: Vec<libc::sock_filter> = Vec::with_capacity(usize::from(count));
    // SAFETY: the bytes are `count` whole instructions as the build script wrote them, any bytes are a valid instruction,
    // and the place reserved for them is as long and aligned.
    unsafe {
        ptr::copy_nonoverlapping(program.as_ptr(), aligned.as_mut_ptr().cast::<u8>(), program.len());
        aligned.set_len(usize::from(count));
    }
    let filter = libc::sock_fprog { len: count, filter: aligned.as_mut_ptr() };
    // SAFETY: `filter` points to `count` instructions that outlive the call.
    unsafe {
        check(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)).map(drop)
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 capabilities.
const CAP_VERSION: u32 = 0x2008_0522;

fn set_capabilities() -> io::Result<()> {
    let kept = KEPT.iter().fold(0_u32, |set, kept| set | 1 << kept.0);
    let header = CapHeader { version: CAP_VERSION, pid: 0 };
    let none = CapData { effective: 0, permitted: 0, inheritable: 0 };
    let data = [CapData { effective: kept, permitted: kept, inheritable: 0 }, none];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    unsafe { check(libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr())).map(drop) }
}

/// A resource limit: which, soft, hard.
pub type ResourceLimit = (libc::__rlimit_resource_t, u64, u64);

/// No core files, and as many descriptors as programs expect, or as the machine gives.
pub fn limits() -> Step<[ResourceLimit; 2]> {
    let most = hard_limit(libc::RLIMIT_NOFILE).during("read the limit of open files")?.min(1 << 20);
    Ok([(libc::RLIMIT_CORE, 0, 0), (libc::RLIMIT_NOFILE, most.min(65536), most)])
}

/// Sets [`limits`] for this process and all that come from it.
pub fn set_limits() -> Step {
    for (resource, soft, hard) in limits()? {
        limit(resource, soft, hard).during("set resource limits")?;
    }
    Ok(())
}

fn hard_limit(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut found = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `found` is a valid place for the answer.
    check(libc::c_long::from(unsafe { libc::getrlimit(resource, &raw mut found) }))?;
    Ok(found.rlim_max)
}

fn limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let wanted = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `wanted` is a valid rlimit.
    check(libc::c_long::from(unsafe { libc::setrlimit(resource, &raw const wanted) })).map(drop)
}
