//! Calls on a link, and its loss.

use super::*;

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
