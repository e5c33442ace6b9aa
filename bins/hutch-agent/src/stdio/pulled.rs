//! The stdio of a process whose host asks for it call by call.

use super::{Near, carrier::resize, pipe::Pipe};
use crate::ports::Attempt;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use stream::Winsize;
use tokio::{
    io::Interest,
    select,
    sync::{Mutex, watch},
};

/// Bytes in one answer; a message may have 4 MiB.
pub const PULL_MAX: usize = 1024 * 1024;

pub struct Pulled {
    stdin: Mutex<Option<Pipe>>,
    stdout: Mutex<Option<Pipe>>,
    stderr: Mutex<Option<Pipe>>,
    console: Option<OwnedFd>,
    exit: watch::Receiver<Option<u32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

impl Pulled {
    pub fn new(near: Near, exit: watch::Receiver<Option<u32>>) -> Self {
        Self {
            stdin: Mutex::new(near.stdin),
            stdout: Mutex::new(near.stdout),
            stderr: Mutex::new(near.stderr),
            console: near.console,
            exit,
        }
    }

    /// Waits for output; empty is the end: the output was closed, or the process has exited and
    /// nothing is left of what it wrote.
    ///
    /// # Errors
    /// The output is of no more use.
    pub async fn read(&self, output: Output, length: usize) -> io::Result<Vec<u8>> {
        let mut slot = match output {
            Output::Stdout => self.stdout.lock().await,
            Output::Stderr => self.stderr.lock().await,
        };
        let mut bytes = vec![0; length.min(PULL_MAX)];
        let mut exit = self.exit.clone();
        loop {
            let Some(pipe) = slot.as_mut() else {
                return Ok(Vec::new());
            };
            // Looked at before the attempt: what was written before the exit is then found.
            let exited = exit.borrow_and_update().is_some();
            match pipe.read(&mut bytes)? {
                Attempt::Moved(count) => {
                    bytes.truncate(count);
                    return Ok(bytes);
                }
                Attempt::Away => *slot = None,
                Attempt::Blocked if exited => return Ok(Vec::new()),
                Attempt::Blocked => select! {
                    biased;
                    () = pipe.wait(Interest::READABLE) => {}
                    // The agent has forgotten the process: as if it had exited.
                    changed = exit.changed() => if changed.is_err() {
                        return Ok(Vec::new());
                    },
                },
            }
        }
    }

    /// Writes all of it, as the process takes it. Empty closes. How much was written: all, or
    /// what the process took before it closed its end.
    ///
    /// # Errors
    /// The process reads no more, or the input is of no more use.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut slot = self.stdin.lock().await;
        if bytes.is_empty() {
            *slot = None;
            return Ok(0);
        }
        let mut written = 0;
        while written < bytes.len() {
            let pipe = slot.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            match pipe.write(&bytes[written..])? {
                Attempt::Moved(count) => written += count,
                Attempt::Blocked => pipe.wait(Interest::WRITABLE).await,
                Attempt::Away => *slot = None,
            }
        }
        Ok(written)
    }

    /// The process gets an end of file once it has read what is there.
    pub async fn close_stdin(&self) {
        *self.stdin.lock().await = None;
    }

    /// Tells the terminal its size.
    ///
    /// # Errors
    /// There is no terminal.
    pub fn resize(&self, size: Winsize) -> io::Result<()> {
        let console = self.console.as_ref();
        let console = console.ok_or(io::Error::from_raw_os_error(libc::ENOTTY))?;
        resize(console.as_fd(), size)
    }
}
