//! The actor's side of a shell: writes its records, performs its effects, delivers its answers.

use super::{
    Waiter,
    shell::{Batch, Machine, Shell, Step},
};
use crate::{
    error::{Fault, Kind},
    records::Records,
};
use actix::prelude::*;
use std::rc::Rc;
use tokio::sync::oneshot;

/// An actor around one machine. Implement it, then call [`crate::room`] for the actor.
pub trait Room:
    Actor<Context = Context<Self>> + Handler<Outcome<<Self::Machine as Machine>::Event>>
{
    type Machine: Machine;

    fn shell(&mut self) -> &mut Shell<Self::Machine>;

    /// Where records are kept.
    fn records(&self) -> Rc<dyn Records>;

    /// Performs one effect on the world. Never awaits: long work goes through [`super::complete`].
    fn touch(&mut self, effect: <Self::Machine as Machine>::World, ctx: &mut Context<Self>);

    /// Tells the parent.
    fn announce(&mut self, notice: <Self::Machine as Machine>::Notice, ctx: &mut Context<Self>);
}

/// Private to a room: the outcomes of its effects, coming home.
#[derive(Debug)]
pub enum Outcome<E> {
    Confirmed,
    Happened(E),
    WorkPanicked,
}

impl<E: Send + 'static> Message for Outcome<E> {
    type Result = ();
}

/// Implements the private handler that every room needs.
#[macro_export]
macro_rules! room {
    ($actor:ty) => {
        impl
            ::actix::Handler<
                $crate::kit::Outcome<
                    <<$actor as $crate::kit::Room>::Machine as $crate::kit::Machine>::Event,
                >,
            > for $actor
        {
            type Result = ();

            fn handle(
                &mut self,
                outcome: $crate::kit::Outcome<
                    <<$actor as $crate::kit::Room>::Machine as $crate::kit::Machine>::Event,
                >,
                ctx: &mut ::actix::Context<Self>,
            ) {
                $crate::kit::outcome(self, outcome, ctx);
            }
        }
    };
}

/// Applies an event that nobody waits for.
pub fn apply<R: Room>(room: &mut R, event: <R::Machine as Machine>::Event, ctx: &mut Context<R>) {
    room.shell().push(event, None);
    run(room, ctx);
}

/// Applies a command. The future yields the machine's answer, perhaps much later; it holds
/// nothing but the answer, and fails with [`Kind::Unavailable`] when the actor is gone.
pub fn command<R: Room>(
    room: &mut R,
    event: impl FnOnce(Waiter) -> <R::Machine as Machine>::Event,
    ctx: &mut Context<R>,
) -> impl Future<Output = Result<<R::Machine as Machine>::Answer, Fault>> + Send + 'static {
    let (waiter, answer) = room.shell().wait();
    room.shell().push(event(waiter), Some(waiter));
    run(room, ctx);
    receive(answer)
}

async fn receive<A>(answer: oneshot::Receiver<A>) -> Result<A, Fault> {
    let gone = "its actor ended and is being rebuilt; ask again";
    answer
        .await
        .map_err(|_| Fault::new(Kind::Unavailable, gone))
}

/// For [`crate::room`] only.
pub fn outcome<R: Room>(
    room: &mut R,
    outcome: Outcome<<R::Machine as Machine>::Event>,
    ctx: &mut Context<R>,
) {
    match outcome {
        Outcome::Confirmed => {
            let span = room.shell().span();
            let batch = room.shell().confirm();
            span.in_scope(|| perform(room, batch, ctx));
            run(room, ctx);
        }
        Outcome::Happened(event) => apply(room, event, ctx),
        Outcome::WorkPanicked => panic!("work of this actor panicked"),
    }
}

fn run<R: Room>(room: &mut R, ctx: &mut Context<R>) {
    let span = room.shell().span();
    let _within = span.enter();
    while let Some(step) = room.shell().step() {
        match step {
            Step::Perform(batch) => perform(room, batch, ctx),
            Step::Persist(changes) => {
                let write = room.records().write(changes);
                let address = ctx.address().downgrade();
                super::detach(async move {
                    write.await;
                    if let Some(address) = address.upgrade() {
                        address.do_send(Outcome::Confirmed);
                    }
                });
            }
        }
    }
}

/// World, then reply, then announce.
fn perform<R: Room>(room: &mut R, batch: Batch<R::Machine>, ctx: &mut Context<R>) {
    for effect in batch.world {
        room.touch(effect, ctx);
    }
    for (waiter, answer) in batch.replies {
        room.shell().reply(waiter, answer);
    }
    for notice in batch.announce {
        room.announce(notice, ctx);
    }
}
