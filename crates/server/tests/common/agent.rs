//! The real agent as an ordinary process, and a driver that connects to it.

use atoll_core::{
    driver::{BoxStream, DriverError, Target},
    testing::FakeDriver,
};
use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

pub struct Agent {
    pub dir: TempDir,
    child: Child,
    /// Connections to it that are open now.
    pub open: Arc<AtomicUsize>,
}

/// Builds the agent once for all tests of this binary.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = Command::new(env!("CARGO")).args(["build", "-q", "-p", "atoll-agent"]).status().unwrap();
        assert!(built.success(), "the agent does not build");
        let test = std::env::current_exe().unwrap();
        test.parent().unwrap().parent().unwrap().join("atoll-agent")
    })
}

impl Agent {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        std::fs::write(dir.path().join("config"), r#"{"sandbox_id":"itest","allow_sudo":true}"#).unwrap();
        // The shell moves the socket to where the agent takes one, and becomes the agent.
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" --listen-fd 3 --config \"$1\" 3<&0 </dev/null"])
            .args([program(), &dir.path().join("config")])
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        Self { dir, child, open: Arc::default() }
    }

    pub fn driver(&self) -> FakeDriver {
        let (socket, open) = (self.dir.path().join("socket"), self.open.clone());
        FakeDriver::new(Box::new(move |_, target| {
            assert_eq!(target, Target::Agent);
            connect(&socket, &open).map_err(|error| DriverError::Internal(error.to_string()))
        }))
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // What it started ends with it.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            let _ = self.child.wait();
        }
    }
}

fn connect(socket: &Path, open: &Arc<AtomicUsize>) -> io::Result<BoxStream> {
    let stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_nonblocking(true)?;
    open.fetch_add(1, Ordering::SeqCst);
    Ok(Box::new(Counted { stream: UnixStream::from_std(stream)?, open: open.clone() }))
}

struct Counted {
    stream: UnixStream,
    open: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

use std::{
    pin::Pin,
    task::{Context, Poll},
};

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
