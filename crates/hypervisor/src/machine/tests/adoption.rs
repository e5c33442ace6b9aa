//! What a later room makes of a record.

use super::*;

#[test]
fn a_running_vm_is_adopted_with_its_leases_and_never_spawned_again() {
    let (mut before, _) = running();
    ask(&mut before, 2, Command::LeaseStream);
    let mut machine = rebuilt_with(before.record(), BTreeSet::from([1]));

    let looking = drive(&mut machine, Event::Adopt);
    assert!(matches!(
        looking.world[..],
        [World::Find {
            recorded: Some(PROCESS),
            ..
        }]
    ));
    assert!(ask(&mut machine, 3, Command::LeaseStream).is_empty());
    let op = find_op(&looking);
    let outcome = Ok(Some(PROCESS));
    let found = drive(&mut machine, Event::Found { op, outcome });
    assert!(matches!(
        found.world[..],
        [World::Watch { .. }, World::Connect { .. }]
    ));
    assert!(found.replies.is_empty());

    let op = connect_op(&found);
    let outcome = Ok(());
    let adopted = drive(&mut machine, Event::Answered { op, outcome });
    assert!(matches!(adopted.announce[..], [Notice::Adopted(_)]));
    assert_eq!(leases(&adopted), [(3, 2)], "port 1 is still somebody's");
}

#[test]
fn a_vmm_that_was_started_but_never_recorded_is_adopted_all_the_same() {
    let mut before = machine();
    ask(&mut before, 1, launch());
    let mut machine = rebuilt(before.record());
    let looking = drive(&mut machine, Event::Adopt);
    assert!(matches!(
        looking.world[..],
        [World::Find { recorded: None, .. }]
    ));

    let op = find_op(&looking);
    let outcome = Ok(Some(PROCESS));
    let found = drive(&mut machine, Event::Found { op, outcome });

    assert_eq!(found.records.len(), 1, "now its process is on record");
    connect_op(&found);
}

#[test]
fn a_vmm_that_was_about_to_start_and_is_nowhere_is_gone() {
    let mut before = machine();
    ask(&mut before, 1, launch());
    let mut machine = rebuilt(before.record());
    let op = find_op(&drive(&mut machine, Event::Adopt));
    let outcome = Ok(None);
    let batch = drive(&mut machine, Event::Found { op, outcome });

    let exit = exit(ExitHow::Unknown);
    let op = watch_op(&batch);
    let gone = drive(&mut machine, Event::Ended { op, exit });

    assert!(matches!(
        gone.announce[..],
        [Notice::Exited(VmExit::Crashed { .. })]
    ));
    assert!(!batch.world.iter().any(|w| matches!(w, World::Spawn { .. })));
}

#[test]
fn an_adopted_vmm_that_does_not_answer_is_killed_and_told_as_crashed() {
    let (before, _) = running();
    let mut machine = rebuilt(before.record());
    let op = find_op(&drive(&mut machine, Event::Adopt));
    let outcome = Ok(Some(PROCESS));
    let batch = drive(&mut machine, Event::Found { op, outcome });
    let (watch, op) = (watch_op(&batch), connect_op(&batch));
    let outcome = Err(failure());
    kill_op(&drive(&mut machine, Event::Answered { op, outcome }));

    let exit = exit(ExitHow::Signal(9));
    let gone = drive(&mut machine, Event::Ended { op: watch, exit });

    let [Notice::Exited(VmExit::Crashed { status, .. })] = &gone.announce[..] else {
        panic!("{gone:?}");
    };
    assert!(status.contains("the world failed"), "{status}");
}

#[test]
fn a_kill_that_a_dead_daemon_began_is_finished() {
    let (mut before, _) = running();
    ask(&mut before, 2, Command::Stop);
    let mut machine = rebuilt(before.record());
    let op = find_op(&drive(&mut machine, Event::Adopt));

    let outcome = Ok(Some(PROCESS));
    let batch = drive(&mut machine, Event::Found { op, outcome });
    kill_op(&batch);

    let exit = exit(ExitHow::Signal(9));
    let op = watch_op(&batch);
    let gone = drive(&mut machine, Event::Ended { op, exit });
    assert_eq!(gone.announce, [Notice::Exited(VmExit::Stopped)]);
    assert_eq!(machine.record(), None);
}

