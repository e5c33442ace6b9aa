//! A container as a pure machine.
//!
//! ```text
//!       Create              Attached                  GuestReady, hooks    init Made
//!  New ────────► Attaching ──────────► AwaitingGuest ─► Hooking ─► Making ─────────► Created
//!                    │ failed                │ GuestGone             │ init Failed       │ init Began
//!                    ▼                       ▼                       ▼                   ▼
//!                  Failed ◄──────────────────┴───────────────────────┘                Running
//!                                                                                        │ init Exited
//!       Closing ◄── Retire (created, stopped; any state with force) ◄──── Stopped ◄──────┘
//!          │ every process closed        Removing ──► Finishing (poststop) ──► Retired
//!          └───────────────────────────────▲
//! ```
//!
//! Invariants:
//! - A stopped container is final. What it has in the guest leaves while it is stopped, if it can.
//! - A retired container has no record, and none of its processes has one.
//! - What the container's state is follows from its init's notices, which are on record.

use super::events::{Answer, Denied, Event, Notice, Reason, World};
use super::{
    execs::Member,
    freezer::{FreezeRequest, Freezer},
    hooks::{HookProgress, Poststart},
    leave::Belongings,
    ooms::{FreshOom, Kept, OomWaiter},
    record::{ContainerRecord, ContainerState, SharedSpec},
};
use crate::{
    agent::ExitStatus,
    devices::Attached,
    error::{Fault, Kind},
    ids::{ContainerNumber, HostProcess, OpId, ProcessId, SandboxUid},
    kit::{Batch, Machine, Waiter},
    process,
    records::{self, Change},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// A caller that asks again has given up its earlier question, whose waiter is still there.
pub(super) const RESENDS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    New,
    Attaching {
        op: OpId,
    },
    AwaitingGuest,
    /// prestart and createRuntime.
    Hooking {
        op: OpId,
    },
    Making,
    Created,
    Running,
    Stopped(ExitStatus),
    Failed,
    Closing {
        waiters: Vec<Waiter>,
        guest: Guest,
    },
    Removing {
        op: OpId,
        waiters: Vec<Waiter>,
    },
    /// poststop.
    Finishing {
        op: OpId,
        waiters: Vec<Waiter>,
    },
    Retired,
}

/// What becomes of the guest when a container is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// It goes on; the container is removed from it.
    Stays,
    /// The whole VM goes; nothing needs to be removed from it.
    Goes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Force {
    /// Refuse while it runs.
    No,
    Yes,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub(super) uid: SandboxUid,
    pub(super) spec: SharedSpec,
    pub(super) state: State,
    /// What callers are told, and what is on record.
    pub(super) told: ContainerState,
    attached: Option<Box<Attached>>,
    /// Created and running containers may stand still.
    pub(super) freezer: Freezer,
    pub(super) asked_to_freeze: Option<FreezeRequest>,
    pub(super) ooms: Kept,
    /// At most as many as a link tells before they are on record.
    pub(super) fresh_ooms: Vec<FreshOom>,
    /// Some were put on record a moment ago.
    pub(super) oom_rests: bool,
    pub(super) oom_waiters: Vec<OomWaiter>,
    pub(super) hooks: HookProgress,
    pub(super) poststart: Poststart,
    /// Boxed: a map has room for eleven at once, and most containers have one.
    pub(super) members: BTreeMap<ProcessId, Box<Member>>,
    /// Execs that are over and were read, the oldest first.
    pub(super) over: VecDeque<ProcessId>,
    /// Processes that were closed, whose records go with its own.
    pub(super) closed: Vec<ProcessId>,
    pub(super) belongings: Belongings,
    /// It is on record as stopped, and its init not as exited: a daemon died while it deleted it.
    pub(super) left_alive: bool,
    ops_issued: u64,
}

impl Container {
    pub fn new(uid: SandboxUid, spec: SharedSpec) -> Self {
        Self {
            uid,
            spec,
            state: State::New,
            told: ContainerState::Creating,
            attached: None,
            freezer: Freezer::Thawed,
            asked_to_freeze: None,
            ooms: Kept::new(),
            fresh_ooms: Vec::new(),
            oom_rests: false,
            oom_waiters: Vec::new(),
            hooks: HookProgress::Untouched,
            poststart: Poststart::default(),
            members: BTreeMap::new(),
            over: VecDeque::new(),
            closed: Vec::new(),
            belongings: Belongings::There,
            left_alive: false,
            ops_issued: 0,
        }
    }

