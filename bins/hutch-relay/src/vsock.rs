//! A connection to a guest over AF_VSOCK, asked for and not waited for.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The socket can be written to when the guest has answered; its error says what.
pub(crate) fn connect(cid: u32, port: u32) -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::VSOCK,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match begin(socket.as_fd(), cid, port) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(cause) => Err(cause),
    }
}

#[allow(unsafe_code)]
fn begin(socket: BorrowedFd<'_>, cid: u32, port: u32) -> Result<(), Errno> {
    const FAMILY: libc::sa_family_t = libc::AF_VSOCK.cast_unsigned() as libc::sa_family_t;
    // SAFETY: integers and padding, of which the kernel wants zeroes: all zeroes is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = FAMILY;
    address.svm_cid = cid;
    address.svm_port = port;
    let len = libc::socklen_t::try_from(size_of_val(&address)).expect("it has 16 bytes");
    // SAFETY: the pointer is to an address of that length, which outlives the call; the kernel
    // copies it and keeps nothing.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    match connected {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

fn last_errno() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Context ids 0 and 2 are no guest's; a host whose kernel has no vsock says so.
    #[test]
    fn a_guest_that_cannot_be_is_an_error_at_once_or_soon() {
        let refused = match connect(u32::MAX - 1, 1) {
            Err(cause) => cause,
            Ok(socket) => {
                let mut fds = [rustix::event::PollFd::new(
                    &socket,
                    rustix::event::PollFlags::OUT,
                )];
                let limit = rustix::event::Timespec {
                    tv_sec: 10,
                    tv_nsec: 0,
                };
                rustix::event::poll(&mut fds, Some(&limit)).unwrap();
                rustix::net::sockopt::socket_error(&socket)
                    .unwrap()
                    .unwrap_err()
            }
        };

        assert_ne!(refused, Errno::INPROGRESS);
    }
}
