//! The link to one guest's agent as a pure machine: no clock, no socket, no store.
//!
//! ```text
//!          Open              Dialed(ok)
//!  Closed ──────► Dialing ─────────────► Ready ──► calls, and exits one poll after another
//!     │            ▲   │ Dialed(err)       │ HungUp, a poll that failed
//!     │ hybrid     │   ▼                   │
//!     └► Awaiting  └─ Waiting ◄────────────┘
//!         │  ▲ RetryDue
//!         └──┘ silent console        out of patience, from any state but Ready:  Lost
//!                                    Close, from any state but Lost:             Closed
//! ```
//!
//! Invariants:
//! - A completion whose `OpId` is not in the state is stale and changes nothing.
//! - While there is no link, patience runs: the guest is given up when it said nothing on its
//!   console for one budget, or when it talked for many and still did not answer.
//! - An exit is acknowledged to the guest only after the sandbox had it on record, and is told
//!   again after a redial until then.
//! - Each command is answered exactly once: a call by its completion, or by the loss of its link.
//!
//! This room keeps no record: where to dial, and what was recorded of exits, comes with `Open`.

use crate::{
    call::Call,
    events::{Answer, Denied, Event, Notice, World},
    patience::{Patience, Verdict},
    ready::Ready,
};
use runtime_core::{
    agent::{AgentDetails, GuestNews, LinkSpec},
    error::{Fault, Kind},
    hypervisor::HostEndpoint,
    ids::OpId,
    kit::{self, Machine, Waiter},
};
use std::time::Duration;

pub(crate) type Batch = kit::Batch<Link>;

/// A boot under KVM is done in 0.2 s; this adds half of itself to it on average.
const RETRY_DELAY: Duration = Duration::from_millis(25);
/// A HELLO waits in the port until the agent opens it, so this dial may span the boot; it ends so
/// that a HELLO that was lost is said again.
const DIAL_SERIAL: Duration = Duration::from_secs(3);
/// A connect is answered at once or never, and then the agent says who it is.
const DIAL_CONNECT: Duration = Duration::from_secs(1);
/// Between two looks at the console of a guest that must not be dialed before it stirs.
const LOOK_DELAY: Duration = Duration::from_millis(50);
/// Then it is dialed all the same: its console may be off. Together one second with KVM.
pub const LOOKS_MAX: u32 = 20;
/// The sandbox opens once, and once more for each rebuild while the first still waits.
pub const OPENERS_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Closed,
    /// A guest behind hybrid vsock is not dialed before it stirs: the backend may wedge.
    Awaiting {
        op: OpId,
        looks: u32,
        reach: Reach,
    },
    Dialing {
        op: OpId,
        reach: Reach,
    },
    Waiting {
        op: OpId,
        reach: Reach,
    },
    Ready(Ready),
    Lost {
        why: Fault,
    },
}

/// A link on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    link: LinkSpec,
    patience: Patience,
    purpose: Purpose,
    /// Why the last dial failed.
    last: Option<Fault>,
}

/// For whom a link is made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    /// These wait for the first one.
    Opening(Vec<Waiter>),
    /// There was one, and the sandbox counts on it; these asked for it meanwhile.
    Returning(Vec<Waiter>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    state: State,
    ops: Ops,
}

/// Names operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ops {
    issued: u64,
}

impl Ops {
    pub(crate) fn next(&mut self) -> OpId {
        self.issued += 1;
        OpId(self.issued)
    }
}

impl Machine for Link {
    type Event = Event;
    type World = World;
    type Notice = Notice;
    type Answer = Answer;
    type Denied = Denied;