    /// Its first record, for the sandbox that takes it in.
    pub fn taken_in(uid: SandboxUid, spec: SharedSpec) -> Change {
        Self::new(uid, spec).record()
    }

    /// From the records. One that was being created is undone by its sandbox.
    pub fn rebuilt(record: ContainerRecord, processes: &[process::ProcessRecord]) -> Self {
        let told = record.state.clone();
        let state = match record.state {
            ContainerState::Creating => State::Failed,
            ContainerState::Created => State::Created,
            // Paused is on no record.
            ContainerState::Running | ContainerState::Paused => State::Running,
            ContainerState::Stopped(status) => State::Stopped(status),
        };
        let members = processes
            .iter()
            .map(|p| (p.process.clone(), Box::new(Member::rebuilt(p))));
        let left_alive = matches!(told, ContainerState::Stopped(_))
            && processes.iter().any(process::ProcessRecord::is_living_init);
        let mut container = Self {
            state,
            told,
            attached: record.attached.map(Box::new),
            asked_to_freeze: record.asked_to_freeze,
            ooms: record.ooms,
            hooks: record.hooks,
            members: members.collect(),
            left_alive,
            ..Self::new(record.uid, record.spec)
        };
        container.rebuilt_freezer(&record.freezer);
        container
    }

    pub fn spec(&self) -> &SharedSpec {
        &self.spec
    }

    pub fn number(&self) -> ContainerNumber {
        self.spec.number
    }

    pub fn attached(&self) -> Option<&Attached> {
        self.attached.as_deref()
    }

    /// It has nothing in its guest and of its VM any more.
    pub fn has_departed(&self) -> bool {
        self.belongings == Belongings::Gone
    }

    /// Who stands for its init on the host.
    pub fn relay(&self) -> Option<HostProcess> {
        self.members.get(&ProcessId::Init)?.relay
    }

