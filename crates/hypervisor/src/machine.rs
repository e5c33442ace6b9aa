//! One VM's life as a pure machine: no clock, no process, no QMP, no actor, no store.
//!
//! ```text
//!           Launch          Spawned ok           Answered ok
//!   Idle ───────────► Spawning ───► Connecting ───────► Running ──────────► Ended
//!    ▲                   │            ▲     │              │    by itself     │
//!    │ Spawned failed    │            │     │ no answer    │ Stop             │
//!    ├───────────────────┘      Found │     ▼              ▼                  │ Stop
//!    │                                │   Ending ◄─────────┘                  │
//!    │            its process is gone │     │                                 │
//!    └────────────────────────────────┼─────┴─────────────────────────────────┘
//!          rebuilt from a record: Adopting
//! ```
//!
//! Invariants:
//! - A VMM that may live is on record: as about to start before it is spawned, with its pid and
//!   start time before anything else is done with it, and until its end was seen.
//! - A VMM that may live is never started again: what is on record is looked for first.
//! - The end of a VMM is seen in one way only, by [`Event::Ended`]; killing merely hastens it.
//! - After a rebuild from a record the sandbox hears exactly one of `Adopted` and `Exited`.
//! - Who has which port is on record with who has it: a rebuilt machine is told, and lends it to nobody else.
//!
//! How a VM ends is in `ending.rs`, what a running one lends in `lending.rs`, what a rebuilt
//! machine does in `adoption.rs`.

use crate::{
    blocks::Blocks,
    events::{Answer, Command, Denied, Event, Notice, Turn, World},
    layout::Layout,
    port::LaunchPlan,
    record::{BlockRecord, HypervisorRecord, Phase, Plugged, StartedRecord, Suspect, key},
    streams::Streams,
};
use runtime_core::{
    error::{Fault, fault},
    hypervisor::{BlockSpec, VmExit, VmStatus},
    ids::{HostProcess, OpId, SandboxUid},
    kit::{self, Waiter},
    records,
};
use std::collections::{BTreeMap, BTreeSet};

/// Commands that wait while a VM is launched or adopted: as many as a sandbox admits at once.
pub(crate) const HELD_MAX: usize = 64;

pub(crate) type Batch = kit::Batch<Hypervisor>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No VM, and nothing left of one.
    Idle,
    /// Rebuilt: what is on record is being looked for.
    Adopting {
        op: OpId,
        attempt: u32,
        suspect: Suspect,
        /// The ports that processes have.
        leased: BTreeSet<u32>,
        held: Vec<Held>,
    },
    Spawning {
        op: OpId,
        plan: LaunchPlan,
        waiting: Waiting,
        held: Vec<Held>,
    },
    Connecting {
        op: OpId,
        vm: Vm,
        whose: Whose,
        held: Vec<Held>,
    },
    Running {
        vm: Vm,
        streams: Streams,
        blocks: Blocks,
        gait: Gait,
    },
    Ending(Ending),
    /// It ended by itself; the sandbox was told and has not cleared it away yet.
    Ended(VmExit),
}

/// Whether the guest's processors are being stopped, or let go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gait {
    Steady,
    Turning {
        op: OpId,
        turn: Turn,
        waiters: Vec<Waiter>,
    },
}

/// A command that waits for the VM to run.
pub(crate) type Held = (Waiter, Command);

/// A VMM that is known to have lived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    pub plan: LaunchPlan,
    pub process: HostProcess,
    /// Names the watch for its end.
    pub(crate) watch: OpId,
}

/// Who waits for the outcome of a launch, and who for its undoing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    pub(crate) launchers: Vec<Waiter>,
    pub(crate) stoppers: Vec<Waiter>,
}

/// Why a VMM's first answer is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    Launch(Vec<Waiter>),
    Adoption {
        leased: BTreeSet<u32>,
        blocks: BTreeMap<u32, BlockRecord>,
    },
}

/// A VMM that is to go, or of which only the end is still to be learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub(crate) plan: LaunchPlan,
    pub(crate) process: Option<HostProcess>,
    pub(crate) watch: OpId,
    pub(crate) kill: Kill,
    pub(crate) cause: Cause,
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    Sent(OpId),
    /// It did not help; the next Stop tries again.
    Failed,
    /// It is gone already.
    NotNeeded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Ordered,
    LaunchFailed(Fault),
    AdoptionFailed(Fault),
    Vanished,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hypervisor {
    uid: SandboxUid,
    boot_id: String,
    pub(crate) state: State,
    pub(crate) ops: Ops,
}

