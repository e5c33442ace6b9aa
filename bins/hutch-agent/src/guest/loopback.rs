//! Brings the loopback device up; everything else of the network comes from the host's calls.
//!
//! Its addresses of both families make it one of the largest pieces of a cold start under emulation, so it is done
//! while the host makes its first calls, and waited for by the first container.

use crate::error::{Doing, Error};
use std::{
    io, mem,
    net::UdpSocket,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{Mutex, PoisonError},
};

/// Brought up once: whoever takes it down later, in a container that may, meant it.
#[derive(Debug, Default)]
pub struct Loopback {
    is_up: Mutex<bool>,
}

impl Loopback {
    /// Returns when it is up, whoever began with it.
    ///
    /// # Errors
    /// The kernel has none, or refuses; the next caller tries again.
    pub fn ensure_up(&self) -> Result<(), Error> {
        let mut is_up = self.is_up.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_up {
            bring_up()?;
            *is_up = true;
        }
        Ok(())
    }
}

fn bring_up() -> Result<(), Error> {
    // Any socket takes the request.
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map(UdpSocket::from)
    .doing(|| "bring up lo: socket".to_owned())?;
    set_up(std::os::fd::AsFd::as_fd(&socket), b"lo").doing(|| "bring up lo".to_owned())
}

#[allow(unsafe_code)]
fn set_up(socket: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    // SAFETY: zero is a valid ifreq: it holds integers and characters only.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is an ifreq as the call asks for, and outlives it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_device_that_is_not_there_is_an_error_and_not_a_crash() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();

        let failed = set_up(socket.as_fd(), b"hutch-none").unwrap_err();

        assert!(matches!(
            failed.raw_os_error(),
            Some(libc::ENODEV | libc::EPERM)
        ));
    }
}
