//! Which containers and processes there are, and what state each is in. Pure: no process is
//! touched here.
//!
//! ```text
//!            made           started           reaped
//!   Making ───────► Created ────────► Running ───────► Exited ── forgotten
//!      │ undone        └────── reaped ─────────────────► ▲ │
//!      ▼                                                 └─┘ (an exec is made running)
//!   (nothing)
//! ```
//!
//! Invariants:
//! - An exit of ours is in `exits` from the moment it is known until the host has recorded it,
//!   whatever becomes of its container. An exit of a stock host waits in its process.
//! - So is a kill for want of memory in a container of ours.
//! - Processes that live and exits that are kept are bounded together: there is always room for
//!   the exit of what was let in.

use crate::{
    exits::{Ended, Exit, Exits},
    id::{Id, Name, Which},
};
use std::collections::BTreeMap;

/// Living processes of ours and exits not yet recorded by the host. A daemon that is away for an
/// hour of one exec a second still finds them all.
pub const PROCESSES_MAX: usize = 4096;

/// Who waits for the exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Ours: told by number, and acknowledged.
    Ours,
    /// A stock one: asks once for each process.
    Stock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Making,
    Created { pid: u32 },
    Running { pid: u32 },
    Exited { pid: u32, ended: Ended },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("exists already")]
    Exists,
    #[error("not found")]
    NotFound,
    #[error("not running")]
    NotRunning,
    #[error("still being made")]
    Making,
    #[error("{PROCESSES_MAX} processes live or have exits that the host has not acknowledged")]
    Exhausted,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    processes: BTreeMap<Name, Process>,
    names: BTreeMap<u32, Name>,
    /// Ends of children that no process claims yet; kept while some are being made.
    early: BTreeMap<u32, Ended>,
    making: usize,
    exits: Exits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    host: Host,
    state: State,
}

impl Table {
    /// A place for a process that is about to be made.
    ///
    /// # Errors
    /// The name is taken, its container is not there or has ended, or there are too many.
    pub fn reserve(&mut self, name: &Name, host: Host) -> Result<(), Denied> {
        if let Which::Exec(_) = name.process {
            match self.state(&Name::init(name.container.clone()))? {
                // As with runc: what an exec enters is there before the init runs its program.
                State::Created { .. } | State::Running { .. } => {}
                State::Making | State::Exited { .. } => {
                    return Err(Denied::NotRunning);
                }
            }
        }
        if self.processes.contains_key(name) {
            return Err(Denied::Exists);
        }
        let alive = self.processes.len() - self.exited();
        if alive + self.exits.count() >= PROCESSES_MAX {
            return Err(Denied::Exhausted);
        }
        self.making += 1;
        let state = State::Making;
        self.processes.insert(name.clone(), Process { host, state });
        Ok(())
    }

    fn exited(&self) -> usize {
        let exited = |process: &&Process| matches!(process.state, State::Exited { .. });
        self.processes.values().filter(exited).count()
    }

    /// The process is there. It may have ended already; then its end is returned.
    pub fn made(&mut self, name: &Name, pid: u32) -> Option<Ended> {
        let process = self.processes.get_mut(name)?;
        process.state = match name.process {
            Which::Init => State::Created { pid },
            Which::Exec(_) => State::Running { pid },
        };
        self.names.insert(pid, name.clone());
        let early = self.early.remove(&pid);
        self.made_one();
        let ended = early?;
        self.reaped(pid, ended);
        Some(ended)
    }

    /// The process could not be made.
    pub fn undone(&mut self, name: &Name) {
        self.processes.remove(name);
        self.made_one();
    }

    fn made_one(&mut self) {
        self.making -= 1;
        if self.making == 0 {
            // Orphans of containers, which nobody asks for.
            self.early.clear();
        }
    }

    /// The init runs its program. It may have ended already.
    pub fn started(&mut self, container: &Id) {
        let init = Name::init(container.clone());
        if let Some(process) = self.processes.get_mut(&init)
            && let State::Created { pid } = process.state
        {
            process.state = State::Running { pid };
        }
    }

    /// A child ended; returns whose it was, if it is known.
    pub fn reaped(&mut self, pid: u32, ended: Ended) -> Option<Name> {
        let Some(name) = self.names.remove(&pid) else {
            if self.making > 0 {
                self.early.insert(pid, ended);
            }
            return None;
        };
        let process = self.processes.get_mut(&name)?;
        process.state = State::Exited { pid, ended };
        match process.host {
            Host::Ours => self.exits.push(name.clone(), ended),
            Host::Stock => {}
        }
        Some(name)
    }

    /// The kernel killed so many more processes of a container for want of memory. A stock host
    /// hears of that by another way.
    pub fn killed(&mut self, container: &Id, count: u64, at_ms: u64) {
        match self.processes.get(&Name::init(container.clone())) {
            Some(init) if init.host == Host::Ours => {
                self.exits.killed(container.clone(), count, at_ms);
            }
            Some(_) | None => {}
        }
    }

    /// Whose child that is, while it lives.
    pub fn name(&self, pid: u32) -> Option<&Name> {
        self.names.get(&pid)
    }

    /// # Errors
    /// There is no such process.
    pub fn state(&self, name: &Name) -> Result<State, Denied> {
        let process = self.processes.get(name).ok_or(Denied::NotFound)?;
        Ok(process.state)
    }

    /// Forgets an exec that has ended.
    pub fn forget(&mut self, name: &Name) {
        if let (Which::Exec(_), Ok(State::Exited { .. })) = (&name.process, self.state(name)) {
            self.processes.remove(name);
        }
    }

    /// Whether a container can be removed: nothing of it is being made.
    ///
    /// # Errors
    /// It is not there, or something of it is being made.
    pub fn removable(&self, container: &Id) -> Result<(), Denied> {
        self.state(&Name::init(container.clone()))?;
        let making = |(_, state)| state == State::Making;
        if self.of(container).any(making) {
            return Err(Denied::Making);
        }
        Ok(())
    }

    /// Whether every process of a container has exited, and none is being made.
    pub fn all_exited(&self, container: &Id) -> bool {
        let mut processes = self.of(container);
        processes.all(|(_, state)| matches!(state, State::Exited { .. }))
    }

    /// Forgets a container with all its processes; exits that are kept stay.
    pub fn removed(&mut self, container: &Id) {
        self.processes
            .retain(|name, _| name.container != *container);
        self.names.retain(|_, name| name.container != *container);
    }

    /// The processes of a container, its init first.
    pub fn of<'a>(&'a self, container: &'a Id) -> impl Iterator<Item = (&'a Name, State)> {
        self.processes
            .range(Name::init(container.clone())..)
            .take_while(move |(name, _)| name.container == *container)
            .map(|(name, process)| (name, process.state))
    }

    /// Every process, container by container, the init first.
    pub fn all(&self) -> impl Iterator<Item = (&Name, State)> {
        let all = self.processes.iter();
        all.map(|(name, process)| (name, process.state))
    }

    pub fn exits(&self) -> &Exits {
        &self.exits
    }

    /// The host has recorded every exit up to that number. Gives the execs that can be forgotten.
    pub fn acknowledge(&mut self, up_to: u64) -> Vec<Name> {
        let known = self.exits.acknowledge(up_to);
        let mut forgotten = Vec::new();
        for Exit { name, ended, .. } in known {
            // An id may have been given anew since, to a process that still lives or ended later.
            let same = matches!(self.state(&name),
                Ok(State::Exited { ended: now, .. }) if now == ended);
            if same && let Which::Exec(_) = name.process {
                self.forget(&name);
                forgotten.push(name);
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests;
