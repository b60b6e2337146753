//! Connections into sandboxes, which hide where those are; a resting one is woken first.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpStream;

use atoll_core::{
    driver::{BoxStream, DriverError, Target, no_progress},
    phase::Phase,
    sandbox::Reason,
};

use super::{Inner, conflict, internal, table::Entry};
use crate::{net::connect_in, record::Record};

/// How long a program in a sandbox may take to accept.
const PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    pub(super) async fn connect(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        target: Target,
    ) -> Result<BoxStream, DriverError> {
        self.wake(entry).await?;
        entry.touch(jiff::Timestamp::now());
        let record = entry.record();
        match target {
            Target::Agent => self.to_agent(&record).await.map_err(|error| lost(entry, &error)),
            Target::Port(port) => Ok(Box::new(to_port(self, &record, port).await?)),
        }
    }

    /// Makes a resting sandbox run. One that is being made is waited for.
    async fn wake(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<(), DriverError> {
        if entry.record().sandbox.phase == Phase::Running {
            return Ok(());
        }
        if entry.record().sandbox.phase == Phase::Creating {
            drop(entry.changing.lock().await);
        }
        let reason = Reason::new("woken", "somebody connected to it");
        match entry.record().sandbox.phase {
            Phase::Running => Ok(()),
            Phase::Paused => self.resume(entry, reason).await.map(drop),
            Phase::Stopped => self.start(entry, no_progress(), reason).await.map(drop),
            _ => Err(conflict(entry, "nothing can be run in it")),
        }
    }
}

fn lost(entry: &Entry, error: &io::Error) -> DriverError {
    conflict(entry, &format!("its agent cannot be reached: {error}"))
}

async fn to_port(inner: &Inner, record: &Record, port: u16) -> Result<TcpStream, DriverError> {
    let closed = || DriverError::PortClosed(port);
    let identity = record.process.as_ref().ok_or_else(closed)?;
    let netns = crate::net::of_process(identity.pid.unsigned_abs()).map_err(internal)?;
    // Between the process's end and this line, its pid may have become another's.
    identity.open().ok_or_else(closed)?;
    let own = inner.host.net.address(record.slot);
    let addresses = [Ipv4Addr::LOCALHOST, own].map(|address| SocketAddr::from((address, port)));
    connect_in(netns.as_fd(), &addresses, PATIENCE).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => closed(),
        _ => internal(error),
    })
}
