//! What a relay is told to join, and what it reports in the end.

use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use stream::{Channel, Resume, StdinFrom};

/// The exit code of a process whose VM is gone.
pub const VM_LOST: u8 = 255;

/// Where the stream is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamAddress {
    /// A unix socket that is the stream.
    Socket(PathBuf),
    /// A unix socket that takes a `CONNECT` line with the port.
    Hybrid {
        socket: PathBuf,
        port: u32,
    },
    Vsock {
        cid: u32,
        port: u32,
    },
    /// A unix socket of the daemon's, which may be away for a while.
    Carried(PathBuf),
}

impl StreamAddress {
    /// From what the daemon says: the path of a socket, or `vsock:CID`, and a port or 0; or
    /// `calls:PATH`.
    pub fn read(socket: PathBuf, port: u32) -> Self {
        if let Some(path) = socket.to_str().and_then(|text| text.strip_prefix("calls:")) {
            return Self::Carried(path.into());
        }
        // A path is absolute.
        let cid = socket.to_str().and_then(|text| text.strip_prefix("vsock:"));
        match (cid.and_then(|cid| cid.parse().ok()), port) {
            (Some(cid), port) => Self::Vsock { cid, port },
            (None, 0) => Self::Socket(socket),
            (None, port) => Self::Hybrid { socket, port },
        }
    }
}

impl StreamAddress {
    /// What a caller writes who learns the address when its relay runs already: the port, a space, and the socket.
    pub fn spelled(socket: &str, port: u32) -> String {
        format!("{port} {socket}")
    }

    /// What was spelled so; `None`: it was not.
    pub fn understood(text: &str) -> Option<Self> {
        let (port, socket) = text.split_once(' ')?;
        Some(Self::read(socket.into(), port.parse().ok()?))
    }
}

/// For errors.
impl fmt::Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) | Self::Carried(socket) => write!(f, "{}", socket.display()),
            Self::Hybrid { socket, port } => write!(f, "{} port {port}", socket.display()),
            Self::Vsock { cid, port } => write!(f, "vsock {cid}:{port}"),
        }
    }
}

/// The files of the process on the host. `None` is as /dev/null: it reads as ended, and swallows.
#[derive(Debug, Default)]
pub struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    /// One terminal for everything. There is no stderr.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn terminal(terminal: OwnedFd) -> std::io::Result<Self> {
        Ok(Self {
            stdin: Some(terminal.try_clone()?),
            stdout: Some(terminal),
            stderr: None,
        })
    }
}

#[derive(Debug)]
pub struct Session {
    pub stream: StreamAddress,
    pub stdio: Stdio,
    /// The process has a terminal in the guest: ours passes everything through, and its size goes
    /// there.
    pub terminal: bool,
    pub resume: Resume,
    pub stdin_from: StdinFrom,
    /// How long the guest may take to answer at first; `None`: as long as there is one, since the process is known to be there.
    pub answer_limit: Option<Duration>,
}

impl Session {
    /// The usual one: whoever was here before, go on where it stopped.
    pub fn new(
        stream: StreamAddress,
        stdio: Stdio,
        answer_limit: impl Into<Option<Duration>>,
    ) -> Self {
        Self {
            stream,
            stdio,
            terminal: false,
            resume: Resume::Acked,
            stdin_from: StdinFrom::Next,
            answer_limit: answer_limit.into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Exited(u8),
    /// The stream is gone for good and no exit came. The daemon may know more.
    Lost,
}

/// An output that could not be written any more. The process found its pipe broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenOutput {
    pub channel: Channel,
    pub errno: Errno,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub outcome: Outcome,
    /// Empty when all is well. EPIPE among them is nobody's fault: the reader had enough.
    pub broken: Vec<BrokenOutput>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_spelled_is_understood_whatever_is_in_its_path() {
        for (socket, port) in [("/s/a b\n/p1.sock", 0), ("/s/v.sock", 1025), ("vsock:3", 7)] {
            let spelled = StreamAddress::spelled(socket, port);

            let read = StreamAddress::read(socket.into(), port);
            assert_eq!(StreamAddress::understood(&spelled), Some(read));
        }
        for wrong in ["", "7", "x /s"] {
            assert_eq!(StreamAddress::understood(wrong), None, "{wrong:?}");
        }
    }
}
