//! The table of the machine, row by row, and a model that it is held against.

use super::*;
use crate::{
    port::{Exit, ExitHow, PortPlan},
    record::{HypervisorRecord, Plugged},
};
use proptest::prelude::*;
use runtime_core::{
    error::Kind,
    hypervisor::{
        Accelerator, BlockSpec, ChannelKind, MachineType, StdioKind, StreamLease, VmSpec,
    },
    kit::Machine,
    premises::Cgroup,
};

const PROCESS: HostProcess = HostProcess {
    pid: 77,
    start_time: 770,
};

fn plan() -> LaunchPlan {
    LaunchPlan {
        spec: VmSpec {
            uid: SandboxUid::from_random(1),
            folder: "/run/hutch/s/1".into(),
            kernel: "/kernel".into(),
            initrd: Some("/initrd".into()),
            stdio: StdioKind::Ports,
            kernel_params: Vec::new(),
            vcpus: 1,
            memory_mib: 128,
            machine: MachineType::Q35,
            accelerator: Accelerator::Tcg,
            channel: ChannelKind::Serial,
            cgroup: Cgroup("/hutch/1/vmm".into()),
            netns: None,
            share_socket: None,
            blocks: Vec::new(),
            own_blocks: 0,
        },
        ports: PortPlan { cold: 2, max: 4 },
        slots: 2,
    }
}

fn block(serial: &str) -> BlockSpec {
    BlockSpec {
        serial: serial.into(),
        path: "/image".into(),
        read_only: true,
    }
}

fn machine() -> Hypervisor {
    Hypervisor::new(SandboxUid::from_random(1), "boot".into())
}

fn drive(machine: &mut Hypervisor, event: Event) -> Batch {
    let mut batch = Batch::default();
    machine.on(event, &mut batch).expect("event accepted");
    batch
}

fn ask(machine: &mut Hypervisor, waiter: u64, command: Command) -> Batch {
    let waiter = Waiter(waiter);
    drive(machine, Event::Asked { waiter, command })
}

fn launch() -> Command {
    Command::Launch(Box::new(plan()))
}

fn denied(machine: &mut Hypervisor, command: Command) -> Denied {
    let before = machine.clone();
    let mut batch = Batch::default();
    let waiter = Waiter(99);
    let verdict = machine.on(Event::Asked { waiter, command }, &mut batch);
    assert!(batch.is_empty(), "{batch:?}");
    assert_eq!(*machine, before, "a denied command changes nothing");
    verdict.expect_err("refused")
}

fn exit(how: ExitHow) -> Exit {
    Exit {
        how,
        console: "last console line".into(),
        stderr: "last words".into(),
    }
}

fn failure() -> Fault {
    Fault::new(Kind::Timeout, "the world failed")
}

/// The operation that an effect of this batch names.
fn op(batch: &Batch, is: impl Fn(&World) -> Option<OpId>) -> OpId {
    batch
        .world
        .iter()
        .find_map(is)
        .expect("the effect is there")
}

fn spawn_op(batch: &Batch) -> OpId {
    op(batch, |w| match w {
        World::Spawn { op, .. } => Some(*op),
        _ => None,
    })
}

fn connect_op(batch: &Batch) -> OpId {
    op(batch, |w| match w {
        World::Connect { op } => Some(*op),
        _ => None,
    })
}

fn watch_op(batch: &Batch) -> OpId {
    op(batch, |w| match w {
        World::Watch { op } => Some(*op),
        _ => None,
    })
}

fn kill_op(batch: &Batch) -> OpId {
    op(batch, |w| match w {
        World::Kill { op } => Some(*op),
        _ => None,
    })
}

fn find_op(batch: &Batch) -> OpId {
    op(batch, |w| match w {
        World::Find { op, .. } => Some(*op),
        _ => None,
    })
}

fn spawned(op: OpId) -> Event {
    let outcome = Ok(PROCESS);
    Event::Spawned { op, outcome }
}

/// Launches; the operations of the watch and of the first answer.
fn connecting(machine: &mut Hypervisor) -> (OpId, OpId) {
    let batch = ask(machine, 1, launch());
    let batch = drive(machine, spawned(spawn_op(&batch)));
    (watch_op(&batch), connect_op(&batch))
}

/// A running VM, and the operation of its watch.
fn running() -> (Hypervisor, OpId) {
    let mut machine = machine();
    let (watch, op) = connecting(&mut machine);
    let outcome = Ok(());
    drive(&mut machine, Event::Answered { op, outcome });
    (machine, watch)
}

fn rebuilt(record: Option<HypervisorRecord>) -> Hypervisor {
    let record = record.expect("there is a record");
    Hypervisor::rebuilt(SandboxUid::from_random(1), "boot".into(), record)
}

