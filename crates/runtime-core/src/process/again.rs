//! The part of [`Process`] that hears requests again: a start and a signal under their keys, and what
//! a process does not know of itself, after a rebuild or when the guest's answer was lost.

use super::{
    events::{Answer, Notice, Reason, World},
    machine::{Process, State, WAITERS_MAX},
    messages::Kill,
};
use crate::{
    agent::{Attempt, GuestProcessState, Once, SIGKILL, SignalTarget},
    error::{Fault, Kind},
    ids::{ProcessId, RequestKey},
    kit::{Batch, Machine, Waiter},
};

/// A caller asks again within the seconds that a restart of the daemon takes; so many others may
/// signal the same process meanwhile.
const SIGNALS_KEPT: usize = 32;

/// Whether the guest can be asked once more.
fn is_passing(why: &Fault) -> bool {
    matches!(why.kind(), Kind::Unavailable | Kind::Aborted)
}

impl Process {
    pub(super) fn begin(
        &mut self,
        waiter: Waiter,
        key: Option<RequestKey>,
        batch: &mut Batch<Self>,
    ) -> Result<(), Reason> {
        let again = key.is_some() && key == self.begun_by;
        match &mut self.state {
            State::Created => {
                let op = self.next_op();
                self.begun_by = key;
                self.state = State::Starting {
                    op,
                    waiters: vec![waiter],
                };
                batch.records.push(self.record());
                batch.world.push(World::Start { op });
            }
            State::Starting { waiters, .. } if again => {
                if waiters.len() == WAITERS_MAX {
                    return Err(Reason::TooManyWaiters);
                }
                waiters.push(waiter);
            }
            State::Running | State::Exited(_) if again => {
                batch.replies.push((waiter, Answer::Done(Ok(()))));
            }
            State::Running => return Err(Reason::Running),
            State::Exited(_) => return Err(Reason::Stopped),
            State::New
            | State::Leasing { .. }
            | State::Making { .. }
            | State::Starting { .. }
            | State::Failed(_)
            | State::Closing(_)
            | State::Closed(_) => {
                let state = self.state_name();
                return Err(Reason::NotCreated { state });
            }
        }
        Ok(())
    }

    pub(super) fn begun(&mut self, outcome: Result<(), Fault>, batch: &mut Batch<Self>) {
        let State::Starting { waiters, .. } = &mut self.state else {
            return;
        };
        let Err(why) = outcome else {
            self.running(batch);
            self.state = State::Running;
            return;
        };
        for waiter in std::mem::take(waiters) {
            batch.replies.push((waiter, Answer::Done(Err(why.clone()))));
        }
        self.state = State::Created;
        self.begun_by = None;
        batch.records.push(self.record());
    }

    /// Whoever asked for the start hears that it is done.
    pub(super) fn running(&mut self, batch: &mut Batch<Self>) {
        if let State::Starting { waiters, .. } = &mut self.state {
            for waiter in waiters.drain(..) {
                batch.replies.push((waiter, Answer::Done(Ok(()))));
            }
            batch.announce.push(Notice::Began);
        }
    }

    /// Whether the guest may have made it all the same. An init is taken away with its container in any case.
    pub(super) fn may_live_after(&self, why: &Fault) -> bool {
        let is_unsure = matches!(
            why.kind(),
            Kind::Unavailable | Kind::Timeout | Kind::Aborted
        );
        is_unsure && matches!(self.id, ProcessId::Exec(_))
    }

    /// The guest's answer is lost, but not what it does: it is asked how far it came.
    pub(super) fn doubt(&mut self, why: Fault, batch: &mut Batch<Self>) {
        let op = self.next_op();
        self.state = State::Making {
            op,
            early: None,
            doubt: Some(why),
        };
        self.adopt(batch);
        batch.world.push(World::Look { op });
    }

    /// How far it came is what the guest says.
    pub(super) fn looked(
        &mut self,
        found: Result<Option<GuestProcessState>, Fault>,
        batch: &mut Batch<Self>,
    ) {
        if self.ended_early(batch) {
            return;
        }
        match (&self.state, found) {
            (&State::Starting { op, .. }, Ok(Some(GuestProcessState::Created))) => {
                batch.world.push(World::Start { op });
            }
            // One that the guest does not know has exited, which is told.
            (State::Starting { .. }, _) => self.begun(Ok(()), batch),
            (State::Making { .. }, Ok(Some(_))) => self.made(batch),
            (
                State::Making {
                    doubt: Some(why), ..
                },
                Ok(None),
            ) => {
                let why = why.clone();
                self.failed(why, batch);
            }
            // The link is being opened again, or the sandbox is paused; if its guest goes, that is told.
            (&State::Making { op, .. }, Err(why)) if is_passing(&why) => {
                batch.world.push(World::LookAgain { op });
            }
            (State::Making { .. }, Err(why)) => {
                self.kill_unknown(batch);
                // The guest may hold its port: it is lent to nobody else while its container is there.
                self.lease = None;
                self.failed(why, batch);
            }
            (
                State::New
                | State::Leasing { .. }
                | State::Making { doubt: None, .. }
                | State::Created
                | State::Running
                | State::Exited(_)
                | State::Failed(_)
                | State::Closing(_)
                | State::Closed(_),
                _,
            ) => {}
        }
    }

    /// It may live in the guest, and nobody stands for it.
    pub(super) fn kill_unknown(&self, batch: &mut Batch<Self>) {
        batch.world.push(World::Signal {
            waiter: None,
            target: SignalTarget::Process(self.id.clone()),
            signal: SIGKILL,
            once: None,
        });
    }

    pub(super) fn kill(
        &mut self,
        waiter: Waiter,
        kill: Kill,
        batch: &mut Batch<Self>,
    ) -> Result<(), Reason> {
        let Kill { key, signal, all } = kill;
        let again = key
            .as_ref()
            .is_some_and(|key| self.signaled_by.contains(key));
        match &self.state {
            State::Created | State::Starting { .. } | State::Running => {
                let target = match all {
                    true => SignalTarget::All,
                    false => SignalTarget::Process(self.id.clone()),
                };
                let once = key.map(|key| self.once(key, batch));
                batch.world.push(World::Signal {
                    waiter: Some(waiter),
                    target,
                    signal,
                    once,
                });
                Ok(())
            }
            State::Exited(_) if again => {
                batch.replies.push((waiter, Answer::Done(Ok(()))));
                Ok(())
            }
            State::New
            | State::Leasing { .. }
            | State::Making { .. }
            | State::Exited(_)
            | State::Failed(_)
            | State::Closing(_)
            | State::Closed(_) => Err(Reason::NotRunning {
                state: self.state_name(),
            }),
        }
    }

    /// The key of a signal is on record before the signal is sent.
    pub(super) fn once(&mut self, key: RequestKey, batch: &mut Batch<Self>) -> Once {
        if self.signaled_by.contains(&key) {
            let attempt = Attempt::Repeated;
            return Once { key, attempt };
        }
        if self.signaled_by.len() == SIGNALS_KEPT {
            self.signaled_by.remove(0);
        }
        self.signaled_by.push(key.clone());
        batch.records.push(self.record());
        let attempt = Attempt::First;
        Once { key, attempt }
    }
}
