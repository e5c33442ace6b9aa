//! The one door to the runtime's readiness of a descriptor.

use std::{io, os::fd::OwnedFd};
use tokio::io::{Interest, unix::AsyncFd};

/// Watches a descriptor that does not block.
///
/// # Errors
/// A descriptor that cannot be waited for.
#[allow(unsafe_code)]
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it stays open and the same until the watch is dropped.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::net::UnixStream};

    #[tokio::test]
    async fn a_watched_descriptor_is_ready_once_there_is_something_to_read() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let watched = watch(near.into(), Interest::READABLE).unwrap();

        far.write_all(b"x").unwrap();

        assert!(watched.readable().await.unwrap().ready().is_readable());
    }

    #[tokio::test]
    async fn a_plain_file_cannot_be_watched() {
        let file = tempfile::tempfile().unwrap();

        assert!(watch(file.into(), Interest::READABLE).is_err());
    }
}
