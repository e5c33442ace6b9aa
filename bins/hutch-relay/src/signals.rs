//! Signals as something to poll: while this lives, those that concern the process in the guest are
//! blocked here and read from a descriptor.

use crate::error::{RelayError, doing};
use proc::dismissal;
use rustix::io::Errno;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{fs::File, ptr};

/// Size of the kernel's `signalfd_siginfo`, signalfd(2).
const RECORD_LEN: usize = 128;

/// Where in it are the number of the signal, `si_code`, and the value that a queued one brings.
const NUMBER: usize = 0;
const CODE: usize = 8;
const VALUE: usize = 44;

/// So many at once; the rest stays in the queue.
const RECORDS_MAX: usize = 8;

/// What a process in the guest may wait for. Not among them: what stops and continues (it stops the
/// relay, and back-pressure its process), SIGCHLD, SIGPIPE and SIGURG (the relay's own), and faults.
const FORWARDED: [i32; 11] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
];

/// The kernel's real-time signals but the two that the C library keeps for itself.
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// For the process in the guest.
    Forward(u32),
    /// The terminal has a new size.
    Resized,
    /// We were stopped, and somebody else may have used the terminal.
    Continued,
    /// Our container is gone; this is the exit code on record.
    Dismissed(u8),
}

#[derive(Debug)]
pub(crate) struct Signals {
    queue: File,
    before: Mask,
}

#[derive(Clone, Copy)]
struct Mask(libc::sigset_t);

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask")
    }
}

impl Signals {
    pub fn open() -> Result<Self, RelayError> {
        let numbers = FORWARDED.into_iter().chain(REALTIME).chain([
            libc::SIGWINCH,
            libc::SIGCONT,
            dismissal::SIGNAL,
        ]);
        let mask = mask_of(numbers);
        let queue = open_queue(&mask).map_err(doing("open signal queue"))?;
        let before = set_mask(libc::SIG_BLOCK, &mask).map_err(doing("block signals"))?;
        Ok(Self {
            queue: queue.into(),
            before,
        })
    }

    /// What has arrived, oldest first; nothing when nothing has.
    pub fn read(&mut self) -> Vec<Arrived> {
        let mut records = [0; RECORD_LEN * RECORDS_MAX];
        // The queue does not block and has no end: what is not read now is nothing, or comes later.
        let count = self.queue.read(&mut records).unwrap_or(0);
        records[..count]
            .chunks_exact(RECORD_LEN)
            .filter_map(|record| match field(record, NUMBER) {
                libc::SIGWINCH => Some(Arrived::Resized),
                libc::SIGCONT => Some(Arrived::Continued),
                dismissal::SIGNAL => {
                    dismissal::exit_code(field(record, CODE), field(record, VALUE))
                        .map(Arrived::Dismissed)
                }
                number => Some(Arrived::Forward(number.cast_unsigned())),
            })
            .collect()
    }
}

/// A dismissal that comes before this program relays waits until it does. For this thread and those that it begins
/// from now on, so before there are others: one that did not wait would take it, and do nothing.
///
/// # Errors
/// What the kernel says.
pub fn hold_dismissal() -> Result<(), RelayError> {
    let mask = mask_of([dismissal::SIGNAL].into_iter());
    let held = set_mask(libc::SIG_BLOCK, &mask);
    held.map(drop).map_err(doing("block signals"))
}

fn field(record: &[u8], at: usize) -> i32 {
    i32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What came too late for the guest must not hit us instead.
        while !self.read().is_empty() {}
        let _ = set_mask(libc::SIG_SETMASK, &self.before.0);
    }
}

#[allow(unsafe_code)]
fn mask_of(numbers: impl Iterator<Item = i32>) -> libc::sigset_t {
    let mut mask = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set it is given; sigaddset gets an initialised one, and
    // refuses numbers it does not know.
    unsafe {
        libc::sigemptyset(mask.as_mut_ptr());
        for number in numbers {
            libc::sigaddset(mask.as_mut_ptr(), number);
        }
        mask.assume_init()
    }
}

#[allow(unsafe_code)]
fn set_mask(how: i32, mask: &libc::sigset_t) -> Result<Mask, Errno> {
    let mut before = mask_of(std::iter::empty());
    // SAFETY: both sets are initialised and live through the call.
    match unsafe { libc::pthread_sigmask(how, ptr::from_ref(mask), &raw mut before) } {
        0 => Ok(Mask(before)),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

#[allow(unsafe_code)]
fn open_queue(mask: &libc::sigset_t) -> Result<OwnedFd, Errno> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is initialised; -1 asks for a new descriptor, which is ours when it is not
    // negative.
    unsafe {
        let fd = libc::signalfd(-1, ptr::from_ref(mask), flags);
        if fd < 0 {
            let errno = std::io::Error::last_os_error();
            return Err(Errno::from_io_error(&errno).unwrap_or(Errno::IO));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(unsafe_code)]
    fn raise_here(number: i32) {
        // SAFETY: sends a signal, which is blocked, to the calling thread.
        assert_eq!(
            unsafe { libc::pthread_kill(libc::pthread_self(), number) },
            0
        );
    }

    #[test]
    fn signals_wait_in_the_queue_and_do_not_act() {
        let mut signals = Signals::open().unwrap();
        assert!(signals.read().is_empty());

        raise_here(libc::SIGTERM);
        raise_here(libc::SIGWINCH);
        raise_here(40);

        let arrived = [signals.read(), signals.read()].concat();
        assert!(arrived.contains(&Arrived::Forward(15)));
        assert!(arrived.contains(&Arrived::Forward(40)));
        assert!(arrived.contains(&Arrived::Resized));
    }

    #[test]
    fn what_came_too_late_does_not_hit_us() {
        let signals = Signals::open().unwrap();
        raise_here(libc::SIGTERM);

        drop(signals);

        let mask = set_mask(libc::SIG_BLOCK, &mask_of(std::iter::empty())).unwrap();
        assert!(!is_member(&mask.0, libc::SIGTERM));
    }

    #[allow(unsafe_code)]
    fn is_member(mask: &libc::sigset_t, number: i32) -> bool {
        // SAFETY: the set is initialised.
        unsafe { libc::sigismember(ptr::from_ref(mask), number) == 1 }
    }
}
