//! kill: a signal to a container's init, or to all its processes; and, where asked for, an end after a time.

use super::{Place, fresh_key};
use crate::{
    daemon::{Daemon, Refused, soon, within},
    duration,
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use protocols::asynchronous::hutch::{KillRequest, StateRequest, WaitRequest};
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// The highest signal of Linux on x86-64 (SIGRTMAX).
const SIGNAL_MAX: u32 = 64;
const SIGKILL: u32 = 9;
/// Of a wait that has nothing left, so that it is asked at all.
const WAIT_MIN: Duration = Duration::from_millis(1);

#[derive(Debug, Args)]
pub struct Kill {
    /// Every process of the container, not its init alone.
    #[arg(short, long)]
    pub all: bool,
    /// Send SIGKILL after this long if it still runs, and return when it has ended.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, allow_hyphen_values = true)]
    pub escalate: Option<Duration>,
    pub id: String,
    /// A name (TERM, SIGTERM) or a number; an empty one is SIGTERM, as with runc.
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    pub signal: String,
}

pub fn kill(at: &Place, kill: &Kill) -> Result<u8> {
    let signal = signal_number(&kill.signal)?;
    let mut daemon = at.daemon()?;
    if signal == 0 {
        // Nothing is sent; it is asked whether something could be.
        return match status(at, &mut daemon, &kill.id)?.as_str() {
            "stopped" => bail!("container not running"),
            _ => Ok(0),
        };
    }
    match send(at, &mut daemon, kill, signal) {
        // As with runc: all processes of one that has none are none.
        Err(why)
            if kill.all && is_denied(&why) && status(at, &mut daemon, &kill.id)? == "stopped" =>
        {
            return Ok(0);
        }
        sent => sent?,
    }
    let Some(patience) = kill.escalate else {
        return Ok(0);
    };
    if !ended(at, &mut daemon, &kill.id, Some(patience))? {
        match send(at, &mut daemon, kill, SIGKILL) {
            // It ended at the last moment.
            Err(why) if is_denied(&why) => {}
            sent => sent?,
        }
        ended(at, &mut daemon, &kill.id, None)?;
    }
    Ok(0)
}

fn send(at: &Place, daemon: &mut Daemon, kill: &Kill, signal: u32) -> Result<()> {
    let request = KillRequest {
        key: fresh_key(),
        process: Some(at.process(&kill.id, "")).into(),
        signal,
        all: kill.all,
        ..Default::default()
    };
    daemon.ask(async |client| client.kill(soon(), &request).await)?;
    Ok(())
}

/// The state that a container is in.
pub(super) fn status(at: &Place, daemon: &mut Daemon, id: &str) -> Result<String> {
    let request = StateRequest {
        namespace: at.namespace.clone(),
        container_id: id.to_owned(),
        ..Default::default()
    };
    Ok(daemon
        .ask(async |client| client.state(soon(), &request).await)?
        .status)
}

/// Whether the init ends in time.
fn ended(at: &Place, daemon: &mut Daemon, id: &str, limit: Option<Duration>) -> Result<bool> {
    let request = WaitRequest {
        process: Some(at.process(id, "")).into(),
        ..Default::default()
    };
    let began = Instant::now();
    let is_late = Cell::new(false);
    let answer = daemon.ask(async |client| {
        let left = limit.map(|limit| limit.saturating_sub(began.elapsed()).max(WAIT_MIN));
        let answer = client.wait(left.map_or_else(soon, within), &request).await;
        // Nobody answers for it any more: that is no daemon to ask again.
        is_late.set(answer.is_err() && limit.is_some_and(|limit| began.elapsed() >= limit));
        match is_late.get() {
            true => Ok(Default::default()),
            false => answer,
        }
    });
    answer?;
    Ok(!is_late.get())
}

/// Its state does not allow it.
pub(super) fn is_denied(why: &anyhow::Error) -> bool {
    let refused = why.downcast_ref::<Refused>();
    refused.is_some_and(|refused| refused.code == ttrpc::Code::FAILED_PRECONDITION)
}

/// `TERM`, `SIGTERM`, `term`, `15`, or `0`.
pub(super) fn signal_number(text: &str) -> Result<u32> {
    let text = if text.is_empty() { "SIGTERM" } else { text };
    if let Ok(number) = text.parse::<u32>() {
        return match number <= SIGNAL_MAX {
            true => Ok(number),
            false => bail!("unknown signal {text:?}: 0 to {SIGNAL_MAX} are possible"),
        };
    }
    let upper = text.to_uppercase();
    let name = match upper.starts_with("SIG") {
        true => upper,
        false => format!("SIG{upper}"),
    };
    let signal: nix::sys::signal::Signal = name
        .parse()
        .ok()
        .with_context(|| format!("unknown signal {text:?}"))?;
    Ok((signal as i32).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_taken_by_name_and_by_number() {
        for text in ["", "TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(signal_number(text).unwrap(), 15, "{text}");
        }
        assert_eq!(signal_number("0").unwrap(), 0);
        for text in ["65", "-1", "SIGNOPE", "SIG", "1e3"] {
            assert!(signal_number(text).is_err(), "{text}");
        }
    }
}
