//! How long a guest that does not answer is waited for.

use super::*;

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
