//! The link's table, its stale completions, and what holds whatever happens.

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

#[test]
fn opening_dials_and_starts_patience() {
    let mut link = Link::new();

    let batch = open(&mut link, 1, spec());

    let [
        World::Patience { delay, .. },
        World::PatienceNote { .. },
        World::Dial { deadline, .. },
    ] = batch.world[..]
    else {
        panic!("{:?}", batch.world)
    };
    assert_eq!(delay.as_secs(), 30);
    assert_eq!(deadline.as_secs(), 18);
    assert!(batch.replies.is_empty());
}

#[test]
fn everybody_who_opened_hears_who_answered() {
    let mut link = Link::new();
    let op = dial_op(&open(&mut link, 1, spec()));
    let second = open(&mut link, 2, spec());
    assert!(second.is_empty(), "one dial is enough");

    let batch = drive(&mut link, dialed(op, Ok(details())));

    let who = Ok(details());
    assert_eq!(
        batch.replies,
        [(Waiter(1), who.clone()), (Waiter(2), who.clone())]
    );
    let third = open(&mut link, 3, spec());
    assert_eq!(third.replies, [(Waiter(3), who)]);
    assert!(third.world.is_empty());
}

#[test]
fn a_link_that_is_closed_is_not_missed_and_everybody_who_waited_is_answered() {
    let mut dialing = Link::new();
    let op = dial_op(&open(&mut dialing, 1, spec()));

    let batch = drive(&mut dialing, Event::Close);

    assert_eq!(batch.world, [World::HangUp]);
    assert_eq!(batch.replies.len(), 1);
    assert!(batch.announce.is_empty());
    assert_eq!(*dialing.state(), State::Closed);
    untouched(&mut dialing, dialed(op, Ok(details())));

    let (mut standing, begun) = ready();
    call(&mut standing, 2).expect("a link that stands takes calls");
    let watch = session_op(&begun);

    let batch = drive(&mut standing, Event::Close);

    assert_eq!(batch.world, [World::HangUp]);
    assert_eq!(batch.replies.len(), 1);
    untouched(&mut standing, Event::HungUp { op: watch });
    untouched(&mut standing, Event::Close);
    let again = open(&mut standing, 3, spec());
    dial_op(&again);
}

#[test]
fn a_link_to_another_guest_is_refused() {
    let mut dialing = Link::new();
    open(&mut dialing, 1, spec());
    let (standing, _) = ready();

    for mut link in [dialing, standing] {
        let before = link.clone();
        let mut batch = Batch::default();
        let event = Event::Open {
            waiter: Waiter(9),
            link: hybrid(),
        };

        assert_eq!(link.on(event, &mut batch), Err(Denied::OtherGuest));
        assert!(batch.is_empty());
        assert_eq!(link, before);
    }
}

#[test]
fn more_openers_than_rebuilds_can_be_are_refused() {
    let mut link = Link::new();
    for waiter in 1..=OPENERS_MAX as u64 {
        open(&mut link, waiter, spec());
    }

    let event = Event::Open {
        waiter: Waiter(99),
        link: spec(),
    };
    let refused = link.on(event, &mut Batch::default());

    assert_eq!(refused, Err(Denied::Crowded { max: OPENERS_MAX }));
}

#[test]
fn a_dial_that_fails_is_tried_again() {
    let mut link = Link::new();
    let first = dial_op(&open(&mut link, 1, spec()));

    let failed = drive(&mut link, dialed(first, Err(unavailable("refused"))));
    let retry = drive(
        &mut link,
        Event::RetryDue {
            op: wait_op(&failed),
        },
    );

    assert_ne!(dial_op(&retry), first);
    assert!(failed.replies.is_empty() && failed.announce.is_empty());
}

