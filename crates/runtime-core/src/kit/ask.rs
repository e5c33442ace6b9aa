//! Asking downward, with a deadline.

use crate::error::{Fault, Kind};
use actix::{WeakRecipient, prelude::*};
use std::time::Duration;

/// Sends a command and waits for its answer. The room is another's: it ends with its keeper, though somebody waits for
/// its answer.
///
/// # Errors
/// The room's own fault; `Timeout` past the deadline; `Unavailable` when the room is gone or ends
/// before it answers.
pub async fn ask<M, T>(
    room: Recipient<M>,
    command: M,
    what: &'static str,
    deadline: Duration,
) -> Result<T, Fault>
where
    M: Message<Result = Result<T, Fault>> + Send + 'static,
    T: Send + 'static,
{
    let request = room.send(command);
    drop(room);
    match tokio::time::timeout(deadline, request).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(rebuilding(what)),
        Err(_) => Err(Fault::new(
            Kind::Timeout,
            format!("{what}: no answer in {} s", deadline.as_secs()),
        )),
    }
}

/// As [`ask`], for whoever asks again and again: between two questions it is not held either.
///
/// # Errors
/// As [`ask`].
pub async fn ask_weakly<M, T>(
    room: &WeakRecipient<M>,
    command: M,
    what: &'static str,
    deadline: Duration,
) -> Result<T, Fault>
where
    M: Message<Result = Result<T, Fault>> + Send + 'static,
    T: Send + 'static,
{
    let room = room.upgrade().ok_or_else(|| rebuilding(what))?;
    ask(room, command, what, deadline).await
}

fn rebuilding(what: &str) -> Fault {
    let why = format!("{what}: the room that does it is being rebuilt");
    Fault::new(Kind::Unavailable, why)
}
