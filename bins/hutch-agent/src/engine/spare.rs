//! What the next container is made of, before it is asked for: its cgroup, and the process that becomes its init.

use super::{cgroup::Cgroup, lock::lock, lower::Lowered, spawn::Waiting};
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

/// The kinds of the last two containers' inits.
#[derive(Debug, Default)]
struct Made {
    last: Option<Kind>,
    before: Option<Kind>,
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
                self.unwant(cgroup);
                None
            }
        }
    }

    /// A container was made.
    pub fn made(&self, kind: Option<Kind>) {
        let mut made = lock(&self.made);
        made.before = made.last;
        made.last = kind;
    }

    /// Whether the next container is to have an init before it is asked for: one like the last two, where two were made that
    /// were alike. Most sandboxes have one.
    pub fn wanted(&self) -> Option<Kind> {
        let made = lock(&self.made);
        made.last.filter(|last| made.before == Some(*last))
    }

    pub fn is_there(&self) -> bool {
        lock(&self.next).is_some()
    }

    /// If somebody else had the same idea, theirs is unwanted.
    pub fn put(&self, spare: Spare) {
        let other = lock(&self.next).replace(spare);
        if let Some(other) = other {
            self.unwant(other.cgroup);
        }
    }

    /// It is to be removed.
    pub fn unwant(&self, cgroup: Cgroup) {
        lock(&self.unwanted).push(cgroup);
    }

    pub fn take_unwanted(&self) -> Vec<Cgroup> {
        std::mem::take(&mut *lock(&self.unwanted))
    }
}