#[test]
fn after_a_restart_of_the_host_nothing_is_looked_for() {
    let (before, _) = running();
    let mut record = before.record().unwrap();
    record.boot_id = "an earlier one".into();
    let mut machine = rebuilt(Some(record));

    let batch = drive(&mut machine, Event::Adopt);

    assert!(batch.world.is_empty());
    assert_eq!(batch.announce, [Notice::Exited(VmExit::HostRestarted)]);
}

#[test]
fn an_end_that_may_not_have_been_heard_is_told_again() {
    let (mut before, watch) = running();
    let exit = exit(ExitHow::PoweredOff);
    drive(&mut before, Event::Ended { op: watch, exit });
    let mut machine = rebuilt(before.record());

    let batch = drive(&mut machine, Event::Adopt);

    assert_eq!(batch.announce, [Notice::Exited(VmExit::PoweredOff)]);
}

#[test]
fn a_vmm_that_cannot_be_looked_for_is_never_told_to_be_gone() {
    let (before, _) = running();
    let mut machine = rebuilt(before.record());
    let mut batch = drive(&mut machine, Event::Adopt);

    for _ in 0..50 {
        let op = find_op(&batch);
        let outcome = Err(failure());
        batch = drive(&mut machine, Event::Found { op, outcome });
        assert!(batch.announce.is_empty());
        let [World::Wait { op, .. }] = batch.world[..] else {
            panic!("it is looked for again: {batch:?}");
        };
        batch = drive(&mut machine, Event::RetryDue { op });
    }

    let op = find_op(&batch);
    let outcome = Ok(Some(PROCESS));
    let found = drive(&mut machine, Event::Found { op, outcome });
    watch_op(&found);
}

#[test]
fn what_was_held_for_a_vm_that_is_gone_does_not_reach_the_next_one() {
    let (before, _) = running();
    let mut machine = rebuilt(before.record());
    let op = find_op(&drive(&mut machine, Event::Adopt));
    let outcome = Ok(Some(PROCESS));
    let adopting = drive(&mut machine, Event::Found { op, outcome });
    assert!(ask(&mut machine, 2, launch()).is_empty());
    assert!(ask(&mut machine, 3, Command::ReturnStream { number: 1 }).is_empty());

    let op = watch_op(&adopting);
    let exit = exit(ExitHow::Signal(9));
    let gone = drive(&mut machine, Event::Ended { op, exit });

    assert_eq!(gone.replies, [(Waiter(3), Answer::Done)]);
}

#[test]
fn a_stop_during_adoption_is_done_once_it_is_known_what_lives() {
    let (before, _) = running();
    let mut machine = rebuilt(before.record());
    let op = find_op(&drive(&mut machine, Event::Adopt));
    assert!(ask(&mut machine, 2, Command::Stop).is_empty());

    let outcome = Ok(Some(PROCESS));
    let batch = drive(&mut machine, Event::Found { op, outcome });

    kill_op(&batch);
    let exit = exit(ExitHow::Signal(9));
    let op = watch_op(&batch);
    let gone = drive(&mut machine, Event::Ended { op, exit });
    assert_eq!(gone.replies, [(Waiter(2), Answer::Done)]);
    assert_eq!(gone.announce, [Notice::Exited(VmExit::Stopped)]);
}

#[test]
fn a_record_is_read_back_as_it_was_written() {
    let (mut machine, _) = running();
    ask(&mut machine, 2, Command::LeaseStream);
    ask(&mut machine, 3, Command::AttachBlock(block("a")));
    let record = machine.record().unwrap();

    let bytes = records::encode(&record);

    assert_eq!(records::decode::<HypervisorRecord>(&bytes).unwrap(), record);
}

#[test]
fn a_record_that_has_the_ports_too_is_read() {
    let (machine, _) = running();
    let record = machine.record().unwrap();
    let mut old: serde_json::Value = serde_json::from_slice(&records::encode(&record)).unwrap();
    old["v"] = 1.into();
    old["body"]["phase"]["may-live"]["started"]["leased"] = serde_json::json!([1, 2]);

    let read = records::decode::<HypervisorRecord>(old.to_string().as_bytes());

    assert_eq!(read.unwrap(), record);
}
