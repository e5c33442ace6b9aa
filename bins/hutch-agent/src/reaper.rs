//! Reaps: PID 1 is the parent of every process whose own parent is gone, and of every init and
//! exec. Says who ended and how; knows no containers.

use crate::{
    error::{Doing, Error},
    exits::{Ended, Reason},
    guest::clock,
};
use nix::{
    errno::Errno,
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
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
        let status = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
        let (pid, code, reason) = match status {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code, Reason::Exited),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                (pid, 128 + signal as i32, Reason::Signaled)
            }
            Ok(_) | Err(Errno::ECHILD) => return Ok(None),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).doing(|| "reap".to_owned()),
        };
        let ended = Ended {
            code: code.cast_unsigned(),
            reason,
            at_ms: clock::now_ms(),
        };
        return Ok(Some((pid.as_raw().cast_unsigned(), ended)));
    }
}
