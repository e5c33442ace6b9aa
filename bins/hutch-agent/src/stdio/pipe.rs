//! The agent's end of one pipe, or of a terminal in one direction.

use super::unblock;
use crate::ports::{Attempt, attempt, watch};
use nix::errno::Errno;
use std::{io, os::fd::OwnedFd};
use tokio::io::{Interest, unix::AsyncFd};

pub struct Pipe {
    fd: AsyncFd<OwnedFd>,
    /// Trying may move bytes. Only trying shows that it does not.
    ready: bool,
}

impl Pipe {
    pub fn reading(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE)
    }

    pub fn writing(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::WRITABLE)
    }

    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        unblock(&fd)?;
        Ok(Self {
            fd: watch(fd, interest)?,
            ready: true,
        })
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Has the next attempt made, whatever the last one found.
    pub fn try_again(&mut self) {
        self.ready = true;
    }

    /// Reads what is there. All writers gone is `Away`; so is a terminal that nobody has open.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Attempt> {
        let fd = self.fd.get_ref();
        let attempted = attempt(|| Ok(nix::unistd::read(fd, buffer)?));
        self.note(attempted)
    }

    /// Writes what fits. All readers gone is `Away`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Attempt> {
        let fd = self.fd.get_ref();
        let attempted = attempt(|| Ok(nix::unistd::write(fd, bytes)?));
        self.note(attempted)
    }

    fn note(&mut self, attempted: io::Result<Attempt>) -> io::Result<Attempt> {
        match attempted {
            Ok(Attempt::Blocked) => {
                self.ready = false;
                Ok(Attempt::Blocked)
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EIO | Errno::EPIPE) => Ok(Attempt::Away),
                _ => Err(error),
            },
            other => other,
        }
    }

    /// Waits until trying may move bytes.
    pub async fn wait(&mut self, interest: Interest) {
        // An error of the wait is an error of the attempt too, which then tells it.
        if let Ok(mut guard) = self.fd.ready(interest).await {
            // Before the attempt: what comes during it is a new edge.
            guard.clear_ready();
        }
        self.ready = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{pipe, write};

    #[tokio::test]
    async fn a_pipe_tells_blocked_from_closed() {
        let (read_end, write_end) = pipe().unwrap();
        let mut reader = Pipe::reading(read_end).unwrap();
        let mut buffer = [0; 8];

        assert_eq!(reader.read(&mut buffer).unwrap(), Attempt::Blocked);
        assert!(!reader.is_ready());
        write(&write_end, b"abc").unwrap();
        reader.wait(Interest::READABLE).await;
        assert_eq!(reader.read(&mut buffer).unwrap(), Attempt::Moved(3));
        drop(write_end);
        assert_eq!(reader.read(&mut buffer).unwrap(), Attempt::Away);
    }

    #[tokio::test]
    async fn a_writer_without_a_reader_is_told_and_not_killed() {
        let (read_end, write_end) = pipe().unwrap();
        let mut writer = Pipe::writing(write_end).unwrap();
        drop(read_end);

        assert_eq!(writer.write(b"x").unwrap(), Attempt::Away);
    }
}
