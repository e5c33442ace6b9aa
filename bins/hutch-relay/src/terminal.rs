//! A terminal that passes everything through, and comes back as it was however we end: by return,
//! by panic, by exit(3), or by a deadly signal.

use crate::error::{RelayError, doing};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{OptionalActions, Termios};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{mem, ptr};
use stream::Winsize;

/// What ends a process and is not read from the signal queue.
const DEADLY: [i32; 9] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGSYS,
    libc::SIGTRAP,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

struct Saved {
    /// That of the living [`RawTerminal`].
    terminal: RawFd,
    modes: Termios,
}

/// How the terminal was; null when there is nothing to give back. What it points to is never freed,
/// since a signal may come while it is looked at.
static SAVED: AtomicPtr<Saved> = AtomicPtr::new(ptr::null_mut());

/// While it lives, the terminal is raw. At most one at a time.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    terminal: OwnedFd,
    raw: Termios,
}

impl RawTerminal {
    pub fn new(terminal: OwnedFd) -> Result<Self, RelayError> {
        let modes = rustix::termios::tcgetattr(&terminal).map_err(doing("read terminal modes"))?;
        let mut raw = modes.clone();
        raw.make_raw();
        let saved = Box::new(Saved {
            terminal: terminal.as_raw_fd(),
            modes,
        });
        SAVED.store(Box::leak(saved), Ordering::SeqCst);
        watch_ends();
        let raw_terminal = Self { terminal, raw };
        raw_terminal.apply().map_err(doing("make terminal raw"))?;
        Ok(raw_terminal)
    }

    /// Raw once more: a shell may have had the terminal while we were stopped.
    pub fn apply(&self) -> rustix::io::Result<()> {
        rustix::termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.raw)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// The size of a terminal, if it has one.
pub(crate) fn size_of(terminal: impl AsFd) -> Option<Winsize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_row != 0 && size.ws_col != 0).then_some(Winsize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Nobody is at its other end any more.
pub(crate) fn is_hung_up(terminal: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&terminal, PollFlags::empty())];
    let looked = rustix::event::poll(&mut fds, Some(&Timespec::default()));
    looked.is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// Safe in a signal handler: an atomic and one system call.
#[allow(unsafe_code)]
fn give_back() {
    let saved = SAVED.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: not null means that it came from Box::leak and was never freed; nobody changes it.
    if let Some(saved) = unsafe { saved.as_ref() } {
        // SAFETY: the descriptor is open: its owner gives the terminal back before it closes it.
        let terminal = unsafe { BorrowedFd::borrow_raw(saved.terminal) };
        // Nothing is left to do when the terminal is gone.
        let _ = rustix::termios::tcsetattr(terminal, OptionalActions::Now, &saved.modes);
    }
}

/// Gives the terminal back at exit(3) and at deadly signals, from the first call on.
#[allow(unsafe_code)]
fn watch_ends() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: both handlers do nothing but `give_back` and raise(3), which a signal handler may.
        // The zeroed sigaction is a valid one; RESETHAND makes the next such signal deadly.
        unsafe {
            libc::atexit(at_exit);
            for number in DEADLY {
                let mut action: libc::sigaction = mem::zeroed();
                action.sa_sigaction = on_deadly as extern "C" fn(i32) as libc::sighandler_t;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
                libc::sigaction(number, &raw const action, ptr::null_mut());
            }
        }
    });
}

extern "C" fn at_exit() {
    give_back();
}

#[allow(unsafe_code)]
extern "C" fn on_deadly(number: i32) {
    give_back();
    // SAFETY: raise is async-signal-safe; the handler was reset, so the signal kills when we return.
    unsafe {
        libc::raise(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::termios::LocalModes;

    fn open_terminal() -> (OwnedFd, OwnedFd) {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        (master, slave)
    }

    fn is_raw(terminal: &OwnedFd) -> bool {
        let modes = rustix::termios::tcgetattr(terminal).unwrap();
        !modes.local_modes.contains(LocalModes::ICANON)
    }

    // One test, since there is one raw terminal at a time.
    #[test]
    fn a_terminal_comes_back_as_it_was() {
        let (_master, slave) = open_terminal();
        let before = rustix::termios::tcgetattr(&slave).unwrap();

        let raw = RawTerminal::new(slave.try_clone().unwrap()).unwrap();
        assert!(is_raw(&slave));
        drop(raw);
        let after = rustix::termios::tcgetattr(&slave).unwrap();
        assert_eq!(format!("{before:?}"), format!("{after:?}"));

        let panicking = slave.try_clone().unwrap();
        let outcome = std::thread::spawn(move || {
            let _raw = RawTerminal::new(panicking).unwrap();
            panic!("on purpose");
        });
        assert!(outcome.join().is_err());
        assert!(!is_raw(&slave));
    }
}
