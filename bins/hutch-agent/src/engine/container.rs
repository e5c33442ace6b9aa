//! What the engine knows of one container. Nothing here makes or ends a process.

use super::{
    cgroup::Cgroup,
    error::{Error, Result},
    home::KnownHome,
    lock::lock,
    lower::{ExecDefaults, Lowered},
    numbers::Numbers,
    spawn::Unheard,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
};
use std::{
    collections::{BTreeMap, btree_map},
    sync::{Arc, Mutex, MutexGuard},
};

#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub cgroup: Cgroup,
    /// Pidfd of the init.
    pub init: OwnedFd,
    /// In the agent's pid namespace.
    pub init_pid: u32,
    /// CLONE_NEW* that an exec enters.
    pub namespaces: i32,
    /// An exec is born into the init's pid namespace, if that is not the guest's.
    pub enters_pid_namespace: bool,
    pub exec_defaults: ExecDefaults,
    /// Of its limits.
    pub numbers: Numbers,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    freezer: Freezer,
    execs: BTreeMap<String, Exec>,
    /// Of the user that was looked up last.
    home: Option<KnownHome>,
}

/// What keeps the init from its program.
#[derive(Debug)]
enum Gate {
    Held(Unheard),
    Opened,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezer {
    Thawed,
    Frozen,
}

#[derive(Debug)]
enum Exec {
    Making,
    /// Its pidfd.
    Made(Arc<OwnedFd>),
}

/// Whether the process of a pidfd has not ended.
pub fn lives(pidfd: &OwnedFd) -> bool {
    // It is readable once its process has exited.
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
}

impl Container {
    pub fn new(
        id: String,
        cgroup: Cgroup,
        (init_pid, init): (u32, OwnedFd),
        gate: Unheard,
        (lowered, numbers): (&Lowered, Numbers),
    ) -> Self {
        let namespaces = &lowered.namespaces;
        let own_pids = namespaces.clone & libc::CLONE_NEWPID as u64 != 0;
        Self {
            id,
            cgroup,
            init,
            init_pid,
            namespaces: namespaces.enter,
            enters_pid_namespace: own_pids || namespaces.pid_of.is_some(),
            exec_defaults: lowered.exec_defaults.clone(),
            numbers,
            state: Mutex::new(State {
                gate: Gate::Held(gate),
                freezer: Freezer::Thawed,
                execs: BTreeMap::new(),
                home: None,
            }),
        }
    }

    /// Whoever gets it opens it: nobody else will.
    ///
    /// # Errors
    /// When it was taken before, or the init is dead.
    pub fn take_gate(&self) -> Result<Unheard> {
        if !self.init_lives() {
            return self.refuse("stopped");
        }
        let mut state = self.lock();
        if state.freezer == Freezer::Frozen {
            return self.refuse("paused");
        }
        match std::mem::replace(&mut state.gate, Gate::Opened) {
            Gate::Held(gate) => Ok(gate),
            Gate::Opened => self.refuse("running"),
        }
    }

    pub fn home(&self) -> Option<KnownHome> {
        self.lock().home.clone()
    }

    /// What a process of it found out, if it had to.
    pub fn learn_home(&self, found: Option<KnownHome>) {
        if let Some(found) = found {
            self.lock().home = Some(found);
        }
    }

    pub fn set_freezer(&self, freezer: Freezer) {
        self.lock().freezer = freezer;
    }

    /// Takes a name for an exec that is about to be made.
    ///
    /// # Errors
    /// When the name is taken, or nothing can run in the container.
    pub fn reserve_exec(&self, exec_id: &str) -> Result<()> {
        let mut state = self.lock();
        // It would be frozen before its program ran, and the caller with it.
        if state.freezer == Freezer::Frozen {
            return self.refuse("paused");
        }
        match state.execs.entry(exec_id.to_owned()) {
            btree_map::Entry::Occupied(_) => Err(Error::ProcessExists {
                id: self.id.clone(),
                exec_id: exec_id.to_owned(),
            }),
            btree_map::Entry::Vacant(place) => {
                place.insert(Exec::Making);
                Ok(())
            }
        }
    }

    pub fn keep_exec(&self, exec_id: &str, pidfd: OwnedFd) {
        let made = Exec::Made(Arc::new(pidfd));
        self.lock().execs.insert(exec_id.to_owned(), made);
    }

    /// # Errors
    /// When there is none of this name.
    pub fn forget_exec(&self, exec_id: &str) -> Result<()> {
        match self.lock().execs.remove(exec_id) {
            Some(_) => Ok(()),
            None => Err(self.no_process(exec_id)),
        }
    }

    /// Its pidfd.
    ///
    /// # Errors
    /// When there is none of this name, or not yet.
    pub fn exec(&self, exec_id: &str) -> Result<Arc<OwnedFd>> {
        match self.lock().execs.get(exec_id) {
            Some(Exec::Made(pidfd)) => Ok(Arc::clone(pidfd)),
            Some(Exec::Making) | None => Err(self.no_process(exec_id)),
        }
    }

    pub fn init_lives(&self) -> bool {
        lives(&self.init)
    }

    /// # Errors
    /// Always: the container is in a state that refuses.
    pub fn refuse<T>(&self, state: &'static str) -> Result<T> {
        Err(Error::State {
            id: self.id.clone(),
            state,
        })
    }

    /// # Errors
    /// Always: the process has ended.
    pub fn refuse_exec<T>(&self, exec_id: &str) -> Result<T> {
        Err(Error::ProcessEnded {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        })
    }

    fn no_process(&self, exec_id: &str) -> Error {
        Error::NoProcess {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
