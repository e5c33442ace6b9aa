//! What a stock agent's word for the end of a process means.

use super::ledger::Signals;
use crate::{convert, error::Malformed};
use runtime_core::{
    agent::{ExitReason, ExitStatus},
    ids::{EpochMs, ProcessId},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Exit code of a process whose end nobody saw.
const CODE_LOST: u32 = 255;
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;
/// Above it an exit code is a signal, to a shell and to us.
const SIGNALED: u32 = 128;

/// The agent tells a deadly signal by its bare number, which a program may exit with too: it is
/// one where such a signal was sent.
pub fn judge(process: &ProcessId, status: i32, signals: &Signals) -> ExitStatus {
    let code = u32::try_from(status).ok();
    let code = code.ok_or(Malformed::Range {
        field: "exit code",
        value: status.into(),
        min: 0,
        max: 255,
    });
    let code = match code.and_then(convert::code) {
        Ok(code) => code,
        Err(malformed) => return lost(&malformed.to_string()),
    };
    let sent = &signals.sent;
    // An init that has no handler for SIGTERM is killed instead.
    let killed_instead = code == SIGKILL && *process == ProcessId::Init && sent.contains(&SIGTERM);
    let told = sent.contains(&code) || killed_instead;
    let short = code == SIGKILL || code == SIGNALED + SIGKILL;
    let (code, reason) = match code {
        _ if short && signals.short_of_memory && !sent.contains(&SIGKILL) => {
            (SIGNALED + SIGKILL, ExitReason::Oom)
        }
        code if told => (SIGNALED + code, ExitReason::Signaled),
        code if code > SIGNALED => (code, ExitReason::Signaled),
        code => (code, ExitReason::Exited),
    };
    ExitStatus {
        code,
        reason,
        detail: String::new(),
        at: now(),
    }
}

pub(super) fn lost(why: &str) -> ExitStatus {
    ExitStatus {
        code: CODE_LOST,
        reason: ExitReason::AgentLost,
        detail: format!("its exit status was lost: {why}"),
        at: now(),
    }
}

/// An answer bears no time, and arrives when the process ends.
pub(crate) fn now() -> EpochMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    EpochMs(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::ids::ExecId;

    fn signals(sent: &[u32]) -> Signals {
        Signals {
            sent: sent.iter().copied().collect(),
            short_of_memory: false,
        }
    }

    fn judged(status: i32, signals: &Signals) -> (u32, ExitReason) {
        let status = judge(&ProcessId::Init, status, signals);
        (status.code, status.reason)
    }

    #[test]
    fn a_bare_number_is_a_signal_where_it_was_sent_and_an_exit_code_elsewhere() {
        assert_eq!(judged(9, &signals(&[])), (9, ExitReason::Exited));
        assert_eq!(judged(9, &signals(&[9])), (137, ExitReason::Signaled));
        assert_eq!(judged(2, &signals(&[9])), (2, ExitReason::Exited));
        assert_eq!(judged(143, &signals(&[])), (143, ExitReason::Signaled));
        assert_eq!(judged(0, &signals(&[9])), (0, ExitReason::Exited));
    }

    #[test]
    fn an_init_that_is_killed_in_place_of_being_terminated_was_signaled() {
        let term = signals(&[15]);
        let exec = ProcessId::Exec(ExecId::new("e").unwrap());

        assert_eq!(judged(9, &term), (137, ExitReason::Signaled));
        assert_eq!(judge(&exec, 9, &term).code, 9);
    }

    #[test]
    fn one_that_the_kernel_killed_for_want_of_memory_says_so() {
        let short = |sent: &[u32]| Signals {
            short_of_memory: true,
            ..signals(sent)
        };

        assert_eq!(judged(9, &short(&[])), (137, ExitReason::Oom));
        assert_eq!(judged(9, &short(&[9])), (137, ExitReason::Signaled));
        assert_eq!(judged(1, &short(&[])), (1, ExitReason::Exited));
    }

    #[test]
    fn a_status_that_is_none_is_lost() {
        for status in [-1, 256, i32::MAX] {
            let judged = judge(&ProcessId::Init, status, &signals(&[]));

            assert_eq!((judged.code, judged.reason), (255, ExitReason::AgentLost));
        }
    }
}
