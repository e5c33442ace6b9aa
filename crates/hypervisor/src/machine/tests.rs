//! The table of the machine, row by row, and a model that it is held against.

mod adoption;
mod lending;
mod life;
mod model;

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
    rebuilt_with(record, BTreeSet::new())
}

fn rebuilt_with(record: Option<HypervisorRecord>, leased: BTreeSet<u32>) -> Hypervisor {
    let record = record.expect("there is a record");
    Hypervisor::rebuilt(SandboxUid::from_random(1), "boot".into(), record, leased)
}

fn leases(batch: &Batch) -> Vec<(u64, u32)> {
    let lease = |(waiter, answer): &(Waiter, Answer)| match answer {
        Answer::Leased(StreamLease { number, .. }) => Some((waiter.0, *number)),
        _ => None,
    };
    batch.replies.iter().filter_map(lease).collect()
}
