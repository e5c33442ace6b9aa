//! Joins the files of a process on the host with its stdio stream into a guest: one thread that
//! polls, no async runtime, no policy. `hutch-relay` is this and little more; `hutch run` in the
//! foreground is its own relay.
//!
//! ```text
//!   stdin  ──► files ──►┐                     ┌── link ──► socket of the VM
//!   stdout ◄── files ◄──┤ relay + stream::Reader         (QEMU's, or vsock of either kind)
//!   stderr ◄── files ◄──┘      ▲              └── daemon ──► hutchd, when there is news
//!                           signals, terminal
//! ```
//!
//! The daemon may die at any time: the socket belongs to the VMM.

mod console;
pub mod daemon;
mod error;
mod files;
mod link;
mod place;
mod relay;
mod session;
mod signals;
mod terminal;
mod vsock;

pub use console::open_console;
pub use daemon::HostProcess;
pub use error::RelayError;
pub use place::{Place, Visit};
pub use relay::{Greeted, Relay};
pub use session::{BrokenOutput, Outcome, Report, Session, Stdio, StreamAddress, VM_LOST};
pub use signals::hold_dismissal;

use std::fs::OpenOptions;
use std::io;

/// Turns this process's stdin, stdout and stderr into files of a session, and leaves /dev/null in
/// their places, so that what is closed here is closed for good.
///
/// # Errors
/// When there are no file descriptors left.
pub fn take_stdio() -> io::Result<Stdio> {
    let stdio = Stdio {
        stdin: Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?),
        stdout: Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?),
        stderr: Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?),
    };
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(stdio)
}
