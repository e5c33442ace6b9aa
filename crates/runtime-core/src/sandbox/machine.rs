//! A sandbox as a pure machine: one VM, what it needs on the host, and its containers.
//!
//! ```text
//!      Create, Start                   each step in order                           last step
//!  New ───────► Opening ─► Premises ─► Plumbing ─► Attaching ─► Launching ─► Linking ─► Greeting ─► Up
//!   ▲ Stopped      │           │           │            │            │           │          │        │
//!   └──(Start)     └───────────┴───────────┴─── failed ─┴────────────┴───────────┴──────────┘        │
//!                                                  ▼      VmExited, link lost, idle, Stop, Delete    │
//!                              Stopped ◄────── Stopping ◄────────────────────────────────────────────┤
//!                                 │ last container retired, Delete                                   │
//!                                 ▼                Up ─ Start ─► Beginning ─► Up, running            │
//!                               Gone               Up ─ Stop ──► Quieting ─► Stopping                │
//!                                                  Up ─ Pause ─► Pausing ─► Paused ─► Resuming ─► Up ┘
//!                                                                  ▲          │ SIGKILL for a process
//!                                                                  └─ Thawed ◄┘ (through Resuming)
//! ```
//!
//! What callers see of it, and what they may ask where, is the table in [`super::rules`].
//!
//! Invariants:
//! - A sandbox is on record as being created before anything of it exists on the host, and its
//!   record goes last.
//! - `Stopping` ends in `Stopped` only when nothing of it is left on the host; a release that
//!   failed is tried again at the next deletion.
//! - A creation that fails leaves neither record nor resource; its caller is answered after that.
//! - At most one operation is outstanding, named by the `OpId` in the state.
//! - virtiofsd ends with its VMM, and may be seen to have ended first: why the VMM ended is what is told.

use super::events::{Answer, Deletion, Event, Notice, Refusal, Released, Why, World, exit_text};
use super::{
    journal::{Happening, Journal},
    orders::{Asked, Cause, Errand},
    record::{SandboxRecord, SharedSpec, Stage},
    rules::Standing,
};
use crate::{
    agent::Warnings,
    container::{ContainerSpec, ContainerState},
    devices::Share,
    hypervisor::{BlockSpec, VmStatus},
    ids::{ContainerId, ContainerNumber, OpId, RequestKey},
    kit::{Batch, Machine, Waiter},
    network::NetworkStatus,
    records,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A VM has at most 128 stream ports, one for each init.
pub(super) const CONTAINERS_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    New,
    Opening {
        op: OpId,
    },
    Premises {
        op: OpId,
    },
    Plumbing {
        op: OpId,
        network: Option<NetworkStatus>,
        share: Option<Share>,
    },
    Attaching {
        network: NetworkStatus,
        share: Option<Share>,
    },
    Launching {
        op: OpId,
    },
    Linking {
        op: OpId,
        vm: VmStatus,
    },
    Greeting {
        op: OpId,
        vm: VmStatus,
    },
    Up {
        vm: VmStatus,
        stage: Stage,
    },
    /// Its created containers are being started.
    Beginning {
        op: OpId,
        vm: VmStatus,
    },
    /// Its inits were told to end.
    Quieting {
        op: OpId,
        vm: VmStatus,
    },
    Pausing {
        op: OpId,
        vm: VmStatus,
        stage: Stage,
        cause: Cause,
    },
    Paused {
        vm: VmStatus,
        stage: Stage,
    },
    Resuming {
        op: OpId,
        vm: VmStatus,
        stage: Stage,
        cause: Cause,
    },
    /// Paused, but for so many errands.
    Thawed {
        vm: VmStatus,
        stage: Stage,
        open: usize,
    },
    Stopping {
        op: OpId,
        why: Why,
        /// Releases that failed; each may be repeated.
        failures: u32,
    },
    Stopped {
        why: Why,
        released: Released,
    },
    Gone,
}

/// For what a VM is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Boot {
    /// It came up, or never will.
    Over,
    /// For a container, with which the sandbox is created.
    Container(Box<ContainerSpec>),
    /// For nothing yet.
    Empty,
    /// It was stopped.
    Again,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: ContainerId,
    pub(super) creator: Option<Waiter>,
    pub(super) progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Creating,
    Lives,
    Started,
    /// Stopped, and nobody needs its streams.
    Drained,
    /// Its VM is gone, and another one took its place.
    Past,
}

