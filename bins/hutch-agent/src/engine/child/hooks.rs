//! Runs the hooks of a container, one after the other, from the process that becomes its init.
//!
//! A hook gets the state on stdin, nothing on stdout, and its own environment only. Of its stderr
//! the end is kept, for the message if it fails. What it leaves running is not waited for.

use super::failure::{Doing, Outcome};
use crate::engine::{
    plan::{Failure, HookFault, HookStep},
    sys,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, openat, seek},
    io::{Errno, read, write},
    pipe::{PipeFlags, pipe_with},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, chdir, getpid, kill_process_group,
        pidfd_open, setsid, waitid,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use serde_json::{Value, json};
use std::{
    ffi::CStr,
    time::{Duration, Instant},
};

/// The end of what a hook says: enough for its last line.
const KEPT_BYTES: usize = 4096;
/// As much as a pipe holds.
const PIPE_BYTES: usize = 64 * 1024;
/// A line of a message.
const LINE_CHARS_MAX: usize = 256;
/// Of a hook whose program could not be run.
const NOT_RUN: i32 = 127;

/// What the hooks of one moment share.
#[derive(Debug)]
pub struct Stage<'d> {
    /// The state; read from its beginning by each.
    state: OwnedFd,
    null: OwnedFd,
    /// None: where the init is.
    folder: Option<&'d CStr>,
}

impl<'d> Stage<'d> {
    /// Made beforehand: later there may be a filter that lets no file be made.
    ///
    /// # Errors
    /// When the kernel has no memory for a file, or /dev/null is not there.
    pub fn set(state: &str, status: &str, folder: Option<&'d CStr>) -> Outcome<Self> {
        let step = || "hooks: write the state".to_owned();
        let mut object: Value = serde_json::from_str(state)
            .map_err(|_| Errno::BADMSG)
            .doing(step)?;
        object["status"] = json!(status);
        object["pid"] = json!(getpid().as_raw_pid());
        let file = memfd_create(c"state", MemfdFlags::CLOEXEC).doing(step)?;
        let text = object.to_string();
        let mut left = text.as_bytes();
        while !left.is_empty() {
            let written = write(&file, left).doing(step)?;
            left = &left[written..];
        }
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(Self {
            state: file,
            null: openat(CWD, c"/dev/null", flags, Mode::empty())
                .doing(|| "hooks: open /dev/null".to_owned())?,
            folder,
        })
    }

    /// # Errors
    /// The first hook that fails; those after it are not run.
    pub fn run(&self, hooks: &[HookStep]) -> Outcome<()> {
        for hook in hooks {
            self.run_one(hook)?;
        }
        Ok(())
    }

    fn run_one(&self, hook: &HookStep) -> Outcome<()> {
        let step = |what: &str| format!("{}: {what}", hook.name);
        seek(&self.state, rustix::fs::SeekFrom::Start(0)).doing(|| step("rewind the state"))?;
        let (said, stderr) = pipe_with(PipeFlags::CLOEXEC).doing(|| step("make a pipe"))?;
        let (failed, told) = pipe_with(PipeFlags::CLOEXEC).doing(|| step("make a pipe"))?;
        match sys::fork_child().doing(|| step("fork"))? {
            None => {
                let errno = self.become_hook(hook, stderr.as_fd());
                let _ = write(&told, &errno.raw_os_error().to_ne_bytes());
                sys::exit_now(NOT_RUN)
            }
            Some(pid) => {
                drop((stderr, told));
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                let pid = pid.ok_or(Errno::SRCH).doing(|| step("fork"))?;
                Watched::new(hook, pid, said)?.finish(&failed)
            }
        }
    }

    /// Comes back only if its program cannot be run.
    fn become_hook(&self, hook: &HookStep, stderr: BorrowedFd<'_>) -> Errno {
        let prepared = setsid().map(drop).and_then(|()| {
            dup2_stdin(&self.state)?;
            dup2_stdout(&self.null)?;
            dup2_stderr(stderr)?;
            self.folder.map_or(Ok(()), chdir)
        });
        match prepared {
            Ok(()) => sys::execve(&hook.program, &hook.args, &hook.env),
            Err(errno) => errno,
        }
    }
}

