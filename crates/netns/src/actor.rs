//! The shell around [`Network`]: it owns the port and decides nothing.

use crate::{
    error::Error,
    events::{Done, Event, Notice, World},
    machine::Network,
    port::Namespaces,
    record::NetworkRecord,
};
use actix::prelude::*;
use runtime_core::{
    error::{Fault, Kind, chain, fault},
    ids::{OpId, SandboxUid},
    kit::{self, Guard, Room, Shell, Work},
    network::{Address, Connect, Disconnect, NetworkStatus, Parent, RoomGone},
    records::{Records, decode},
};
use std::rc::Rc;

/// The network room of one sandbox.
pub struct NetworkActor {
    shell: Shell<Network>,
    records: Rc<dyn Records>,
    port: Rc<dyn Namespaces>,
    _guard: Guard,
}

/// Opens the room from its record; without one it is new. A namespace on record is found or made
/// again by the next [`Connect`], or taken away by [`Disconnect`].
///
/// # Errors
/// The record does not read.
pub async fn open(
    uid: SandboxUid,
    parent: Parent,
    records: Rc<dyn Records>,
    port: Rc<dyn Namespaces>,
) -> Result<Address, Fault> {
    let key = NetworkRecord::key(uid);
    let rows = records.scan(key.clone()).await?;
    let record = rows.into_iter().find(|(found, _)| *found == key);
    let record = record.map(|(_, bytes)| decode::<NetworkRecord>(&bytes));
    let record = record.transpose().map_err(|why| {
        let why = Fault::new(Kind::Internal, chain(&why));
        why.during(format!("open network of sandbox {uid}"))
    })?;
    let guard = Guard::new(move |how| {
        if let Some(parent) = parent.gone.upgrade() {
            parent.do_send(RoomGone(how));
        }
    });
    let room = NetworkActor {
        shell: Shell::new(Network::new(uid, record)),
        records,
        port,
        _guard: guard,
    };
    Ok(room.start().into())
}

impl Actor for NetworkActor {
    type Context = Context<Self>;
}

impl Room for NetworkActor {
    type Machine = Network;

    fn shell(&mut self) -> &mut Shell<Network> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        self.records.clone()
    }

    fn touch(&mut self, effect: World, ctx: &mut Context<Self>) {
        match effect {
            World::Make { op, path } => enter(op, self.port.make(path), ctx),
            World::Check { op, path } => enter(op, self.port.check(path), ctx),
            World::Remove { op, path } => {
                let work = self.port.remove(path);
                kit::complete(ctx, async move {
                    let outcome = work.await.map_err(|error| fault(&error));
                    Event::Removed { op, outcome }
                });
            }
        }
    }

    fn announce(&mut self, notice: Notice, _: &mut Context<Self>) {
        match notice {}
    }
}

runtime_core::room!(NetworkActor);

fn enter(op: OpId, work: Work<Result<(), Error>>, ctx: &mut Context<NetworkActor>) {
    kit::complete(ctx, async move {
        let outcome = work.await.map_err(|error| fault(&error));
        Event::Entered { op, outcome }
    });
}

impl Handler<Connect> for NetworkActor {
    type Result = ResponseFuture<Result<NetworkStatus, Fault>>;

    fn handle(&mut self, Connect(spec): Connect, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Connect { waiter, spec }, ctx);
        Box::pin(async move {
            match answer.await?? {
                Done::Connected(status) => Ok(status),
                Done::Disconnected => unreachable!("a connect is never answered with its undoing"),
            }
        })
    }
}

impl Handler<Disconnect> for NetworkActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, _: Disconnect, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Disconnect { waiter }, ctx);
        Box::pin(async move { answer.await?.map(drop) })
    }
}
