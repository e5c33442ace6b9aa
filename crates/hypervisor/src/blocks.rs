//! The block devices of one VM: which slot holds what, and what is being done to it. A value.
//!
//! ```text
//!            attach            ok
//!   (free) ─────────► Attaching ────► Attached
//!      ▲                  │ failed       │ detach
//!      │ ok               ▼              ▼
//!      └──────────── Detaching ◄─────────┘
//!                         │ failed   ▲ attach or detach: once more
//!                         ▼          │
//!                       Stuck ───────┘
//! ```
//!
//! A slot is free only when the VMM said so: what failed half way is taken out again first.

use crate::{
    events::Denied,
    record::{BlockRecord, Plugged},
};
use runtime_core::{hypervisor::BlockSpec, ids::OpId, kit::Waiter};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    max: u32,
    /// On no slot: there as long as the VM is.
    fixed: Vec<BlockSpec>,
    slots: BTreeMap<u32, Slot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    block: BlockSpec,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Attaching { op: OpId, waiters: Vec<Waiter> },
    Attached,
    Detaching { op: OpId, waiters: Vec<Waiter> },
    Stuck,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    AlreadySo,
    /// Somebody else's wish does it; the waiter is answered with it.
    Wait,
    Do {
        op: OpId,
        slot: u32,
    },
}

/// What an operation came to: who is to be answered, and what follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    pub waiters: Vec<Waiter>,
    /// Take this one out again.
    pub detach: Option<(OpId, String)>,
}

impl Blocks {
    pub fn new(max: u32, fixed: Vec<BlockSpec>) -> Self {
        Self {
            max,
            fixed,
            slots: BTreeMap::new(),
        }
    }

    /// From a record. What was not settled then is to be taken out: whoever asked for it has had
    /// no answer, and the second list says what to detach.
    pub fn adopted(
        max: u32,
        fixed: Vec<BlockSpec>,
        records: BTreeMap<u32, BlockRecord>,
        mut op: impl FnMut() -> OpId,
    ) -> (Self, Vec<(OpId, String)>) {
        let mut detach = Vec::new();
        let slots = records.into_iter().map(|(slot, record)| {
            let state = match record.plugged {
                Plugged::Yes => State::Attached,
                Plugged::Unsettled => {
                    let op = op();
                    detach.push((op, record.block.serial.clone()));
                    let waiters = Vec::new();
                    State::Detaching { op, waiters }
                }
            };
            let block = record.block;
            (slot, Slot { block, state })
        });
        let slots = slots.collect();
        (Self { max, fixed, slots }, detach)
    }

    pub fn record(&self) -> BTreeMap<u32, BlockRecord> {
        let record = |slot: &Slot| BlockRecord {
            block: slot.block.clone(),
            plugged: match slot.state {
                State::Attached => Plugged::Yes,
                State::Attaching { .. } | State::Detaching { .. } | State::Stuck => {
                    Plugged::Unsettled
                }
            },
        };
        let slots = self.slots.iter();
        slots
            .map(|(number, slot)| (*number, record(slot)))
            .collect()
    }

    /// # Errors
    /// The serial is another device's, or busy, or no slot is free. Nothing has changed then.
    pub fn attach(
        &mut self,
        block: &BlockSpec,
        waiter: Waiter,
        op: impl FnOnce() -> OpId,
    ) -> Result<Todo, Denied> {
        let serial = &block.serial;
        let fixed = self.fixed.iter().find(|fixed| fixed.serial == *serial);
        let of_serial = self
            .slots
            .iter_mut()
            .find(|(_, s)| s.block.serial == *serial);
        let other = |known: &BlockSpec| known != block;
        if fixed.is_some_and(other) || of_serial.as_ref().is_some_and(|(_, s)| other(&s.block)) {
            let serial = serial.clone();
            return Err(Denied::SerialTaken { serial });
        }
        if fixed.is_some() {
            return Ok(Todo::AlreadySo);
        }
        let Some((number, slot)) = of_serial else {
            return self.take(block, waiter, op);
        };
        match &mut slot.state {
            State::Attached => Ok(Todo::AlreadySo),
            State::Attaching { waiters, .. } => {
                waiters.push(waiter);
                Ok(Todo::Wait)
            }
            State::Detaching { .. } => {
                let serial = serial.clone();
                Err(Denied::BlockBusy { serial })
            }
            State::Stuck => {
                let op = op();
                let waiters = vec![waiter];
                slot.state = State::Attaching { op, waiters };
                let slot = *number;
                Ok(Todo::Do { op, slot })
            }
        }
    }

