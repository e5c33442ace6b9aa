//! The agent: containers and their processes, from the host's wish to the world and back.
//!
//! Every call that changes something runs to its end once begun, even if the host goes away
//! meanwhile: the services see to that. What is decided is decided by `Table`; here it is done.
//!
//! - `containers`: create, start, remove.
//! - `resources`: freezing, limits, numbers, kills for want of memory.
//! - `processes`: exec, signals, waiting, stdio.
//! - `streams`: which stream carries which process.
//! - `wish`: what the host may ask for.

mod containers;
mod processes;
mod resources;
mod streams;
mod wish;

pub use wish::{HostDevice, HostDisk, HostMount, Io, Made, NewContainer, NewExec, SignalTo};

use crate::{
    cmdline::{Features, Options, VsockPeer},
    delivered::Delivered,
    engine::{self, Engine},
    error::Error,
    exits::{Ended, Reason},
    guest::{
        follow::{Followed, Follower},
        loopback::Loopback,
        storage::{Mounted, Mounts, Wanted},
    },
    id::{Id, Name, Which},
    oom,
    ports::Reactor,
    rootfs::Rootfs,
    stdio::Pulled,
    table::{Denied, Table},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};
use streams::Streams;
use tokio::sync::{RwLock, watch};

pub struct Agent {
    engine: Engine,
    reactor: Arc<Reactor>,
    vsock_peer: VsockPeer,
    features: Features,
    state: Mutex<State>,
    streams: Streams,
    /// Counts changes of the table.
    changes: watch::Sender<u64>,
    /// Numbers the folders of containers.
    folders: AtomicU64,
    pub loopback: Loopback,
    mounts: Mounts,
    follower: Arc<Follower>,
    /// What the sandbox as a whole has mounted.
    sandbox: Mutex<Vec<Arc<Mounted>>>,
    pub oom: oom::News,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    table: Table,
    delivered: Delivered,
    /// What each container in the table has of the world.
    places: BTreeMap<Id, Place>,
}

struct Place {
    /// Held by whoever changes the container as a whole; shared by its execs.
    busy: Arc<RwLock<()>>,
    goods: Option<Goods>,
    processes: BTreeMap<Which, Live>,
    /// Dropped with the container: ends its streams.
    stop: watch::Sender<()>,
    kills: Kills,
}

/// Of a container's kills for want of memory: counts of the kernel's.
#[derive(Debug, Clone, Copy, Default)]
struct Kills {
    /// Told to the host.
    told: u64,
    /// Known to be behind the exits of processes of ours.
    claimed: u64,
}

/// What was mounted for a container; dropped with it.
struct Goods {
    _rootfs: Rootfs,
    /// Beneath the root file system, so dropped after it.
    _storages: Vec<Arc<Mounted>>,
    followed: Vec<Arc<Followed>>,
    /// What it had of the shared folder was in this one.
    in_share: Option<PathBuf>,
}

/// What a process has of the agent.
struct Live {
    /// Has the exit code once there is one.
    exit: watch::Sender<Option<u32>>,
    pulled: Option<Arc<Pulled>>,
    end: End,
}

/// Whose work it will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Its,
    /// It was alive when we sent it SIGKILL.
    Ours,
}

impl Place {
    fn new() -> Self {
        Self {
            busy: Arc::default(),
            goods: None,
            processes: BTreeMap::new(),
            stop: watch::Sender::new(()),
            kills: Kills::default(),
        }
    }
}

impl Agent {
    pub fn new(engine: Engine, reactor: Arc<Reactor>, options: Options) -> Self {
        Self {
            engine,
            reactor,
            vsock_peer: options.vsock_peer,
            features: options.features,
            state: Mutex::default(),
            streams: Streams::default(),
            changes: watch::Sender::new(0),
            folders: AtomicU64::new(0),
            loopback: Loopback::default(),
            mounts: Mounts::default(),
            follower: Arc::default(),
            sandbox: Mutex::default(),
            oom: oom::News::default(),
            ended: watch::Sender::new(false),
        }
    }

    /// What the host is offered.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The host wants the sandbox gone.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Returns when the host wants the sandbox gone.
    pub async fn ended(&self) {
        // Its sender is ours, and lives as long as we do.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Mounts what all containers share.
    ///
    /// # Errors
    /// One cannot be mounted; those before it stay.
    pub async fn mount_for_sandbox(self: Arc<Self>, wanted: Vec<Wanted>) -> Result<(), Error> {
        blocking(move || {
            let mounted = self.mount(&wanted)?;
            let mut sandbox = self.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
            sandbox.extend(mounted);
            Ok(())
        })
        .await
    }

    fn mount(&self, wanted: &[Wanted]) -> Result<Vec<Arc<Mounted>>, Error> {
        let mounted = wanted.iter().map(|wanted| self.mounts.mount(wanted));
        mounted.filter_map(Result::transpose).collect()
    }

    /// Takes down how a child ended.
    pub fn reaped(&self, pid: u32, mut ended: Ended) {
        let mut state = self.state();
        if ended.reason == Reason::Signaled
            && ended.code == 128 + libc::SIGKILL.cast_unsigned()
            && let Some(name) = state.table.name(pid).cloned()
            && self.claim_kill(&mut state, &name)
        {
            ended.reason = Reason::Oom;
        }
        if let Some(name) = state.table.reaped(pid, ended) {
            state.tell_exit(&name, ended.code);
            drop(state);
            self.changed();
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of a container that is there.
    fn busy(&self, container: &Id) -> Result<Arc<RwLock<()>>, Error> {
        let state = self.state();
        let place = state.places.get(container);
        let place =
            place.ok_or_else(|| denied(&Name::init(container.clone()), Denied::NotFound))?;
        Ok(place.busy.clone())
    }
}

impl State {
    /// Whether that is the lock of the container which goes by that id now.
    fn is_still(&self, container: &Id, busy: &Arc<RwLock<()>>) -> bool {
        let place = self.places.get(container);
        place.is_some_and(|place| Arc::ptr_eq(&place.busy, busy))
    }

    fn tell_exit(&self, name: &Name, code: u32) {
        let place = self.places.get(&name.container);
        if let Some(live) = place.and_then(|place| place.processes.get(&name.process)) {
            live.exit.send_replace(Some(code));
        }
    }
}

fn denied(name: &Name, denied: Denied) -> Error {
    Error::Denied {
        what: name.to_string(),
        denied,
    }
}

/// Says what was being done when the engine failed.
fn engine_failed(what: impl FnOnce() -> String) -> impl FnOnce(engine::Error) -> Error {
    move |source| Error::Engine {
        what: what(),
        source,
    }
}

/// Runs a call that blocks on a thread of its own.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
