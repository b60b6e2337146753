//! Terminals: a pair of descriptors and their size. Knows nothing of who sits at it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub cols: u16,
    pub rows: u16,
}

impl Size {
    /// From the wire, where 0 means "the usual" and nothing is too large.
    pub fn new(cols: u32, rows: u32) -> Self {
        let clamp = |value: u32, usual: u16| match u16::try_from(value).unwrap_or(u16::MAX) {
            0 => usual,
            value => value,
        };
        Self { cols: clamp(cols, 80), rows: clamp(rows, 24) }
    }
}

/// Both ends of a new terminal.
pub struct Pair {
    pub controller: OwnedFd,
    pub terminal: OwnedFd,
}

/// Opens a terminal that belongs to a user.
pub fn open(size: Size, uid: u32) -> io::Result<Pair> {
    let controller = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::unlockpt(&controller)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&controller, flags)?;
    resize(&controller, size)?;
    // Programs that open their terminal by name need it; a mount that refuses only takes that away.
    let _ = rustix::fs::fchown(&terminal, Some(rustix::process::Uid::from_raw(uid)), None);
    Ok(Pair { controller, terminal })
}

/// Changes the size; whoever runs in the terminal gets SIGWINCH.
pub fn resize(controller: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(controller, size)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_clamped() {
        assert_eq!(Size::new(0, 0), Size { cols: 80, rows: 24 });
        assert_eq!(Size::new(100_000, 5), Size { cols: 65_535, rows: 5 });
    }
}
