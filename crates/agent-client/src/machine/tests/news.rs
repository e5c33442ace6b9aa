//! What the guest tells, and when it may forget that.

use super::*;

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
