//! The connection to the stream: made without waiting, made again a bounded number of times when it
//! breaks. A socket is that of a program of the VM, which listens as long as it lives, and a context id the guest's: when
//! nobody listens or answers there any more, the VM is gone. One that the daemon carries comes back with the daemon,
//! and its file goes with the VM.

use crate::{session::StreamAddress, vsock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use stream::Padding;

/// Together with the delays: three seconds.
const ATTEMPTS_MAX: u32 = 20;
/// Ten minutes: whoever supervises the daemon starts it again, or the next command does.
const ATTEMPTS_CARRIED_MAX: u32 = 3000;
const DELAY_FIRST: Duration = Duration::from_millis(5);
const DELAY_MAX: Duration = Duration::from_millis(200);

/// The longest `OK` line: a word, a port number, a line end, and room.
const ANSWER_MAX: usize = 64;

/// A vsock of either kind answers in milliseconds, or never.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Link {
    address: StreamAddress,
    /// Before the next HELLO.
    padding: Padding,
    state: State,
    attempts: u32,
}

#[derive(Debug)]
enum State {
    /// The next attempt is due.
    Waiting {
        at: Instant,
    },
    /// AF_VSOCK: the guest was asked.
    Connecting {
        socket: OwnedFd,
        by: Instant,
    },
    /// Hybrid vsock: the port was asked for.
    Asked {
        socket: OwnedFd,
        answer: Vec<u8>,
        by: Instant,
    },
    Up {
        socket: OwnedFd,
    },
    /// No more attempts.
    Lost {
        cause: Errno,
    },
}

/// What happened to the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// A new connection: greet the guest, with this before.
    Up(Padding),
}

impl Link {
    pub fn new(address: StreamAddress, now: Instant) -> Self {
        Self {
            address,
            // Who was here before has most often said all that it began: whoever joins sees whether that is so.
            padding: Padding::None,
            state: State::Waiting { at: now },
            attempts: 0,
        }
    }

    pub fn address(&self) -> &StreamAddress {
        &self.address
    }

    /// The socket to send to and read from.
    pub fn socket(&self) -> Option<&OwnedFd> {
        match &self.state {
            State::Up { socket } => Some(socket),
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Asked { .. }
            | State::Lost { .. } => None,
        }
    }

