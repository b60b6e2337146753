//! Connections into a sandbox's network namespace. One thread makes all sockets; nobody waits in it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use super::netns;

struct Job {
    netns: OwnedFd,
    family: AddressFamily,
    reply: oneshot::Sender<io::Result<OwnedFd>>,
}

static WORKER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

/// Connects to the first of `addresses` that does not refuse, from inside `netns`. `timeout` is for all together.
/// A socket belongs for ever to the namespace it was made in, so only its making happens there.
pub async fn connect_in(
    netns: BorrowedFd<'_>,
    addresses: &[SocketAddr],
    timeout: Duration,
) -> io::Result<TcpStream> {
    let attempt = async {
        let mut last = io::Error::from(io::ErrorKind::InvalidInput);
        for &address in addresses {
            match socket_in(netns, address).await?.connect(address).await {
                Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => last = err,
                done => return done,
            }
        }
        Err(last)
    };
    tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn socket_in(netns: BorrowedFd<'_>, address: SocketAddr) -> io::Result<TcpSocket> {
    let (reply, made) = oneshot::channel();
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    submit(Job { netns: netns.try_clone_to_owned()?, family, reply })?;
    let socket = made.await.map_err(|_| io::Error::other("the socket thread ended"))??;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Hands a job to the worker, starting one when there is none or it ended.
fn submit(mut job: Job) -> io::Result<()> {
    let mut worker = WORKER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = worker.as_ref() {
        match sender.send(job) {
            Ok(()) => return Ok(()),
            Err(mpsc::SendError(unsent)) => job = unsent,
        }
    }
    let (sender, jobs) = mpsc::channel();
    thread::Builder::new().name("sockets".into()).spawn(move || work(&jobs))?;
    let sent = sender.send(job).map_err(|_| io::Error::other("the socket thread ended"));
    *worker = Some(sender);
    sent
}

/// Makes sockets until nobody can ask any more. It goes home after each: a thread in a namespace keeps it alive. If
/// it cannot, it ends, and the next job starts another.
fn work(jobs: &mpsc::Receiver<Job>) {
    let Ok(home) = netns::current() else { return };
    while let Ok(job) = jobs.recv() {
        let made = netns::enter(job.netns.as_fd()).and_then(|()| socket(job.family));
        let back = netns::enter(home.as_fd());
        // Whoever asked may have stopped waiting.
        let _ = job.reply.send(made);
        if back.is_err() {
            return;
        }
    }
}

fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(Into::into)
}
