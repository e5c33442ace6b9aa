//! Where the relay of a process finds its stream when the guest has none: a socket of this daemon,
//! beside those of the VMM. One relay at a time; the next one replaces it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    time::sleep,
};

/// Whoever cannot be let in, for want of descriptors, is asked in again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Station {
    path: PathBuf,
    listener: UnixListener,
    relay: Option<UnixStream>,
    /// It came while the other was here.
    next: Option<UnixStream>,
}

/// What happened at the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// There is something to read, or to be written.
    Ready,
    /// Another relay came, with whom everything begins anew; what the last one said can still be
    /// read, until [`Station::turn_to_next`].
    Replaced,
}

impl Station {
    /// Listens at `path`. A relay that looks for an earlier daemon's socket there finds that one or
    /// ours, never none.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fresh = path.with_extension("new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&fresh)?;
        fs::rename(&fresh, path)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            relay: None,
            next: None,
        })
    }

    /// Nobody will listen here again.
    pub fn close(self) {
        // It may have gone with its folder.
        let _ = fs::remove_file(&self.path);
    }

    pub fn turn_to_next(&mut self) {
        self.relay = self.next.take();
    }

    /// What can be read now; 0: nothing.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let Some(relay) = &self.relay else { return 0 };
        match relay.try_read(buffer) {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // It left; the next one says HELLO.
            Ok(_) | Err(_) => {
                self.relay = None;
                0
            }
        }
    }

    /// How much of it could be written now.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(relay) = &self.relay else { return 0 };
        match relay.try_write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.relay = None;
                0
            }
        }
    }

    /// Waits until a read, or a write if one is `sending`, may move something.
    pub async fn wait(&mut self, sending: bool) -> Woken {
        let interest = match sending {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        tokio::select! {
            biased;
            accepted = self.listener.accept() => match accepted {
                Ok((relay, _)) => {
                    self.next = Some(relay);
                    Woken::Replaced
                }
                Err(why) => {
                    tracing::warn!(%why, path = %self.path.display(), "a relay was not let in yet");
                    sleep(ACCEPT_AGAIN).await;
                    Woken::Ready
                }
            },
            () = ready(self.relay.as_ref(), interest) => Woken::Ready,
        }
    }
}

async fn ready(relay: Option<&UnixStream>, interest: Interest) {
    match relay {
        // An error shows at the next attempt.
        Some(relay) => drop(relay.ready(interest).await),
        None => std::future::pending().await,
    }
}
