//! What a running VM lends: stream ports and slots for block devices. Part of the machine.

use crate::{
    blocks::{Settled, Todo},
    events::{Answer, Command, Denied, Turn, World},
    layout::Layout,
    machine::{Batch, Gait, Hypervisor, State, hold, reply_all},
    port::LaunchPlan,
    streams::Wish,
};
use runtime_core::{
    error::Fault,
    hypervisor::{BlockSpec, StreamLease},
    ids::OpId,
    kit::Waiter,
};

/// The sandbox asks once, and once more for each rebuild while the first still waits.
const TURNS_MAX: usize = 8;

impl Hypervisor {
    pub(crate) fn use_vm(
        &mut self,
        waiter: Waiter,
        command: Command,
        batch: &mut Batch,
    ) -> Result<(), Denied> {
        match &mut self.state {
            State::Adopting { held, .. }
            | State::Spawning { held, .. }
            | State::Connecting { held, .. } => hold(held, waiter, command),
            State::Running { .. } => match command {
                Command::LeaseStream => self.lease(waiter, batch),
                Command::ReturnStream { number } => {
                    self.give_back(waiter, number, batch);
                    Ok(())
                }
                Command::AttachBlock(block) => self.attach(waiter, block, batch),
                Command::DetachBlock { serial } => self.detach(waiter, serial, batch),
                Command::Turn(turn) => self.turn(waiter, turn, batch),
                Command::Launch(_) | Command::Stop => self.asked(waiter, command, batch),
            },
            State::Ending(_) => of_no_vm(waiter, &command, Denied::Stopping, batch),
            State::Idle | State::Ended(_) => of_no_vm(waiter, &command, Denied::NotRunning, batch),
        }
    }

    fn lease(&mut self, waiter: Waiter, batch: &mut Batch) -> Result<(), Denied> {
        let State::Running { vm, streams, .. } = &mut self.state else {
            return Err(Denied::NotRunning);
        };
        match streams.ask(waiter) {
            Wish::Granted(number) => grant(&vm.plan, waiter, number, batch),
            Wish::Waits => {}
            Wish::Exhausted => {
                let max = streams.max();
                return Err(Denied::StreamsExhausted { max });
            }
        }
        self.refill(batch);
        Ok(())
    }

    fn give_back(&mut self, waiter: Waiter, number: u32, batch: &mut Batch) {
        if let State::Running { vm, streams, .. } = &mut self.state {
            if let Some((next, number)) = streams.give_back(number) {
                grant(&vm.plan, next, number, batch);
            }
            batch.replies.push((waiter, Answer::Done));
        }
    }

    pub(crate) fn refill(&mut self, batch: &mut Batch) {
        let ops = &mut self.ops;
        if let State::Running { streams, .. } = &mut self.state
            && let Some((op, number)) = streams.refill(|| ops.issue())
        {
            batch.world.push(World::AddStream { op, number });
        }
    }

    pub(crate) fn stream_added(&mut self, op: OpId, outcome: Result<(), Fault>, batch: &mut Batch) {
        let State::Running { vm, streams, .. } = &mut self.state else {
            return;
        };
        match outcome {
            Ok(()) => {
                if let Some((waiter, number)) = streams.added(op) {
                    grant(&vm.plan, waiter, number, batch);
                }
                self.refill(batch);
            }
            // Tried again when the next one asks: an answer that fails is better than none.
            Err(why) => {
                for waiter in streams.failed(op) {
                    batch.replies.push((waiter, Answer::Failed(why.clone())));
                }
            }
        }
    }

    fn attach(
        &mut self,
        waiter: Waiter,
        block: BlockSpec,
        batch: &mut Batch,
    ) -> Result<(), Denied> {
        let ops = &mut self.ops;
        let State::Running { blocks, .. } = &mut self.state else {
            return Err(Denied::NotRunning);
        };
        let todo = blocks.attach(&block, waiter, || ops.issue())?;
        match todo {
            Todo::AlreadySo => batch.replies.push((waiter, Answer::Done)),
            Todo::Wait => {}
            Todo::Do { op, slot } => batch.world.push(World::AttachBlock { op, slot, block }),
        }
        Ok(())
    }

