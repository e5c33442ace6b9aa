//! The link's table, its stale completions, and what holds whatever happens.

mod calls;
mod news;
mod opening;
mod waiting;
mod whatever;

use super::*;
use crate::{
    patience,
    ready::{CALLS_MAX, UNRECORDED_MAX},
};
use proptest::prelude::*;
use runtime_core::{
    agent::{ExitReason, ExitStatus, GuestExit},
    error::Kind,
    hypervisor::{Accelerator, StdioKind},
    ids::{ContainerNumber, EpochMs, ProcessId},
};

const SERIAL: &str = "/run/hutch/s/0/control.sock";

fn spec() -> LinkSpec {
    LinkSpec {
        control: HostEndpoint::Socket(SERIAL.into()),
        accelerator: Accelerator::Tcg,
        news_recorded: 0,
        stdio: StdioKind::Ports,
    }
}

fn hybrid() -> LinkSpec {
    LinkSpec {
        control: HostEndpoint::Hybrid {
            socket: "/v.sock".into(),
            port: 1024,
        },
        ..spec()
    }
}

fn details() -> AgentDetails {
    AgentDetails {
        version: "1".to_owned(),
        speaks_hutch: true,
        places_execs: true,
        supports_seccomp: true,
    }
}

fn unavailable(what: &str) -> Fault {
    Fault::new(Kind::Unavailable, what)
}

fn drive(link: &mut Link, event: Event) -> Batch {
    let mut batch = Batch::default();
    link.on(event, &mut batch).expect("event accepted");
    assert!(batch.records.is_empty(), "this room keeps no record");
    batch
}

fn open(link: &mut Link, waiter: u64, spec: LinkSpec) -> Batch {
    let waiter = Waiter(waiter);
    drive(link, Event::Open { waiter, link: spec })
}

fn op_of(batch: &Batch, what: impl Fn(&World) -> Option<OpId>) -> OpId {
    batch.world.iter().find_map(what).expect("it was asked for")
}

fn dial_op(batch: &Batch) -> OpId {
    op_of(batch, |effect| match effect {
        World::Dial { op, .. } => Some(*op),
        _ => None,
    })
}

fn wait_op(batch: &Batch) -> OpId {
    op_of(batch, |effect| match effect {
        World::Wait { op, .. } => Some(*op),
        _ => None,
    })
}

fn patience_op(batch: &Batch) -> OpId {
    op_of(batch, |effect| match effect {
        World::Patience { op, .. } => Some(*op),
        _ => None,
    })
}

fn poll(batch: &Batch) -> (OpId, u64) {
    batch
        .world
        .iter()
        .find_map(|effect| match effect {
            World::Poll { op, after, .. } => Some((*op, *after)),
            _ => None,
        })
        .expect("a poll was asked for")
}

fn perform_op(batch: &Batch) -> OpId {
    op_of(batch, |effect| match effect {
        World::Perform { op, .. } => Some(*op),
        _ => None,
    })
}

fn dialed(op: OpId, outcome: Result<AgentDetails, Fault>) -> Event {
    Event::Dialed { op, outcome }
}

/// A link that stands; the batch that made it so.
fn ready() -> (Link, Batch) {
    ready_after(0)
}

fn ready_after(news_recorded: u64) -> (Link, Batch) {
    let mut link = Link::new();
    let spec = LinkSpec {
        news_recorded,
        ..spec()
    };
    let op = dial_op(&open(&mut link, 1, spec));
    let batch = drive(&mut link, dialed(op, Ok(details())));
    (link, batch)
}

fn session_op(batch: &Batch) -> OpId {
    op_of(batch, |effect| match effect {
        World::Watch { op } => Some(*op),
        _ => None,
    })
}

fn call(link: &mut Link, waiter: u64) -> Result<Batch, Denied> {
    let mut batch = Batch::default();
    let waiter = Waiter(waiter);
    let call = Call::Exec;
    link.on(Event::Call { waiter, call }, &mut batch)?;
    Ok(batch)
}

fn exit(seq: u64) -> GuestNews {
    GuestNews::Exited(GuestExit {
        seq,
        container: ContainerNumber(1),
        process: ProcessId::Init,
        status: ExitStatus {
            code: 0,
            reason: ExitReason::Exited,
            detail: String::new(),
            at: EpochMs(0),
        },
    })
}

fn exits(seqs: std::ops::RangeInclusive<u64>) -> Result<Vec<GuestNews>, Fault> {
    Ok(seqs.map(exit).collect())
}

fn told(batch: &Batch) -> Vec<u64> {
    batch
        .announce
        .iter()
        .map(|notice| match notice {
            Notice::News(news) => news.seq(),
            Notice::Lost { why } => panic!("lost: {why}"),
        })
        .collect()
}

fn untouched(link: &mut Link, event: Event) {
    let before = link.clone();
    let batch = drive(link, event.clone());
    assert!(batch.is_empty(), "{event:?} asked for {batch:?}");
    assert_eq!(*link, before, "{event:?}");
}
