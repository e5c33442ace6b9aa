//! Asking downward, with a deadline.

use crate::error::{Fault, Kind};
use actix::prelude::*;
use std::time::Duration;

/// Sends a command and waits for its answer.
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
    let _kept = room.clone();
    ask_borrowed(room, command, what, deadline).await
}

/// As [`ask`], of a room that another keeps: it ends with its keeper, though somebody waits for its answer.
///
/// # Errors
/// As [`ask`].
pub async fn ask_borrowed<M, T>(
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
        Ok(Err(_)) => Err(Fault::new(
            Kind::Unavailable,
            format!("{what}: the room that does it is being rebuilt"),
        )),
        Err(_) => Err(Fault::new(
            Kind::Timeout,
            format!("{what}: no answer in {} s", deadline.as_secs()),
        )),
    }
}
