//! Certificates of authorities. Where the system has none, no client for registries can be made, not even one that speaks
//! plain HTTP. One certificate whose key nobody has then stands in for them: over TLS nobody is trusted.

use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    env,
    fs::File,
    io::{self, Write},
    os::fd::IntoRawFd,
    sync::atomic::{AtomicBool, Ordering},
};

const NOBODY: &[u8] = include_bytes!("nobody.pem");
static MISSING: AtomicBool = AtomicBool::new(false);

/// Whether one stands in.
pub fn missing() -> bool {
    MISSING.load(Ordering::Relaxed)
}

/// Lets one stand in where the system has none. To be called while there is one thread.
pub fn stand_in() -> io::Result<()> {
    if !rustls_native_certs::load_native_certs().certs.is_empty() {
        return Ok(());
    }
    let mut file = File::from(memfd_create("authorities", MemfdFlags::CLOEXEC)?);
    file.write_all(NOBODY)?;
    // It is read for each client, so it stays open as long as the process lives.
    let place = format!("/proc/self/fd/{}", file.into_raw_fd());
    // SAFETY: the caller promises that no other thread reads the environment meanwhile.
    unsafe { env::set_var("SSL_CERT_FILE", place) };
    MISSING.store(true, Ordering::Relaxed);
    Ok(())
}