#[test]
fn a_stale_completion_changes_nothing() {
    let mut link = Link::new();
    let first = dial_op(&open(&mut link, 1, spec()));
    let failed = drive(&mut link, dialed(first, Err(unavailable("refused"))));
    let second = dial_op(&drive(
        &mut link,
        Event::RetryDue {
            op: wait_op(&failed),
        },
    ));
    let stale_wait = wait_op(&failed);

    untouched(&mut link, dialed(first, Ok(details())));
    untouched(&mut link, Event::RetryDue { op: stale_wait });
    untouched(&mut link, Event::HungUp { op: first });
    let batch = drive(&mut link, dialed(second, Ok(details())));
    let (poll, _) = poll(&batch);
    untouched(&mut link, dialed(second, Ok(details())));
    untouched(&mut link, Event::HungUp { op: poll });
    untouched(
        &mut link,
        Event::Polled {
            op: second,
            outcome: exits(1..=1),
        },
    );
    untouched(
        &mut link,
        Event::Called {
            op: second,
            outcome: Ok(()),
        },
    );
}

#[test]
fn a_silent_guest_is_given_up_when_its_budget_is_spent() {
    let mut link = Link::new();
    let opened = open(&mut link, 1, spec());
    let failed = drive(
        &mut link,
        dialed(dial_op(&opened), Err(unavailable("refused"))),
    );
    let op = patience_op(&opened);
    let console_bytes = 0;
    drive(&mut link, Event::PatienceNoted { op, console_bytes });

    let due = drive(&mut link, Event::PatienceDue { op });
    assert_eq!(due.world, [World::PatienceLook { op }]);
    let batch = drive(
        &mut link,
        Event::PatienceLooked {
            op,
            console_bytes: 0,
        },
    );

    let [(Waiter(1), Err(why))] = &batch.replies[..] else {
        panic!("{:?}", batch.replies)
    };
    assert_eq!(why.kind(), Kind::Timeout);
    assert_eq!(
        why.to_string(),
        "no answer from agent in 30 s (tcg): refused"
    );
    assert_eq!(batch.world, [World::HangUp]);
    assert!(batch.announce.is_empty(), "the answer says it");
    untouched(
        &mut link,
        Event::RetryDue {
            op: wait_op(&failed),
        },
    );
    assert_eq!(link.state_name(), "lost");
}

#[test]
fn a_guest_that_talks_is_waited_for_longer() {
    let mut link = Link::new();
    let op = patience_op(&open(&mut link, 1, spec()));

    let more = drive(
        &mut link,
        Event::PatienceLooked {
            op,
            console_bytes: 100,
        },
    );

    assert_eq!(patience_op(&more), op);
    assert_eq!(link.state_name(), "dialing");
}

#[test]
fn patience_ends_with_the_link() {
    let mut link = Link::new();
    let opened = open(&mut link, 1, spec());
    let op = patience_op(&opened);
    drive(&mut link, dialed(dial_op(&opened), Ok(details())));

    untouched(&mut link, Event::PatienceDue { op });
    untouched(
        &mut link,
        Event::PatienceLooked {
            op,
            console_bytes: 0,
        },
    );
}

#[test]
fn a_given_up_guest_refuses_everything_and_stays_as_it_is() {
    let mut link = Link::new();
    let op = patience_op(&open(&mut link, 1, spec()));
    let console_bytes = 0;
    drive(&mut link, Event::PatienceNoted { op, console_bytes });
    drive(&mut link, Event::PatienceLooked { op, console_bytes });
    let before = link.clone();
    let mut batch = Batch::default();

    let event = Event::Open {
        waiter: Waiter(2),
        link: spec(),
    };
    let opened = link.on(event, &mut batch);
    let called = call(&mut link, 3).map(drop);
    drive(&mut link, Event::NewsRecorded { seq: 1 });

    assert!(matches!(opened, Err(Denied::GivenUp { .. })));
    assert!(matches!(called, Err(Denied::Lost { .. })));
    assert!(batch.is_empty());
    assert_eq!(link, before);
}

