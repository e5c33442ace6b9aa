//! A sandbox as a pure machine: one VM, what it needs on the host, and its containers.
//!
//! ```text
//!        Create                      each step in order                           last step
//!  New ────────► Opening ─► Premises ─► Plumbing ─► Attaching ─► Launching ─► Linking ─► Greeting ─► Ready
//!                   │           │           │           │            │           │          │         │
//!                   └───────────┴───────────┴─── failed ┴────────────┴───────────┴──────────┘         │
//!                                                   ▼          VmExited, link lost, idle, deleted     │
//!                              Stopped ◄─────── Stopping ◄────────────────────────────────────────────┘
//!                                 │ last container retired
//!                                 ▼
//!                               Gone
//! ```
//!
//! Invariants:
//! - A sandbox is on record as being created before anything of it exists on the host, and its
//!   record goes last.
//! - `Stopping` ends in `Stopped` only when nothing of it is left on the host; a release that
//!   failed is tried again at the next deletion.
//! - A creation that fails leaves neither record nor resource; its caller is answered after that.
//! - At most one operation is outstanding, named by the `OpId` in the state.
//! - virtiofsd ends with its VMM, and may be seen to have ended first: why the VMM ended is what is told.

use super::events::{
    Answer, Deletion, Denied, Event, Notice, Refusal, Released, Why, World, exit_text,
};
use super::record::{Phase, SandboxRecord, SandboxSpec};
use crate::{
    container::ContainerSpec,
    devices::Share,
    error::{Fault, Kind},
    hypervisor::{BlockSpec, VmStatus},
    ids::{ContainerNumber, OpId},
    kit::{Batch, Machine, Waiter},
    network::NetworkStatus,
    records::{self, Change},
};
use std::collections::BTreeMap;

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
    Ready {
        vm: VmStatus,
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) creator: Option<Waiter>,
    pub(super) progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Creating,
    Lives,
    /// Stopped, and nobody needs its streams.
    Drained,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    spec: SandboxSpec,
    boot_id: String,
    pub(super) state: State,
    pub(super) vm: Option<VmStatus>,
    pub(super) containers: BTreeMap<ContainerNumber, Entry>,
    containers_numbered: u32,
    pub(super) deletions: Vec<Deletion>,
    /// The container with which the sandbox is created.
    pub(super) first: Option<Box<ContainerSpec>>,
    ops_issued: u64,
}

impl Sandbox {
    pub fn new(spec: SandboxSpec, boot_id: String) -> Self {
        Self {
            spec,
            boot_id,
            state: State::New,
            vm: None,
            containers: BTreeMap::new(),
            containers_numbered: 0,
            deletions: Vec::new(),
            first: None,
            ops_issued: 0,
        }
    }

