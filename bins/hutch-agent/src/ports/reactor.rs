//! Readiness of ports, and the end of connections, with an epoll of our own inside the runtime's.
//!
//! While the host is away a port reports a hang-up that ends when the host returns. The
//! runtime takes every hang-up for final and would spin on it; here each edge of a port merely
//! wakes who waits, and reading or writing again shows what is true. And the runtime cannot wait for the
//! end of a connection without waking up for each of its bytes.

use super::watch;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

/// Edges taken in one call; more simply take another.
const EDGES: usize = 16;

/// Wakes the reader and the writer of one port. A wake-up that nobody waits for is kept.
#[derive(Debug, Default)]
pub struct Ready {
    pub read: Notify,
    pub write: Notify,
}

pub struct Reactor {
    epoll: Epoll,
    /// The same epoll, as the runtime sees it.
    watched: AsyncFd<OwnedFd>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    ready: BTreeMap<u64, Arc<Ready>>,
}

impl Reactor {
    /// Starts the task that passes edges on; it ends with the last port and handle.
    ///
    /// # Errors
    /// No epoll to be had.
    pub fn start() -> io::Result<Arc<Self>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watched = watch(epoll.0.try_clone()?, Interest::READABLE)?;
        let reactor = Arc::new(Self {
            epoll,
            watched,
            waiting: Mutex::default(),
        });
        tokio::spawn(pass_on(Arc::downgrade(&reactor)));
        Ok(reactor)
    }

    /// Returns once the other end of a connection is closed. What it sends before wakes nobody.
    ///
    /// # Errors
    /// A descriptor that cannot be waited for.
    pub async fn closed(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (token, ready) = self.list(socket, EpollFlags::EPOLLRDHUP)?;
        let _listed = Listed {
            reactor: self,
            socket,
            token,
        };
        ready.read.notified().await;
        Ok(())
    }

    pub(super) fn add(&self, file: impl AsFd) -> io::Result<(u64, Arc<Ready>)> {
        self.list(file, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT)
    }

    fn list(&self, file: impl AsFd, news: EpollFlags) -> io::Result<(u64, Arc<Ready>)> {
        let ready = Arc::new(Ready::default());
        let token = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.last += 1;
            let token = waiting.last;
            waiting.ready.insert(token, ready.clone());
            token
        };
        let edges = EpollEvent::new(news | EpollFlags::EPOLLET, token);
        let added = self.epoll.add(file, edges);
        if let Err(error) = added {
            self.forget(token);
            return Err(error.into());
        }
        Ok((token, ready))
    }

    pub(super) fn remove(&self, token: u64, file: impl AsFd) {
        // A port that was unplugged is gone from the epoll already.
        let _ = self.epoll.delete(file);
        self.forget(token);
    }

    fn forget(&self, token: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.ready.remove(&token);
    }

    /// Passes on the edges that are there.
    fn turn(&self) -> io::Result<()> {
        let mut edges = [EpollEvent::empty(); EDGES];
        loop {
            let count = self.epoll.wait(&mut edges, EpollTimeout::ZERO)?;
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            for edge in &edges[..count] {
                // A port closed after its edge was taken has nobody to wake.
                if let Some(ready) = waiting.ready.get(&edge.data()) {
                    ready.read.notify_one();
                    ready.write.notify_one();
                }
            }
            if count < EDGES {
                return Ok(());
            }
        }
    }
}

/// A connection whose end is waited for.
struct Listed<'w> {
    reactor: &'w Reactor,
    socket: BorrowedFd<'w>,
    token: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.reactor.remove(self.token, self.socket);
    }
}

async fn pass_on(reactor: Weak<Reactor>) {
    while let Some(reactor) = reactor.upgrade() {
        let turned = match reactor.watched.readable().await {
            Ok(mut guard) => {
                // Cleared first: an edge that comes during the turn is seen by the next.
                guard.clear_ready();
                reactor.turn()
            }
            Err(error) => Err(error),
        };
        match turned {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("the readiness of ports is lost: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::{io::Write, os::unix::net::UnixStream, pin::pin, time::Duration};
    use tokio::time::timeout;

    /// Nothing that should come may take longer, even on a loaded machine.
    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_end_of_a_connection_wakes_and_what_is_sent_on_it_does_not() {
        let reactor = Reactor::start().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut closed = pin!(reactor.closed(near.as_fd()));
        assert!(poll!(&mut closed).is_pending());
        far.write_all(b"news").unwrap();
        // Whoever is woken by the news would be woken by now: this one was, which listens for them.
        let file = near.try_clone().unwrap();
        let (_, ready) = reactor.add(&file).unwrap();
        timeout(LIMIT, ready.read.notified()).await.unwrap();
        assert!(poll!(&mut closed).is_pending());

        drop(far);

        timeout(LIMIT, closed).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_already_wakes_at_once_and_leaves_nothing_listed() {
        let reactor = Reactor::start().unwrap();
        let (near, _) = UnixStream::pair().unwrap();
        let closed = timeout(LIMIT, reactor.closed(near.as_fd())).await;

        closed.unwrap().unwrap();
        assert!(reactor.waiting.lock().unwrap().ready.is_empty());
    }
}
