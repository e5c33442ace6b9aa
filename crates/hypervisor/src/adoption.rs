//! What a machine does that was rebuilt from a record: find what lives, take it up or see its
//! end. It never starts anything. Part of the machine.

use crate::{
    events::{Notice, World},
    machine::{Batch, Cause, Ending, Hypervisor, Kill, State, Vm, Waiting, Whose},
    record::Suspect,
};
use runtime_core::{
    error::Fault,
    ids::{HostProcess, OpId},
};
use std::{collections::BTreeSet, time::Duration};

/// Looking for a VMM reads /proc and cgroups; where that fails it is a moment's shortage. It is
/// looked for as long as it takes: what may live must never be told to be gone.
const FIND_RETRY_DELAY: Duration = Duration::from_secs(1);
/// After so many attempts it is no moment's shortage, and looking must not make it worse.
const FIND_ATTEMPTS_QUICK: u32 = 5;
const FIND_RETRY_DELAY_LONG: Duration = Duration::from_secs(10);

impl Hypervisor {
    /// On `Event::Adopt`.
    pub(crate) fn adopt(&mut self, batch: &mut Batch) {
        match &self.state {
            // Told again: whether it was heard is not on record.
            State::Ended(exit) => batch.announce.push(Notice::Exited(exit.clone())),
            State::Adopting { op, suspect, .. } => look(*op, suspect, batch),
            State::Idle
            | State::Spawning { .. }
            | State::Connecting { .. }
            | State::Running { .. }
            | State::Ending(_) => {}
        }
    }

    /// On `Event::RetryDue`.
    pub(crate) fn look_again(&mut self, due: OpId, batch: &mut Batch) {
        if let State::Adopting {
            op,
            attempt,
            suspect,
            ..
        } = &mut self.state
            && *op == due
        {
            *attempt += 1;
            *op = self.ops.issue();
            look(*op, suspect, batch);
        }
    }

    /// On `Event::Found`.
    pub(crate) fn found(
        &mut self,
        done: OpId,
        outcome: Result<Option<HostProcess>, Fault>,
        batch: &mut Batch,
    ) {
        let State::Adopting {
            op,
            attempt,
            suspect,
            leased,
            held,
        } = &mut self.state
        else {
            return;
        };
        if *op != done {
            return;
        }
        let lives = match outcome {
            Ok(lives) => lives,
            Err(_) => {
                *op = self.ops.issue();
                let delay = match *attempt < FIND_ATTEMPTS_QUICK {
                    true => FIND_RETRY_DELAY,
                    false => FIND_RETRY_DELAY_LONG,
                };
                let op = *op;
                return batch.world.push(World::Wait { op, delay });
            }
        };
        let (suspect, held) = (suspect.clone(), std::mem::take(held));
        let leased = std::mem::take(leased);
        match lives {
            Some(process) => self.take_up(suspect, leased, process, batch),
            None => self.see_its_end(&suspect, batch),
        }
        self.replay(held, batch);
    }

    fn take_up(
        &mut self,
        suspect: Suspect,
        leased: BTreeSet<u32>,
        process: HostProcess,
        batch: &mut Batch,
    ) {
        let watch = self.ops.issue();
        batch.world.push(World::Watch { op: watch });
        let plan = suspect.plan().clone();
        let vm = Vm {
            plan,
            process,
            watch,
        };
        let blocks = match suspect {
            Suspect::Stopping { .. } => {
                return self.kill(vm, Cause::Ordered, Waiting::default(), batch);
            }
            Suspect::Starting { .. } => Default::default(),
            Suspect::Started(record) => record.blocks,
        };
        let whose = Whose::Adoption { leased, blocks };
        self.connect(vm, whose, Vec::new(), batch);
    }

    /// It is gone; the watch says how, as far as anyone knows.
    fn see_its_end(&mut self, suspect: &Suspect, batch: &mut Batch) {
        let watch = self.ops.issue();
        batch.world.push(World::Watch { op: watch });
        let cause = match suspect {
            Suspect::Stopping { .. } => Cause::Ordered,
            Suspect::Starting { .. } | Suspect::Started(_) => Cause::Vanished,
        };
        self.state = State::Ending(Ending {
            plan: suspect.plan().clone(),
            process: suspect.process(),
            watch,
            kill: Kill::NotNeeded,
            cause,
            waiting: Waiting::default(),
        });
    }
}

fn look(op: OpId, suspect: &Suspect, batch: &mut Batch) {
    batch.world.push(World::Find {
        op,
        plan: Box::new(suspect.plan().clone()),
        recorded: suspect.process(),
    });
}
