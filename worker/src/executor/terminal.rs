//! Terminals for processes.
//!
//! The process gets a terminal from the runtime program, which copies between that and the one made here: its own
//! standard streams. So both ends of this one stay outside of the container.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};

/// Our end of a terminal. It hangs up when all three parts are gone.
pub struct Terminal {
    /// What is typed.
    pub input: Sender,
    /// What is shown.
    pub output: TerminalOutput,
    /// Its size.
    pub size: TerminalSize,
}

/// What a terminal shows. Ends when nobody can write to it any more.
pub struct TerminalOutput(Receiver);

/// The size of a terminal.
pub struct TerminalSize(OwnedFd);

impl Terminal {
    /// Makes a terminal; returns our end and the other one, for the standard streams of the runtime program.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
        // These are no pipes, but what can be read and written without waiting is treated alike.
        let terminal = Self {
            input: Sender::from_owned_fd_unchecked(ours.try_clone()?)?,
            output: TerminalOutput(Receiver::from_owned_fd_unchecked(ours.try_clone()?)?),
            size: TerminalSize(ours),
        };
        Ok((terminal, theirs))
    }
}

impl TerminalSize {
    /// Sets the size. Whoever uses the terminal has to be told.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(&self.0, size)?)
    }
}

impl AsyncRead for TerminalOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.0).poll_read(cx, buffer));
        Poll::Ready(match read {
            // The other end has been closed by everybody.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(()),
            read => read,
        })
    }
}
