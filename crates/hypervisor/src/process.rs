//! Processes of the host, named by pid and start time and held by pidfd: a reused pid is never
//! mistaken for the process it once was. Decides nothing.

use runtime_core::ids::HostProcess;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process that lived when this was opened.
#[derive(Debug)]
pub struct Held {
    process: HostProcess,
    pidfd: AsyncFd<OwnedFd>,
}

/// What a child of ours left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Code(i32),
    Signal(i32),
    /// It was nobody's child of ours.
    Unknown,
}

impl Held {
    /// Holds the process with this pid, whichever it is: for a child that is not reaped yet.
    ///
    /// # Errors
    /// It is gone, or descriptors ran out.
    pub fn child(pid: u32) -> io::Result<Self> {
        let pidfd = open(pid)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        let start_time =
            proc::start_time(pid)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        Self::new(HostProcess { pid, start_time }, pidfd)
    }

    /// Holds exactly this process; `None` when it is gone.
    ///
    /// # Errors
    /// /proc cannot be read, or descriptors ran out.
    pub fn find(process: HostProcess) -> io::Result<Option<Self>> {
        let Some(pidfd) = open(process.pid)? else {
            return Ok(None);
        };
        // Held first, looked at second: what has this start time now is what is held.
        match proc::start_time(process.pid)? {
            Some(start) if start == process.start_time => Self::new(process, pidfd).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    fn new(process: HostProcess, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            process,
            pidfd: register(pidfd)?,
        })
    }

    pub fn process(&self) -> HostProcess {
        self.process
    }

    /// Answers when the process has ended; a zombie has.
    ///
    /// # Errors
    /// The runtime's reactor is gone.
    pub async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(|_| ())
    }

    /// Takes the exit status, and the zombie away, of a child that has ended.
    pub fn reap(&self) -> Status {
        let id = WaitId::PidFd(self.pidfd.get_ref().as_fd());
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let Ok(Some(status)) = waitid(id, options) else {
            return Status::Unknown;
        };
        let code = status.exit_status().map(Status::Code);
        let signal = status.terminating_signal().map(Status::Signal);
        code.or(signal).unwrap_or(Status::Unknown)
    }

    /// # Errors
    /// Not permitted. A process that is gone is no error.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[allow(unsafe_code)]
fn register(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and names the same file until it is dropped, which the AsyncFd
    // that owns it does after deregistering.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

fn open(pid: u32) -> io::Result<Option<OwnedFd>> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(pid) = raw else {
        return Ok(None);
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn the_start_time_of_a_process_with_an_odd_name_is_read() {
        let ours = std::process::id();

        assert!(proc::start_time(ours).unwrap().unwrap() > 0);
        assert_eq!(proc::start_time(u32::MAX).unwrap(), None);
    }

    #[tokio::test]
    async fn a_killed_child_is_reaped_with_its_signal() {
        #[expect(
            clippy::zombie_processes,
            reason = "what is tested is that it is reaped"
        )]
        let child = sleeper();
        let held = Held::child(child.id()).unwrap();

        held.kill().unwrap();
        held.ended().await.unwrap();

        assert_eq!(held.reap(), Status::Signal(libc::SIGKILL));
        assert_eq!(held.reap(), Status::Unknown);
        assert!(Held::find(held.process()).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_pid_that_another_process_has_now_is_not_found() {
        let mut child = sleeper();
        let mut process = Held::child(child.id()).unwrap().process();
        process.start_time += 1;

        let found = Held::find(process).unwrap();

        assert!(found.is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
