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
    match tokio::time::timeout(deadline, room.send(command)).await {
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
