//! A terminal on the host for whoever listens on a console socket: it gets the master, the relay
//! keeps the slave and passes everything through. The real one, with echo and line editing, is in
//! the guest.

use crate::error::RelayError;
use crate::link::connect;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Makes a terminal, sends its master over the socket at `path` and returns the slave, which becomes
/// our controlling terminal when we lead a session without one: its hang-up and its size then reach
/// us as signals.
///
/// # Errors
/// When nobody listens there, or the system has no terminals left.
pub fn open_console(path: &Path) -> Result<OwnedFd, RelayError> {
    let failed = |step| {
        move |source| RelayError::Console {
            path: path.to_owned(),
            step,
            source,
        }
    };
    let (master, slave, name) = open_terminal().map_err(failed("open terminal"))?;
    // EPERM: we have another terminal, or lead no session; then sizes come with SIGWINCH only.
    let _ = rustix::process::ioctl_tiocsctty(&slave);
    let socket = connect(path).map_err(failed("connect"))?;
    send_fd(&socket, &master, &name).map_err(failed("send"))?;
    Ok(slave)
}

fn open_terminal() -> Result<(OwnedFd, OwnedFd, Vec<u8>), Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&name, flags, Mode::empty())?;
    let mut modes = rustix::termios::tcgetattr(&slave)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes)?;
    Ok((master, slave, name.into_bytes()))
}

/// The name of the terminal travels with it, as callers of OCI runtimes expect.
fn send_fd(socket: &OwnedFd, fd: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let name = [IoSlice::new(name)];
    rustix::net::sendmsg(socket, &name, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
