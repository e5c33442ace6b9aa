//! How a VM comes to be and how it ends.

use super::*;

#[test]
fn a_vm_is_on_record_before_it_is_spawned_and_its_process_before_it_is_spoken_to() {
    let mut machine = machine();

    let first = ask(&mut machine, 1, launch());
    assert_eq!(first.records.len(), 1);
    let record = machine.record().unwrap();
    assert_eq!(
        record.phase,
        Phase::MayLive(Suspect::Starting { plan: plan() })
    );
    assert!(first.replies.is_empty());

    let second = drive(&mut machine, spawned(spawn_op(&first)));
    assert_eq!(second.records.len(), 1);
    let Phase::MayLive(suspect) = machine.record().unwrap().phase else {
        panic!("{:?}", machine.record());
    };
    assert_eq!(suspect.process(), Some(PROCESS));
    assert!(matches!(
        second.world[..],
        [World::Watch { .. }, World::Connect { .. }]
    ));

    let op = connect_op(&second);
    let third = drive(
        &mut machine,
        Event::Answered {
            op,
            outcome: Ok(()),
        },
    );
    assert!(third.records.is_empty(), "nothing new is to be kept");
    assert!(matches!(
        third.replies[..],
        [(Waiter(1), Answer::Launched(_))]
    ));
    assert!(third.announce.is_empty());
}

#[test]
fn launching_the_same_vm_again_is_already_so_and_another_one_is_refused() {
    let (mut machine, _) = running();
    let before = machine.clone();
    let mut other = plan();
    other.spec.memory_mib = 512;

    let again = ask(&mut machine, 2, launch());

    assert!(matches!(
        again.replies[..],
        [(Waiter(2), Answer::Launched(_))]
    ));
    assert_eq!(machine, before);
    let refused = denied(&mut machine, Command::Launch(Box::new(other)));
    assert_eq!(refused, Denied::OtherVm);
}

#[test]
fn a_spawn_that_fails_leaves_no_record_and_no_notice() {
    let mut machine = machine();
    let batch = ask(&mut machine, 1, launch());
    let op = spawn_op(&batch);
    let outcome = Err(failure());

    let batch = drive(&mut machine, Event::Spawned { op, outcome });

    assert_eq!(batch.replies, [(Waiter(1), Answer::Failed(failure()))]);
    assert_eq!(batch.world, [World::Forget]);
    assert!(batch.announce.is_empty());
    assert_eq!(machine.record(), None);
}

#[test]
fn a_vmm_that_never_answers_is_killed_before_its_caller_hears_why() {
    let mut machine = machine();
    let (watch, op) = connecting(&mut machine);
    let outcome = Err(failure());

    let killing = drive(&mut machine, Event::Answered { op, outcome });
    assert!(killing.replies.is_empty());
    kill_op(&killing);
    assert!(machine.record().is_some());

    let exit = exit(ExitHow::Signal(9));
    let gone = drive(&mut machine, Event::Ended { op: watch, exit });
    assert_eq!(gone.replies, [(Waiter(1), Answer::Failed(failure()))]);
    assert!(gone.announce.is_empty());
    assert_eq!(machine.state(), &State::Idle);
}

#[test]
fn a_vmm_that_ends_before_it_answers_fails_the_launch_with_its_last_words() {
    let mut machine = machine();
    let (watch, connect) = connecting(&mut machine);
    let exit = exit(ExitHow::Code(1));

    let gone = drive(&mut machine, Event::Ended { op: watch, exit });

    let [(Waiter(1), Answer::Failed(why))] = &gone.replies[..] else {
        panic!("{gone:?}");
    };
    assert!(
        why.to_string().ends_with("(exit code 1): last words"),
        "{why}"
    );
    assert_eq!(machine.record(), None);
    let outcome = Err(failure());
    let late = drive(
        &mut machine,
        Event::Answered {
            op: connect,
            outcome,
        },
    );
    assert!(late.is_empty());
}

