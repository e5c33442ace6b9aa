//! What a VM lends, and what is done to one that runs.

use super::*;

#[test]
fn a_lease_is_given_at_once_and_is_on_record_with_who_has_it() {
    let (mut machine, _) = running();

    let batch = ask(&mut machine, 2, Command::LeaseStream);

    assert_eq!(leases(&batch), [(2, 1)]);
    assert_eq!(batch.records, []);
}

#[test]
fn ports_are_added_in_the_background_up_to_the_bound_which_is_named() {
    let (mut machine, _) = running();
    assert_eq!(
        leases(&ask(&mut machine, 2, Command::LeaseStream)),
        [(2, 1)]
    );

    let second = ask(&mut machine, 3, Command::LeaseStream);
    assert_eq!(leases(&second), [(3, 2)]);
    let third = ask(&mut machine, 4, Command::LeaseStream);
    assert_eq!(leases(&third), [], "it waits for the port being added");
    assert!(ask(&mut machine, 5, Command::LeaseStream).is_empty());
    let refused = denied(&mut machine, Command::LeaseStream);
    assert_eq!(refused, Denied::StreamsExhausted { max: 4 });
}

#[test]
fn who_waits_for_a_port_hears_when_it_cannot_be_added_or_the_vm_ends() {
    let (mut machine, watch) = running();
    let first = ask(&mut machine, 2, Command::LeaseStream);
    ask(&mut machine, 3, Command::LeaseStream);
    ask(&mut machine, 4, Command::LeaseStream);
    let adding = op(&first, |w| match w {
        World::AddStream { op, .. } => Some(*op),
        _ => None,
    });

    let outcome = Err(failure());
    let failed = drive(
        &mut machine,
        Event::StreamAdded {
            op: adding,
            outcome,
        },
    );
    assert_eq!(failed.replies, [(Waiter(4), Answer::Failed(failure()))]);

    ask(&mut machine, 5, Command::LeaseStream);
    let exit = exit(ExitHow::Signal(11));
    let gone = drive(&mut machine, Event::Ended { op: watch, exit });
    let [(Waiter(5), Answer::Failed(why))] = &gone.replies[..] else {
        panic!("{gone:?}");
    };
    assert_eq!(why.kind(), Kind::Unavailable);
}

#[test]
fn a_port_that_comes_back_is_leased_again_and_twice_is_once() {
    let (mut machine, _) = running();
    ask(&mut machine, 2, Command::LeaseStream);

    let back = ask(&mut machine, 3, Command::ReturnStream { number: 1 });
    assert_eq!(back.replies, [(Waiter(3), Answer::Done)]);
    let again = ask(&mut machine, 4, Command::ReturnStream { number: 1 });
    assert_eq!(again.replies, [(Waiter(4), Answer::Done)]);

    for (waiter, number) in [(5, 1), (6, 2)] {
        let batch = ask(&mut machine, waiter, Command::LeaseStream);
        assert_eq!(leases(&batch), [(waiter, number)]);
    }
}

#[test]
fn what_needs_a_vm_waits_while_one_is_launched() {
    let mut machine = machine();
    let (_, op) = connecting(&mut machine);
    assert!(ask(&mut machine, 2, Command::LeaseStream).is_empty());
    assert!(ask(&mut machine, 3, Command::AttachBlock(block("a"))).is_empty());

    let outcome = Ok(());
    let batch = drive(&mut machine, Event::Answered { op, outcome });

    assert_eq!(leases(&batch), [(2, 1)]);
    assert!(
        batch
            .world
            .iter()
            .any(|w| matches!(w, World::AttachBlock { .. }))
    );
    assert_eq!(batch.records.len(), 1, "one transaction for all of it");
}

#[test]
fn what_a_vm_held_is_already_given_back_when_it_is_gone() {
    let mut machine = machine();

    for command in [
        Command::ReturnStream { number: 1 },
        Command::DetachBlock { serial: "a".into() },
    ] {
        let batch = ask(&mut machine, 1, command);
        assert_eq!(batch.replies, [(Waiter(1), Answer::Done)]);
    }
    assert_eq!(
        denied(&mut machine, Command::LeaseStream),
        Denied::NotRunning
    );
    let attach = Command::AttachBlock(block("a"));
    assert_eq!(denied(&mut machine, attach), Denied::NotRunning);
}

fn turn_op(batch: &Batch, wanted: Turn) -> OpId {
    let turned = |effect: &World| match effect {
        World::Turn { op, turn } if *turn == wanted => Some(*op),
        _ => None,
    };
    batch.world.iter().find_map(turned).expect("it is turned")
}

