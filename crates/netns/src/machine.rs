//! The network of one sandbox as a pure machine: no kernel, no store.
//!
//! ```text
//!          Connect              Entered(ok)
//!  Closed ─────────► Entering ──────────────► Connected
//!    ▲  ▲             ▲  │  │ Disconnect          │
//!    │  │     Connect │  │  └───────► Leaving     │ Disconnect
//!    │  │             │  │ Entered(err)  │ Entered│
//!    │  │           Recorded ◄─┐         ▼        │
//!    │  │ Removed(ok)   │      └───── Removing ◄──┘
//!    │  └───────────────┼──Removed(err)─┘  ▲
//!    │                  └────Disconnect────┘
//!    └─ a namespace of the caller's goes back here from everywhere
//! ```
//!
//! Invariants:
//! - A namespace of ours is on record from before it is made until after it is gone; in every
//!   state but Closed the room holds one, or looks at one of the caller's, which is not recorded.
//! - At most one operation is outstanding. A completion whose `OpId` is not in the state is stale
//!   and changes nothing.
//! - A namespace of the caller's is looked at only: it is never in `Make` or `Remove`.
//! - Each command is answered exactly once.

use crate::{
    events::{Answer, Denied, Done, Event, Notice, World},
    plan::{Home, plan},
    record::NetworkRecord,
};
use runtime_core::{
    error::{Fault, Kind},
    ids::{OpId, SandboxUid},
    kit::{self, Machine, Waiter},
    network::{NetworkSpec, NetworkStatus},
    records,
};
use std::path::PathBuf;

pub(crate) type Batch = kit::Batch<Network>;

/// The sandbox asks once, and once more for each rebuild while the first still waits.
pub const WAITERS_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Closed,
    /// Our namespace at this path is on record; whether it is there, only the kernel knows: the
    /// room was rebuilt, or an operation on it failed.
    Recorded {
        own: PathBuf,
    },
    Entering {
        op: OpId,
        home: Home,
        connectors: Vec<Waiter>,
    },
    Connected {
        home: Home,
    },
    /// Released while it is still being entered.
    Leaving {
        op: OpId,
        home: Home,
        leavers: Vec<Waiter>,
    },
    Removing {
        op: OpId,
        own: PathBuf,
        leavers: Vec<Waiter>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    uid: SandboxUid,
    state: State,
    ops_issued: u64,
}

impl Machine for Network {
    type Event = Event;
    type World = World;
    type Notice = Notice;
    type Answer = Answer;
    type Denied = Denied;

    fn on(&mut self, event: Event, batch: &mut Batch) -> Result<(), Denied> {
        match event {
            Event::Connect { waiter, spec } => self.connect(waiter, &spec, batch)?,
            Event::Disconnect { waiter } => self.disconnect(waiter, batch)?,
            Event::Entered { op, outcome } => self.entered(op, outcome, batch),
            Event::Removed { op, outcome } => self.removed(op, outcome, batch),
        }
        Ok(())
    }

    fn refuse(denied: Denied) -> Answer {
        Err(denied.into())
    }

    fn state_name(&self) -> &'static str {
        match &self.state {
            State::Closed => "closed",
            State::Recorded { .. } => "recorded",
            State::Entering { .. } => "entering",
            State::Connected { .. } => "connected",
            State::Leaving { .. } => "leaving",
            State::Removing { .. } => "removing",
        }
    }
}

