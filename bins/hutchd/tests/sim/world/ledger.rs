//! What clients were told and saw, and that it agrees with itself, with the disk and with the
//! guests: an exit is told once, the same to everyone, after it is on record.

use super::World;
use runtime_core::{
    agent::{ExitReason, ExitStatus},
    container::{ContainerRecord, ContainerState},
    host::Place,
    ids::ProcessId,
    process::{ProcessRecord, ProcessState},
    records::decode,
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::{Rc, Weak},
};

pub struct Ledger {
    world: Weak<World>,
    exits: RefCell<BTreeMap<(Place, ProcessId), ExitStatus>>,
    states: RefCell<BTreeMap<Place, ContainerState>>,
    /// How many deletions of each were tried.
    deleting: RefCell<BTreeMap<Place, u32>>,
}

/// States are passed through in this order, some perhaps unseen, none twice. What is paused is created
/// or running beneath, and says nothing of which.
fn rank(state: &ContainerState) -> Option<u8> {
    match state {
        ContainerState::Creating => Some(0),
        ContainerState::Created => Some(1),
        ContainerState::Running => Some(2),
        ContainerState::Paused => None,
        ContainerState::Stopped(_) => Some(3),
    }
}

impl Ledger {
    pub fn new(world: &Rc<World>) -> Self {
        Self {
            world: Rc::downgrade(world),
            exits: RefCell::default(),
            states: RefCell::default(),
            deleting: RefCell::default(),
        }
    }

    fn world(&self) -> Rc<World> {
        self.world.upgrade().expect("clients live in it")
    }

    /// Somebody is about to ask for a container's deletion.
    pub fn deleting(&self, place: Place) {
        *self.deleting.borrow_mut().entry(place).or_default() += 1;
    }

    /// The one attempt was refused: nothing was done.
    pub fn not_deleting(&self, place: Place) {
        if let Some(tried) = self.deleting.borrow_mut().get_mut(&place) {
            *tried -= 1;
        }
    }

    pub fn was_deletion_tried(&self, place: Place) -> bool {
        let deleting = self.deleting.borrow();
        deleting.get(&place).is_some_and(|tried| *tried > 0)
    }

    /// A client saw a container in this state.
    pub fn seen(&self, place: Place, state: &ContainerState) {
        let mut states = self.states.borrow_mut();
        let over = matches!(states.get(&place), Some(ContainerState::Stopped(_)));
        let back = match (states.get(&place).and_then(rank), rank(state)) {
            (_, None) => over,
            (before, now) => before > now,
        };
        if back {
            let before = &states[&place];
            let what = format!("{place:?} went from {before:?} to {state:?}");
            self.world().violated(what);
        }
        if *state != ContainerState::Paused {
            states.insert(place, state.clone());
        }
        drop(states);
        if let ContainerState::Stopped(exit) = state {
            self.exited(place, &ProcessId::Init, exit);
        }
    }

    /// A client was told how a process ended.
    pub fn exited(&self, place: Place, process: &ProcessId, exit: &ExitStatus) {
        let key = (place, process.clone());
        let told = self.exits.borrow_mut().insert(key, exit.clone());
        if let Some(told) = told
            && told != *exit
        {
            self.world().violated(format_args!(
                "exit of {place:?} {process} was told as {told:?}, then as {exit:?}"
            ));
        }
        self.check_record(place, process, exit);
        self.check_truth(place, process, exit);
    }

    fn check_record(&self, place: Place, process: &ProcessId, exit: &ExitStatus) {
        let world = self.world();
        let key = ProcessRecord::key(place.uid, place.number, process);
        let on_disk = world.on_disk();
        let record = on_disk.get(&key).map(|row| decode::<ProcessRecord>(row));
        let by_process = match record {
            None => self.was_deletion_tried(place),
            Some(Ok(record)) => record.state == ProcessState::Exited(exit.clone()),
            Some(Err(_)) => false,
        };
        let key = ContainerRecord::key(place.uid, place.number);
        let container = on_disk.get(&key);
        let container = container.and_then(|row| decode::<ContainerRecord>(row).ok());
        let stopped = ContainerState::Stopped(exit.clone());
        let by_container = container.is_some_and(|container| container.state == stopped);
        let agrees = by_process || (*process == ProcessId::Init && by_container);
        if !agrees {
            world.violated(format_args!(
                "exit of {place:?} {process} was told, and is not on record"
            ));
        }
    }

    /// A process that exited of its own did so in the guest, with that code.
    fn check_truth(&self, place: Place, process: &ProcessId, exit: &ExitStatus) {
        let world = self.world();
        let truth = world.guest(place.uid).outcome(place.number, process);
        let code = truth.map(|truth| truth.code);
        if exit.reason == ExitReason::Exited
            && code != Some(exit.code)
            && !world.is_of_an_earlier_vm(place)
        {
            world.violated(format_args!(
                "{place:?} {process} is said to have exited with {}, in the guest it was {code:?}",
                exit.code
            ));
        }
    }
}
