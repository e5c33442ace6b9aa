//! The part of [`Container`] that leaves its guest: once it has stopped and was read, whoever deletes it need not wait
//! for that.

use super::{
    events::World,
    machine::{Container, State},
};
use crate::{
    error::Fault,
    ids::{OpId, ProcessId},
    kit::{Batch, Waiter},
};

/// What a stopped container has in its guest and of its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongings {
    /// All that it had; a daemon that begins knows no better.
    There,
    /// They go when the last of its execs is over and was read.
    Awaited,
    Leaving {
        op: OpId,
    },
    Gone,
}

impl Container {
    /// Its sandbox goes on without it.
    pub(super) fn leave(&mut self, batch: &mut Batch<Self>) {
        if self.belongings == Belongings::There {
            self.belongings = Belongings::Awaited;
            self.leave_if_over(batch);
        }
    }

    pub(super) fn leave_if_over(&mut self, batch: &mut Batch<Self>) {
        let awaited = self.belongings == Belongings::Awaited;
        if !awaited || !matches!(self.state, State::Stopped(_)) {
            return;
        }
        let mut execs = self.members.keys().filter(|id| **id != ProcessId::Init);
        if execs.all(|exec| self.over.contains(exec)) {
            let op = self.next_op();
            self.belongings = Belongings::Leaving { op };
            batch.world.push(World::Leave { op });
        }
    }

    /// What did not leave does when it is deleted.
    pub(super) fn departed(
        &mut self,
        op: OpId,
        outcome: Result<bool, Fault>,
        batch: &mut Batch<Self>,
    ) {
        if self.belongings != (Belongings::Leaving { op }) {
            return;
        }
        self.belongings = match outcome {
            Ok(true) => Belongings::Gone,
            Ok(false) | Err(_) => Belongings::There,
        };
        if let State::Removing {
            op: awaited,
            waiters,
        } = &self.state
            && *awaited == op
        {
            let waiters = waiters.clone();
            self.take_out(waiters, batch);
        }
    }

    /// Out of guest, VM and host, whatever of it is still there.
    pub(super) fn take_out(&mut self, waiters: Vec<Waiter>, batch: &mut Batch<Self>) {
        match self.belongings {
            // Its end is waited for.
            Belongings::Leaving { op } => self.state = State::Removing { op, waiters },
            Belongings::Gone if self.spec.cgroup.is_none() => self.finish(waiters, batch),
            Belongings::There | Belongings::Awaited | Belongings::Gone => {
                let op = self.next_op();
                self.state = State::Removing { op, waiters };
                batch.world.push(World::Remove { op });
            }
        }
    }
}