#[test]
fn a_vm_stopped_while_its_vmm_is_spawned_is_killed_as_soon_as_it_exists() {
    let mut machine = machine();
    let batch = ask(&mut machine, 1, launch());
    let spawn = spawn_op(&batch);

    assert!(ask(&mut machine, 2, Command::Stop).is_empty());
    assert_eq!(denied(&mut machine, launch()), Denied::Stopping);
    let batch = drive(&mut machine, spawned(spawn));

    kill_op(&batch);
    let watch = watch_op(&batch);
    let exit = exit(ExitHow::Signal(9));
    let gone = drive(&mut machine, Event::Ended { op: watch, exit });
    assert!(matches!(
        gone.replies[..],
        [(Waiter(1), Answer::Failed(_)), (Waiter(2), Answer::Done)]
    ));
    assert!(gone.announce.is_empty(), "a launch that failed is no end");
}

#[test]
fn a_stop_is_on_record_before_the_kill_and_answered_when_the_process_is_gone() {
    let (mut machine, watch) = running();

    let killing = ask(&mut machine, 2, Command::Stop);
    assert_eq!(killing.records.len(), 1);
    let op = kill_op(&killing);
    let outcome = Ok(());
    assert!(drive(&mut machine, Event::Killed { op, outcome }).is_empty());

    let exit = exit(ExitHow::Signal(9));
    let gone = drive(&mut machine, Event::Ended { op: watch, exit });
    assert_eq!(gone.replies, [(Waiter(2), Answer::Done)]);
    assert_eq!(gone.announce, [Notice::Exited(VmExit::Stopped)]);
    assert_eq!(machine.record(), None);
}

#[test]
fn stopping_what_is_stopped_is_already_so() {
    let mut machine = machine();

    let batch = ask(&mut machine, 1, Command::Stop);

    assert_eq!(batch.replies, [(Waiter(1), Answer::Done)]);
    assert!(batch.records.is_empty() && batch.world.is_empty());
}

#[test]
fn a_kill_that_does_not_help_is_said_and_tried_again_by_the_next_stop() {
    let (mut machine, watch) = running();
    let op = kill_op(&ask(&mut machine, 2, Command::Stop));
    let outcome = Err(failure());

    let failed = drive(&mut machine, Event::Killed { op, outcome });
    assert_eq!(failed.replies, [(Waiter(2), Answer::Failed(failure()))]);
    assert!(machine.record().is_some(), "it may live still");

    let again = kill_op(&ask(&mut machine, 3, Command::Stop));
    assert_ne!(again, op);
    let exit = exit(ExitHow::Signal(9));
    let gone = drive(&mut machine, Event::Ended { op: watch, exit });
    assert_eq!(gone.replies, [(Waiter(3), Answer::Done)]);
}

#[test]
fn each_way_to_end_by_itself_is_told_with_its_reason() {
    let stderr = "last words".to_owned();
    let console = "last console line".to_owned();
    let crashed = |status: &str| VmExit::Crashed {
        status: status.into(),
        stderr: stderr.clone(),
    };
    let panicked = VmExit::GuestPanic { console };
    for (how, told) in [
        (ExitHow::PoweredOff, VmExit::PoweredOff),
        (ExitHow::Reset, panicked.clone()),
        (ExitHow::Panicked, panicked),
        (ExitHow::Code(1), crashed("exit code 1")),
        (ExitHow::Signal(9), crashed("signal 9")),
        (ExitHow::Unknown, crashed("exit status unknown")),
        (
            ExitHow::ChannelLost,
            VmExit::ChannelLost {
                said: stderr.clone(),
            },
        ),
    ] {
        let (mut machine, watch) = running();

        let exit = exit(how);
        let gone = drive(&mut machine, Event::Ended { op: watch, exit });

        assert_eq!(gone.announce, [Notice::Exited(told.clone())]);
        assert_eq!(machine.record().unwrap().phase, Phase::Ended(told));
        assert_eq!(machine.status(), None);
        let cleared = ask(&mut machine, 9, Command::Stop);
        assert_eq!(cleared.replies, [(Waiter(9), Answer::Done)]);
        assert_eq!(machine.record(), None);
    }
}

#[test]
fn a_sandbox_may_have_another_vm_after_one_ended() {
    let (mut machine, watch) = running();
    let exit = exit(ExitHow::PoweredOff);
    drive(
        &mut machine,
        Event::Ended {
            op: watch,
            exit: exit.clone(),
        },
    );

    let batch = ask(&mut machine, 5, launch());
    let spawn = spawn_op(&batch);
    assert!(drive(&mut machine, Event::Ended { op: watch, exit }).is_empty());

    let batch = drive(&mut machine, spawned(spawn));
    assert_ne!(watch_op(&batch), watch);
}