fn leases(batch: &Batch) -> Vec<(u64, u32)> {
    let lease = |(waiter, answer): &(Waiter, Answer)| match answer {
        Answer::Leased(StreamLease { number, .. }) => Some((waiter.0, *number)),
        _ => None,
    };
    batch.replies.iter().filter_map(lease).collect()
}

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

#[test]
fn a_lease_is_on_record_before_it_is_given() {
    let (mut machine, _) = running();

    let batch = ask(&mut machine, 2, Command::LeaseStream);

    assert_eq!(leases(&batch), [(2, 1)]);
    assert_eq!(batch.records.len(), 1);
    let Phase::MayLive(Suspect::Started(record)) = machine.record().unwrap().phase else {
        panic!("{:?}", machine.record());
    };
    assert_eq!(record.leased, BTreeSet::from([1]));
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
    assert_eq!(back.records.len(), 1);
    let again = ask(&mut machine, 4, Command::ReturnStream { number: 1 });
    assert_eq!(again.replies, [(Waiter(4), Answer::Done)]);
    assert!(again.records.is_empty());

    assert_eq!(
        leases(&ask(&mut machine, 5, Command::LeaseStream)),
        [(5, 1)]
    );
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

#[test]
fn a_running_vm_is_adopted_with_its_leases_and_never_spawned_again() {
    let (mut before, _) = running();
    ask(&mut before, 2, Command::LeaseStream);
    let mut machine = rebuilt(before.record());

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

/// What the machine is held against: a host on which VMMs live and die, and what a caller may
/// expect. It knows nothing of the machine's states.
#[derive(Default)]
struct Model {
    /// A spawn is outstanding.
    spawning: Option<OpId>,
    /// A VMM lives.
    lives: bool,
    watch: Option<OpId>,
    /// Everything outstanding, as it will come home.
    pending: Vec<World>,
    waiting: BTreeSet<Waiter>,
    leased: BTreeSet<u32>,
    waiters_issued: u64,
    exits_told: u32,
    vms: u32,
}

#[derive(Debug, Clone)]
enum Step {
    Launch,
    Lease,
    Return(u32),
    Attach(bool),
    Detach(bool),
    Turn(bool),
    Stop,
    /// Something outstanding comes home: which, and whether well.
    Home(usize, bool),
    /// The VMM dies by itself.
    Dies,
    /// The daemon dies and comes back.
    Rebuild,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let home = (
        any::<u16>().prop_map(usize::from),
        prop::bool::weighted(0.85),
    );
    let step = prop_oneof![
        2 => Just(Step::Launch),
        3 => Just(Step::Lease),
        2 => (1..5u32).prop_map(Step::Return),
        1 => any::<bool>().prop_map(Step::Attach),
        1 => any::<bool>().prop_map(Step::Detach),
        2 => any::<bool>().prop_map(Step::Turn),
        1 => Just(Step::Stop),
        10 => home.prop_map(|(which, well)| Step::Home(which, well)),
        1 => Just(Step::Dies),
        1 => Just(Step::Rebuild),
    ];
    prop::collection::vec(step, 1..120)
}

impl Model {
    fn ask(&mut self, machine: &mut Hypervisor, command: Command) {
        self.waiters_issued += 1;
        let waiter = Waiter(self.waiters_issued);
        let before = machine.clone();
        let mut batch = Batch::default();
        match machine.on(Event::Asked { waiter, command }, &mut batch) {
            Ok(()) => {
                self.waiting.insert(waiter);
                self.take(machine, batch);
            }
            Err(_) => {
                assert!(batch.is_empty());
                assert_eq!(*machine, before);
            }
        }
    }

    fn event(&mut self, machine: &mut Hypervisor, event: Event) {
        let mut batch = Batch::default();
        machine
            .on(event, &mut batch)
            .expect("only commands are denied");
        self.take(machine, batch);
    }

    fn take(&mut self, machine: &Hypervisor, batch: Batch) {
        for effect in batch.world {
            match &effect {
                World::Spawn { op, .. } => {
                    assert!(!self.lives, "a VMM that lives is never started again");
                    assert_eq!(self.spawning, None, "one at a time");
                    self.spawning = Some(*op);
                    self.leased.clear();
                }
                World::Watch { op } => self.watch = Some(*op),
                World::Forget => {
                    assert!(!self.lives && self.spawning.is_none(), "only what is gone");
                    continue;
                }
                _ => {}
            }
            self.pending.push(effect);
        }
        for (waiter, answer) in batch.replies {
            assert!(self.waiting.remove(&waiter), "each is answered once");
            if let Answer::Leased(lease) = answer {
                assert!(self.leased.insert(lease.number), "nobody else has it");
            }
        }
        for notice in batch.announce {
            if let Notice::Exited(_) = notice {
                assert!(!self.lives, "told after it is gone");
                self.exits_told += 1;
            }
        }
        let may_live = self.lives || self.spawning.is_some();
        let on_record = matches!(
            machine.record().map(|record| record.phase),
            Some(Phase::MayLive(_))
        );
        assert!(!may_live || on_record, "what may live is on record");
    }

    /// One outstanding thing comes home.
    fn home(&mut self, machine: &mut Hypervisor, which: usize, well: bool) {
        if self.pending.is_empty() {
            return;
        }
        let effect = self.pending.remove(which % self.pending.len());
        let outcome = if well { Ok(()) } else { Err(failure()) };
        let event = match effect {
            World::Spawn { op, .. } => {
                self.spawning = None;
                self.lives = well;
                self.vms += u32::from(well);
                let outcome = outcome.map(|()| PROCESS);
                Event::Spawned { op, outcome }
            }
            World::Find { op, .. } => {
                let outcome = outcome.map(|()| self.lives.then_some(PROCESS));
                Event::Found { op, outcome }
            }
            World::Connect { op } => {
                let outcome = if self.lives { outcome } else { Err(failure()) };
                Event::Answered { op, outcome }
            }
            World::Watch { op } if self.lives => {
                // Not yet.
                return self.pending.push(World::Watch { op });
            }
            World::Watch { op } => {
                let exit = exit(ExitHow::Unknown);
                Event::Ended { op, exit }
            }
            World::Kill { op } => {
                self.lives = self.lives && !well;
                Event::Killed { op, outcome }
            }
            World::AddStream { op, .. } => Event::StreamAdded { op, outcome },
            World::AttachBlock { op, .. } => Event::BlockAttached { op, outcome },
            World::DetachBlock { op, .. } => Event::BlockDetached { op, outcome },
            World::Turn { op, .. } => Event::Turned { op, outcome },
            World::Wait { op, .. } => Event::RetryDue { op },
            World::Forget => return,
        };
        self.event(machine, event);
    }

    fn step(&mut self, machine: &mut Hypervisor, step: &Step) {
        let serial = |which: bool| if which { "a" } else { "b" }.to_owned();
        match step {
            Step::Launch => self.ask(machine, launch()),
            Step::Lease => self.ask(machine, Command::LeaseStream),
            Step::Return(number) => {
                let number = *number;
                // Callers return what they have.
                if self.leased.remove(&number) {
                    self.ask(machine, Command::ReturnStream { number });
                }
            }
            Step::Attach(which) => self.ask(machine, Command::AttachBlock(block(&serial(*which)))),
            Step::Detach(which) => {
                let serial = serial(*which);
                self.ask(machine, Command::DetachBlock { serial });
            }
            Step::Turn(pauses) => {
                let turn = if *pauses { Turn::Pause } else { Turn::Resume };
                self.ask(machine, Command::Turn(turn));
            }
            Step::Stop => self.ask(machine, Command::Stop),
            Step::Home(which, well) => self.home(machine, *which, *well),
            Step::Dies => self.lives = false,
            Step::Rebuild => self.rebuild(machine),
        }
    }

    /// A spawn that was under way happens or does not; every other operation is nobody's now.
    fn rebuild(&mut self, machine: &mut Hypervisor) {
        if self.spawning.take().is_some() {
            self.lives = self.pending.len().is_multiple_of(2);
            self.vms += u32::from(self.lives);
        }
        self.pending.clear();
        self.waiting.clear();
        let uid = SandboxUid::from_random(1);
        *machine = match machine.record() {
            None => Hypervisor::new(uid, "boot".into()),
            Some(record) => Hypervisor::rebuilt(uid, "boot".into(), record),
        };
        self.event(machine, Event::Adopt);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_vmm_is_lost_or_doubled_and_everybody_is_answered(steps in steps()) {
        let mut machine = machine();
        let mut model = Model::default();

        for step in &steps {
            model.step(&mut machine, step);
        }
        // Faults stop: what is outstanding comes home, and a last stop clears everything.
        let settle = |model: &mut Model, machine: &mut Hypervisor| {
            for _ in 0..400 {
                // The oldest first.
                model.home(machine, 0, true);
            }
        };
        settle(&mut model, &mut machine);
        model.ask(&mut machine, Command::Stop);
        settle(&mut model, &mut machine);

        prop_assert!(model.waiting.is_empty(), "unanswered: {:?} in {machine:?}", model.waiting);
        prop_assert!(!model.lives, "left behind: {machine:?}");
        prop_assert_eq!(machine.record(), None);
        prop_assert_eq!(machine.state(), &State::Idle);
    }
}
