//! What actix does not give: effects in order, work beside an actor, and a parent that hears of
//! a child's end.
//!
//! The only place that uses raw actix `spawn` or tokio `spawn_local`. Everything runs on one
//! thread, so the order of events depends on nothing but their causes.

mod ask;
mod guard;
mod room;
mod shell;

pub use ask::{ask, ask_weakly};
pub use guard::{Gone, Guard};
pub use room::{Outcome, Room, apply, command, outcome};
pub use shell::{Batch, LINE_MAX, Machine, Shell, Waiter};

use actix::prelude::*;
use futures::FutureExt;
use std::{future::Future, panic::AssertUnwindSafe, pin::Pin};
use tracing::Instrument as _;

/// What a port returns: it runs beside the actor, on the actor's thread.
pub type Work<T> = Pin<Box<dyn Future<Output = T>>>;

/// Runs `work` beside the actor and posts what it yields back as an event.
///
/// The actor is held weakly: an actor that is gone never hears an outcome, and its successor,
/// rebuilt from the record, knows no operation by that name. Work that panics takes its actor
/// down with it, so that the parent rebuilds it: no operation is left waiting for ever.
pub fn complete<R: Room>(
    ctx: &mut Context<R>,
    work: impl Future<Output = <R::Machine as Machine>::Event> + 'static,
) {
    let room = ctx.address().downgrade();
    detach(async move {
        let outcome = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(event) => Outcome::Happened(event),
            Err(_) => Outcome::WorkPanicked,
        };
        if let Some(room) = room.upgrade() {
            room.do_send(outcome);
        }
    });
}

/// Runs `work` whose outcome nobody waits for: a note to a peer, a watch that ends by itself.
pub fn detach(work: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(work.in_current_span());
}