    fn on(&mut self, event: Event, batch: &mut Batch) -> Result<(), Denied> {
        match event {
            Event::Open { waiter, link } => self.open(waiter, link, batch)?,
            Event::Call { waiter, call } => self.call(waiter, call, batch)?,
            Event::Close => self.close(batch),
            Event::NewsRecorded { seq } => self.recorded(seq, batch),
            Event::Looked { op, console_bytes } => self.looked(op, console_bytes, batch),
            Event::Dialed { op, outcome } => self.dialed(op, outcome, batch),
            Event::RetryDue { op } => self.retry_due(op, batch),
            Event::PatienceDue { op } => self.patience_due(op, batch),
            Event::PatienceLooked { op, console_bytes } => {
                self.patience_looked(op, console_bytes, batch);
            }
            Event::PatienceNoted { op, console_bytes } => self.patience_noted(op, console_bytes),
            Event::HungUp { op } => self.hung_up(op, batch),
            Event::Polled { op, outcome } => self.polled(op, outcome, batch),
            Event::Called { op, outcome } => self.called(op, outcome, batch),
        }
        Ok(())
    }

    fn refuse(denied: Denied) -> Answer {
        Err(denied.into())
    }

    fn state_name(&self) -> &'static str {
        match &self.state {
            State::Closed => "closed",
            State::Awaiting { .. } => "awaiting",
            State::Dialing { .. } => "dialing",
            State::Waiting { .. } => "waiting",
            State::Ready(_) => "ready",
            State::Lost { .. } => "lost",
        }
    }
}

// Commands.
impl Link {
    pub fn new() -> Self {
        Self {
            state: State::Closed,
            ops: Ops::default(),
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    fn open(&mut self, waiter: Waiter, link: LinkSpec, batch: &mut Batch) -> Result<(), Denied> {
        match &mut self.state {
            State::Closed => self.begin(link, Purpose::Opening(vec![waiter]), batch),
            State::Awaiting { reach, .. }
            | State::Dialing { reach, .. }
            | State::Waiting { reach, .. } => reach.join(waiter, &link)?,
            State::Ready(ready) if ready.link().control != link.control => {
                return Err(Denied::OtherGuest);
            }
            State::Ready(ready) => batch.replies.push((waiter, Ok(ready.details().clone()))),
            State::Lost { why } => return Err(Denied::GivenUp { why: why.clone() }),
        }
        Ok(())
    }

    /// Whoever waits for it is answered: nothing will come.
    fn close(&mut self, batch: &mut Batch) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => {}
            State::Awaiting { reach, .. }
            | State::Dialing { reach, .. }
            | State::Waiting { reach, .. } => {
                batch.world.push(World::HangUp);
                for opener in reach.purpose.openers() {
                    let what = "the link to the agent was closed";
                    let why = Fault::new(Kind::Unavailable, what);
                    batch.replies.push((*opener, Err(why)));
                }
            }
            State::Ready(ready) => {
                batch.world.push(World::HangUp);
                ready.end(batch);
            }
            // What was given up stays so: the sandbox was told.
            lost @ State::Lost { .. } => self.state = lost,
        }
    }

    fn call(&mut self, waiter: Waiter, call: Call, batch: &mut Batch) -> Result<(), Denied> {
        match &mut self.state {
            State::Closed => Err(Denied::Closed { call }),
            State::Awaiting { .. } | State::Dialing { .. } | State::Waiting { .. } => {
                Err(Denied::Down { call })
            }
            State::Ready(ready) => ready.call(waiter, call, &mut self.ops, batch),
            State::Lost { why } => {
                let why = why.clone();
                Err(Denied::Lost { call, why })
            }
        }
    }

    fn recorded(&mut self, seq: u64, batch: &mut Batch) {
        match &mut self.state {
            // Without a link it is remembered: the next one begins after it.
            State::Awaiting { reach, .. }
            | State::Dialing { reach, .. }
            | State::Waiting { reach, .. } => {
                reach.link.news_recorded = reach.link.news_recorded.max(seq);
            }
            State::Ready(ready) => ready.recorded(seq, &mut self.ops, batch),
            // Nobody is left who could forget it.
            State::Closed | State::Lost { .. } => {}
        }
    }
}

// Completions and timers. What does not fit the state is stale: its operation was overtaken.
impl Link {
    fn looked(&mut self, op: OpId, console_bytes: u64, batch: &mut Batch) {
        match &self.state {
            State::Awaiting {
                op: current,
                looks,
                reach,
            } if *current == op => {
                let (looks, reach) = (*looks, reach.clone());
                if console_bytes > 0 || looks == LOOKS_MAX {
                    self.dial(reach, batch);
                } else {
                    let delay = LOOK_DELAY * reach.link.accelerator.patience();
                    batch.world.push(World::Wait { op, delay });
                }
            }
            State::Awaiting { .. }
            | State::Closed
            | State::Dialing { .. }
            | State::Waiting { .. }
            | State::Ready(_)
            | State::Lost { .. } => {}
        }
    }

