//! Brings loopback up in the network namespace of the calling thread.
//!
//! Two ioctls do it; a netlink connection would need an executor on that thread. netdevice(7).

use crate::nsfs::last_errno;
use rustix::{
    fd::{AsRawFd, OwnedFd},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

/// Loopback's first index in every namespace is 1, but its name is what netdevice(7) asks for.
const NAME: &[u8] = b"lo";

/// Loopback gets its addresses by itself when it comes up.
pub(crate) fn up() -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    let flags = get_flags(&socket)?;
    set_flags(&socket, flags | up_flag())
}

fn up_flag() -> libc::c_short {
    libc::c_short::try_from(libc::IFF_UP).expect("the kernel keeps these flags in 16 bits")
}

fn request(flags: libc::c_short) -> libc::ifreq {
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(NAME) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    }
}

#[allow(unsafe_code)]
fn get_flags(socket: &OwnedFd) -> Result<libc::c_short, Errno> {
    let mut request = request(0);
    // SAFETY: the socket is open for the whole call, and SIOCGIFFLAGS reads and writes one ifreq,
    // which `request` is and outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    match done {
        -1 => Err(last_errno()),
        // SAFETY: SIOCGIFFLAGS fills in the flags of the union, and a short is valid whatever its
        // bits are.
        _ => Ok(unsafe { request.ifr_ifru.ifru_flags }),
    }
}

#[allow(unsafe_code)]
fn set_flags(socket: &OwnedFd, flags: libc::c_short) -> Result<(), Errno> {
    let request = request(flags);
    // SAFETY: the socket is open for the whole call, and SIOCSIFFLAGS reads one ifreq, which
    // `request` is and outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    match done {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    #[test]
    fn the_flags_of_loopback_are_read_anywhere() {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None);

        let flags = get_flags(&socket.expect("a socket")).expect("loopback is there");

        let loopback = libc::c_short::try_from(libc::IFF_LOOPBACK).expect("it fits");
        assert_ne!(flags & loopback, 0);
    }

    #[test]
    fn loopback_of_a_new_namespace_comes_up_and_carries_packets() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not tried: only root makes network namespaces");
            return;
        }
        let tried = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("an address");
            let address = socket.local_addr().expect("an address");
            let down = socket.send_to(b"hello", address);
            up().expect("it comes up");
            up().expect("it is up already");
            socket.send_to(b"hello", address).expect("a way");
            let mut bytes = [0; 8];
            let arrived = socket.recv(&mut bytes).expect("a packet");
            (down.is_err(), bytes[..arrived].to_vec())
        });

        let (was_down, bytes) = tried.join().expect("no panic");

        assert!(was_down);
        assert_eq!(bytes, b"hello");
    }
}