/// A container on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub number: ContainerNumber,
    pub id: ContainerId,
    pub state: ContainerState,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub(super) spec: SharedSpec,
    pub(super) boot_id: String,
    pub(super) state: State,
    pub(super) vm: Option<VmStatus>,
    /// Boxed: a map has room for eleven at once, and most sandboxes have one.
    pub(super) containers: BTreeMap<ContainerNumber, Box<Entry>>,
    pub(super) containers_numbered: u32,
    /// Containers with a lower number lived in a VM that is gone.
    pub(super) first_of_vm: u32,
    /// Containers that brought the VM that is there a disk to write to: what its guest did not write is lost with it.
    pub(super) writers: BTreeSet<ContainerNumber>,
    /// What the VM that is gone may not have written; nobody was told yet.
    pub(super) unwritten: Warnings,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) asked: Vec<Asked>,
    pub(super) keys: VecDeque<RequestKey>,
    pub(super) errands: Vec<Errand>,
    pub(super) deletions: Vec<Deletion>,
    pub(super) boot: Boot,
    /// What was heard before it is of another VM.
    booted_by: OpId,
    pub(super) journal: Journal,
    ops_issued: u64,
}

impl Sandbox {
    pub fn new(spec: SharedSpec, annotations: BTreeMap<String, String>, boot_id: String) -> Self {
        Self {
            spec,
            boot_id,
            state: State::New,
            vm: None,
            containers: BTreeMap::new(),
            containers_numbered: 0,
            first_of_vm: 0,
            writers: BTreeSet::new(),
            unwritten: Warnings::new(),
            annotations,
            asked: Vec::new(),
            keys: VecDeque::new(),
            errands: Vec::new(),
            deletions: Vec::new(),
            boot: Boot::Over,
            booted_by: OpId(0),
            journal: Journal::default(),
            ops_issued: 0,
        }
    }

    /// From the records; `containers` are those on record.
    pub fn rebuilt(record: SandboxRecord, containers: Vec<Member>) -> Self {
        let mut sandbox = Self::new(record.spec, record.annotations, record.boot_id);
        sandbox.vm = record.vm;
        sandbox.containers_numbered = record.containers_numbered;
        sandbox.first_of_vm = record.first_of_vm;
        sandbox.writers = record.writers;
        sandbox.keys = record.keys.into();
        sandbox.journal = record.journal;
        let runs = |member: &Member| {
            let runs = matches!(
                member.state,
                ContainerState::Running | ContainerState::Paused
            );
            runs && member.number.0 >= record.first_of_vm
        };
        // A start is on the container's record, and not yet on the sandbox's own.
        let reached = containers.iter().any(runs).then_some(Stage::Running);
        for member in containers {
            let entry = Entry {
                id: member.id,
                creator: None,
                progress: match member.state {
                    // It is undone, whichever VM it was to live in.
                    ContainerState::Creating => Progress::Creating,
                    _ if member.number.0 < record.first_of_vm => Progress::Past,
                    ContainerState::Created => Progress::Lives,
                    ContainerState::Running
                    | ContainerState::Paused
                    | ContainerState::Stopped(_) => Progress::Started,
                },
            };
            sandbox.containers.insert(member.number, Box::new(entry));
        }
        sandbox.state = sandbox.taken_up(record.phase, reached);
        sandbox
    }

