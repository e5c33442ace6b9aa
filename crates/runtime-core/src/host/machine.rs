//! The host's registry as a pure machine: which ids are taken, and where they live.
//!
//! ```text
//!            Create                     Created(ok)
//!   (free) ─────────► Creating ──────────────────────► Lives ──── ContainerGone ───► (free)
//!      ▲                  │ Created(err)                                               ▲
//!      ├──────────────────┘ RoomPanicked, or a daemon that ended                       │
//!      │                  └──────────────────────────► Undoing ── ContainerGone ───────┘
//! ```
//!
//! Invariants:
//! - An id of a namespace names at most one container, also while it is being created.
//! - A request with a key that is known gets that request's answer, and starts nothing. The key of a
//!   creation is in its container's record; that of a deletion is on record before it begins.
//! - Half-made containers of an earlier daemon are being undone; their names are taken until then.

use super::{
    deletions::{Again, DeletionRecord, Deletions},
    events::{
        Answer, Created, Denied, Doomed, Event, Fate, Found, Into, Known, KnownHome, Name, Place,
        Refusal, Repeated, World,
    },
    messages::{Delete, Wish},
    sandboxes::{Forlorn, PANICKED, Progress, Sandboxes},
};
use crate::{
    agent::Warnings,
    container::Force,
    error::{Fault, Kind},
    ids::{ContainerNumber, EpochMs, Namespace, RequestKey, SandboxUid},
    kit::{Batch, Machine, Waiter},
    process::Made,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Creating(Place),
    Lives(Place),
    Undoing(Place),
}

impl Entry {
    fn found(self, name: &Name) -> Found {
        match self {
            Self::Undoing(place) => Found::Undoing(name.clone(), place),
            Self::Creating(place) | Self::Lives(place) => Found::One(name.clone(), place),
        }
    }

