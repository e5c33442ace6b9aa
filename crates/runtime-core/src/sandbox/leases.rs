//! Who has which stream of a sandbox's VM. A value; it asks for nothing itself.
//!
//! Each process has its stream on record. A hypervisor's room that is opened again is told from here, and that of a next
//! daemon from those records.

use crate::ids::{ContainerNumber, ProcessId};
use std::collections::{BTreeMap, BTreeSet};

pub type Holder = (ContainerNumber, ProcessId);

#[derive(Debug, Default)]
pub struct Leases {
    /// Containers that are there.
    here: BTreeSet<ContainerNumber>,
    /// Boxed: a map has room for eleven at once, and most sandboxes have one.
    held: BTreeMap<u32, Box<Holder>>,
}

impl Leases {
    pub fn arrived(&mut self, container: ContainerNumber) {
        self.here.insert(container);
    }

    /// False: its container is gone, and nobody has it.
    #[must_use]
    pub fn hold(&mut self, number: u32, holder: Holder) -> bool {
        let is_here = self.here.contains(&holder.0);
        if is_here {
            self.held.insert(number, Box::new(holder));
        }
        is_here
    }

    /// False: it is not theirs. In the next VM another process may have that number.
    #[must_use]
    pub fn let_go(&mut self, number: u32, holder: &Holder) -> bool {
        let is_theirs = self
            .held
            .get(&number)
            .is_some_and(|known| **known == *holder);
        if is_theirs {
            self.held.remove(&number);
        }
        is_theirs
    }

    /// What its processes did not give back.
    pub fn left(&mut self, container: ContainerNumber) -> Vec<u32> {
        self.here.remove(&container);
        let theirs = |_: &u32, holder: &mut Box<Holder>| holder.0 == container;
        let left = self.held.extract_if(.., theirs);
        left.map(|(number, _)| number).collect()
    }

    pub fn numbers(&self) -> BTreeSet<u32> {
        self.held.keys().copied().collect()
    }

    /// Its streams went with it.
    pub fn vm_is_gone(&mut self) {
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(container: u32) -> Holder {
        (ContainerNumber(container), ProcessId::Init)
    }

    #[test]
    fn a_stream_is_given_back_by_who_has_it_and_once() {
        let mut leases = Leases::default();
        leases.arrived(ContainerNumber(0));
        assert!(leases.hold(1, init(0)));

        assert!(!leases.let_go(1, &init(1)));
        assert!(leases.let_go(1, &init(0)));
        assert!(!leases.let_go(1, &init(0)));
    }

    #[test]
    fn of_a_container_that_left_nothing_is_held_and_nothing_can_be() {
        let mut leases = Leases::default();
        for number in 0..2 {
            leases.arrived(ContainerNumber(number));
            assert!(leases.hold(number + 1, init(number)));
        }

        assert_eq!(leases.left(ContainerNumber(0)), [1]);

        assert!(!leases.hold(3, init(0)));
        assert_eq!(leases.numbers(), BTreeSet::from([2]));
    }

    #[test]
    fn streams_go_with_their_vm_and_their_containers_stay() {
        let mut leases = Leases::default();
        leases.arrived(ContainerNumber(0));
        assert!(leases.hold(1, init(0)));

        leases.vm_is_gone();

        assert_eq!(leases.numbers(), BTreeSet::new());
        assert!(!leases.let_go(1, &init(0)));
        assert!(leases.hold(1, init(0)));
    }
}
