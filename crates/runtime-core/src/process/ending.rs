//! The part of [`Process`] that ends: its exit, its relay's, and its container's.

use super::{
    events::{Answer, Notice, World},
    machine::{Process, Relay, State},
    record::ProcessRecord,
};
use crate::{
    agent::{ExitStatus, SignalTarget},
    error::{Fault, Kind},
    ids::{HostProcess, ProcessId},
    kit::Batch,
    records,
};

impl Process {
    /// What the guest says of an exec's end may be faster than its answer, which brings the warnings: that is waited for.
    pub(super) fn exited(&mut self, status: ExitStatus, seq: Option<u64>, batch: &mut Batch<Self>) {
        match &mut self.state {
            State::Making { early, .. } => {
                early.get_or_insert((status, seq));
            }
            // Told again after a redial: confirm it again.
            State::Exited(known) => {
                let status = known.clone();
                batch.announce.push(Notice::Exited { status, seq });
            }
            State::Failed(_) | State::Closing(_) | State::Closed(_) => {
                batch.announce.push(Notice::Exited { status, seq });
            }
            State::Starting { .. } => {
                self.running(batch);
                self.ended(status, seq, batch);
            }
            State::Created | State::Running => self.ended(status, seq, batch),
            // No guest was asked for it yet.
            State::New | State::Leasing { .. } => {
                if let Some(seq) = seq {
                    batch.announce.push(Notice::Disbelieved { seq });
                }
            }
        }
    }

    /// What ended while it was being made was made, whatever becomes of the answer. False: none has ended.
    pub(super) fn ended_early(&mut self, batch: &mut Batch<Self>) -> bool {
        let State::Making { early, .. } = &mut self.state else {
            return false;
        };
        let Some((status, seq)) = early.take() else {
            return false;
        };
        self.is_made(batch);
        self.ended(status, seq, batch);
        true
    }

    pub(super) fn gone_unmade(&mut self, status: ExitStatus, batch: &mut Batch<Self>) {
        if !self.ended_early(batch) {
            let why = Fault::new(Kind::Aborted, status.detail);
            self.lease = None;
            self.failed(why, batch);
        }
    }

    /// The first exit stands.
    fn ended(&mut self, status: ExitStatus, seq: Option<u64>, batch: &mut Batch<Self>) {
        self.state = State::Exited(status.clone());
        for waiter in self.waiters.drain(..) {
            batch
                .replies
                .push((waiter, Answer::Exit(Ok(status.clone()))));
        }
        batch.announce.push(Notice::Exited { status, seq });
        if self.relay == Relay::Done {
            self.drained(batch);
        }
        batch.records.push(self.record());
    }

    /// It is over, and nobody needs its stream: the port of an exec is for others. An init keeps
    /// its own until its container goes.
    pub(super) fn drained(&mut self, batch: &mut Batch<Self>) {
        batch.announce.push(Notice::Drained);
        match self.id {
            ProcessId::Init => {}
            ProcessId::Exec(_) => self.give_back(batch),
        }
    }

    pub(super) fn give_back(&mut self, batch: &mut Batch<Self>) {
        if let Some(lease) = self.lease.take() {
            let number = lease.number;
            batch.world.push(World::GiveBack { number });
        }
    }

    pub(super) fn relay_done(&mut self, batch: &mut Batch<Self>) {
        if self.relay == Relay::Done {
            return;
        }
        self.relay = Relay::Done;
        batch.announce.push(Notice::Relay { relay: None });
        if matches!(self.state, State::Exited(_)) {
            self.drained(batch);
            batch.records.push(self.record());
        }
    }

    /// The relay stays on record until the process is gone too: a signal can fail, or be lost with us.
    pub(super) fn relay_ended(&mut self, relay: HostProcess, batch: &mut Batch<Self>) {
        let lives = matches!(
            self.state,
            State::Created | State::Starting { .. } | State::Running
        );
        if !lives {
            return self.relay_done(batch);
        }
        let target = match self.id {
            ProcessId::Init => SignalTarget::All,
            ProcessId::Exec(_) => SignalTarget::Process(self.id.clone()),
        };
        batch.world.push(World::KillOrphan { relay, target });
    }

    pub(super) fn close(&mut self, status: ExitStatus, batch: &mut Batch<Self>) {
        if let State::Starting { waiters, .. } = &mut self.state {
            for waiter in waiters.drain(..) {
                batch.replies.push((waiter, Answer::Done(Ok(()))));
            }
        }
        let early = match &mut self.state {
            State::Making { early, .. } => early.take(),
            _ => None,
        };
        let status = match (&self.state, early) {
            // The guest keeps it, and what came after, until it hears that this is known.
            (_, Some((known, seq))) => {
                let status = known.clone();
                batch.announce.push(Notice::Exited { status, seq });
                known
            }
            (State::Exited(known), None) => known.clone(),
            (_, None) => status,
        };
        for waiter in self.waiters.drain(..) {
            batch
                .replies
                .push((waiter, Answer::Exit(Ok(status.clone()))));
        }
        match (self.relay, &self.state) {
            // Whoever asked for it hears that it was not made, and may ask again.
            (Relay::Attached(_), State::New | State::Leasing { .. } | State::Failed(_))
            | (Relay::None | Relay::Done, _) => self.closed(status, batch),
            (Relay::Attached(relay), _) => {
                self.state = State::Closing(status.clone());
                batch.world.push(World::Dismiss { relay, status });
            }
        }
    }

    /// Its record and its stream go with its container: one transaction ends them all.
    pub(super) fn closed(&mut self, status: ExitStatus, batch: &mut Batch<Self>) {
        self.lease = None;
        self.state = State::Closed(status);
        batch.announce.push(Notice::Closed);
    }

    /// Its container goes on.
    pub(super) fn forgotten(&mut self, status: ExitStatus, batch: &mut Batch<Self>) {
        self.give_back(batch);
        let key = ProcessRecord::key(self.uid, self.container, &self.id);
        batch.records.push(records::delete(key));
        self.closed(status, batch);
    }
}