    fn detach(&mut self, waiter: Waiter, serial: String, batch: &mut Batch) -> Result<(), Denied> {
        let ops = &mut self.ops;
        let State::Running { blocks, .. } = &mut self.state else {
            return Err(Denied::NotRunning);
        };
        let todo = blocks.detach(&serial, waiter, || ops.issue())?;
        match todo {
            Todo::AlreadySo => batch.replies.push((waiter, Answer::Done)),
            Todo::Wait => {}
            Todo::Do { op, .. } => batch.world.push(World::DetachBlock { op, serial }),
        }
        Ok(())
    }

    /// QEMU takes the same order twice; one that contradicts what is under way waits for nothing.
    fn turn(&mut self, waiter: Waiter, turn: Turn, batch: &mut Batch) -> Result<(), Denied> {
        let ops = &mut self.ops;
        let State::Running { gait, .. } = &mut self.state else {
            return Err(Denied::NotRunning);
        };
        match gait {
            Gait::Steady => {
                let op = ops.issue();
                let waiters = vec![waiter];
                *gait = Gait::Turning { op, turn, waiters };
                batch.world.push(World::Turn { op, turn });
                Ok(())
            }
            Gait::Turning {
                turn: now, waiters, ..
            } if *now == turn && waiters.len() < TURNS_MAX => {
                waiters.push(waiter);
                Ok(())
            }
            Gait::Turning { .. } => Err(Denied::Turning),
        }
    }

    pub(crate) fn turned(&mut self, done: OpId, outcome: Result<(), Fault>, batch: &mut Batch) {
        let State::Running { gait, .. } = &mut self.state else {
            return;
        };
        match std::mem::replace(gait, Gait::Steady) {
            Gait::Turning { op, waiters, .. } if op == done => {
                let answer = match outcome {
                    Ok(()) => Answer::Done,
                    Err(why) => Answer::Failed(why),
                };
                reply_all(waiters, &answer, batch);
            }
            // Stale.
            other => *gait = other,
        }
    }

    pub(crate) fn block_attached(
        &mut self,
        op: OpId,
        outcome: Result<(), Fault>,
        batch: &mut Batch,
    ) {
        let ops = &mut self.ops;
        if let State::Running { blocks, .. } = &mut self.state {
            let settled = blocks.attached(op, outcome.is_ok(), || ops.issue());
            settle(settled, outcome, batch);
        }
    }

    pub(crate) fn block_detached(
        &mut self,
        op: OpId,
        outcome: Result<(), Fault>,
        batch: &mut Batch,
    ) {
        if let State::Running { blocks, .. } = &mut self.state {
            let settled = blocks.detached(op, outcome.is_ok());
            settle(settled, outcome, batch);
        }
    }
}

/// What a VM that is not there held has been given back already.
fn of_no_vm(
    waiter: Waiter,
    command: &Command,
    denied: Denied,
    batch: &mut Batch,
) -> Result<(), Denied> {
    match command {
        Command::ReturnStream { .. } | Command::DetachBlock { .. } => {
            batch.replies.push((waiter, Answer::Done));
            Ok(())
        }
        Command::LeaseStream
        | Command::AttachBlock(_)
        | Command::Turn(_)
        | Command::Launch(_)
        | Command::Stop => Err(denied),
    }
}

fn grant(plan: &LaunchPlan, waiter: Waiter, number: u32, batch: &mut Batch) {
    let layout = Layout::of(&plan.spec);
    let lease = StreamLease {
        number,
        guest: layout.stream_name(number),
        host: layout.stream_endpoint(number),
    };
    batch.replies.push((waiter, Answer::Leased(lease)));
}

fn settle(settled: Settled, outcome: Result<(), Fault>, batch: &mut Batch) {
    let answer = match outcome {
        Ok(()) => Answer::Done,
        Err(why) => Answer::Failed(why),
    };
    for waiter in settled.waiters {
        batch.replies.push((waiter, answer.clone()));
    }
    if let Some((op, serial)) = settled.detach {
        batch.world.push(World::DetachBlock { op, serial });
    }
}
