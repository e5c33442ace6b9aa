//! The stdio of processes: pipes or a terminal, and who is at the agent's end of them.
//!
//! - `carrier`: a stream to the host of its own.
//! - `pulled`: the host's calls, for hosts that know no streams.
//! - `wire`: what a stream travels on.

mod carrier;
mod pipe;
mod pulled;
mod wire;

pub use carrier::{Carrier, Kill};
pub use pulled::{Output, Pulled};
pub use wire::{Endpoint, Wire};

use crate::{
    engine::ProcessIo,
    error::{Doing, Error},
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};
use pipe::Pipe;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

/// Whether a process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    No,
    Yes,
}

/// The agent's ends.
pub struct Near {
    stdin: Option<Pipe>,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    /// The same terminal that `stdin` and `stdout` are of, if there is one.
    console: Option<OwnedFd>,
}

/// The agent's ends before the process is made; a terminal is made with it.
pub struct Prepared(Option<[OwnedFd; 3]>);

/// The two ends of a new process's stdio.
///
/// # Errors
/// No pipes to be had.
pub fn prepare(terminal: Terminal) -> Result<(ProcessIo, Prepared), Error> {
    if terminal == Terminal::Yes {
        return Ok((ProcessIo::Terminal, Prepared(None)));
    }
    let make = || pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".to_owned());
    let (stdin_far, stdin) = make()?;
    let (stdout, stdout_far) = make()?;
    let (stderr, stderr_far) = make()?;
    let io = ProcessIo::Pipes {
        stdin: Some(stdin_far),
        stdout: Some(stdout_far),
        stderr: Some(stderr_far),
    };
    Ok((io, Prepared(Some([stdin, stdout, stderr]))))
}

/// Nothing: the process reads and writes /dev/null.
pub fn nothing() -> ProcessIo {
    ProcessIo::Pipes {
        stdin: None,
        stdout: None,
        stderr: None,
    }
}

impl Prepared {
    /// The agent's ends, once the process and its terminal are there.
    ///
    /// # Errors
    /// An end that cannot be waited for.
    pub fn near(self, console: Option<OwnedFd>) -> Result<Near, Error> {
        let near = match (self.0, console) {
            (Some([stdin, stdout, stderr]), _) => Near::of_pipes(stdin, stdout, stderr),
            (None, Some(console)) => Near::of_terminal(console),
            (None, None) => Ok(Near::none()),
        };
        near.doing(|| "watch stdio".to_owned())
    }
}

impl Near {
    fn of_pipes(stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stdin: Some(Pipe::writing(stdin)?),
            stdout: Some(Pipe::reading(stdout)?),
            stderr: Some(Pipe::reading(stderr)?),
            console: None,
        })
    }

    fn of_terminal(console: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stdin: Some(Pipe::writing(console.try_clone()?)?),
            stdout: Some(Pipe::reading(console.try_clone()?)?),
            stderr: None,
            console: Some(console),
        })
    }

    fn none() -> Self {
        Self {
            stdin: None,
            stdout: None,
            stderr: None,
            console: None,
        }
    }
}

/// The agent's end must not wait; the process's end is another description and may.
fn unblock(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