impl Network {
    /// The network of a sandbox, from its record if it has one.
    pub fn new(uid: SandboxUid, record: Option<NetworkRecord>) -> Self {
        let state = match record {
            None => State::Closed,
            Some(NetworkRecord { own }) => State::Recorded { own },
        };
        Self {
            uid,
            state,
            ops_issued: 0,
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    fn connect(
        &mut self,
        waiter: Waiter,
        spec: &NetworkSpec,
        batch: &mut Batch,
    ) -> Result<(), Denied> {
        let wanted = plan(self.uid, spec)?;
        match &mut self.state {
            State::Closed => {
                if let Home::Own(own) = &wanted {
                    let record = NetworkRecord { own: own.clone() };
                    let key = NetworkRecord::key(self.uid);
                    batch.records.push(records::put(key, &record));
                }
                self.enter(wanted, waiter, batch);
            }
            State::Recorded { own } => {
                same(&Home::Own(own.clone()), &wanted)?;
                self.enter(wanted, waiter, batch);
            }
            State::Entering {
                home, connectors, ..
            } => {
                same(home, &wanted)?;
                join(connectors, waiter)?;
            }
            State::Connected { home } => {
                same(home, &wanted)?;
                batch.replies.push((waiter, Ok(connected(home))));
            }
            State::Leaving { .. } | State::Removing { .. } => return Err(Denied::Leaving),
        }
        Ok(())
    }

    fn disconnect(&mut self, waiter: Waiter, batch: &mut Batch) -> Result<(), Denied> {
        match &mut self.state {
            State::Closed => batch.replies.push((waiter, Ok(Done::Disconnected))),
            State::Recorded { own } => {
                let home = Home::Own(own.clone());
                self.leave(home, vec![waiter], batch);
            }
            State::Entering {
                op,
                home,
                connectors,
            } => {
                let why = Fault::new(Kind::Aborted, "the network was disconnected meanwhile");
                let connectors = connectors.drain(..);
                batch
                    .replies
                    .extend(connectors.map(|waiter| (waiter, Err(why.clone()))));
                // What was begun cannot be called back: it is over before it is taken away.
                self.state = State::Leaving {
                    op: *op,
                    home: home.clone(),
                    leavers: vec![waiter],
                };
            }
            State::Connected { home } => {
                let home = home.clone();
                self.leave(home, vec![waiter], batch);
            }
            State::Leaving { leavers, .. } | State::Removing { leavers, .. } => {
                join(leavers, waiter)?;
            }
        }
        Ok(())
    }

    fn entered(&mut self, done: OpId, outcome: Result<(), Fault>, batch: &mut Batch) {
        match self.state.clone() {
            State::Entering {
                op,
                home,
                connectors,
            } if op == done => {
                let answer = outcome.map(|()| connected(&home));
                self.state = match (&answer, home) {
                    (Ok(_), home) => State::Connected { home },
                    // What there is of it is taken away on demand, or made anew.
                    (Err(_), Home::Own(own)) => State::Recorded { own },
                    (Err(_), Home::Lent(_)) => State::Closed,
                };
                answer_all(connectors, &answer, batch);
            }
            State::Leaving { op, home, leavers } if op == done => {
                self.leave(home, leavers, batch);
            }
            // Stale: of an operation that this state does not wait for.
            State::Closed
            | State::Recorded { .. }
            | State::Entering { .. }
            | State::Connected { .. }
            | State::Leaving { .. }
            | State::Removing { .. } => {}
        }
    }

    fn removed(&mut self, done: OpId, outcome: Result<(), Fault>, batch: &mut Batch) {
        match self.state.clone() {
            State::Removing { op, own, leavers } if op == done => {
                let answer = outcome.map(|()| Done::Disconnected);
                self.state = match &answer {
                    Ok(_) => {
                        let key = NetworkRecord::key(self.uid);
                        batch.records.push(records::delete(key));
                        State::Closed
                    }
                    Err(_) => State::Recorded { own },
                };
                answer_all(leavers, &answer, batch);
            }
            // Stale: of an operation that this state does not wait for.
            State::Closed
            | State::Recorded { .. }
            | State::Entering { .. }
            | State::Connected { .. }
            | State::Leaving { .. }
            | State::Removing { .. } => {}
        }
    }

    fn enter(&mut self, home: Home, waiter: Waiter, batch: &mut Batch) {
        let op = self.next_op();
        batch.world.push(match home.clone() {
            Home::Own(path) => World::Make { op, path },
            Home::Lent(path) => World::Check { op, path },
        });
        self.state = State::Entering {
            op,
            home,
            connectors: vec![waiter],
        };
    }

    fn leave(&mut self, home: Home, leavers: Vec<Waiter>, batch: &mut Batch) {
        match home {
            Home::Own(own) => {
                let op = self.next_op();
                let path = own.clone();
                batch.world.push(World::Remove { op, path });
                self.state = State::Removing { op, own, leavers };
            }
            Home::Lent(_) => {
                self.state = State::Closed;
                answer_all(leavers, &Ok(Done::Disconnected), batch);
            }
        }
    }

    fn next_op(&mut self) -> OpId {
        self.ops_issued += 1;
        OpId(self.ops_issued)
    }
}

fn same(home: &Home, wanted: &Home) -> Result<(), Denied> {
    if home == wanted {
        return Ok(());
    }
    let home = home.path().to_owned();
    Err(Denied::OtherHome { home })
}

fn join(waiters: &mut Vec<Waiter>, waiter: Waiter) -> Result<(), Denied> {
    if waiters.len() == WAITERS_MAX {
        return Err(Denied::Crowded { max: WAITERS_MAX });
    }
    waiters.push(waiter);
    Ok(())
}

fn connected(home: &Home) -> Done {
    let netns = home.path().to_owned();
    Done::Connected(NetworkStatus { netns })
}

fn answer_all(waiters: Vec<Waiter>, answer: &Answer, batch: &mut Batch) {
    let answers = waiters.into_iter().map(|waiter| (waiter, answer.clone()));
    batch.replies.extend(answers);
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