    fn place(self) -> Place {
        match self {
            Self::Creating(place) | Self::Lives(place) | Self::Undoing(place) => place,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Request {
    Pending(Vec<Waiter>),
    Answered(Result<Created, Fault>),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Host {
    containers: BTreeMap<Name, Entry>,
    pub(super) sandboxes: Sandboxes,
    requests: BTreeMap<RequestKey, Request>,
    /// Keys of answered requests, oldest first.
    answered: VecDeque<RequestKey>,
    pub(super) deletions: Deletions,
    pub(super) panics: BTreeMap<SandboxUid, Vec<EpochMs>>,
}

impl Host {
    /// From the sandboxes, containers and deletions on record.
    pub fn rebuilt(
        homes: impl IntoIterator<Item = KnownHome>,
        known: impl IntoIterator<Item = Known>,
        deletions: impl IntoIterator<Item = DeletionRecord>,
    ) -> Self {
        let mut host = Self {
            deletions: Deletions::rebuilt(deletions),
            ..Self::default()
        };
        for home in homes {
            host.settle_in(home);
        }
        for Known { name, place, fate } in known {
            let entry = match fate {
                Fate::HalfMade => Entry::Undoing(place),
                Fate::Made(request) => {
                    if let Some((key, init)) = request {
                        host.keep(key, Ok(Created { place, init }));
                    }
                    Entry::Lives(place)
                }
            };
            host.containers.insert(name, entry);
        }
        host
    }

    fn of(&self, namespace: &Namespace) -> impl Iterator<Item = (&Name, &Entry)> {
        let containers = self.containers.iter();
        containers.filter(move |(name, _)| name.namespace == *namespace)
    }

    /// An exact id, and nothing else.
    pub fn named(&self, namespace: &Namespace, id: &str) -> Found {
        let named = self.of(namespace).find(|(name, _)| name.id.as_str() == id);
        named.map_or(Found::None, |(name, entry)| entry.found(name))
    }

    /// An exact id, else a unique prefix.
    pub fn find(&self, namespace: &Namespace, id: &str) -> Found {
        let named = self.named(namespace, id);
        if named != Found::None || id.is_empty() {
            return named;
        }
        let begins = |(name, _): &(&Name, _)| name.id.as_str().starts_with(id);
        let mut by_prefix = self.of(namespace).filter(begins);
        match (by_prefix.next(), by_prefix.next()) {
            (None, _) => Found::None,
            (Some((name, entry)), None) => entry.found(name),
            (Some((a, _)), Some((b, _))) => {
                let rest = by_prefix.take(3).map(|(name, _)| name.id.to_string());
                let two = [a.id.to_string(), b.id.to_string()];
                Found::Ambiguous(two.into_iter().chain(rest).collect())
            }
        }
    }

    /// All but those that are being undone.
    pub fn names(&self) -> impl Iterator<Item = (&Name, Place)> {
        let containers = self.containers.iter();
        let stays = containers.filter(|(_, entry)| !matches!(entry, Entry::Undoing(_)));
        stays.map(|(name, entry)| (name, entry.place()))
    }

    /// Every sandbox that is or was to be, whether somebody looks after it or not.
    pub fn sandboxes(&self) -> impl Iterator<Item = SandboxUid> {
        self.sandboxes.uids()
    }

    /// Why nobody looks after it, where that is so.
    pub fn forlorn(&self, uid: SandboxUid) -> Option<&Forlorn> {
        self.sandboxes.forlorn(uid)
    }

    pub(super) fn creating(&self) -> usize {
        let creating = |entry: &&Entry| matches!(entry, Entry::Creating(_));
        self.containers.values().filter(creating).count()
    }

    fn create(
        &mut self,
        waiter: Waiter,
        key: Option<RequestKey>,
        into: Into,
        wish: Box<Wish>,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        if let Some(request) = key.as_ref().and_then(|key| self.requests.get_mut(key)) {
            match request {
                Request::Pending(waiters) => waiters.push(waiter),
                Request::Answered(answer) => {
                    let answer = Answer::Created(answer.clone());
                    batch.replies.push((waiter, answer));
                }
            }
            return Ok(());
        }
        let name = Name::of(&wish.spec);
        if self.containers.contains_key(&name) {
            return Err(Denied::Exists(name));
        }
        if self.creating() + self.sandboxes.creating() >= CREATIONS_MAX {
            return Err(Denied::TooManyCreations);
        }
        let place = match into {
            Into::New => {
                self.claim_for(&wish)?;
                let (uid, number) = (wish.uid, ContainerNumber(0));
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
            wish,
        });
        Ok(())
    }

    fn created(
        &mut self,
        name: Name,
        key: Option<RequestKey>,
        waiter: Waiter,
        outcome: Result<Made, Fault>,
        batch: &mut Batch<Self>,
    ) {
        let place = match self.containers.get(&name) {
            Some(Entry::Creating(place)) => *place,
            Some(Entry::Lives(_) | Entry::Undoing(_)) | None => {
                // Deleted by force while it was being created, or its room panicked.
                let gone = Fault::new(Kind::Aborted, "deleted while it was being created");
                let why = outcome.err().unwrap_or(gone);
                self.answer(key, waiter, Err(why), batch);
                return;
            }
        };
        let answer = match outcome {
            Ok(init) => {
                self.containers.insert(name, Entry::Lives(place));
                self.made(place);
                Ok(Created { place, init })
            }
            Err(why) => {
                self.containers.remove(&name);
                self.not_made(place);
                Err(why)
            }
        };
        self.answer(key, waiter, answer, batch);
    }

    fn answer(
        &mut self,
        key: Option<RequestKey>,
        waiter: Waiter,
        answer: Result<Created, Fault>,
        batch: &mut Batch<Self>,
    ) {
        let mut waiters = vec![waiter];
        if let Some(key) = key {
            if let Some(Request::Pending(others)) = self.requests.remove(&key) {
                waiters.extend(others);
            }
            let passes = |why: &Fault| why.kind() == Kind::Unavailable;
            // Whoever is told to ask again must find it unanswered.
            if !answer.as_ref().is_err_and(passes) {
                self.keep(key, answer.clone());
            }
        }
        for waiter in waiters {
            let answer = Answer::Created(answer.clone());
            batch.replies.push((waiter, answer));
        }
    }

    fn keep(&mut self, key: RequestKey, answer: Result<Created, Fault>) {
        self.requests.insert(key.clone(), Request::Answered(answer));
        self.answered.push_back(key);
        if self.answered.len() > ANSWERS_MAX
            && let Some(oldest) = self.answered.pop_front()
        {
            self.requests.remove(&oldest);
        }
    }

    /// Whether this deletion was asked for before: then it is answered with the first.
    pub(super) fn asked_to_delete_again(
        &mut self,
        key: Option<&RequestKey>,
        waiter: Waiter,
        batch: &mut Batch<Self>,
    ) -> bool {
        match key.and_then(|key| self.deletions.again(key, waiter)) {
            Some(Again::Joined) => true,
            Some(Again::Repeat(record)) => {
                batch.world.push(repeated(Some(waiter), &record));
                true
            }
            None => false,
        }
    }

    fn delete(
        &mut self,
        waiter: Waiter,
        delete: Delete,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        let Delete {
            key,
            namespace,
            id,
            force,
            at,
        } = delete;
        if self.asked_to_delete_again(key.as_ref(), waiter, batch) {
            return Ok(());
        }
        let found = match force {
            // What is not there is no error, so what begins like it must not be taken for it.
            Force::Yes => self.named(&namespace, &id),
            Force::No => self.find(&namespace, &id),
        };
        let place = match found {
            Found::One(_, place) | Found::Undoing(_, place) => place,
            // runc: deleting with force what is not there is no error.
            Found::None if force == Force::Yes => {
                batch
                    .replies
                    .push((waiter, Answer::Deleted(Ok(Warnings::new()))));
                return Ok(());
            }
            found @ (Found::None | Found::Ambiguous(_)) => return Err(Denied::NotOne(found, id)),
        };
        let doomed = self.doomed(place, force)?;
        if let Some(key) = key.clone() {
            let changes = self.deletions.begin(key, doomed, force, at);
            batch.records.extend(changes);
        }
        batch.world.push(World::Delete {
            waiter: Some(waiter),
            key,
            doomed,
            force,
            at,
            repeated: Repeated::No,
        });
        Ok(())
    }

    /// Of a sandbox whose record does not read nothing can be deleted but all of it: with its container,
    /// where that is alone in it.
    fn doomed(&self, place: Place, force: Force) -> Result<Doomed, Denied> {
        let uid = place.uid;
        match (self.forlorn(uid), force) {
            (Some(forlorn @ Forlorn::Unread { nameless, .. }), Force::Yes) => {
                let mates = self.containers.values();
                let mates = mates.filter(|entry| entry.place().uid == uid).count();
                match *nameless || mates > 1 {
                    true => Err(Denied::NotAlone(uid, forlorn.clone())),
                    false => Ok(Doomed::Sandbox(uid)),
                }
            }
            (Some(_) | None, _) => Ok(Doomed::Container(place)),
        }
    }

    fn deleted(
        &mut self,
        waiter: Option<Waiter>,
        key: Option<RequestKey>,
        outcome: Result<Warnings, Fault>,
        batch: &mut Batch<Self>,
    ) {
        let mut waiters: Vec<_> = waiter.into_iter().collect();
        if let Some(key) = key {
            let (others, changes) = self.deletions.ended(&key, outcome.is_ok());
            waiters.extend(others);
            batch.records.extend(changes);
        }
        for waiter in waiters {
            let answer = Answer::Deleted(outcome.clone());
            batch.replies.push((waiter, answer));
        }
    }

    fn resume(&mut self, batch: &mut Batch<Self>) {
        let places = self.containers.values().map(|entry| entry.place());
        let containers = places.map(Doomed::Container);
        let sandboxes = self.sandboxes.uids().map(Doomed::Sandbox);
        let there: BTreeSet<_> = containers.chain(sandboxes).collect();
        let begun = self.deletions.take_up(&there);
        batch
            .world
            .extend(begun.iter().map(|record| repeated(None, record)));
    }

    /// Frees the names of what is gone.
    fn free(&mut self, is_gone: impl Fn(Entry) -> bool, batch: &mut Batch<Self>) {
        let containers = self.containers.iter();
        let gone = containers.filter(|(_, entry)| is_gone(**entry));
        let gone: Vec<_> = gone.map(|(name, entry)| (name.clone(), *entry)).collect();
        for (name, entry) in gone {
            self.containers.remove(&name);
            if let Entry::Undoing(_) = entry {
                batch.world.push(World::TellUndone(name));
            }
        }
    }

    /// Nobody looks after it any more: whoever waits for it, or for a name in it, hears why.
    fn forsake(&mut self, uid: SandboxUid, forlorn: Forlorn, batch: &mut Batch<Self>) {
        self.forsake_home(uid, forlorn, batch);
        for (name, entry) in &self.containers {
            match entry {
                Entry::Undoing(place) if place.uid == uid => {
                    batch.world.push(World::TellUndone(name.clone()));
                }
                Entry::Undoing(_) | Entry::Creating(_) | Entry::Lives(_) => {}
            }
        }
    }

    fn panicked(&mut self, uid: SandboxUid, at: EpochMs, batch: &mut Batch<Self>) {
        for entry in self.containers.values_mut() {
            if let Entry::Creating(place) = *entry
                && place.uid == uid
            {
                *entry = Entry::Undoing(place);
            }
        }
        if let Some(home) = self.sandboxes.by_uid(uid)
            && home.progress == Progress::Creating(Vec::new())
        {
            home.progress = Progress::Undoing;
        }
        let panics = self.panics.entry(uid).or_default();
        panics.retain(|before| before.0 + REBUILD_WINDOW_MS > at.0);
        panics.push(at);
        if panics.len() > REBUILDS_MAX {
            self.forsake(uid, Forlorn::Panicking(PANICKED.to_owned()), batch);
            batch.world.push(World::GiveUp(uid));
        } else {
            batch.world.push(World::Rebuild(uid));
        }
    }
}

fn repeated(waiter: Option<Waiter>, record: &DeletionRecord) -> World {
    World::Delete {
        waiter,
        key: Some(record.key.clone()),
        doomed: record.doomed,
        force: record.force,
        at: record.at,
        repeated: Repeated::Yes,
    }
}

impl Machine for Host {
    type Event = Event;
    type World = World;
    type Notice = ();
    type Answer = Answer;
    type Denied = Refusal;

    fn on(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Refusal> {
        match event {
            Event::Create {
                waiter,
                key,
                into,
                wish,
            } => {
                let created = self.create(waiter, key, into, wish, batch);
                return created.map_err(Refusal::Create);
            }
            Event::Delete { waiter, delete } => {
                return self.delete(waiter, delete, batch).map_err(Refusal::Delete);
            }
            Event::CreateSandbox { waiter, wish } => {
                let created = self.create_sandbox(waiter, wish, batch);
                return created.map_err(Refusal::CreateSandbox);
            }
            Event::SandboxCreated { uid, outcome } => self.sandbox_created(uid, &outcome, batch),
            Event::DeleteSandbox { waiter, delete } => {
                let deleted = self.delete_sandbox(waiter, delete, batch);
                return deleted.map_err(Refusal::Delete);
            }
            Event::Deleted {
                waiter,
                key,
                outcome,
            } => self.deleted(waiter, key, outcome, batch),
            Event::Resume => self.resume(batch),
            Event::Created {
                name,
                key,
                waiter,
                outcome,
            } => self.created(name, key, waiter, outcome, batch),
            Event::ContainerGone(place) => {
                let gone = [Entry::Lives(place), Entry::Undoing(place)];
                self.free(|entry| gone.contains(&entry), batch);
            }
            Event::SandboxGone(uid) => {
                self.sandbox_gone(uid);
                let gone = |entry| match entry {
                    Entry::Lives(place) | Entry::Undoing(place) => place.uid == uid,
                    Entry::Creating(_) => false,
                };
                self.free(gone, batch);
                batch.world.push(World::ForgetSandbox(uid));
            }
            Event::Unread { uid, forlorn } => self.forsake(uid, forlorn, batch),
            Event::RoomPanicked { uid, at } => self.panicked(uid, at, batch),
        }
        Ok(())
    }

    fn refuse(refusal: Refusal) -> Answer {
        match refusal {
            Refusal::Create(denied) => Answer::Created(Err(denied.into())),
            Refusal::CreateSandbox(denied) => Answer::SandboxCreated(Err(denied.into())),
            Refusal::Delete(denied) => Answer::Deleted(Err(denied.into())),
        }
    }

    fn state_name(&self) -> &'static str {
        "serving"
    }
}