/// A hook that runs.
struct Watched<'h> {
    hook: &'h HookStep,
    pid: Pid,
    pidfd: OwnedFd,
    said: OwnedFd,
    end: Vec<u8>,
    until: Instant,
}

impl<'h> Watched<'h> {
    fn new(hook: &'h HookStep, pid: Pid, said: OwnedFd) -> Outcome<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .doing(|| format!("{}: open its pidfd", hook.name))?;
        Ok(Self {
            hook,
            pid,
            pidfd,
            said,
            end: Vec::new(),
            until: Instant::now() + Duration::from_secs(hook.limit_s.into()),
        })
    }

    fn finish(mut self, failed: &OwnedFd) -> Outcome<()> {
        let step = || format!("{}: wait for it", self.hook.name);
        // Closed by the execution of its program, or has the reason why there was none.
        let mut errno = [0; 4];
        let not_run = matches!(read(failed, &mut errno), Ok(4));
        let ended = self.wait().doing(step)?;
        if !ended {
            // All that it started and that stayed with it.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        let flags = WaitIdOptions::EXITED;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), flags).doing(step)?;
        let line = last_line(&self.end);
        let fault = match status {
            _ if not_run => HookFault::NotRun {
                errno: i32::from_ne_bytes(errno),
            },
            _ if !ended => HookFault::TooLong {
                seconds: self.hook.limit_s,
                line,
            },
            Some(status) if status.exit_status() == Some(0) => return Ok(()),
            Some(status) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => HookFault::Exited { code, line },
                (None, signal) => HookFault::Killed {
                    signal: signal.unwrap_or(0),
                    line,
                },
            },
            None => return Err(Errno::CHILD).doing(step),
        };
        Err(Failure::Hook {
            hook: self.hook.name.clone(),
            fault,
        })
    }

    /// Reads what it says until it has ended or its time is over; false: it has not ended.
    fn wait(&mut self) -> Result<bool, Errno> {
        let mut open = true;
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
            let mut polled = [
                PollFd::new(&self.pidfd, PollFlags::IN),
                PollFd::new(&self.said, PollFlags::IN),
            ];
            let watched = if open { 2 } else { 1 };
            match poll(&mut polled[..watched], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            let [ended, says] = [&polled[0], &polled[1]].map(|one| !one.revents().is_empty());
            if ended {
                self.hear_the_rest()?;
                return Ok(true);
            }
            if says {
                open = self.listen()?;
            }
        }
    }

    /// What was said before the end is in the pipe by then. Something that it left running may go
    /// on and on, so no more than a pipe holds is read.
    fn hear_the_rest(&mut self) -> Result<(), Errno> {
        for _ in 0..PIPE_BYTES / KEPT_BYTES {
            let mut polled = [PollFd::new(&self.said, PollFlags::IN)];
            let says = poll(&mut polled, Some(&Timespec::default()))? > 0;
            if !says || !self.listen()? {
                break;
            }
        }
        Ok(())
    }

    /// False: nobody is left to say more.
    fn listen(&mut self) -> Result<bool, Errno> {
        let mut piece = [0; KEPT_BYTES];
        let length = match read(&self.said, &mut piece) {
            Err(Errno::INTR) => return Ok(true),
            length => length?,
        };
        self.end.extend_from_slice(&piece[..length]);
        let surplus = self.end.len().saturating_sub(KEPT_BYTES);
        self.end.drain(..surplus);
        Ok(length > 0)
    }
}

/// For a message: one line, and nothing in it that a terminal would obey.
fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    let plain = |one: char| if one.is_control() { ' ' } else { one };
    line.unwrap_or_default()
        .chars()
        .take(LINE_CHARS_MAX)
        .map(plain)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_short_and_plain() {
        assert_eq!(last_line(b"one\n two \x1b[31m\n\n"), "two  [31m");
        assert_eq!(last_line(b""), "");
        assert_eq!(last_line(&[b'x'; 5000]).len(), LINE_CHARS_MAX);
    }
}