    /// Who stands for its processes.
    pub fn relays(&self) -> Vec<HostProcess> {
        let all = self.members.values();
        all.filter_map(|member| member.relay).collect()
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// As the OCI runtime specification names it, and as it is on record.
    pub fn oci_state(&self) -> ContainerState {
        match self.told {
            ContainerState::Created | ContainerState::Running if self.freezer.is_paused() => {
                ContainerState::Paused
            }
            _ => self.told.clone(),
        }
    }

    pub(super) fn lives(&self) -> bool {
        matches!(self.state, State::Created | State::Running)
    }

    /// # Errors
    /// It was created and stands still: its program would wait for the thaw. Of any other state its
    /// init knows whether it may be started, or was by the same request.
    pub fn may_start(&self) -> Result<(), Reason> {
        match (&self.state, self.stands_still()) {
            (State::Created, Some(paused)) => Err(paused),
            _ => Ok(()),
        }
    }

    /// Why nothing can be begun in it; whatever else its init has against being started.
    pub fn stands_still(&self) -> Option<Reason> {
        (self.freezer != Freezer::Thawed).then_some(Reason::Paused)
    }

    pub(super) fn next_op(&mut self) -> OpId {
        self.ops_issued += 1;
        OpId(self.ops_issued)
    }

    pub(super) fn key(&self) -> String {
        ContainerRecord::key(self.uid, self.spec.number)
    }

    pub(super) fn record(&self) -> Change {
        records::put(
            self.key(),
            &ContainerRecord {
                uid: self.uid,
                spec: self.spec.clone(),
                state: self.told.clone(),
                attached: self.attached.as_deref().cloned(),
                freezer: self.freezer.record(),
                asked_to_freeze: self.asked_to_freeze.clone(),
                ooms: self.ooms.clone(),
                hooks: self.hooks,
            },
        )
    }

    pub(super) fn fail(&mut self, why: Fault, batch: &mut Batch<Self>) {
        self.state = State::Failed;
        self.drop_ooms(batch);
        batch.announce.push(Notice::Failed { why });
    }

    pub(super) fn make_init(&mut self, batch: &mut Batch<Self>) {
        self.state = State::Making;
        let relay = self.spec.relay;
        let member = Box::new(Member::making(None, relay, Vec::new()));
        self.members.insert(ProcessId::Init, member);
        let make = process::Make {
            relay,
            ..Default::default()
        };
        batch.world.push(World::MakeProcess {
            process: ProcessId::Init,
            make,
        });
    }

    fn news(&mut self, process: ProcessId, notice: process::Notice, batch: &mut Batch<Self>) {
        match (process, notice) {
            (process, process::Notice::Made(made)) => self.made(process, made, batch),
            (process, process::Notice::Failed { why }) => self.process_failed(process, why, batch),
            (ProcessId::Init, process::Notice::Began) => {
                if self.state == State::Created {
                    self.state = State::Running;
                    self.told = ContainerState::Running;
                    self.poststart(batch);
                    batch.records.push(self.record());
                    batch.announce.push(Notice::Started);
                }
            }
            (ProcessId::Exec(_), process::Notice::Began) => {}
            (_, process::Notice::Doomed) => self.doomed(batch),
            (process, process::Notice::Relay { relay }) => {
                if let Some(member) = self.members.get_mut(&process) {
                    member.relay = relay;
                }
            }
            (process, process::Notice::Exited { status, seq }) => {
                self.exited(process, status, batch);
                if let Some(seq) = seq {
                    batch.announce.push(Notice::ExitRecorded { seq });
                }
            }
            (_, process::Notice::Disbelieved { seq }) => {
                batch.announce.push(Notice::ExitRecorded { seq });
            }
            (ProcessId::Init, process::Notice::Drained) => {
                if matches!(self.state, State::Stopped(_)) {
                    batch.announce.push(Notice::Drained);
                }
            }
            (process, process::Notice::Drained) => self.exec_over(process, batch),
            (process, process::Notice::Closed) => {
                if self.is_ending() {
                    self.closed.push(process.clone());
                }
                let why = "its container was deleted while it was being made";
                self.forget(process, &Fault::new(Kind::Aborted, why), batch);
                self.closed(batch);
            }
        }
        self.leave_if_over(batch);
    }

    fn process_failed(&mut self, process: ProcessId, why: Fault, batch: &mut Batch<Self>) {
        let is_creation = process == ProcessId::Init && self.state == State::Making;
        self.forget(process, &why, batch);
        if is_creation {
            self.fail(why, batch);
        }
        self.closed(batch);
    }

    /// The first exit stands: one that comes while it is being deleted, or was, changes nothing that is told.
    fn exited(&mut self, process: ProcessId, status: ExitStatus, batch: &mut Batch<Self>) {
        self.left_alive &= process != ProcessId::Init;
        if process != ProcessId::Init || !self.lives() {
            return;
        }
        self.told = ContainerState::Stopped(status.clone());
        self.state = State::Stopped(status.clone());
        self.freezer_over(batch);
        self.number_ooms(batch);
        batch.records.push(self.record());
        batch.announce.push(Notice::Stopped { status });
        self.tell_ooms(batch);
    }
}

impl Machine for Container {
    type Event = Event;
    type World = World;
    type Notice = Notice;
    type Answer = Answer;
    type Denied = Denied;

