//! What the next container is made of, before it is asked for: its cgroup, and the process that becomes its init.

use super::{cgroup::Cgroup, engine::lock, lower::Lowered, spawn::Waiting};
use std::sync::Mutex;

/// CLONE_NEW* of inits that are all born in the same way: into new namespaces, and as nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(u64);

impl Kind {
    /// None: how it is born depends on what only it has.
    pub fn of(lowered: &Lowered) -> Option<Self> {
        let namespaces = &lowered.namespaces;
        let alone = namespaces.pid_of.is_none()
            && lowered.time_offsets.is_none()
            && lowered.id_maps.is_none();
        alone.then_some(Self(namespaces.clone))
    }

    pub fn namespaces(self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
pub struct Spare {
    pub cgroup: Cgroup,
    /// In the cgroup.
    pub init: Option<(Kind, Waiting)>,
}

#[derive(Debug, Default)]
pub struct Spares {
    next: Mutex<Option<Spare>>,
    /// Cgroups with an init that nobody wanted; it ends by itself.
    unwanted: Mutex<Vec<Cgroup>>,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    containers: u32,
    last: Option<Kind>,
}

impl Spares {
    /// For a container whose init is of that kind.
    pub fn take(&self, kind: Option<Kind>) -> Option<(Cgroup, Option<Waiting>)> {
        let Spare { cgroup, init } = lock(&self.next).take()?;
        match init {
            None => Some((cgroup, None)),
            Some((known, waiting)) if Some(known) == kind && waiting.is_there() => {
                Some((cgroup, Some(waiting)))
            }
            Some(_) => {
                lock(&self.unwanted).push(cgroup);
                None
            }
        }
    }

    /// A container was made.
    pub fn made(&self, kind: Option<Kind>) {
        let mut made = lock(&self.made);
        made.containers = made.containers.saturating_add(1);
        made.last = kind;
    }

    /// Whether the next container is to have an init before it is asked for: one like the last, where more than one was made.
    /// Most sandboxes have one.
    pub fn wanted(&self) -> Option<Kind> {
        let made = lock(&self.made);
        made.last.filter(|_| made.containers > 1)
    }

    pub fn is_there(&self) -> bool {
        lock(&self.next).is_some()
    }

    /// Gives back what was there.
    pub fn put(&self, spare: Spare) -> Option<Spare> {
        lock(&self.next).replace(spare)
    }

    pub fn take_unwanted(&self) -> Vec<Cgroup> {
        std::mem::take(&mut *lock(&self.unwanted))
    }
}