    fn dialed(&mut self, op: OpId, outcome: Result<AgentDetails, Fault>, batch: &mut Batch) {
        match &self.state {
            State::Dialing { op: current, reach } if *current == op => {
                let reach = reach.clone();
                match outcome {
                    Ok(details) => self.ready(op, details, reach, batch),
                    Err(why) => self.wait(Some(why), reach, batch),
                }
            }
            State::Dialing { .. }
            | State::Closed
            | State::Awaiting { .. }
            | State::Waiting { .. }
            | State::Ready(_)
            | State::Lost { .. } => {}
        }
    }

    fn retry_due(&mut self, op: OpId, batch: &mut Batch) {
        match &mut self.state {
            State::Awaiting {
                op: current, looks, ..
            } if *current == op => {
                *looks += 1;
                *current = self.ops.next();
                batch.world.push(World::Look { op: *current });
            }
            State::Waiting { op: current, reach } if *current == op => {
                let reach = reach.clone();
                self.dial(reach, batch);
            }
            State::Ready(ready) => ready.pause_over(op, &mut self.ops, batch),
            State::Awaiting { .. }
            | State::Waiting { .. }
            | State::Closed
            | State::Dialing { .. }
            | State::Lost { .. } => {}
        }
    }

    fn patience_due(&mut self, op: OpId, batch: &mut Batch) {
        match self.reach() {
            Some(reach) if reach.patience.op() == op => {
                batch.world.push(World::PatienceLook { op });
            }
            Some(_) | None => {}
        }
    }

    fn patience_noted(&mut self, op: OpId, console_bytes: u64) {
        match self.reach() {
            Some(reach) if reach.patience.op() == op => reach.patience.noted(console_bytes),
            Some(_) | None => {}
        }
    }

    fn patience_looked(&mut self, op: OpId, console_bytes: u64, batch: &mut Batch) {
        match self.reach() {
            Some(reach) if reach.patience.op() == op => match reach.patience.spent(console_bytes) {
                Verdict::GoOn => {
                    let delay = reach.patience.budget();
                    batch.world.push(World::Patience { op, delay });
                }
                Verdict::GiveUp => {
                    let reach = reach.clone();
                    self.give_up(reach, batch);
                }
            },
            Some(_) | None => {}
        }
    }

    fn hung_up(&mut self, op: OpId, batch: &mut Batch) {
        match &self.state {
            State::Ready(ready) if ready.op() == op => {
                let ready = ready.clone();
                self.broken(None, ready, batch);
            }
            State::Ready(_)
            | State::Closed
            | State::Awaiting { .. }
            | State::Dialing { .. }
            | State::Waiting { .. }
            | State::Lost { .. } => {}
        }
    }

    fn polled(&mut self, op: OpId, outcome: Result<Vec<GuestNews>, Fault>, batch: &mut Batch) {
        match &mut self.state {
            State::Ready(ready) if ready.polls(op) => match outcome {
                Ok(exits) => ready.polled(exits, &mut self.ops, batch),
                Err(why) => {
                    let ready = ready.clone();
                    self.broken(Some(why), ready, batch);
                }
            },
            State::Ready(_)
            | State::Closed
            | State::Awaiting { .. }
            | State::Dialing { .. }
            | State::Waiting { .. }
            | State::Lost { .. } => {}
        }
    }

    fn called(&mut self, op: OpId, outcome: Result<(), Fault>, batch: &mut Batch) {
        match &mut self.state {
            State::Ready(ready) => ready.called(op, outcome, batch),
            // Its caller was answered when the link broke.
            State::Closed
            | State::Awaiting { .. }
            | State::Dialing { .. }
            | State::Waiting { .. }
            | State::Lost { .. } => {}
        }
    }
}

