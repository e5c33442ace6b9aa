//! One open port.

use super::reactor::{Reactor, Ready};
use std::{
    fs::File,
    io::{self, Read, Write},
    sync::Arc,
};

/// An open port; closed when dropped. One reader and one writer may wait at a time.
pub struct Port {
    file: File,
    token: u64,
    ready: Arc<Ready>,
    reactor: Arc<Reactor>,
}

impl Port {
    /// Takes a descriptor that does not block.
    ///
    /// # Errors
    /// A descriptor that cannot be waited for.
    pub fn new(file: File, reactor: &Arc<Reactor>) -> io::Result<Self> {
        let (token, ready) = reactor.add(&file)?;
        Ok(Self {
            file,
            token,
            ready,
            reactor: reactor.clone(),
        })
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// The port was unplugged.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<Attempt> {
        attempt(|| (&self.file).read(buffer))
    }

    /// Writes as much as the queue takes.
    ///
    /// # Errors
    /// The port was unplugged.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<Attempt> {
        attempt(|| (&self.file).write(bytes))
    }

    /// Returns once something changed since reading last found nothing; what, reading shows.
    pub async fn readable(&self) {
        self.ready.read.notified().await;
    }

    /// Returns once something changed since writing last found no room; what, writing shows.
    pub async fn writable(&self) {
        self.ready.write.notified().await;
    }
}

/// What came of trying to move bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// So many, at least one.
    Moved(usize),
    /// None now: nothing was sent, or the queue is full.
    Blocked,
    /// None: a port's host is away and may come back; the peer of a socket or pipe is gone.
    Away,
}

/// Tries a read or write of something that does not block.
///
/// # Errors
/// As the call has them.
pub fn attempt(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Attempt> {
    loop {
        match call() {
            Ok(0) => return Ok(Attempt::Away),
            Ok(count) => return Ok(Attempt::Moved(count)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(Attempt::Blocked),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.reactor.remove(self.token, &self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::time::{ClockId, clock_gettime};
    use std::{
        os::{fd::OwnedFd, unix::net::UnixStream},
        time::Duration,
    };
    use tokio::time::timeout;

    /// Nothing that should come may take longer, even on a loaded machine.
    const LIMIT: Duration = Duration::from_secs(20);

    fn pair() -> (Port, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let reactor = Reactor::start().unwrap();
        let port = Port::new(File::from(OwnedFd::from(near)), &reactor).unwrap();
        (port, far)
    }

    async fn read(port: &Port, buffer: &mut [u8]) -> usize {
        loop {
            if let Attempt::Moved(count) = port.try_read(buffer).unwrap() {
                return count;
            }
            port.readable().await;
        }
    }

    #[tokio::test]
    async fn a_reader_waits_for_bytes_and_gets_them() {
        let (port, mut far) = pair();
        let mut buffer = [0; 16];

        let reading = read(&port, &mut buffer);
        let writing = async {
            tokio::task::yield_now().await;
            far.write_all(b"hello").unwrap();
        };
        let (count, ()) = timeout(LIMIT, async { tokio::join!(reading, writing) })
            .await
            .unwrap();

        assert_eq!(&buffer[..count], b"hello");
    }

    #[tokio::test]
    async fn a_full_queue_holds_the_writer_until_the_host_reads() {
        let (port, mut far) = pair();
        let chunk = vec![7; 65_536];
        let mut written = 0;
        while let Attempt::Moved(count) = port.try_write(&chunk).unwrap() {
            written += count;
        }

        let mut drained = vec![0; written];
        far.read_exact(&mut drained).unwrap();
        let more = timeout(LIMIT, async {
            loop {
                port.writable().await;
                if let Attempt::Moved(count) = port.try_write(&chunk).unwrap() {
                    return count;
                }
            }
        });

        assert!(more.await.unwrap() > 0);
    }

    #[tokio::test]
    async fn a_host_that_is_away_is_waited_out_without_spinning() {
        let (port, far) = pair();
        drop(far);
        let mut buffer = [0; 1];

        let before = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        let waited = timeout(Duration::from_millis(300), read(&port, &mut buffer)).await;
        let after = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();

        assert!(waited.is_err());
        let used = Duration::from(after) - Duration::from(before);
        assert!(used < Duration::from_millis(100), "{used:?} of CPU time");
    }
}
