//! How a relay is told that its container is gone, with the exit code that is on record.
//!
//! A signal, since nothing else reaches a relay that waits for its guest. It is queued with the code
//! (sigqueue(3)), and it is SIGURG, which does nothing to a program that does not wait for it
//! (signal(7)): one that has just ceased to be a relay is not hurt. A SIGURG that anybody sends with
//! kill(2) has no code, and is no dismissal; one that is pending just then would hide it, since such
//! signals do not queue up, but nothing sends any.
//!
//! A SIGCONT follows: who is stopped, as by ^Z, hears nothing. It lets one go on that was stopped for
//! whatever reason; there is nothing left that it could stand still for.

use rustix::process::Signal;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

pub const SIGNAL: i32 = libc::SIGURG;

/// The kernel's `siginfo_t` of a queued signal, 128 bytes (sigaction(2)).
#[repr(C)]
struct Queued {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    sender: u32,
    sender_uid: u32,
    value: u64,
    rest: [u64; 12],
}

/// Tells the process of this pidfd, and lets it go on if it is stopped: it would keep its container's
/// cgroup. One that is gone is already so.
///
/// # Errors
/// It belongs to someone else.
pub fn send(pidfd: BorrowedFd<'_>, exit_code: u8) -> io::Result<()> {
    let sent = queue(pidfd, exit_code).and_then(|()| {
        rustix::process::pidfd_send_signal(pidfd, Signal::CONT).map_err(io::Error::from)
    });
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        outcome => outcome,
    }
}

#[allow(unsafe_code)]
fn queue(pidfd: BorrowedFd<'_>, exit_code: u8) -> io::Result<()> {
    let queued = Queued {
        signal: SIGNAL,
        errno: 0,
        code: libc::SI_QUEUE,
        padding: 0,
        sender: std::process::id(),
        sender_uid: rustix::process::getuid().as_raw(),
        value: exit_code.into(),
        rest: [0; 12],
    };
    // SAFETY: the descriptor is open for the whole call, and what is pointed to is as long as the
    // kernel's siginfo_t and outlives the call.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            SIGNAL,
            &raw const queued,
            0,
        )
    };
    match sent {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The exit code of a signal that came, from its `si_code` and `si_value`; `None`: it is no dismissal.
pub fn exit_code(si_code: i32, si_value: i32) -> Option<u8> {
    (si_code == libc::SI_QUEUE)
        .then(|| u8::try_from(si_value).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_queued_signal_with_a_code_is_a_dismissal() {
        assert_eq!(exit_code(libc::SI_QUEUE, 137), Some(137));
        assert_eq!(exit_code(libc::SI_QUEUE, 256), None);
        assert_eq!(exit_code(libc::SI_QUEUE, -1), None);
        assert_eq!(exit_code(libc::SI_USER, 0), None);
    }

    #[test]
    fn it_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<Queued>(), 128);
    }
}
