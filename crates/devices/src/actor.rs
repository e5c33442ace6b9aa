//! The shell around [`Devices`].

use crate::{
    error::Error,
    events::{Answer, Event, World},
    machine::Devices,
    port::Shares,
    record::DevicesRecord,
};
use actix::prelude::*;
use runtime_core::{
    devices::{
        Address, Attach, Attached, Detach, Notice, OpenShare, Parent, Release, RoomGone, Share,
    },
    error::{Fault, Kind, chain, fault},
    ids::SandboxUid,
    kit::{self, Guard, Room, Shell},
    records::{Records, decode},
};
use std::rc::Rc;

struct DevicesActor {
    shell: Shell<Devices>,
    shares: Rc<dyn Shares>,
    records: Rc<dyn Records>,
    parent: Parent,
    _guard: Guard,
}

/// Opens the room from its record: what is on record is adopted.
///
/// # Errors
/// The store does not answer, or the record does not read.
pub async fn open(
    uid: SandboxUid,
    parent: Parent,
    records: Rc<dyn Records>,
    shares: Rc<dyn Shares>,
) -> Result<Address, Fault> {
    let key = DevicesRecord::key(uid);
    let rows = records.scan(key.clone()).await?;
    let row = rows.into_iter().find(|(found, _)| *found == key);
    let machine = match row {
        None => Devices::new(uid),
        Some((_, bytes)) => {
            let record = decode::<DevicesRecord>(&bytes);
            Devices::rebuilt(record.map_err(|why| Fault::new(Kind::Internal, chain(&why)))?)
        }
    };
    let gone = parent.gone.clone();
    let guard = Guard::new(move |how| {
        if let Some(parent) = gone.upgrade() {
            parent.do_send(RoomGone(how));
        }
    });
    let actor = DevicesActor {
        shell: Shell::new(machine),
        shares,
        records,
        parent,
        _guard: guard,
    };
    Ok(actor.start().into())
}

fn faulty<T>(outcome: Result<T, Error>) -> Result<T, Fault> {
    outcome.map_err(|why| fault(&why))
}

impl Actor for DevicesActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Resume, ctx);
    }
}

impl Room for DevicesActor {
    type Machine = Devices;

    fn shell(&mut self) -> &mut Shell<Devices> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        self.records.clone()
    }

    // tidy: one arm for each effect, each begins its work and names its outcome
    fn touch(&mut self, effect: World, ctx: &mut Context<Self>) {
        match effect {
            World::OpenShare { op, spec } => {
                let work = self.shares.open(spec);
                kit::complete(ctx, async move {
                    let outcome = faulty(work.await);
                    Event::ShareOpened { op, outcome }
                });
            }
            World::Watch { spec, virtiofsd } => {
                let work = self.shares.ended(spec, virtiofsd);
                kit::complete(ctx, async move {
                    let said = work.await;
                    Event::VirtiofsdEnded { virtiofsd, said }
                });
            }
            World::Survey { op, devices } => {
                let container = devices.container;
                let work = self.shares.survey(*devices);
                kit::complete(ctx, async move {
                    let outcome = faulty(work.await);
                    Event::Surveyed {
                        container,
                        op,
                        outcome,
                    }
                });
            }
            World::Follow {
                container,
                copies,
                pause,
            } => {
                let shares = self.shares.clone();
                kit::complete(ctx, async move {
                    tokio::time::sleep(pause).await;
                    let outcome = faulty(shares.follow(copies.clone()).await);
                    if let Err(why) = &outcome {
                        tracing::warn!(%container, source = %copies.source.display(), %why, "not followed");
                    }
                    Event::Unfollowed {
                        container,
                        copies,
                        outcome,
                    }
                });
            }
            World::Bind {
                container,
                op,
                binds,
            } => {
                let work = self.shares.bind(binds);
                kit::complete(ctx, async move {
                    let outcome = faulty(work.await);
                    Event::Bound {
                        container,
                        op,
                        outcome,
                    }
                });
            }
            World::Unbind {
                container,
                op,
                binds,
            } => {
                let work = self.shares.unbind(binds);
                kit::complete(ctx, async move {
                    let outcome = faulty(work.await);
                    Event::Unbound {
                        container,
                        op,
                        outcome,
                    }
                });
            }
            World::Close {
                op,
                spec,
                virtiofsd,
            } => {
                let work = spec.map(|spec| self.shares.close(spec, virtiofsd));
                kit::complete(ctx, async move {
                    let outcome = match work {
                        Some(work) => faulty(work.await),
                        None => Ok(()),
                    };
                    Event::Closed { op, outcome }
                });
            }
        }
    }

    fn announce(&mut self, notice: Notice, _: &mut Context<Self>) {
        if let Some(parent) = self.parent.notices.upgrade() {
            parent.do_send(notice);
        }
    }
}

runtime_core::room!(DevicesActor);

fn mismatched<T>() -> Result<T, Fault> {
    Err(Fault::new(
        Kind::Internal,
        "a command was answered as another one",
    ))
}

impl Handler<OpenShare> for DevicesActor {
    type Result = ResponseFuture<Result<Share, Fault>>;

    fn handle(&mut self, OpenShare(spec): OpenShare, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::OpenShare { waiter, spec }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Share(share) => share,
                Answer::Attached(_) | Answer::Done(_) => mismatched(),
            }
        })
    }
}

impl Handler<Attach> for DevicesActor {
    type Result = ResponseFuture<Result<Attached, Fault>>;

    fn handle(&mut self, Attach(devices): Attach, ctx: &mut Context<Self>) -> Self::Result {
        let devices = Box::new(devices);
        let answer = kit::command(self, |waiter| Event::Attach { waiter, devices }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Attached(attached) => attached,
                Answer::Share(_) | Answer::Done(_) => mismatched(),
            }
        })
    }
}

impl Handler<Detach> for DevicesActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, Detach { container }: Detach, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Detach { waiter, container }, ctx);
        Box::pin(async move { done(answer.await?) })
    }
}

impl Handler<Release> for DevicesActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, _: Release, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Release { waiter }, ctx);
        Box::pin(async move { done(answer.await?) })
    }
}

fn done(answer: Answer) -> Result<(), Fault> {
    match answer {
        Answer::Done(outcome) => outcome,
        Answer::Share(_) | Answer::Attached(_) => mismatched(),
    }
}
