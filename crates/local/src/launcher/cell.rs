//! A launch that is prepared but for what only its sandbox knows: the control groups are made, and a helper sits in them,
//! with a mount namespace of its own, and waits for the order. Entering a control group of version 1 waits for a grace
//! period of the kernel (measured: 15 ms), and executing the helper costs milliseconds more; both are over before a
//! sandbox is asked for. A helper whose server dies reads the end of its socket, and ends.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{ENTRY, LaunchError, Outcome};

/// What the helper says when it waits.
pub const READY: u8 = b'R';

/// What runs after a launch.
pub struct Launched {
    /// The sandbox's first process; its pid on the host.
    pub pid: i32,
    /// The helper, which has said its last word: to be waited for. Its end takes the kernel a millisecond or two, for
    /// which nobody needs to wait who wants to talk to the agent.
    pub helper: Child,
}

/// A helper that waits for its order.
pub struct Cell {
    helper: Child,
    socket: UnixStream,
}

impl Cell {
    /// Starts a helper in `groups` and returns when it waits. `workplace` is an empty directory, see
    /// [`super::Launch`]. Blocks for some ten milliseconds.
    ///
    /// # Errors
    /// When the helper cannot be run, or cannot enter the groups.
    pub fn prepare(binary: &Path, workplace: &Path, groups: &[PathBuf]) -> Result<Self, LaunchError> {
        let (mut socket, theirs) = UnixStream::pair()?;
        let mut command = Command::new(binary);
        command.arg0(ENTRY).arg(ENTRY).arg(workplace).args(groups).env_clear();
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut helper = command.spawn()?;
        // The command holds the helper's end of the pair until here.
        drop(command);
        let mut tag = [0];
        if socket.read(&mut tag)? == 1 && tag[0] == READY {
            return Ok(Self { helper, socket });
        }
        let mut problem = String::from_utf8_lossy(&tag).into_owned();
        socket.read_to_string(&mut problem)?;
        helper.wait()?;
        Err(LaunchError::Step(problem))
    }

    /// Runs a launch to its end. Blocks for some milliseconds. `order` holds the [`super::Launch`] as JSON and is locked:
    /// the lock goes with the file, so whoever can lock it knows that no helper is at work.
    ///
    /// # Errors
    /// When a step fails; no process is left then.
    pub fn launch(mut self, order: File) -> Result<Launched, LaunchError> {
        send(&self.socket, &order)?;
        drop(order);
        let mut answer = String::new();
        BufReader::new(&self.socket).read_line(&mut answer)?;
        if let Ok(Outcome::Started(pid)) = serde_json::from_str(&answer) {
            return Ok(Launched { pid, helper: self.helper });
        }
        let status = self.helper.wait()?;
        Err(LaunchError::Step(match serde_json::from_str(&answer) {
            Ok(Outcome::Failed(step)) => step,
            _ => format!("the launcher ended with {status} and said {answer:?}"),
        }))
    }

    /// Ends the helper, which has begun nothing.
    pub fn discard(mut self) {
        drop(self.socket);
        let _ = self.helper.wait();
    }
}

fn send(socket: &UnixStream, order: &File) -> io::Result<()> {
    let files = [order.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(socket, &[IoSlice::new(b"o")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The helper's side: the order, or `None` when there will be none.
pub fn receive(socket: &UnixStream) -> io::Result<Option<File>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut tag = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut tag)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok(files.last().map(File::from))
}
