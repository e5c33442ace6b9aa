//! Host processes, named so that a reused pid is never mistaken for one: identity, watch, kill.
//!
//! A pidfd is opened first and the identity is checked afterwards: if it still fits, the pidfd
//! can be no other process's. Starts no process and knows no cgroup.

use crate::{Doing, Error};
use proc::Life;
use runtime_core::ids::HostProcess;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process that was there when this was made, whatever happens to its pid.
#[derive(Debug)]
pub struct PidFd {
    process: HostProcess,
    fd: OwnedFd,
}

/// The process that has this pid now; `None` if none has, or only a zombie.
///
/// # Errors
/// /proc does not read.
pub fn identify(pid: u32) -> Result<Option<HostProcess>, Error> {
    let path = || format!("/proc/{pid}/stat");
    let stat = proc::stat(pid).map_err(|why| Error::path(Doing::Read, path())(why))?;
    Ok(stat
        .filter(|stat| stat.life != Life::Zombie)
        .map(|stat| HostProcess {
            pid,
            start_time: stat.start_time,
        }))
}

/// # Errors
/// /proc does not read.
pub fn is_alive(process: HostProcess) -> Result<bool, Error> {
    Ok(identify(process.pid)? == Some(process))
}

/// Changes with every boot of the host: processes of another boot are gone.
///
/// # Errors
/// /proc does not read.
pub fn boot_id() -> Result<String, Error> {
    proc::boot_id().map_err(Error::path(Doing::Read, "/proc/sys/kernel/random/boot_id"))
}

impl PidFd {
    /// `None`: the process is gone.
    ///
    /// # Errors
    /// No more file descriptors, or /proc does not read.
    pub fn open(process: HostProcess) -> Result<Option<Self>, Error> {
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => {
                return Err(Error::Watch {
                    process,
                    source: errno.into(),
                });
            }
        };
        let is_it = identify(process.pid)? == Some(process);
        Ok(is_it.then_some(Self { process, fd }))
    }

    pub fn process(&self) -> HostProcess {
        self.process
    }

    /// A process that ended meanwhile is already so.
    ///
    /// # Errors
    /// It belongs to someone else.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(Error::Kill {
                process: self.process,
                source: errno.into(),
            }),
        }
    }

    /// Answers when the process has ended; a zombie has.
    ///
    /// # Errors
    /// The runtime cannot watch one more file descriptor.
    pub async fn ended(self) -> Result<(), Error> {
        let process = self.process;
        let failed = |source| Error::Watch { process, source };
        let fd = register(self.fd).map_err(failed)?;
        // Readable once, for ever: a process ends once.
        fd.readable().await.map(drop).map_err(failed)
    }
}

#[allow(unsafe_code)]
pub(crate) fn register(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and one and the same descriptor as long as it lives, and the
    // AsyncFd owns it and gives it to nobody.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
        .map_err(|refused| refused.into_parts().1)
}

/// Sends SIGKILL to exactly this process; one that is gone is already so.
///
/// # Errors
/// It belongs to someone else.
pub fn kill(process: HostProcess) -> Result<(), Error> {
    match PidFd::open(process)? {
        Some(pidfd) => pidfd.signal(Signal::KILL),
        None => Ok(()),
    }
}

/// Tells exactly this relay that its container is gone; one that is gone is already so.
///
/// # Errors
/// It belongs to someone else.
pub fn dismiss(process: HostProcess, exit_code: u8) -> Result<(), Error> {
    match PidFd::open(process)? {
        Some(pidfd) => {
            let sent = proc::dismissal::send(pidfd.fd.as_fd(), exit_code);
            sent.map_err(|source| Error::Dismiss { process, source })
        }
        None => Ok(()),
    }
}

/// Blocks until all of them have ended, or `limit` is over: whoever asks looks again anyway.
pub(crate) fn wait_for_all(processes: &[PidFd], limit: Duration) {
    let deadline = Instant::now() + limit;
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut ends = [PollFd::new(&process.fd, PollFlags::IN)];
        // Interrupted, or out of memory: the next look tells.
        let _ = poll(&mut ends, Some(&left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> (Child, HostProcess) {
        let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let process = identify(child.id()).unwrap().unwrap();
        (child, process)
    }

    fn imposter(process: HostProcess) -> HostProcess {
        HostProcess {
            start_time: process.start_time + 1,
            ..process
        }
    }

    #[test]
    fn a_process_is_alive_until_it_ends_even_if_nobody_waits_for_it() {
        let (mut child, process) = sleeper();
        assert!(is_alive(process).unwrap());
        assert!(!is_alive(imposter(process)).unwrap());

        kill(process).unwrap();
        // WNOWAIT leaves the zombie.
        let pid = Pid::from_child(&child);
        let wait = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), wait).unwrap();

        assert!(!is_alive(process).unwrap());
        assert!(PidFd::open(process).unwrap().is_none());
        kill(process).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(process).unwrap());
        kill(process).unwrap();
    }

    #[test]
    fn a_kill_meant_for_another_process_of_that_pid_harms_nobody() {
        let (mut child, process) = sleeper();

        kill(imposter(process)).unwrap();

        assert!(is_alive(process).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_heard_once_and_not_before() {
        let (mut child, process) = sleeper();
        let pidfd = PidFd::open(process).unwrap().unwrap();
        let mut ended = Box::pin(pidfd.ended());
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, &mut ended).await.is_err());

        child.kill().unwrap();

        ended.await.unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_process_that_ended_before_it_was_watched_is_heard_at_once() {
        let (mut child, process) = sleeper();
        let pidfd = PidFd::open(process).unwrap().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        pidfd.ended().await.unwrap();
    }

    #[test]
    fn pids_that_no_process_can_have_are_gone() {
        for pid in [0, u32::MAX, 1 << 22] {
            let process = HostProcess { pid, start_time: 1 };
            assert!(PidFd::open(process).unwrap().is_none(), "{pid}");
        }
    }
}
