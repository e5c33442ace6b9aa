//! The host's registry as a pure machine: which ids are taken, and where they live.
//!
//! ```text
//!            Create                     Created(ok)
//!   (free) ─────────► Creating ──────────────────────► Lives ──── ContainerGone ───► (free)
//!      ▲                  │ Created(err)
//!      └──────────────────┘
//! ```
//!
//! Invariants:
//! - An id of a namespace names at most one container, also while it is being created.
//! - A request with a key that is known gets that request's answer, and starts nothing.
//! - It keeps no record of its own: what it knows follows from the records of containers.

use crate::{
    container::ContainerSpec,
    error::{Fault, Kind},
    hypervisor::StreamLease,
    ids::{ContainerId, ContainerNumber, EpochMs, Namespace, RequestKey, SandboxUid},
    kit::{Batch, Machine, Waiter},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Each creation in progress holds a VM that boots; beyond it callers are told to come back.
pub const CREATIONS_MAX: usize = 256;
/// Answers kept for callers that ask again; the oldest are forgotten. A caller asks again within
/// the seconds that a restart takes.
const ANSWERS_MAX: usize = 4096;
/// A sandbox whose room panics more often than this within [`REBUILD_WINDOW_MS`] is given up.
const REBUILDS_MAX: usize = 3;
const REBUILD_WINDOW_MS: u64 = 60_000;

/// What identifies a container to its callers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub namespace: Namespace,
    pub id: ContainerId,
}

/// Where a container lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub uid: SandboxUid,
    pub number: ContainerNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Creating(Place),
    Lives(Place),
}

