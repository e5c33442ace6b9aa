//! Reaps: PID 1 is the parent of every process whose own parent is gone, and of every init and
//! exec. Says who ended and how; knows no containers.

use crate::{
    error::{Doing, Error},
    exits::{Ended, Reason},
    guest::clock,
};
use rustix::{
    io::Errno,
    process::{WaitOptions, wait},
};
use tokio::signal::unix::{SignalKind, signal};

/// Waits for children for ever, and tells of each that ended.
///
/// # Errors
/// The end of children cannot be heard of.
pub async fn reap(mut tell: impl FnMut(u32, Ended)) -> Result<(), Error> {
    let mut ends = signal(SignalKind::child()).doing(|| "hear of children".to_owned())?;
    loop {
        while let Some((pid, ended)) = next()? {
            tell(pid, ended);
        }
        // One wake-up may stand for many ends, and comes also after it was listened for.
        ends.recv().await;
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
