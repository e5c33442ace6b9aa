//! Reaps: PID 1 is the parent of every process whose own parent is gone, and of every init and
//! exec. Says who ended and how; knows no containers.

use crate::{
    error::{Doing, Error},
    exits::{Ended, Reason},
    guest::clock,
    ports::watch,
};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    io::Errno,
    process::{WaitOptions, wait},
};
use std::{io, os::fd::OwnedFd};
use tokio::io::{Interest, unix::AsyncFd};

/// That children ended. To be had before there is a thread: a thread that did not block the signal would lose it.
pub struct Ends(SignalFd);

impl Ends {
    /// # Errors
    /// The end of children cannot be heard of.
    pub fn listen() -> io::Result<Self> {
        let child = SigSet::from(Signal::SIGCHLD);
        child.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&child, flags)?))
    }
}

/// Waits for children for ever, and tells of each that ended.
///
/// # Errors
/// The end of children cannot be heard of.
pub async fn reap(ends: Ends, mut tell: impl FnMut(u32, Ended)) -> Result<(), Error> {
    let Ends(ends) = ends;
    let ends = watch(ends.into(), Interest::READABLE).doing(hearing)?;
    loop {
        while let Some((pid, ended)) = next()? {
            tell(pid, ended);
        }
        heard(&ends).await.doing(hearing)?;
    }
}

fn hearing() -> String {
    "hear of children".to_owned()
}

/// Returns once a child ended since this was last asked. One word of it may stand for many.
async fn heard(ends: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = ends.readable().await?;
    // Before it is read: what comes meanwhile is heard of again.
    ready.clear_ready();
    // Pending once at most, so this is all of it.
    let mut word = [0; size_of::<libc::signalfd_siginfo>()];
    match nix::unistd::read(ends, &mut word) {
        Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The next child that has ended, if there is one.
fn next() -> Result<Option<(u32, Ended)>, Error> {
    loop {
        let (pid, status) = match wait(WaitOptions::NOHANG) {
            Ok(Some(child)) => child,
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error).doing(|| "reap".to_owned()),
        };
        let (code, reason) = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => (code, Reason::Exited),
            (None, Some(signal)) => (128 + signal, Reason::Signaled),
            // Stopped or continued, which was not asked for.
            (None, None) => continue,
        };
        let ended = Ended {
            code: code.cast_unsigned(),
            reason,
            at_ms: clock::now_ms(),
        };
        return Ok(Some((pid.as_raw_pid().cast_unsigned(), ended)));
    }
}
