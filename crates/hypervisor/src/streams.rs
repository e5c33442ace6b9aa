//! The stream ports of one VM: who has which, and when another one is added. A value; it asks for
//! nothing itself.
//!
//! Ports are numbered from 1 and never taken away. A few are made before the guest boots; as they
//! are leased, more are added behind the callers' backs, one at a time, so that the next caller
//! finds one ready. A port that comes back is leased again: every stream begins with a HELLO, and
//! what was left in the port by its last user is discarded there.

use crate::port::PortPlan;
use runtime_core::{ids::OpId, kit::Waiter};
use std::collections::{BTreeSet, VecDeque};

/// Free ports beyond those asked for: a container's init and a first exec come close together.
const SPARE: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    max: u32,
    /// Ports 1 to this exist.
    present: u32,
    leased: BTreeSet<u32>,
    waiting: VecDeque<Waiter>,
    adding: Adding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adding {
    No,
    Next(OpId),
}

/// What a wish for a port comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Granted(u32),
    /// One is being added, or will be.
    Waits,
    Exhausted,
}

impl Streams {
    /// The ports of a VM that was just launched, or found again with these leases.
    pub fn new(plan: PortPlan, leased: BTreeSet<u32>) -> Self {
        // One that was added after boot and is not leased is added again, which is no error.
        let last = leased.last().copied().unwrap_or(0);
        Self {
            max: plan.max,
            present: plan.cold.max(last),
            leased,
            waiting: VecDeque::new(),
            adding: Adding::No,
        }
    }

    pub fn max(&self) -> u32 {
        self.max
    }

    pub fn ask(&mut self, waiter: Waiter) -> Wish {
        if let Some(number) = self.take() {
            return Wish::Granted(number);
        }
        let wanted = self.leased.len() + self.waiting.len();
        if wanted >= self.max as usize {
            return Wish::Exhausted;
        }
        self.waiting.push_back(waiter);
        Wish::Waits
    }

    /// Gives a port back, and to the first who waits. Returns who has it now.
    pub fn give_back(&mut self, number: u32) -> Option<(Waiter, u32)> {
        if !self.leased.remove(&number) {
            return None;
        }
        self.serve()
    }

    /// The port to add now, if any: the caller adds it and reports under `op`.
    pub fn refill(&mut self, op: impl FnOnce() -> OpId) -> Option<(OpId, u32)> {
        let free = self.present as usize - self.leased.len();
        let enough = free >= SPARE + self.waiting.len();
        if self.adding != Adding::No || enough || self.present >= self.max {
            return None;
        }
        let op = op();
        self.adding = Adding::Next(op);
        Some((op, self.present + 1))
    }

    /// A port was added. Returns who has it; nobody when `op` is stale or nobody waits.
    pub fn added(&mut self, op: OpId) -> Option<(Waiter, u32)> {
        if self.adding != Adding::Next(op) {
            return None;
        }
        self.adding = Adding::No;
        self.present += 1;
        self.serve()
    }

    /// A port could not be added. Returns everybody who waited for it: more may be asked for later,
    /// but nobody is left waiting for what does not come.
    pub fn failed(&mut self, op: OpId) -> Vec<Waiter> {
        if self.adding != Adding::Next(op) {
            return Vec::new();
        }
        self.adding = Adding::No;
        self.waiting.drain(..).collect()
    }

    /// The VM is gone: everybody who still waits.
    pub fn abandon(self) -> impl Iterator<Item = Waiter> {
        self.waiting.into_iter()
    }

    fn serve(&mut self) -> Option<(Waiter, u32)> {
        let waiter = *self.waiting.front()?;
        let number = self.take()?;
        self.waiting.pop_front();
        Some((waiter, number))
    }

    fn take(&mut self) -> Option<u32> {
        let free = (1..=self.present).find(|number| !self.leased.contains(number))?;
        self.leased.insert(free);
        Some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(cold: u32, max: u32) -> Streams {
        Streams::new(PortPlan { cold, max }, BTreeSet::new())
    }

    #[test]
    fn ports_are_refilled_before_they_run_out_and_one_at_a_time() {
        let mut streams = streams(3, 30);
        assert_eq!(streams.refill(|| OpId(1)), None);

        assert_eq!(streams.ask(Waiter(1)), Wish::Granted(1));
        assert_eq!(streams.refill(|| OpId(1)), None);
        assert_eq!(streams.ask(Waiter(2)), Wish::Granted(2));
        assert_eq!(streams.refill(|| OpId(1)), Some((OpId(1), 4)));
        assert_eq!(streams.refill(|| OpId(2)), None);

        assert_eq!(streams.added(OpId(1)), None);
        assert_eq!(streams.refill(|| OpId(2)), None);
    }

    #[test]
    fn who_waits_gets_the_next_port_in_order() {
        let mut streams = streams(0, 30);
        assert_eq!(streams.ask(Waiter(1)), Wish::Waits);
        assert_eq!(streams.ask(Waiter(2)), Wish::Waits);

        assert_eq!(streams.refill(|| OpId(1)), Some((OpId(1), 1)));
        assert_eq!(streams.added(OpId(1)), Some((Waiter(1), 1)));
        assert_eq!(streams.give_back(1), Some((Waiter(2), 1)));
    }

    #[test]
    fn the_bound_counts_who_waits_too() {
        let mut streams = streams(1, 2);
        assert_eq!(streams.ask(Waiter(1)), Wish::Granted(1));
        assert_eq!(streams.ask(Waiter(2)), Wish::Waits);

        assert_eq!(streams.ask(Waiter(3)), Wish::Exhausted);
    }

    #[test]
    fn an_addition_that_fails_leaves_nobody_waiting_and_is_tried_again_for_the_next() {
        let mut streams = streams(0, 2);
        streams.ask(Waiter(1));
        streams.refill(|| OpId(1));

        assert_eq!(streams.failed(OpId(9)), []);
        assert_eq!(streams.failed(OpId(1)), [Waiter(1)]);

        assert_eq!(streams.ask(Waiter(2)), Wish::Waits);
        assert_eq!(streams.refill(|| OpId(2)), Some((OpId(2), 1)));
    }

    #[test]
    fn a_port_that_nobody_has_is_given_back_without_effect() {
        let mut streams = streams(2, 2);
        streams.ask(Waiter(1));
        let before = streams.clone();

        assert_eq!(streams.give_back(2), None);
        assert_eq!(streams.give_back(77), None);

        assert_eq!(streams, before);
    }

    #[test]
    fn leases_survive_a_rebuild() {
        let plan = PortPlan { cold: 2, max: 9 };

        let mut streams = Streams::new(plan, BTreeSet::from([1, 5]));

        assert_eq!(streams.ask(Waiter(1)), Wish::Granted(2));
        assert_eq!(streams.leased, BTreeSet::from([1, 2, 5]));
    }
}