// Transitions.
impl Link {
    /// From here on patience runs.
    fn begin(&mut self, link: LinkSpec, purpose: Purpose, batch: &mut Batch) {
        let reach = self.reach_for(link, purpose, batch);
        match reach.link.control {
            HostEndpoint::Hybrid { .. } => {
                let op = self.ops.next();
                batch.world.push(World::Look { op });
                let looks = 1;
                self.state = State::Awaiting { op, looks, reach };
            }
            HostEndpoint::Socket(_) | HostEndpoint::Vsock { .. } | HostEndpoint::Carried(_) => {
                self.dial(reach, batch);
            }
        }
    }

    fn reach_for(&mut self, link: LinkSpec, purpose: Purpose, batch: &mut Batch) -> Reach {
        let op = self.ops.next();
        let patience = Patience::begin(op, link.accelerator);
        let delay = patience.budget();
        batch.world.push(World::Patience { op, delay });
        batch.world.push(World::PatienceNote { op });
        Reach {
            link,
            patience,
            purpose,
            last: None,
        }
    }

    fn dial(&mut self, reach: Reach, batch: &mut Batch) {
        let op = self.ops.next();
        let base = match reach.link.control {
            HostEndpoint::Socket(_) | HostEndpoint::Carried(_) => DIAL_SERIAL,
            HostEndpoint::Hybrid { .. } | HostEndpoint::Vsock { .. } => DIAL_CONNECT,
        };
        batch.world.push(World::Dial {
            op,
            deadline: base * reach.link.accelerator.patience(),
            link: reach.link.clone(),
        });
        self.state = State::Dialing { op, reach };
    }

    fn wait(&mut self, why: Option<Fault>, mut reach: Reach, batch: &mut Batch) {
        let (op, delay) = (self.ops.next(), RETRY_DELAY);
        batch.world.push(World::Wait { op, delay });
        reach.last = why.or(reach.last);
        self.state = State::Waiting { op, reach };
    }

    fn ready(&mut self, op: OpId, details: AgentDetails, reach: Reach, batch: &mut Batch) {
        for opener in reach.purpose.openers() {
            batch.replies.push((*opener, Ok(details.clone())));
        }
        let ready = Ready::begin(op, reach.link, details, &mut self.ops, batch);
        self.state = State::Ready(ready);
    }

    /// The link is down: its calls fail, and it is made anew.
    fn broken(&mut self, why: Option<Fault>, ready: Ready, batch: &mut Batch) {
        batch.world.push(World::HangUp);
        let link = ready.end(batch);
        let reach = self.reach_for(link, Purpose::Returning(Vec::new()), batch);
        self.wait(why, reach, batch);
    }

    fn give_up(&mut self, reach: Reach, batch: &mut Batch) {
        let why = reach.patience.fault(reach.last.as_ref());
        // A dial that is under way must not make a link that nobody wants.
        batch.world.push(World::HangUp);
        for opener in reach.purpose.openers() {
            batch.replies.push((*opener, Err(why.clone())));
        }
        match reach.purpose {
            // The answer says it.
            Purpose::Opening(_) => {}
            Purpose::Returning(_) => batch.announce.push(Notice::Lost { why: why.clone() }),
        }
        self.state = State::Lost { why };
    }

    fn reach(&mut self) -> Option<&mut Reach> {
        match &mut self.state {
            State::Awaiting { reach, .. }
            | State::Dialing { reach, .. }
            | State::Waiting { reach, .. } => Some(reach),
            State::Closed | State::Ready(_) | State::Lost { .. } => None,
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Reach {
    fn join(&mut self, waiter: Waiter, link: &LinkSpec) -> Result<(), Denied> {
        if self.link.control != link.control {
            return Err(Denied::OtherGuest);
        }
        let (Purpose::Opening(openers) | Purpose::Returning(openers)) = &mut self.purpose;
        if openers.len() == OPENERS_MAX {
            return Err(Denied::Crowded { max: OPENERS_MAX });
        }
        openers.push(waiter);
        Ok(())
    }
}

impl Purpose {
    fn openers(&self) -> &[Waiter] {
        let (Self::Opening(openers) | Self::Returning(openers)) = self;
        openers
    }
}

#[cfg(test)]
mod tests;
