//! The connection to the stream's socket: made without waiting, made again a bounded number of
//! times when it breaks. The socket is the VMM's: when nobody answers there any more, the VM is gone.

use crate::session::StreamAddress;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use stream::Padding;

/// Together with the delays: three seconds. QEMU listens again at once after a connection broke.
const ATTEMPTS_MAX: u32 = 20;
const DELAY_FIRST: Duration = Duration::from_millis(5);
const DELAY_MAX: Duration = Duration::from_millis(200);

/// The longest `OK` line: a word, a port number, a line end, and room.
const ANSWER_MAX: usize = 64;

/// A hybrid vsock answers in milliseconds, or never.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Link {
    address: StreamAddress,
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
    pub fn new(address: StreamAddress, padding: Padding, now: Instant) -> Self {
        Self {
            address,
            padding,
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
            State::Waiting { .. } | State::Asked { .. } | State::Lost { .. } => None,
        }
    }

    /// The socket to poll for bytes that come.
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Up { socket } | State::Asked { socket, .. } => Some(socket.as_fd()),
            State::Waiting { .. } | State::Lost { .. } => None,
        }
    }

    pub fn lost(&self) -> Option<Errno> {
        match self.state {
            State::Lost { cause } => Some(cause),
            State::Waiting { .. } | State::Asked { .. } | State::Up { .. } => None,
        }
    }

    /// When [`Self::advance`] has something to do by itself.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { at } => Some(at),
            State::Asked { by, .. } => Some(by),
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
        self.state = if self.attempts > ATTEMPTS_MAX {
            State::Lost { cause }
        } else {
            State::Waiting {
                at: now + doubled.min(DELAY_MAX),
            }
        };
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Instant) -> Change {
        match self.state {
            State::Waiting { at } if at <= now => self.dial(now),
            State::Asked { by, .. } if by <= now => {
                self.broke(Errno::TIMEDOUT, now);
                Change::Nothing
            }
            State::Waiting { .. } | State::Asked { .. } | State::Up { .. } | State::Lost { .. } => {
                Change::Nothing
            }
        }
    }

    fn dial(&mut self, now: Instant) -> Change {
        let socket = match connect(&self.address.socket) {
            Ok(socket) => socket,
            // The socket's file goes with its sandbox: nobody will listen there again.
            Err(cause @ Errno::NOENT) => {
                self.state = State::Lost { cause };
                return Change::Nothing;
            }
            Err(cause) => {
                self.broke(cause, now);
                return Change::Nothing;
            }
        };
        if self.address.connect_port == 0 {
            self.state = State::Up { socket };
            // The next one follows a connection that may have ended in the middle of a frame.
            return Change::Up(std::mem::replace(&mut self.padding, Padding::Full));
        }
        let line = format!("CONNECT {}\n", self.address.connect_port);
        match rustix::io::write(&socket, line.as_bytes()) {
            Ok(count) if count == line.len() => {
                self.state = State::Asked {
                    socket,
                    answer: Vec::new(),
                    by: now + ANSWER_LIMIT,
                };
            }
            Ok(_) => self.broke(Errno::AGAIN, now),
            Err(cause) => self.broke(cause, now),
        }
        Change::Nothing
    }

    /// A byte of the answer at a time: what follows the line belongs to the stream.
    pub fn read_answer(&mut self, now: Instant) -> Change {
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
            State::Asked { socket, .. } => State::Up { socket },
            other @ (State::Waiting { .. } | State::Up { .. } | State::Lost { .. }) => other,
        };
        // Each such connection begins empty in the guest too.
        Change::Up(Padding::None)
    }
}

/// Never waits: a full queue of a socket whose owner is busy is EAGAIN, and is tried again.
pub(crate) fn connect(path: &std::path::Path) -> Result<OwnedFd, Errno> {
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