    // tidy: one table, every pair visible; each arm is a call or a few lines
    fn on(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Denied> {
        match (&self.state, event) {
            (State::New, Event::Create) => {
                let op = self.next_op();
                // On record since its sandbox took it in.
                self.state = State::Attaching { op };
                batch.world.push(World::Attach { op });
            }
            (&State::Attaching { op }, Event::Attached { op: done, outcome }) if op == done => {
                match outcome {
                    Ok(attached) => {
                        let blocks = attached.blocks.clone();
                        self.attached = Some(Box::new(attached));
                        self.state = State::AwaitingGuest;
                        // What has to be unplugged one day. All else of it has the devices room on record.
                        if !blocks.is_empty() {
                            batch.records.push(self.record());
                        }
                        batch.announce.push(Notice::Attached { blocks });
                    }
                    Err(why) => self.fail(why, batch),
                }
            }
            (State::AwaitingGuest, Event::GuestReady) => self.guest_ready(batch),
            (_, Event::Hooked { op, outcome }) => self.hooked(op, outcome, batch),
            (_, Event::SettleStart { waiter }) => self.settle_start(waiter, batch),
            (_, Event::Exec { waiter, exec }) => {
                return self.exec(waiter, exec, batch).map_err(Denied::Exec);
            }
            (_, Event::Settle { waiter }) => batch.replies.push((waiter, Answer::Settled)),
            (_, Event::News { process, notice }) => self.news(process, notice, batch),
            (
                _,
                Event::GuestExited {
                    seq,
                    process,
                    status,
                },
            ) => {
                match self.members.contains_key(&process) {
                    true => batch.world.push(World::TellExit {
                        process,
                        seq,
                        status,
                    }),
                    // Of a process that was deleted meanwhile.
                    false => batch.announce.push(Notice::ExitRecorded { seq }),
                }
            }
            (_, Event::GuestOomKilled { seq, at }) => self.oom(seq, at, batch),
            (_, Event::OomRested) => self.oom_rested(batch),
            (_, Event::GuestGone { status }) => self.guest_gone(status, batch),
            (_, Event::Freeze { waiter, key, wish }) => {
                let frozen = self.freeze(waiter, key, wish, batch);
                return frozen.map_err(Denied::Command);
            }
            (_, Event::Frozen { op, outcome }) => self.frozen(op, outcome, batch),
            (_, Event::Thawed { op, outcome }) => self.thawed(op, outcome, batch),
            (State::Created | State::Running, Event::Update { waiter, resources }) => {
                batch.world.push(World::Update { waiter, resources });
            }
            (_, Event::Update { .. }) => {
                let state = self.state_name();
                return Err(Denied::Update(Reason::CannotUpdate { state }));
            }
            (_, Event::Updated { waiter, outcome }) => {
                batch.replies.push((waiter, Answer::Updated(outcome)));
            }
            (_, Event::NextOoms { waiter, after }) => {
                let waits = self.next_ooms(waiter, after, batch);
                return waits.map_err(Denied::Ooms);
            }
            (_, Event::OomWaitOver { waiter }) => self.oom_wait_over(waiter, batch),
            (
                _,
                Event::Retire {
                    waiter,
                    force,
                    guest,
                    at,
                },
            ) => {
                return self
                    .retire(waiter, force, guest, at, batch)
                    .map_err(Denied::Retire);
            }
            (State::Removing { op, waiters }, Event::Removed { op: done, outcome })
                if *op == done =>
            {
                let waiters = waiters.clone();
                self.removed(waiters, outcome, batch);
            }
            (State::Stopped(_), Event::Leave) => self.leave(batch),
            (_, Event::Departed { op, outcome }) => self.departed(op, outcome, batch),
            (State::Failed, Event::Resume) => {
                let why = "the daemon was restarted while this container was being created";
                let why = Fault::new(Kind::Aborted, why);
                batch.announce.push(Notice::Failed { why });
            }
            (State::Created | State::Running, Event::Resume) => {
                self.resume_freezer(batch);
                self.resume_hooks(batch);
            }
            (State::Stopped(_), Event::Resume) => self.kill_left(Duration::ZERO, batch),
            (State::Stopped(_), Event::LeftKilled { outcome }) => self.left_killed(outcome, batch),
            // Stale completions, and news that changes nothing.
            (
                _,
                Event::Create
                | Event::LeftKilled { .. }
                | Event::Attached { .. }
                | Event::GuestReady
                | Event::Removed { .. }
                | Event::Leave
                | Event::Resume,
            ) => {}
        }
        Ok(())
    }

    fn refuse(denied: Denied) -> Answer {
        match denied {
            Denied::Exec(reason) => Answer::Exec(Err(reason.into())),
            Denied::Retire(reason) => Answer::Retired(Err(reason.into())),
            Denied::Update(reason) => Answer::Updated(Err(reason.into())),
            Denied::Command(reason) => Answer::Done(Err(reason.into())),
            Denied::Ooms(reason) => Answer::Ooms(Err(reason.into())),
        }
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::New
            | State::Attaching { .. }
            | State::AwaitingGuest
            | State::Hooking { .. }
            | State::Making => "creating",
            State::Created => "created",
            State::Running => "running",
            State::Stopped(_) => "stopped",
            State::Failed => "failed",
            State::Closing { .. } | State::Removing { .. } | State::Finishing { .. } => "deleting",
            State::Retired => "deleted",
        }
    }
}
