//! Reads and writes whatever file the caller was given, without waiting for it and without
//! changing it for those who share it: O_NONBLOCK on an inherited pipe or terminal would reach
//! every process that has it.
//!
//! Everything here is called only after poll(2) has said that it is ready.

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A pipe that poll calls writable takes this much without blocking (PIPE_BUF).
const CAREFUL_MAX: usize = 4096;

/// Longest single write: other files are looked after in between.
const WRITE_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// A regular file or a device that never blocks for long.
    Plain,
    /// A description of our own, with O_NONBLOCK.
    Nonblocking,
    /// Sockets take the flag with every call.
    Socket,
    /// Shared and blocking: small pieces.
    Careful,
}

/// A file to read from.
#[derive(Debug)]
pub(crate) struct Source {
    fd: OwnedFd,
    manner: Manner,
}

/// A file to write to.
#[derive(Debug)]
pub(crate) struct Sink {
    fd: OwnedFd,
    manner: Manner,
}

impl Source {
    pub fn new(fd: OwnedFd) -> Self {
        let (fd, manner) = prepare(fd, OFlags::RDONLY);
        Self { fd, manner }
    }

    /// `Ok(0)` is the end; `EAGAIN` is nothing now.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self.manner {
            Manner::Plain | Manner::Nonblocking | Manner::Careful => {
                rustix::io::read(&self.fd, buffer)
            }
            Manner::Socket => {
                let (count, _) = rustix::net::recv(&self.fd, buffer, RecvFlags::DONTWAIT)?;
                Ok(count)
            }
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Sink {
    pub fn new(fd: OwnedFd) -> Self {
        let (fd, manner) = prepare(fd, OFlags::WRONLY);
        Self { fd, manner }
    }

    /// Writes some of `bytes`; `EAGAIN` is none now.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let longest = match self.manner {
            Manner::Plain | Manner::Nonblocking | Manner::Socket => WRITE_MAX,
            Manner::Careful => CAREFUL_MAX,
        };
        let bytes = &bytes[..bytes.len().min(longest)];
        match self.manner {
            Manner::Plain | Manner::Nonblocking | Manner::Careful => {
                rustix::io::write(&self.fd, bytes)
            }
            Manner::Socket => {
                rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            }
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a pipe or terminal anew, so that O_NONBLOCK is ours alone. Where that is not allowed (a
/// terminal of another user), the shared one is used with care.
fn prepare(fd: OwnedFd, access: OFlags) -> (OwnedFd, Manner) {
    let file_type = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match file_type {
        Ok(FileType::Socket) => (fd, Manner::Socket),
        Ok(FileType::Fifo) => reopen(fd, access),
        Ok(FileType::CharacterDevice) if rustix::termios::isatty(&fd) => reopen(fd, access),
        Ok(_) => (fd, Manner::Plain),
        Err(_) => (fd, Manner::Careful),
    }
}

fn reopen(fd: OwnedFd, access: OFlags) -> (OwnedFd, Manner) {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(own) => (own, Manner::Nonblocking),
        Err(_) => (fd, Manner::Careful),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn is_nonblocking(fd: impl AsFd) -> bool {
        rustix::fs::fcntl_getfl(fd)
            .unwrap()
            .contains(OFlags::NONBLOCK)
    }

    #[test]
    fn a_shared_pipe_stays_blocking_for_the_others() {
        let (reader, writer) = std::io::pipe().unwrap();
        let shared = writer.try_clone().unwrap();

        let sink = Sink::new(writer.into());

        assert_eq!(sink.manner, Manner::Nonblocking);
        assert!(!is_nonblocking(&shared));
        drop(reader);
        assert_eq!(sink.write(b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn a_full_pipe_takes_nothing_and_does_not_wait() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let sink = Sink::new(writer.into());
        let bytes = [0; WRITE_MAX];

        while sink.write(&bytes).is_ok() {}

        assert_eq!(sink.write(&bytes), Err(Errno::AGAIN));
    }

    #[test]
    fn a_socket_is_written_and_read_without_waiting() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let source = Source::new(ours.try_clone().unwrap().into());
        let sink = Sink::new(ours.into());
        let mut buffer = [0; 8];

        assert_eq!(source.read(&mut buffer), Err(Errno::AGAIN));
        theirs.write_all(b"hi").unwrap();
        assert_eq!(source.read(&mut buffer), Ok(2));
        drop(theirs);
        assert_eq!(source.read(&mut buffer), Ok(0));
        assert_eq!(sink.write(b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn a_closed_pipe_is_the_end() {
        let (reader, writer) = std::io::pipe().unwrap();
        let source = Source::new(reader.into());
        let mut buffer = [0; 8];

        assert_eq!(source.read(&mut buffer), Err(Errno::AGAIN));
        drop(writer);

        assert_eq!(source.read(&mut buffer), Ok(0));
    }

    #[test]
    fn a_regular_file_is_used_as_it_is() {
        let file = tempfile::tempfile().unwrap();
        let sink = Sink::new(file.try_clone().unwrap().into());

        assert_eq!(sink.write(b"text"), Ok(4));
        assert_eq!(sink.manner, Manner::Plain);
        assert_eq!(
            Sink::new(
                File::options()
                    .write(true)
                    .open("/dev/full")
                    .unwrap()
                    .into()
            )
            .write(b"x"),
            Err(Errno::NOSPC)
        );
    }
}
