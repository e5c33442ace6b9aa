//! Who opens a link, and when it is dialed.

use super::*;

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