impl Entry {
    fn place(self) -> Place {
        match self {
            Self::Creating(place) | Self::Lives(place) => place,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Request {
    Pending(Vec<Waiter>),
    Answered(Answer),
}

pub type Answer = Result<Created, Fault>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub place: Place,
    pub lease: StreamLease,
}

/// Into which sandbox a container goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// A new one; the uid is a fresh random one.
    New(SandboxUid),
    /// An existing one, under its next number.
    Existing(Place),
}

#[derive(Debug)]
pub enum Event {
    Create {
        waiter: Waiter,
        key: Option<RequestKey>,
        into: Into,
        spec: Box<ContainerSpec>,
    },
    Created {
        name: Name,
        key: Option<RequestKey>,
        waiter: Waiter,
        outcome: Result<StreamLease, Fault>,
    },
    ContainerGone(Place),
    SandboxGone(SandboxUid),
    RoomPanicked {
        uid: SandboxUid,
        at: EpochMs,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    Create {
        waiter: Waiter,
        key: Option<RequestKey>,
        into: Into,
        spec: Box<ContainerSpec>,
    },
    ForgetSandbox(SandboxUid),
    Rebuild(SandboxUid),
    /// Its room panics again and again: end its VM, keep its records and its console.
    GiveUp(SandboxUid),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    Exists(Name),
    TooManyCreations,
    Taken(SandboxUid),
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        match denied {
            // runc's words.
            Denied::Exists(_) => Self::new(
                Kind::AlreadyExists,
                "container with given ID already exists",
            ),
            Denied::TooManyCreations => Self::new(
                Kind::Exhausted,
                format!("{CREATIONS_MAX} containers are being created already; try again"),
            ),
            Denied::Taken(uid) => Self::new(Kind::Internal, format!("uid {uid} is taken")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Host {
    containers: BTreeMap<Name, Entry>,
    requests: BTreeMap<RequestKey, Request>,
    /// Keys of answered requests, oldest first.
    answered: VecDeque<RequestKey>,
    panics: BTreeMap<SandboxUid, Vec<EpochMs>>,
    given_up: BTreeSet<SandboxUid>,
}

/// What an id of a caller may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    One(Name, Place),
    None,
    /// A prefix of several; at most a few of them.
    Ambiguous(Vec<String>),
}

impl Host {
    /// From the containers on record.
    pub fn rebuilt(known: impl IntoIterator<Item = (Name, Place)>) -> Self {
        let entries = known
            .into_iter()
            .map(|(name, place)| (name, Entry::Lives(place)));
        Self {
            containers: entries.collect(),
            ..Self::default()
        }
    }

    /// An exact id, else a unique prefix.
    pub fn find(&self, namespace: &Namespace, id: &str) -> Found {
        let mine = || {
            let containers = self.containers.iter();
            containers.filter(|(name, _)| name.namespace == *namespace)
        };
        if let Some((name, entry)) = mine().find(|(name, _)| name.id.as_str() == id) {
            return Found::One(name.clone(), entry.place());
        }
        if id.is_empty() {
            return Found::None;
        }
        let mut by_prefix = mine().filter(|(name, _)| name.id.as_str().starts_with(id));
        match (by_prefix.next(), by_prefix.next()) {
            (None, _) => Found::None,
            (Some((name, entry)), None) => Found::One(name.clone(), entry.place()),
            (Some((a, _)), Some((b, _))) => {
                let rest = by_prefix.take(3).map(|(name, _)| name.id.to_string());
                let two = [a.id.to_string(), b.id.to_string()];
                Found::Ambiguous(two.into_iter().chain(rest).collect())
            }
        }
    }

    pub fn names(&self) -> impl Iterator<Item = (&Name, Place)> {
        self.containers
            .iter()
            .map(|(name, entry)| (name, entry.place()))
    }

    pub fn is_given_up(&self, uid: SandboxUid) -> bool {
        self.given_up.contains(&uid)
    }

    fn create(
        &mut self,
        waiter: Waiter,
        key: Option<RequestKey>,
        into: Into,
        spec: Box<ContainerSpec>,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        if let Some(request) = key.as_ref().and_then(|key| self.requests.get_mut(key)) {
            match request {
                Request::Pending(waiters) => waiters.push(waiter),
                Request::Answered(answer) => batch.replies.push((waiter, answer.clone())),
            }
            return Ok(());
        }
        let name = Name {
            namespace: spec.namespace.clone(),
            id: spec.id.clone(),
        };
        if self.containers.contains_key(&name) {
            return Err(Denied::Exists(name));
        }
        let creating = |entry: &&Entry| matches!(entry, Entry::Creating(_));
        if self.containers.values().filter(creating).count() >= CREATIONS_MAX {
            return Err(Denied::TooManyCreations);
        }
        let place = match into {
            Into::New(uid) => {
                if self
                    .containers
                    .values()
                    .any(|entry| entry.place().uid == uid)
                {
                    return Err(Denied::Taken(uid));
                }
                let number = ContainerNumber(0);
                Place { uid, number }
            }
            Into::Existing(place) => place,
        };
        self.containers.insert(name, Entry::Creating(place));
        if let Some(key) = &key {
            self.requests
                .insert(key.clone(), Request::Pending(Vec::new()));
        }
        batch.world.push(World::Create {
            waiter,
            key,
            into,
            spec,
        });
        Ok(())
    }

    fn created(
        &mut self,
        name: Name,
        key: Option<RequestKey>,
        waiter: Waiter,
        outcome: Result<StreamLease, Fault>,
        batch: &mut Batch<Self>,
    ) {
        let Some(place) = self.containers.get(&name).map(|entry| entry.place()) else {
            // Deleted by force while it was being created.
            let gone = Fault::new(Kind::Aborted, "deleted while it was being created");
            let why = outcome.err().unwrap_or(gone);
            self.answer(key, waiter, Err(why), batch);
            return;
        };
        let answer = match outcome {
            Ok(lease) => {
                self.containers.insert(name, Entry::Lives(place));
                Ok(Created { place, lease })
            }
            Err(why) => {
                self.containers.remove(&name);
                Err(why)
            }
        };
        self.answer(key, waiter, answer, batch);
    }

    fn answer(
        &mut self,
        key: Option<RequestKey>,
        waiter: Waiter,
        answer: Answer,
        batch: &mut Batch<Self>,
    ) {
        batch.replies.push((waiter, answer.clone()));
        let Some(key) = key else { return };
        let request = self
            .requests
            .insert(key.clone(), Request::Answered(answer.clone()));
        if let Some(Request::Pending(waiters)) = request {
            for waiter in waiters {
                batch.replies.push((waiter, answer.clone()));
            }
        }
        self.answered.push_back(key);
        if self.answered.len() > ANSWERS_MAX
            && let Some(oldest) = self.answered.pop_front()
        {
            self.requests.remove(&oldest);
        }
    }

    fn panicked(&mut self, uid: SandboxUid, at: EpochMs, batch: &mut Batch<Self>) {
        let panics = self.panics.entry(uid).or_default();
        panics.retain(|before| before.0 + REBUILD_WINDOW_MS > at.0);
        panics.push(at);
        if panics.len() > REBUILDS_MAX {
            self.given_up.insert(uid);
            batch.world.push(World::GiveUp(uid));
        } else {
            batch.world.push(World::Rebuild(uid));
        }
    }
}

impl Machine for Host {
    type Event = Event;
    type World = World;
    type Notice = ();
    type Answer = Answer;
    type Denied = Denied;

    fn on(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Denied> {
        match event {
            Event::Create {
                waiter,
                key,
                into,
                spec,
            } => return self.create(waiter, key, into, spec, batch),
            Event::Created {
                name,
                key,
                waiter,
                outcome,
            } => self.created(name, key, waiter, outcome, batch),
            Event::ContainerGone(place) => {
                self.containers
                    .retain(|_, entry| *entry != Entry::Lives(place));
            }
            Event::SandboxGone(uid) => {
                self.panics.remove(&uid);
                self.given_up.remove(&uid);
                self.containers
                    .retain(|_, entry| !matches!(entry, Entry::Lives(place) if place.uid == uid));
                batch.world.push(World::ForgetSandbox(uid));
            }
            Event::RoomPanicked { uid, at } => self.panicked(uid, at, batch),
        }
        Ok(())
    }

    fn refuse(denied: Denied) -> Answer {
        Err(denied.into())
    }

    fn state_name(&self) -> &'static str {
        "serving"
    }
}