    /// From the records; `containers` are those on record, and whether they were made.
    pub fn rebuilt(record: SandboxRecord, containers: &[(ContainerNumber, bool)]) -> Self {
        let entry = |&(number, made): &(ContainerNumber, bool)| {
            let progress = match made {
                true => Progress::Lives,
                false => Progress::Creating,
            };
            (
                number,
                Entry {
                    creator: None,
                    progress,
                },
            )
        };
        let lost = |text: String| State::Stopped {
            why: Why::Lost(text),
            released: Released::Partly(Fault::new(Kind::Aborted, "it was not released yet")),
        };
        let state = match (record.phase, &record.vm) {
            (Phase::Creating, _) | (Phase::Ready, None) => State::Stopped {
                why: Why::NotCreated(Fault::new(
                    Kind::Aborted,
                    "the daemon was restarted while the sandbox was being created",
                )),
                released: Released::Partly(Fault::new(Kind::Aborted, "it was not released yet")),
            },
            (Phase::Ready, Some(vm)) => State::Ready { vm: vm.clone() },
            (Phase::Stopping(text), _) => lost(text),
            (Phase::Stopped(text), _) => State::Stopped {
                why: Why::Lost(text),
                released: Released::Wholly,
            },
        };
        Self {
            state,
            vm: record.vm,
            containers: containers.iter().map(entry).collect(),
            containers_numbered: record.containers_numbered,
            ..Self::new(record.spec, record.boot_id)
        }
    }

    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn vm(&self) -> Option<&VmStatus> {
        self.vm.as_ref()
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

    pub(super) fn record(&self) -> Change {
        let phase = match &self.state {
            State::Ready { .. } => Phase::Ready,
            // Whoever finds it must undo it, and all that was to be in it.
            State::Stopping {
                why: Why::NotCreated(_),
                ..
            }
            | State::Stopped {
                why: Why::NotCreated(_),
                ..
            } => Phase::Creating,
            State::Stopping { why, .. }
            | State::Stopped {
                why,
                released: Released::Partly(_),
            } => Phase::Stopping(why.text()),
            State::Stopped {
                why,
                released: Released::Wholly,
            } => Phase::Stopped(why.text()),
            State::New
            | State::Opening { .. }
            | State::Premises { .. }
            | State::Plumbing { .. }
            | State::Attaching { .. }
            | State::Launching { .. }
            | State::Linking { .. }
            | State::Greeting { .. }
            | State::Gone => Phase::Creating,
        };
        records::put(
            self.key(),
            &SandboxRecord {
                boot_id: self.boot_id.clone(),
                spec: self.spec.clone(),
                phase,
                vm: self.vm.clone(),
                containers_numbered: self.containers_numbered,
            },
        )
    }

    fn create(
        &mut self,
        waiter: Waiter,
        spec: Box<ContainerSpec>,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        if self.containers.len() == CONTAINERS_MAX {
            return Err(Denied::TooManyContainers);
        }
        let entry = Entry {
            creator: Some(waiter),
            progress: Progress::Creating,
        };
        match self.state {
            State::New => {
                let op = self.op();
                self.state = State::Opening { op };
                batch.world.push(World::OpenRooms { op });
                self.first = Some(spec.clone());
            }
            State::Ready { .. } => batch
                .world
                .push(World::StartContainer { spec: spec.clone() }),
            State::Opening { .. }
            | State::Premises { .. }
            | State::Plumbing { .. }
            | State::Attaching { .. }
            | State::Launching { .. }
            | State::Linking { .. }
            | State::Greeting { .. }
            | State::Stopping { .. }
            | State::Stopped { .. }
            | State::Gone => {
                let state = self.state_name();
                return Err(Denied::NotReady { state });
            }
        }
        self.containers.insert(spec.number, entry);
        self.containers_numbered = self.containers_numbered.max(spec.number.0 + 1);
        batch.records.push(self.record());
        Ok(())
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
        let spec = self.first.take();
        let spec = spec.expect("a sandbox is created with its first container");
        batch.world.push(World::StartContainer { spec });
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
        vm.blocks = blocks;
        self.state = State::Launching { op };
        let vm = Box::new(vm);
        batch.world.push(World::Launch { op, vm });
    }

    fn ready(&mut self, vm: VmStatus, batch: &mut Batch<Self>) {
        self.vm = Some(vm.clone());
        self.state = State::Ready { vm };
        batch.records.push(self.record());
        for number in self.containers.keys() {
            let container = *number;
            batch.world.push(World::TellReady { container });
        }
    }

    fn lost(&mut self, text: String, code: u32, batch: &mut Batch<Self>) {
        match &self.state {
            State::Ready { .. } => self.stop(Why::Lost(text), code, batch),
            State::Launching { .. } | State::Linking { .. } | State::Greeting { .. } => {
                self.fail(Fault::new(Kind::Aborted, text), batch);
            }
            State::New
            | State::Opening { .. }
            | State::Premises { .. }
            | State::Plumbing { .. }
            | State::Attaching { .. }
            | State::Stopping { .. }
            | State::Stopped { .. }
            | State::Gone => {}
        }
    }
}

/// The exit code of a process whose VM was lost.
pub(super) const LOST: u32 = 255;
/// 128 + SIGKILL: the exit code of what we ended.
pub(super) const KILLED: u32 = 137;

impl Machine for Sandbox {
    type Event = Event;
    type World = World;
    type Notice = Notice;
    type Answer = Answer;
    type Denied = Refusal;

    // tidy: one table, every pair visible; each arm is a call or a few lines
    fn on(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Refusal> {
        match (self.state.clone(), event) {
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
                    Err(why) => self.never_was(why, batch),
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
            (State::Ready { .. }, Event::Plugged { container, outcome }) => match outcome {
                Ok(()) => batch.world.push(World::TellReady { container }),
                Err(why) => self.container_failed(container, why, batch),
            },
            (_, Event::News { container, notice }) => self.news(container, notice, batch),
            (_, Event::Delete(deletion)) => {
                return self.delete(deletion, batch).map_err(Refusal::Delete);
            }
            (_, Event::Retired { deletion, outcome }) => self.retired(deletion, outcome, batch),
            (_, Event::VmExited(exit)) => self.lost(exit_text(&exit), LOST, batch),
            (_, Event::LinkLost { why }) => {
                self.lost(format!("its agent does not answer: {why}"), LOST, batch);
            }
            (_, Event::ShareLost { why }) => batch.world.push(World::AwaitVmExit { share: why }),
            (_, Event::ShareLossDue { why }) => {
                self.lost(format!("its share is lost: {why}"), LOST, batch);
            }
            (State::Stopping { op, why, failures }, Event::TornDown { op: done, outcome })
                if op == done =>
            {
                self.torn_down(why, failures, outcome, batch);
            }
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
                | Event::TornDown { .. },
            ) => {}
        }
        Ok(())
    }

    fn refuse(refusal: Refusal) -> Answer {
        match refusal {
            Refusal::Create(denied) => Answer::Created(Err(denied.into())),
            Refusal::Delete(denied) => Answer::Deleted(Err(denied.into())),
        }
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::New | State::Opening { .. } | State::Premises { .. } => "creating",
            State::Plumbing { .. } => "plumbing",
            State::Attaching { .. } => "attaching",
            State::Launching { .. } => "launching",
            State::Linking { .. } => "linking",
            State::Greeting { .. } => "greeting",
            State::Ready { .. } => "ready",
            State::Stopping { .. } => "stopping",
            State::Stopped { .. } => "stopped",
            State::Gone => "gone",
        }
    }
}