#[test]
fn a_guest_behind_hybrid_vsock_is_not_dialed_before_it_stirs() {
    let mut link = Link::new();
    let opened = open(&mut link, 1, hybrid());
    let look = |batch: &Batch| {
        op_of(batch, |effect| match effect {
            World::Look { op } => Some(*op),
            _ => None,
        })
    };
    let looked = |op, console_bytes| Event::Looked { op, console_bytes };

    let op = look(&opened);
    let quiet = drive(&mut link, looked(op, 0));
    let again = drive(
        &mut link,
        Event::RetryDue {
            op: wait_op(&quiet),
        },
    );
    untouched(&mut link, looked(op, 100));
    let stirred = drive(&mut link, looked(look(&again), 100));

    dial_op(&stirred);
}

#[test]
fn a_guest_without_a_console_is_dialed_in_the_end() {
    let mut link = Link::new();
    let mut batch = open(&mut link, 1, hybrid());
    let mut looks = 0;

    while let Some(World::Look { op }) = batch.world.last() {
        let looked = Event::Looked {
            op: *op,
            console_bytes: 0,
        };
        looks += 1;
        batch = drive(&mut link, looked);
        if let [World::Wait { op, .. }] = batch.world[..] {
            batch = drive(&mut link, Event::RetryDue { op });
        }
    }

    assert_eq!(looks, LOOKS_MAX);
    dial_op(&batch);
}

#[test]
fn a_call_is_answered_with_its_outcome() {
    let (mut link, _) = ready();
    let good = perform_op(&call(&mut link, 2).unwrap());
    let bad = perform_op(&call(&mut link, 3).unwrap());
    let why = Fault::new(Kind::NotFound, "no such container");

    let failed = drive(
        &mut link,
        Event::Called {
            op: bad,
            outcome: Err(why.clone()),
        },
    );
    let done = Event::Called {
        op: good,
        outcome: Ok(()),
    };
    let performed = drive(&mut link, done.clone());

    assert_eq!(failed.replies, [(Waiter(3), Err(why))]);
    assert_eq!(performed.replies, [(Waiter(2), Ok(details()))]);
    untouched(&mut link, done);
}

#[test]
fn calls_without_a_link_are_denied_at_once() {
    let mut link = Link::new();
    assert!(matches!(call(&mut link, 1), Err(Denied::Closed { .. })));
    let op = dial_op(&open(&mut link, 1, spec()));
    let dialing = call(&mut link, 2).unwrap_err();
    drive(&mut link, dialed(op, Err(unavailable("refused"))));
    let waiting = call(&mut link, 3).unwrap_err();

    for denied in [dialing, waiting] {
        assert!(matches!(denied, Denied::Down { .. }));
        assert_eq!(Fault::from(denied).kind(), Kind::Unavailable);
    }
}

#[test]
fn calls_are_bounded() {
    let (mut link, _) = ready();
    for waiter in 0..CALLS_MAX as u64 {
        call(&mut link, 10 + waiter).unwrap();
    }
    let before = link.clone();

    let denied = call(&mut link, 5).unwrap_err();

    assert_eq!(Fault::from(denied).kind(), Kind::Exhausted);
    assert_eq!(link, before);
}

#[test]
fn losing_the_link_fails_its_calls_and_makes_a_new_one() {
    let (mut link, begun) = ready();
    let op = perform_op(&call(&mut link, 2).unwrap());

    let broken = drive(
        &mut link,
        Event::HungUp {
            op: session_op(&begun),
        },
    );

    let [(Waiter(2), Err(why))] = &broken.replies[..] else {
        panic!("{:?}", broken.replies)
    };
    assert_eq!(why.kind(), Kind::Unavailable);
    assert!(broken.world.contains(&World::HangUp));
    assert!(broken.announce.is_empty(), "a lost link is a state");
    untouched(
        &mut link,
        Event::Called {
            op,
            outcome: Ok(()),
        },
    );
    let retry = drive(
        &mut link,
        Event::RetryDue {
            op: wait_op(&broken),
        },
    );
    let back = drive(&mut link, dialed(dial_op(&retry), Ok(details())));
    assert!(back.replies.is_empty());
    assert_eq!(link.state_name(), "ready");
}