    /// Whether what is awaited is that the socket may be written to.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting { .. })
    }

    /// The socket to poll for bytes that come.
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Up { socket }
            | State::Connecting { socket, .. }
            | State::Asked { socket, .. } => Some(socket.as_fd()),
            State::Waiting { .. } | State::Lost { .. } => None,
        }
    }

    pub fn lost(&self) -> Option<Errno> {
        match self.state {
            State::Lost { cause } => Some(cause),
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Asked { .. }
            | State::Up { .. } => None,
        }
    }

    /// When [`Self::advance`] has something to do by itself.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { at } => Some(at),
            State::Connecting { by, .. } | State::Asked { by, .. } => Some(by),
            State::Up { .. } | State::Lost { .. } => None,
        }
    }

    /// The guest has answered: the link works.
    pub fn proven(&mut self) {
        self.attempts = 0;
    }

    pub fn broke(&mut self, cause: Errno, now: Instant) {
        self.attempts += 1;
        let doubled = DELAY_FIRST * 2_u32.saturating_pow(self.attempts.saturating_sub(1));
        let most = match self.address {
            StreamAddress::Carried(_) => ATTEMPTS_CARRIED_MAX,
            StreamAddress::Socket(_)
            | StreamAddress::Hybrid { .. }
            | StreamAddress::Vsock { .. } => ATTEMPTS_MAX,
        };
        self.state = if self.attempts > most {
            State::Lost { cause }
        } else {
            State::Waiting {
                at: now + doubled.min(DELAY_MAX),
            }
        };
    }

    /// Nobody will answer any more.
    pub fn give_up(&mut self) {
        let cause = Errno::SHUTDOWN;
        self.state = State::Lost { cause };
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Instant) -> Change {
        match self.state {
            State::Waiting { at } if at <= now => self.dial(now),
            State::Connecting { by, .. } | State::Asked { by, .. } if by <= now => {
                self.broke(Errno::TIMEDOUT, now);
                Change::Nothing
            }
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Asked { .. }
            | State::Up { .. }
            | State::Lost { .. } => Change::Nothing,
        }
    }

    /// One that the daemon carries is back with the next daemon, and a vsock port is the guest's.
    fn is_of_the_vms_programs(&self) -> bool {
        matches!(
            self.address,
            StreamAddress::Socket(_) | StreamAddress::Hybrid { .. }
        )
    }

    fn dial(&mut self, now: Instant) -> Change {
        let dialed = match &self.address {
            StreamAddress::Socket(socket) | StreamAddress::Carried(socket) => {
                connect(socket).map(|socket| State::Up { socket })
            }
            StreamAddress::Hybrid { socket, port } => ask(socket, *port, now),
            StreamAddress::Vsock { cid, port } => {
                let by = now + ANSWER_LIMIT;
                vsock::connect(*cid, *port).map(|socket| State::Connecting { socket, by })
            }
        };
        match dialed {
            Ok(state) => self.state = state,
            // The socket's file goes with its sandbox: nobody will listen there again.
            Err(cause @ Errno::NOENT) => self.state = State::Lost { cause },
            // QEMU, or what carries vsock beside it, has ended: the socket lives as long as its listener.
            Err(cause @ Errno::CONNREFUSED) if self.is_of_the_vms_programs() => {
                self.state = State::Lost { cause };
            }
            Err(cause) => self.broke(cause, now),
        }
        match self.state {
            // The next one follows a connection that may have ended in the middle of a frame.
            State::Up { .. } => Change::Up(std::mem::replace(&mut self.padding, Padding::Full)),
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Asked { .. }
            | State::Lost { .. } => Change::Nothing,
        }
    }

    /// What was asked for has come, or a part of it.
    pub fn take_answer(&mut self, now: Instant) -> Change {
        match &self.state {
            State::Connecting { socket, .. } => match rustix::net::sockopt::socket_error(socket) {
                Ok(Ok(())) => self.answered(),
                Ok(Err(cause)) | Err(cause) => {
                    self.broke(cause, now);
                    Change::Nothing
                }
            },
            State::Asked { .. } => self.read_answer(now),
            State::Waiting { .. } | State::Up { .. } | State::Lost { .. } => Change::Nothing,
        }
    }

    /// A byte of the answer at a time: what follows the line belongs to the stream.
    fn read_answer(&mut self, now: Instant) -> Change {
        let State::Asked { socket, answer, .. } = &mut self.state else {
            return Change::Nothing;
        };
        let mut byte = [0];
        let cause = loop {
            match rustix::io::read(&*socket, &mut byte) {
                Ok(0) => break Errno::CONNRESET,
                Ok(_) if byte[0] == b'\n' => {
                    if answer.starts_with(b"OK ") {
                        return self.answered();
                    }
                    break Errno::PROTO;
                }
                Ok(_) if answer.len() == ANSWER_MAX => break Errno::PROTO,
                Ok(_) => answer.push(byte[0]),
                Err(Errno::AGAIN | Errno::INTR) => return Change::Nothing,
                Err(cause) => break cause,
            }
        };
        self.broke(cause, now);
        Change::Nothing
    }

    fn answered(&mut self) -> Change {
        let waiting = State::Lost {
            cause: Errno::NOTCONN,
        };
        self.state = match std::mem::replace(&mut self.state, waiting) {
            State::Connecting { socket, .. } | State::Asked { socket, .. } => State::Up { socket },
            other @ (State::Waiting { .. } | State::Up { .. } | State::Lost { .. }) => other,
        };
        // Each such connection begins empty in the guest too.
        Change::Up(Padding::None)
    }
}

/// A port of a hybrid vsock: the answer is awaited.
fn ask(path: &Path, port: u32, now: Instant) -> Result<State, Errno> {
    let socket = connect(path)?;
    let line = format!("CONNECT {port}\n");
    match rustix::io::write(&socket, line.as_bytes()) {
        Ok(count) if count == line.len() => Ok(State::Asked {
            socket,
            answer: Vec::new(),
            by: now + ANSWER_LIMIT,
        }),
        Ok(_) => Err(Errno::AGAIN),
        Err(cause) => Err(cause),
    }
}

/// Never waits: a full queue of a socket whose owner is busy is EAGAIN, and is tried again.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// The file of its socket stays until its sandbox is released.
    #[test]
    fn a_vm_is_lost_as_soon_as_nobody_listens_and_a_daemon_may_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p1.sock");
        drop(UnixListener::bind(&path).unwrap());
        let now = Instant::now();
        let hybrid = StreamAddress::Hybrid {
            socket: path.clone(),
            port: 7,
        };

        for (address, lost) in [
            (StreamAddress::Socket(path.clone()), true),
            (hybrid, true),
            (StreamAddress::Carried(path.clone()), false),
        ] {
            let mut link = Link::new(address, now);

            link.advance(now);

            assert_eq!(link.lost().is_some(), lost, "{:?}", link.address());
        }
    }
}
