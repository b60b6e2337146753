//! Descriptors in the event loop.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Makes a descriptor non-blocking and has the event loop watch it.
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // SAFETY: an owned descriptor stays the same and open for as long as it is registered.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