#[test]
fn a_vm_is_paused_once_for_all_who_ask_and_resumed_only_after_that() {
    let (mut machine, _) = running();

    let first = ask(&mut machine, 2, Command::Turn(Turn::Pause));
    let second = ask(&mut machine, 3, Command::Turn(Turn::Pause));
    let op = turn_op(&first, Turn::Pause);
    assert!(second.is_empty(), "one order is enough");
    assert_eq!(
        denied(&mut machine, Command::Turn(Turn::Resume)),
        Denied::Turning
    );
    let outcome = Ok(());
    let done = drive(&mut machine, Event::Turned { op, outcome });

    assert_eq!(
        done.replies,
        [(Waiter(2), Answer::Done), (Waiter(3), Answer::Done)]
    );
    assert!(first.records.is_empty() && done.records.is_empty());
    turn_op(
        &ask(&mut machine, 4, Command::Turn(Turn::Resume)),
        Turn::Resume,
    );
}

#[test]
fn whoever_waits_for_a_pause_hears_when_the_vm_is_gone() {
    let (mut machine, _) = running();
    ask(&mut machine, 2, Command::Turn(Turn::Pause));

    let batch = ask(&mut machine, 3, Command::Stop);

    assert!(matches!(
        batch.replies[..],
        [(Waiter(2), Answer::Failed(_))]
    ));
}

#[test]
fn a_block_is_on_record_before_it_is_plugged_and_while_it_is_unplugged() {
    let (mut machine, _) = running();
    let plugged = |machine: &Hypervisor| match machine.record().unwrap().phase {
        Phase::MayLive(Suspect::Started(record)) => {
            record.blocks.values().map(|block| block.plugged).collect()
        }
        _ => Vec::new(),
    };

    let batch = ask(&mut machine, 2, Command::AttachBlock(block("a")));
    assert_eq!(plugged(&machine), [Plugged::Unsettled]);
    let attach = op(&batch, |w| match w {
        World::AttachBlock { op, .. } => Some(*op),
        _ => None,
    });
    let outcome = Ok(());
    let batch = drive(
        &mut machine,
        Event::BlockAttached {
            op: attach,
            outcome,
        },
    );
    assert_eq!(batch.replies, [(Waiter(2), Answer::Done)]);
    assert_eq!(plugged(&machine), [Plugged::Yes]);

    let serial = "a".to_owned();
    let batch = ask(&mut machine, 3, Command::DetachBlock { serial });
    assert_eq!(plugged(&machine), [Plugged::Unsettled]);
    let detach = op(&batch, |w| match w {
        World::DetachBlock { op, .. } => Some(*op),
        _ => None,
    });
    let outcome = Ok(());
    let batch = drive(
        &mut machine,
        Event::BlockDetached {
            op: detach,
            outcome,
        },
    );
    assert_eq!(batch.replies, [(Waiter(3), Answer::Done)]);
    assert_eq!(plugged(&machine), []);
}

#[test]
fn what_is_in_a_slot_since_the_boot_can_be_unplugged_and_what_found_none_cannot() {
    let mut machine = machine();
    let mut wish = plan();
    wish.spec.blocks = ["own", "a", "b", "c"].map(block).to_vec();
    wish.spec.own_blocks = 1;
    let batch = ask(&mut machine, 1, Command::Launch(Box::new(wish)));
    let batch = drive(&mut machine, spawned(spawn_op(&batch)));
    let on_record = |machine: &Hypervisor| match machine.record().unwrap().phase {
        Phase::MayLive(Suspect::Started(record)) => {
            let blocks = record.blocks.into_values();
            blocks.map(|one| one.block.serial).collect()
        }
        _ => Vec::new(),
    };
    assert_eq!(on_record(&machine), ["a", "b"]);
    let (op, outcome) = (connect_op(&batch), Ok(()));
    drive(&mut machine, Event::Answered { op, outcome });

    for serial in ["own", "c"] {
        let fixed = denied(&mut machine, detach(serial));
        assert!(matches!(fixed, Denied::BlockFixed { .. }), "{fixed:?}");
    }
    let full = denied(&mut machine, Command::AttachBlock(block("d")));
    assert!(
        matches!(full, Denied::SlotsExhausted { max: 2 }),
        "{full:?}"
    );
    let batch = ask(&mut machine, 2, detach("a"));
    let op = self::op(&batch, |w| match w {
        World::DetachBlock { op, .. } => Some(*op),
        _ => None,
    });
    let outcome = Ok(());
    let batch = drive(&mut machine, Event::BlockDetached { op, outcome });

    assert_eq!(batch.replies, [(Waiter(2), Answer::Done)]);
    assert_eq!(on_record(&machine), ["b"]);
    let mut next = rebuilt(machine.record());
    drive(&mut next, Event::Adopt);
    assert_eq!(on_record(&next), ["b"], "what went does not come back");
}

fn detach(serial: &str) -> Command {
    let serial = serial.to_owned();
    Command::DetachBlock { serial }
}