/// Issues the names of operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ops(u64);

impl Ops {
    pub fn issue(&mut self) -> OpId {
        self.0 += 1;
        OpId(self.0)
    }
}

impl kit::Machine for Hypervisor {
    type Event = Event;
    type World = World;
    type Notice = Notice;
    type Answer = Answer;
    type Denied = Denied;

    fn on(&mut self, event: Event, batch: &mut Batch) -> Result<(), Denied> {
        let before = self.record();
        match event {
            Event::Asked { waiter, command } => self.asked(waiter, command, batch)?,
            Event::Adopt => self.adopt(batch),
            Event::RetryDue { op } => self.look_again(op, batch),
            Event::Found { op, outcome } => self.found(op, outcome, batch),
            Event::Spawned { op, outcome } => self.spawned(op, outcome, batch),
            Event::Answered { op, outcome } => self.answered(op, outcome, batch),
            Event::Killed { op, outcome } => self.killed(op, outcome, batch),
            Event::Ended { op, exit } => self.ended(op, exit, batch),
            Event::StreamAdded { op, outcome } => self.stream_added(op, outcome, batch),
            Event::BlockAttached { op, outcome } => self.block_attached(op, outcome, batch),
            Event::BlockDetached { op, outcome } => self.block_detached(op, outcome, batch),
            Event::Turned { op, outcome } => self.turned(op, outcome, batch),
        }
        let after = self.record();
        if before != after {
            let key = key(self.uid);
            batch.records.push(match &after {
                Some(record) => records::put(key, record),
                None => records::delete(key),
            });
        }
        Ok(())
    }

    fn refuse(denied: Denied) -> Answer {
        Answer::Failed(fault(&denied))
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::Idle => "idle",
            State::Adopting { .. } => "adopting",
            State::Spawning { .. } => "spawning",
            State::Connecting { .. } => "connecting",
            State::Running { .. } => "running",
            State::Ending(_) => "ending",
            State::Ended(_) => "ended",
        }
    }
}

impl Hypervisor {
    /// A sandbox that never had a VM.
    pub fn new(uid: SandboxUid, boot_id: String) -> Self {
        Self {
            uid,
            boot_id,
            state: State::Idle,
            ops: Ops::default(),
        }
    }