    pub fn spec(&self) -> &SharedSpec {
        &self.spec
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn vm(&self) -> Option<&VmStatus> {
        self.vm.as_ref()
    }

    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The number that the next container gets.
    pub fn next_number(&self) -> ContainerNumber {
        ContainerNumber(self.containers_numbered)
    }

    pub(super) fn op(&mut self) -> OpId {
        self.ops_issued += 1;
        OpId(self.ops_issued)
    }

    pub(super) fn key(&self) -> String {
        SandboxRecord::key(self.spec.uid)
    }

    pub(super) fn is_being_created(&self) -> bool {
        self.standing() == Standing::Creating
    }

    /// Begins to give it a VM.
    pub(super) fn boot(&mut self, boot: Boot, batch: &mut Batch<Self>) {
        if boot == Boot::Again {
            self.first_of_vm = self.containers_numbered;
            for entry in self.containers.values_mut() {
                match entry.progress {
                    // It is being undone.
                    Progress::Creating => {}
                    _ => entry.progress = Progress::Past,
                }
            }
            self.retire_past(batch);
        }
        self.unwritten.clear();
        let op = self.op();
        (self.boot, self.booted_by) = (boot, op);
        self.state = State::Opening { op };
        batch.world.push(World::OpenRooms { op });
    }

    /// Goes on when both the namespace and the share are there.
    fn plumbed(&mut self, batch: &mut Batch<Self>) {
        let State::Plumbing {
            network: Some(network),
            share,
            ..
        } = &self.state
        else {
            return;
        };
        if share.is_none() && self.spec.share.is_some() {
            return;
        }
        self.state = State::Attaching {
            network: network.clone(),
            share: share.clone(),
        };
        match std::mem::replace(&mut self.boot, Boot::Over) {
            Boot::Container(spec) => self.take_in(spec, batch),
            boot @ (Boot::Empty | Boot::Again | Boot::Over) => {
                self.boot = boot;
                self.launch(Vec::new(), batch);
            }
        }
    }

    /// The first container's devices are there: everything that the VMM needs is known.
    pub(super) fn launch(&mut self, blocks: Vec<BlockSpec>, batch: &mut Batch<Self>) {
        let State::Attaching { network, share } = self.state.clone() else {
            return;
        };
        let op = self.op();
        let mut vm = self.spec.vm.clone();
        vm.netns = Some(network.netns);
        vm.share_socket = share.map(|share| share.socket);
        // Behind what its guest boots from.
        vm.blocks.extend(blocks);
        self.state = State::Launching { op };
        let vm = Box::new(vm);
        batch.world.push(World::Launch { op, vm });
    }
}

impl Machine for Sandbox {
    type Event = Event;
    type World = World;
    type Notice = Notice;
    type Answer = Answer;
    type Denied = Refusal;