#[test]
fn a_poll_that_fails_is_the_loss_of_the_link() {
    let (mut link, begun) = ready();
    let (op, _) = poll(&begun);

    let broken = drive(
        &mut link,
        Event::Polled {
            op,
            outcome: Err(Fault::new(Kind::Timeout, "next exits: no answer")),
        },
    );

    assert_eq!(broken.world[0], World::HangUp);
    assert_eq!(link.state_name(), "waiting");
}

#[test]
fn a_link_that_does_not_come_back_is_lost_and_the_sandbox_hears_it() {
    let (mut link, begun) = ready();
    let session = session_op(&begun);
    let broken = drive(&mut link, Event::HungUp { op: session });
    open(&mut link, 7, spec());
    let (op, console_bytes) = (patience_op(&broken), 4711);
    drive(&mut link, Event::PatienceNoted { op, console_bytes });

    let lost = drive(&mut link, Event::PatienceLooked { op, console_bytes });

    let [Notice::Lost { why }] = &lost.announce[..] else {
        panic!("{:?}", lost.announce)
    };
    assert_eq!(lost.replies, [(Waiter(7), Err(why.clone()))]);
}

#[test]
fn exits_are_told_and_acknowledged_only_when_they_are_on_record() {
    let (mut link, begun) = ready();
    let (op, after) = poll(&begun);
    assert_eq!(after, 0);

    let batch = drive(
        &mut link,
        Event::Polled {
            op,
            outcome: exits(1..=2),
        },
    );
    assert_eq!(told(&batch), [1, 2]);
    assert!(!batch.world.iter().any(|e| matches!(e, World::Ack { .. })));
    let next = drive(
        &mut link,
        Event::RetryDue {
            op: wait_op(&batch),
        },
    );
    assert_eq!(poll(&next).1, 2);

    let recorded = drive(&mut link, Event::NewsRecorded { seq: 1 });
    let [World::Ack { up_to: 1, .. }] = recorded.world[..] else {
        panic!("{:?}", recorded.world)
    };
    untouched(&mut link, Event::NewsRecorded { seq: 1 });
}

#[test]
fn what_was_told_and_not_recorded_is_told_again_after_a_redial() {
    let (mut link, begun) = ready();
    let (op, _) = poll(&begun);
    drive(
        &mut link,
        Event::Polled {
            op,
            outcome: exits(1..=3),
        },
    );
    drive(&mut link, Event::NewsRecorded { seq: 1 });
    let session = session_op(&begun);
    let broken = drive(&mut link, Event::HungUp { op: session });
    drive(&mut link, Event::NewsRecorded { seq: 2 });

    let retry = drive(
        &mut link,
        Event::RetryDue {
            op: wait_op(&broken),
        },
    );
    let back = drive(&mut link, dialed(dial_op(&retry), Ok(details())));

    let (op, after) = poll(&back);
    assert_eq!(after, 2);
    let acks = |e: &World| matches!(e, World::Ack { up_to: 2, .. });
    assert!(back.world.iter().any(acks), "the guest may still keep them");
    let again = drive(
        &mut link,
        Event::Polled {
            op,
            outcome: exits(3..=3),
        },
    );
    assert_eq!(told(&again), [3]);
}

#[test]
fn a_guest_whose_exits_nobody_records_keeps_the_rest() {
    let (mut link, begun) = ready();
    let mut batch = begun;
    let mut last = 0;
    while batch.world.iter().any(|e| matches!(e, World::Poll { .. })) {
        let (op, after) = poll(&batch);
        last = after + 256;
        let outcome = exits(after + 1..=last);
        batch = drive(&mut link, Event::Polled { op, outcome });
        if let [World::Wait { op, .. }] = batch.world[..] {
            batch = drive(&mut link, Event::RetryDue { op });
        }
    }
    assert_eq!(last, UNRECORDED_MAX);

    let recorded = drive(&mut link, Event::NewsRecorded { seq: 10 });

    assert_eq!(poll(&recorded).1, last);
}

#[test]
fn an_exit_that_was_recorded_meanwhile_is_not_told_again() {
    let (mut link, begun) = ready_after(4);
    let (op, after) = poll(&begun);
    assert_eq!(after, 4);
    drive(&mut link, Event::NewsRecorded { seq: 6 });

    let batch = drive(
        &mut link,
        Event::Polled {
            op,
            outcome: exits(5..=7),
        },
    );

    assert_eq!(told(&batch), [7]);
}