    /// One that may have a VM, of which processes have these ports. Its first event is [`Event::Adopt`].
    pub fn rebuilt(
        uid: SandboxUid,
        boot_id: String,
        record: HypervisorRecord,
        leased: BTreeSet<u32>,
    ) -> Self {
        let same_boot = record.boot_id == boot_id;
        let mut machine = Self::new(uid, boot_id);
        machine.state = match record.phase {
            Phase::Ended(exit) => State::Ended(exit),
            Phase::MayLive(Suspect::Stopping { .. }) if !same_boot => State::Ended(VmExit::Stopped),
            Phase::MayLive(_) if !same_boot => State::Ended(VmExit::HostRestarted),
            Phase::MayLive(suspect) => State::Adopting {
                op: machine.ops.issue(),
                attempt: 1,
                suspect,
                leased,
                held: Vec::new(),
            },
        };
        machine
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// What a running VM offers.
    pub fn status(&self) -> Option<VmStatus> {
        match &self.state {
            State::Running { vm, .. } => Some(status(vm)),
            State::Idle
            | State::Adopting { .. }
            | State::Spawning { .. }
            | State::Connecting { .. }
            | State::Ending(_)
            | State::Ended(_) => None,
        }
    }

    /// What the store keeps of this state; nothing of a state that leaves nothing behind.
    pub fn record(&self) -> Option<HypervisorRecord> {
        let phase = match &self.state {
            State::Idle => return None,
            State::Ended(exit) => Phase::Ended(exit.clone()),
            State::Adopting { suspect, .. } => Phase::MayLive(suspect.clone()),
            State::Spawning { plan, .. } => {
                Phase::MayLive(Suspect::Starting { plan: plan.clone() })
            }
            State::Connecting { vm, whose, .. } => match whose {
                Whose::Launch(_) => started(vm, plugged_at_boot(vm)),
                Whose::Adoption { blocks, .. } => started(vm, blocks.clone()),
            },
            State::Running { vm, blocks, .. } => started(vm, blocks.record()),
            State::Ending(ending) => Phase::MayLive(Suspect::Stopping {
                plan: ending.plan.clone(),
                process: ending.process,
            }),
        };
        Some(HypervisorRecord {
            boot_id: self.boot_id.clone(),
            phase,
        })
    }

    pub(crate) fn asked(
        &mut self,
        waiter: Waiter,
        command: Command,
        batch: &mut Batch,
    ) -> Result<(), Denied> {
        match command {
            Command::Launch(plan) => self.launch(waiter, plan, batch),
            Command::Stop => {
                self.stop(waiter, batch);
                Ok(())
            }
            Command::LeaseStream
            | Command::ReturnStream { .. }
            | Command::AttachBlock(_)
            | Command::DetachBlock { .. }
            | Command::Turn(_) => self.use_vm(waiter, command, batch),
        }
    }

    fn launch(
        &mut self,
        waiter: Waiter,
        plan: Box<LaunchPlan>,
        batch: &mut Batch,
    ) -> Result<(), Denied> {
        match &mut self.state {
            State::Idle | State::Ended(_) => {
                let op = self.ops.issue();
                self.state = State::Spawning {
                    op,
                    plan: (*plan).clone(),
                    waiting: Waiting {
                        launchers: vec![waiter],
                        stoppers: Vec::new(),
                    },
                    held: Vec::new(),
                };
                batch.world.push(World::Spawn { op, plan });
            }
            State::Spawning { waiting, .. } if !waiting.stoppers.is_empty() => {
                return Err(Denied::Stopping);
            }
            State::Spawning {
                plan: ours,
                waiting,
                ..
            } if *ours == *plan => waiting.launchers.push(waiter),
            State::Connecting {
                vm,
                whose: Whose::Launch(launchers),
                ..
            } if vm.plan == *plan => launchers.push(waiter),
            State::Running { vm, .. } if vm.plan == *plan => {
                batch.replies.push((waiter, Answer::Launched(status(vm))));
            }
            State::Adopting { held, .. }
            | State::Connecting {
                whose: Whose::Adoption { .. },
                held,
                ..
            } => hold(held, waiter, Command::Launch(plan))?,
            State::Spawning { .. } | State::Connecting { .. } | State::Running { .. } => {
                return Err(Denied::OtherVm);
            }
            State::Ending(_) => return Err(Denied::Stopping),
        }
        Ok(())
    }

    fn spawned(&mut self, done: OpId, outcome: Result<HostProcess, Fault>, batch: &mut Batch) {
        let State::Spawning {
            op,
            plan,
            waiting,
            held,
        } = &mut self.state
        else {
            return;
        };
        if *op != done {
            return;
        }
        let (plan, waiting) = (plan.clone(), std::mem::take(waiting));
        let mut held = std::mem::take(held);
        match outcome {
            Err(why) => {
                self.state = State::Idle;
                batch.world.push(World::Forget);
                reply_all(waiting.launchers, &Answer::Failed(why), batch);
                reply_all(waiting.stoppers, &Answer::Done, batch);
            }
            Ok(process) => {
                let watch = self.ops.issue();
                batch.world.push(World::Watch { op: watch });
                let vm = Vm {
                    plan,
                    process,
                    watch,
                };
                if waiting.stoppers.is_empty() {
                    let whose = Whose::Launch(waiting.launchers);
                    self.connect(vm, whose, std::mem::take(&mut held), batch);
                } else {
                    self.kill(vm, Cause::Ordered, waiting, batch);
                }
            }
        }
        self.replay(held, batch);
    }

    pub(crate) fn connect(&mut self, vm: Vm, whose: Whose, held: Vec<Held>, batch: &mut Batch) {
        let op = self.ops.issue();
        batch.world.push(World::Connect { op });
        self.state = State::Connecting {
            op,
            vm,
            whose,
            held,
        };
    }

    fn answered(&mut self, done: OpId, outcome: Result<(), Fault>, batch: &mut Batch) {
        let State::Connecting {
            op,
            vm,
            whose,
            held,
        } = &mut self.state
        else {
            return;
        };
        if *op != done {
            return;
        }
        let (vm, whose, held) = (vm.clone(), whose.clone(), std::mem::take(held));
        match (outcome, whose) {
            (Ok(()), Whose::Launch(launchers)) => {
                reply_all(launchers, &Answer::Launched(status(&vm)), batch);
                let blocks = plugged_at_boot(&vm);
                self.run(vm, BTreeSet::new(), blocks, batch);
            }
            (Ok(()), Whose::Adoption { leased, blocks }) => {
                batch.announce.push(Notice::Adopted(status(&vm)));
                self.run(vm, leased, blocks, batch);
            }
            (Err(why), Whose::Launch(launchers)) => {
                let stoppers = Vec::new();
                let waiting = Waiting {
                    launchers,
                    stoppers,
                };
                self.kill(vm, Cause::LaunchFailed(why), waiting, batch);
            }
            (Err(why), Whose::Adoption { .. }) => {
                self.kill(vm, Cause::AdoptionFailed(why), Waiting::default(), batch);
            }
        }
        self.replay(held, batch);
    }

    fn run(
        &mut self,
        vm: Vm,
        leased: BTreeSet<u32>,
        blocks: BTreeMap<u32, BlockRecord>,
        batch: &mut Batch,
    ) {
        let fixed = vm.plan.fixed().cloned().collect();
        let ops = &mut self.ops;
        let (blocks, unsettled) = Blocks::adopted(vm.plan.slots, fixed, blocks, || ops.issue());
        for (op, serial) in unsettled {
            batch.world.push(World::DetachBlock { op, serial });
        }
        let streams = Streams::new(vm.plan.ports, leased);
        self.state = State::Running {
            vm,
            streams,
            blocks,
            gait: Gait::Steady,
        };
        self.refill(batch);
    }

    /// Commands that waited for a state that is reached now.
    pub(crate) fn replay(&mut self, held: Vec<Held>, batch: &mut Batch) {
        // What was held for a VM that is gone goes with it: a number that is given back must not
        // be taken from the next VM, which another held command may launch.
        let is_gone = matches!(self.state, State::Idle | State::Ended(_));
        let of_the_gone = |command: &Command| {
            is_gone
                && matches!(
                    command,
                    Command::ReturnStream { .. } | Command::DetachBlock { .. }
                )
        };
        let (over, held): (Vec<Held>, Vec<Held>) = held
            .into_iter()
            .partition(|(_, command)| of_the_gone(command));
        reply_all(
            over.into_iter().map(|(waiter, _)| waiter).collect(),
            &Answer::Done,
            batch,
        );
        for (waiter, command) in held {
            if let Err(denied) = self.asked(waiter, command, batch) {
                let answer = <Self as kit::Machine>::refuse(denied);
                batch.replies.push((waiter, answer));
            }
        }
    }
}

pub(crate) fn hold(held: &mut Vec<Held>, waiter: Waiter, command: Command) -> Result<(), Denied> {
    if held.len() >= HELD_MAX {
        let max = HELD_MAX;
        return Err(Denied::TooManyWait { max });
    }
    held.push((waiter, command));
    Ok(())
}

pub(crate) fn reply_all(waiters: Vec<Waiter>, answer: &Answer, batch: &mut Batch) {
    let replies = waiters.into_iter().map(|waiter| (waiter, answer.clone()));
    batch.replies.extend(replies);
}

fn plugged_at_boot(vm: &Vm) -> BTreeMap<u32, BlockRecord> {
    let record = |block: &BlockSpec| BlockRecord {
        block: block.clone(),
        plugged: Plugged::Yes,
    };
    let slots = vm.plan.in_slots();
    slots.map(|(slot, block)| (slot, record(block))).collect()
}

fn started(vm: &Vm, blocks: BTreeMap<u32, BlockRecord>) -> Phase {
    Phase::MayLive(Suspect::Started(StartedRecord {
        plan: vm.plan.clone(),
        process: vm.process,
        blocks,
    }))
}

fn status(vm: &Vm) -> VmStatus {
    VmStatus {
        vmm: vm.process,
        control: Layout::of(&vm.plan.spec).control_endpoint(),
    }
}

#[cfg(test)]
mod tests;