    fn on(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Refusal> {
        let (before, stood) = (self.record(), self.standing());
        self.apply(event, batch)?;
        self.stop_if_idle(batch);
        let stands = self.standing();
        if stands != stood {
            self.journal.note(Happening::State {
                standing: stands,
                reason: self.reason(),
            });
        }
        let after = self.record();
        if before == after {
            return Ok(());
        }
        match &after {
            Some(record) => batch.records.push(records::put(self.key(), record)),
            None => batch.records.push(records::delete(self.key())),
        }
        batch.announce.insert(0, Notice::Happened);
        Ok(())
    }

    fn refuse(refusal: Refusal) -> Answer {
        match refusal {
            Refusal::Create(denied) => Answer::Created(Err(denied.into())),
            Refusal::Delete(denied) => Answer::Deleted(Err(denied.into())),
            Refusal::Order(denied) => Answer::Ordered(Err(denied.into())),
        }
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::New | State::Opening { .. } | State::Premises { .. } => "opening",
            State::Plumbing { .. } => "plumbing",
            State::Attaching { .. } => "attaching",
            State::Launching { .. } => "launching",
            State::Linking { .. } => "linking",
            State::Greeting { .. } => "greeting",
            State::Up {
                stage: Stage::Ready,
                ..
            } => "ready",
            State::Up {
                stage: Stage::Running,
                ..
            } => "running",
            State::Beginning { .. } => "beginning",
            State::Quieting { .. } => "quieting",
            State::Pausing { .. } => "pausing",
            State::Paused { .. } => "paused",
            State::Resuming { .. } => "resuming",
            State::Thawed { .. } => "thawed",
            State::Stopping { .. } => "stopping",
            State::Stopped { .. } => "stopped",
            State::Gone => "gone",
        }
    }
}

impl Sandbox {
    // tidy: one table, every pair visible; each arm is a call or a few lines
    fn apply(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Refusal> {
        match (self.state.clone(), event) {
            (State::New, Event::CreateEmpty { waiter }) => self.create_empty(waiter, batch),
            (_, Event::CreateEmpty { waiter }) => {
                // Its host makes each once.
                batch.replies.push((waiter, Answer::done()));
            }
            (_, Event::Settle { waiter }) => {
                batch.replies.push((waiter, Answer::done()));
            }
            (_, Event::Order { waiter, order }) => {
                return self.order(waiter, order, batch).map_err(Refusal::Order);
            }
            (_, Event::Create { waiter, spec }) => {
                return self.create(waiter, spec, batch).map_err(Refusal::Create);
            }
            (State::Opening { op }, Event::RoomsOpened { op: done, outcome }) if op == done => {
                match outcome {
                    Ok(()) => {
                        let op = self.op();
                        self.state = State::Premises { op };
                        batch.world.push(World::Prepare { op });
                    }
                    Err(why) => self.never_opened(why, batch),
                }
            }
            (State::Premises { op }, Event::Prepared { op: done, outcome }) if op == done => {
                match outcome {
                    Ok(()) => self.plumb(batch),
                    Err(why) => self.fail(why, batch),
                }
            }
            (State::Plumbing { op, share, .. }, Event::Connected { op: done, outcome })
                if op == done =>
            {
                match outcome {
                    Ok(network) => {
                        let network = Some(network);
                        self.state = State::Plumbing { op, network, share };
                        self.plumbed(batch);
                    }
                    Err(why) => self.fail(why, batch),
                }
            }
            (State::Plumbing { op, network, .. }, Event::ShareOpened { op: done, outcome })
                if op == done =>
            {
                match outcome {
                    Ok(share) => {
                        let share = Some(share);
                        self.state = State::Plumbing { op, network, share };
                        self.plumbed(batch);
                    }
                    Err(why) => self.fail(why, batch),
                }
            }
            (State::Launching { op }, Event::Launched { op: done, outcome }) if op == done => {
                match outcome {
                    Ok(vm) => {
                        let op = self.op();
                        self.state = State::Linking { op, vm: vm.clone() };
                        batch.world.push(World::Link { op, vm });
                    }
                    Err(why) => self.fail(why, batch),
                }
            }
            (State::Linking { op, vm }, Event::Linked { op: done, outcome }) if op == done => {
                match outcome {
                    Ok(()) => {
                        let op = self.op();
                        self.state = State::Greeting { op, vm };
                        batch.world.push(World::Greet { op });
                    }
                    Err(why) => self.fail(why, batch),
                }
            }
            (State::Greeting { op, vm }, Event::Greeted { op: done, outcome }) if op == done => {
                match outcome {
                    Ok(()) => self.ready(vm, batch),
                    Err(why) => self.fail(why, batch),
                }
            }
            (State::Beginning { op, vm }, Event::Begun { op: done, outcome }) if op == done => {
                self.begun(vm, &outcome, batch);
            }
            (State::Quieting { op, .. }, Event::Quieted { op: done }) if op == done => {
                self.stop(Why::Asked, batch);
            }
            (State::Pausing { op, vm, stage, .. }, Event::PauseDone { op: done, outcome })
                if op == done =>
            {
                self.pause_done(vm, stage, outcome, batch);
            }
            (
                State::Resuming {
                    op,
                    vm,
                    stage,
                    cause,
                },
                Event::ResumeDone { op: done, outcome },
            ) if op == done => self.resume_done((vm, stage), cause, outcome, batch),
            (_, Event::End { waiter, killing }) => self.end(Errand::Kill(waiter, killing), batch),
            (
                _,
                Event::Killed {
                    waiter,
                    killing,
                    outcome,
                },
            ) => self.killed(waiter, killing, outcome, batch),
            (State::Up { .. } | State::Beginning { .. }, Event::Plugged { container, outcome }) => {
                match outcome {
                    Ok(()) => batch.world.push(World::TellReady { container }),
                    Err(why) => self.container_failed(container, why, batch),
                }
            }
            (_, Event::News { container, notice }) => self.news(container, notice, batch),
            (_, Event::Delete(deletion)) => {
                return self.delete(deletion, batch).map_err(Refusal::Delete);
            }
            (
                _,
                Event::Retired {
                    deletion,
                    guest,
                    outcome,
                },
            ) => self.retired(deletion, guest, outcome, batch),
            (_, Event::VmExited(exit)) => self.lost(Why::Lost(exit_text(&exit)), batch),
            (_, Event::LinkLost { why }) => self.link_lost(&why, batch),
            (_, Event::ShareLost { why }) => {
                let op = self.op();
                batch.world.push(World::AwaitVmExit { op, share: why });
            }
            (_, Event::ShareLossDue { op, why }) if op > self.booted_by => {
                self.lost(Why::Lost(format!("its share is lost: {why}")), batch);
            }
            (
                State::Stopping { op, why, failures },
                Event::TornDown {
                    op: done,
                    unwritten,
                    outcome,
                },
            ) if op == done => self.torn_down(why, failures, unwritten, outcome, batch),
            (_, Event::Resume { same_boot }) => self.resume(same_boot, batch),
            // Stale completions.
            (
                _,
                Event::RoomsOpened { .. }
                | Event::Prepared { .. }
                | Event::Connected { .. }
                | Event::ShareOpened { .. }
                | Event::Launched { .. }
                | Event::Linked { .. }
                | Event::Greeted { .. }
                | Event::Plugged { .. }
                | Event::Begun { .. }
                | Event::Quieted { .. }
                | Event::PauseDone { .. }
                | Event::ResumeDone { .. }
                | Event::ShareLossDue { .. }
                | Event::TornDown { .. },
            ) => {}
        }
        Ok(())
    }
}