    fn take(
        &mut self,
        block: &BlockSpec,
        waiter: Waiter,
        op: impl FnOnce() -> OpId,
    ) -> Result<Todo, Denied> {
        let free = (1..=self.max).find(|number| !self.slots.contains_key(number));
        let max = self.max;
        let slot = free.ok_or(Denied::SlotsExhausted { max })?;
        let op = op();
        let waiters = vec![waiter];
        let state = State::Attaching { op, waiters };
        let block = block.clone();
        self.slots.insert(slot, Slot { block, state });
        Ok(Todo::Do { op, slot })
    }

    /// # Errors
    /// It is fixed, or is being attached. Nothing has changed then.
    pub fn detach(
        &mut self,
        serial: &str,
        waiter: Waiter,
        op: impl FnOnce() -> OpId,
    ) -> Result<Todo, Denied> {
        if self.fixed.iter().any(|fixed| fixed.serial == serial) {
            let serial = serial.to_owned();
            return Err(Denied::BlockFixed { serial });
        }
        let of_serial = self
            .slots
            .iter_mut()
            .find(|(_, s)| s.block.serial == serial);
        let Some((number, slot)) = of_serial else {
            return Ok(Todo::AlreadySo);
        };
        match &mut slot.state {
            State::Attaching { .. } => {
                let serial = serial.to_owned();
                Err(Denied::BlockBusy { serial })
            }
            State::Detaching { waiters, .. } => {
                waiters.push(waiter);
                Ok(Todo::Wait)
            }
            State::Attached | State::Stuck => {
                let op = op();
                let waiters = vec![waiter];
                slot.state = State::Detaching { op, waiters };
                let slot = *number;
                Ok(Todo::Do { op, slot })
            }
        }
    }

    /// An attachment came to an end. Nobody is answered when `op` is stale.
    pub fn attached(&mut self, op: OpId, ok: bool, next: impl FnOnce() -> OpId) -> Settled {
        let slot = self.slots.values_mut().find(
            |slot| matches!(slot.state, State::Attaching { op: outstanding, .. } if outstanding == op),
        );
        let Some(slot) = slot else {
            return Settled::default();
        };
        let (state, detach) = match ok {
            true => (State::Attached, None),
            false => {
                let op = next();
                let waiters = Vec::new();
                let detach = Some((op, slot.block.serial.clone()));
                (State::Detaching { op, waiters }, detach)
            }
        };
        let waiters = match std::mem::replace(&mut slot.state, state) {
            State::Attaching { waiters, .. } => waiters,
            State::Attached | State::Detaching { .. } | State::Stuck => Vec::new(),
        };
        Settled { waiters, detach }
    }

    /// A detachment came to an end.
    pub fn detached(&mut self, op: OpId, ok: bool) -> Settled {
        let slot = self.slots.iter_mut().find(
            |(_, slot)| matches!(slot.state, State::Detaching { op: outstanding, .. } if outstanding == op),
        );
        let Some((number, slot)) = slot else {
            return Settled::default();
        };
        let number = *number;
        let waiters = match std::mem::replace(&mut slot.state, State::Stuck) {
            State::Detaching { waiters, .. } => waiters,
            State::Attached | State::Attaching { .. } | State::Stuck => Vec::new(),
        };
        if ok {
            self.slots.remove(&number);
        }
        let detach = None;
        Settled { waiters, detach }
    }