/// What may come, in any order, with any operation's name.
fn any_event() -> impl Strategy<Value = Event> {
    let op = (0_u64..40).prop_map(OpId);
    let fault = Just(Fault::new(Kind::Unavailable, "x"));
    let polled = prop_oneof![
        (0_u64..20, 0_u64..4).prop_map(|(after, count)| exits(after + 1..=after + count)),
        fault.clone().prop_map(Err),
    ];
    prop_oneof![
        3 => Just(Event::Open { waiter: Waiter(0), link: spec() }),
        3 => Just(Event::Call { waiter: Waiter(0), call: Call::Exec }),
        1 => (0_u64..30).prop_map(|seq| Event::NewsRecorded { seq }),
        3 => op.clone().prop_map(|op| Event::RetryDue { op }),
        1 => op.clone().prop_map(|op| Event::PatienceDue { op }),
        1 => (op.clone(), 0_u64..3).prop_map(|(op, console_bytes)| Event::PatienceLooked { op, console_bytes }),
        1 => (op.clone(), 0_u64..3).prop_map(|(op, console_bytes)| Event::PatienceNoted { op, console_bytes }),
        1 => op.clone().prop_map(|op| Event::HungUp { op }),
        4 => op.clone().prop_map(|op| dialed(op, Ok(details()))),
        1 => (op.clone(), fault.clone()).prop_map(|(op, why)| dialed(op, Err(why))),
        3 => (op.clone(), polled).prop_map(|(op, outcome)| Event::Polled { op, outcome }),
        2 => op.prop_map(|op| Event::Called { op, outcome: Ok(()) }),
    ]
}

proptest! {
    #[test]
    fn every_command_is_answered_at_most_once_and_nothing_unrecorded_is_acknowledged(
        events in proptest::collection::vec(any_event(), 1..200)
    ) {
        let mut link = Link::new();
        let mut waiting = std::collections::BTreeSet::new();
        let mut issued = 0;
        let mut recorded = 0;
        for mut event in events {
            if let Event::Open { waiter, .. } | Event::Call { waiter, .. } = &mut event {
                issued += 1;
                *waiter = Waiter(issued);
                waiting.insert(*waiter);
            }
            if let Event::NewsRecorded { seq } = event {
                recorded = recorded.max(seq);
            }
            let before = link.clone();
            let mut batch = Batch::default();
            let verdict = link.on(event, &mut batch);
            if verdict.is_err() {
                prop_assert!(batch.is_empty());
                prop_assert_eq!(&link, &before);
                waiting.remove(&Waiter(issued));
            }
            for (waiter, _) in &batch.replies {
                prop_assert!(waiting.remove(waiter), "answered twice, or never asked: {:?}", waiter);
            }
            for effect in &batch.world {
                if let World::Ack { up_to, .. } = effect {
                    prop_assert!(*up_to <= recorded);
                }
            }
            let told = batch.announce.iter().filter_map(|notice| match notice {
                Notice::News(news) => Some(news.seq()),
                Notice::Lost { .. } => None,
            });
            let told: Vec<u64> = told.collect();
            prop_assert!(told.windows(2).all(|pair| pair[0] < pair[1]));
            if link.state_name() == "lost" {
                prop_assert!(waiting.is_empty(), "left waiting for ever: {:?}", waiting);
            }
        }
    }

    #[test]
    fn a_link_always_comes_to_an_end_without_an_agent(console in proptest::collection::vec(any::<u8>(), 0..16)) {
        let mut link = Link::new();
        let op = patience_op(&open(&mut link, 1, spec()));
        let mut looks = 0;
        let mut console = console.into_iter();

        while link.state_name() != "lost" {
            looks += 1;
            prop_assert!(looks <= patience::BUDGETS_MAX);
            let console_bytes = console.next().unwrap_or(0).into();
            drive(&mut link, Event::PatienceLooked { op, console_bytes });
        }
    }
}
