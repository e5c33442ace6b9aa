//! Waiting for a device: the kernel tells when something changed, looking tells what is there.

use super::watch;
use crate::error::{Doing, Error};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, timeout_at},
};

/// The kernel's own group of listeners.
const KERNEL: u32 = 1;
/// A message is at most a page; what it says is not read.
const MESSAGE: usize = 4096;

/// Looks until `look` finds what it looks for, again after each change of devices.
///
/// # Errors
/// Nothing found in `limit`, or no way to hear of changes.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, Error> {
    if let Some(found) = look() {
        return Ok(found);
    }
    let deadline = Instant::now() + limit;
    let changes = listen().doing(|| format!("wait for {what}: listen for devices"))?;
    loop {
        // Listening came first: what appears after this look is heard of.
        if let Some(found) = look() {
            return Ok(found);
        }
        timeout_at(deadline, change(&changes))
            .await
            .map_err(|_| Error::Timeout {
                what: what.to_owned(),
                seconds: limit.as_secs(),
            })?
            .doing(|| format!("wait for {what}"))?;
    }
}

fn listen() -> io::Result<AsyncFd<OwnedFd>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
    watch(socket, Interest::READABLE)
}

/// Returns after at least one change, with all that are there taken.
async fn change(changes: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        let mut guard = changes.readable().await?;
        let mut heard = false;
        loop {
            match recv(changes.as_raw_fd(), &mut message, MsgFlags::empty()) {
                // So many changes that some were dropped: changes all the same.
                Ok(_) | Err(Errno::ENOBUFS) => heard = true,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        guard.clear_ready();
        if heard {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_there_is_found_without_waiting() {
        let found = until("a thing", Duration::ZERO, || Some(5)).await.unwrap();

        assert_eq!(found, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_is_named_with_the_limit() {
        let limit = Duration::from_secs(10);

        let missing = until::<()>("port \"x\"", limit, || None).await.unwrap_err();

        assert_eq!(missing.to_string(), "port \"x\" not ready after 10 s");
    }
}