    /// The VM is gone: everybody who still waits.
    pub fn abandon(self) -> impl Iterator<Item = Waiter> {
        self.slots.into_values().flat_map(|slot| match slot.state {
            State::Attaching { waiters, .. } | State::Detaching { waiters, .. } => waiters,
            State::Attached | State::Stuck => Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(serial: &str) -> BlockSpec {
        BlockSpec {
            serial: serial.into(),
            path: "/image".into(),
            read_only: true,
        }
    }

    fn op(number: u64) -> impl FnOnce() -> OpId {
        move || OpId(number)
    }

    #[test]
    fn a_slot_is_free_again_only_after_the_device_left_it() {
        let mut blocks = Blocks::new(1, Vec::new());
        let todo = blocks.attach(&block("a"), Waiter(1), op(1)).unwrap();
        assert_eq!(
            todo,
            Todo::Do {
                op: OpId(1),
                slot: 1
            }
        );
        assert_eq!(blocks.attached(OpId(1), true, op(9)).waiters, [Waiter(1)]);

        blocks.detach("a", Waiter(2), op(2)).unwrap();
        let refused = blocks.attach(&block("b"), Waiter(3), op(3));
        assert_eq!(refused, Err(Denied::SlotsExhausted { max: 1 }));

        assert_eq!(blocks.detached(OpId(2), true).waiters, [Waiter(2)]);
        assert!(blocks.attach(&block("b"), Waiter(3), op(3)).is_ok());
    }

    #[test]
    fn an_attachment_that_failed_is_taken_out_again() {
        let mut blocks = Blocks::new(1, Vec::new());
        blocks.attach(&block("a"), Waiter(1), op(1)).unwrap();

        let settled = blocks.attached(OpId(1), false, op(2));

        assert_eq!(settled.waiters, [Waiter(1)]);
        assert_eq!(settled.detach, Some((OpId(2), "a".into())));
        assert_eq!(blocks.detached(OpId(2), true), Settled::default());
        assert!(blocks.record().is_empty());
    }

    #[test]
    fn a_device_that_does_not_leave_keeps_its_slot_and_may_be_asked_again() {
        let mut blocks = Blocks::new(2, Vec::new());
        blocks.attach(&block("a"), Waiter(1), op(1)).unwrap();
        blocks.attached(OpId(1), true, op(9));
        blocks.detach("a", Waiter(2), op(2)).unwrap();

        let settled = blocks.detached(OpId(2), false);

        assert_eq!(settled.waiters, [Waiter(2)]);
        let other = blocks.attach(&block("b"), Waiter(3), op(3)).unwrap();
        assert_eq!(
            other,
            Todo::Do {
                op: OpId(3),
                slot: 2
            }
        );
        let again = blocks.detach("a", Waiter(4), op(4)).unwrap();
        assert_eq!(
            again,
            Todo::Do {
                op: OpId(4),
                slot: 1
            }
        );
    }

    #[test]
    fn the_same_wish_twice_is_done_once() {
        let mut blocks = Blocks::new(2, vec![block("boot")]);
        blocks.attach(&block("a"), Waiter(1), op(1)).unwrap();

        let second = blocks.attach(&block("a"), Waiter(2), op(2)).unwrap();
        assert_eq!(second, Todo::Wait);
        let settled = blocks.attached(OpId(1), true, op(9));
        assert_eq!(settled.waiters, [Waiter(1), Waiter(2)]);
        let third = blocks.attach(&block("a"), Waiter(3), op(3)).unwrap();
        assert_eq!(third, Todo::AlreadySo);
        let boot = blocks.attach(&block("boot"), Waiter(4), op(4)).unwrap();
        assert_eq!(boot, Todo::AlreadySo);
        assert_eq!(
            blocks.detach("nobody", Waiter(5), op(5)),
            Ok(Todo::AlreadySo)
        );
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut blocks = Blocks::new(2, vec![block("boot")]);
        blocks.attach(&block("a"), Waiter(1), op(1)).unwrap();
        let mut other = block("a");
        other.path = "/other".into();
        let before = blocks.clone();

        let taken = blocks.attach(&other, Waiter(2), op(2));
        let busy = blocks.detach("a", Waiter(3), op(3));
        let boot = blocks.detach("boot", Waiter(4), op(4));

        assert!(matches!(taken, Err(Denied::SerialTaken { .. })));
        assert!(matches!(busy, Err(Denied::BlockBusy { .. })));
        assert!(matches!(boot, Err(Denied::BlockFixed { .. })));
        assert_eq!(blocks, before);
    }

    #[test]
    fn what_was_unsettled_in_the_record_is_taken_out() {
        let mut blocks = Blocks::new(2, Vec::new());
        blocks.attach(&block("a"), Waiter(1), op(1)).unwrap();
        blocks.attached(OpId(1), true, op(9));
        blocks.attach(&block("b"), Waiter(2), op(2)).unwrap();

        let (adopted, detach) = Blocks::adopted(2, Vec::new(), blocks.record(), || OpId(3));

        assert_eq!(detach, [(OpId(3), "b".into())]);
        assert_eq!(adopted.record(), blocks.record());
    }
}
