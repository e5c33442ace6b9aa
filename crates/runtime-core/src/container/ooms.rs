//! Kills for want of memory in a container: numbered, on record before they are told, and told to
//! whoever asks until the container is deleted.

use super::{
    events::{Answer, Notice, Reason, World},
    machine::{Container, State},
};
use crate::{
    agent::ExitStatus,
    ids::EpochMs,
    kit::{Batch, Waiter},
};
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, time::Duration};

/// Older ones are forgotten; the numbers go on.
const OOMS_KEPT_MAX: usize = 256;
/// A container that is killed in again and again, and a guest that only says so, write no more often than this: each
/// record carries the whole container.
pub(super) const OOM_REST: Duration = Duration::from_millis(100);
/// Callers that wait for the next one; each holds a connection to the daemon, far below this.
pub(super) const OOM_WAITERS_MAX: usize = 1024;

/// One kill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oom {
    /// Counts from 1 within the container's life.
    pub number: u64,
    /// The guest's number: told again after a redial, it is the same one.
    pub seq: u64,
    /// Guest clock.
    pub at: EpochMs,
}

/// One that is not on record yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FreshOom {
    seq: u64,
    at: EpochMs,
}

/// What a caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ooms {
    pub ooms: Vec<Oom>,
    /// No more will come.
    pub over: bool,
}

/// Who waits for one with a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OomWaiter {
    waiter: Waiter,
    after: u64,
}

/// As they are on record.
pub(super) type Kept = VecDeque<Oom>;

impl Container {
    pub(super) fn oom(&mut self, seq: u64, at: EpochMs, batch: &mut Batch<Self>) {
        let known = self.ooms.back().is_some_and(|last| last.seq >= seq);
        if known || self.is_over() {
            return batch.announce.push(Notice::ExitRecorded { seq });
        }
        // Told again after a redial: it is confirmed once it is on record.
        if self.fresh_ooms.last().is_some_and(|last| last.seq >= seq) {
            return;
        }
        self.fresh_ooms.push(FreshOom { seq, at });
        if !self.oom_rests {
            self.record_ooms(batch);
        }
    }

    /// What came meanwhile is put on record together.
    pub(super) fn oom_rested(&mut self, batch: &mut Batch<Self>) {
        self.oom_rests = false;
        if !self.fresh_ooms.is_empty() {
            self.record_ooms(batch);
        }
    }

    fn record_ooms(&mut self, batch: &mut Batch<Self>) {
        self.number_ooms(batch);
        batch.records.push(self.record());
        self.tell_ooms(batch);
        self.oom_rests = true;
        batch.world.push(World::RestOoms);
    }

    /// Whoever calls this puts them on record, in the same batch.
    pub(super) fn number_ooms(&mut self, batch: &mut Batch<Self>) {
        for FreshOom { seq, at } in std::mem::take(&mut self.fresh_ooms) {
            let number = self.ooms.back().map_or(1, |last| last.number + 1);
            if self.ooms.len() == OOMS_KEPT_MAX {
                self.ooms.pop_front();
            }
            self.ooms.push_back(Oom { number, seq, at });
            batch.announce.push(Notice::ExitRecorded { seq });
        }
    }

    /// It is over: nobody is told of them any more.
    pub(super) fn drop_ooms(&mut self, batch: &mut Batch<Self>) {
        for FreshOom { seq, .. } in std::mem::take(&mut self.fresh_ooms) {
            batch.announce.push(Notice::ExitRecorded { seq });
        }
    }

    /// # Errors
    /// Too many wait already.
    pub(super) fn next_ooms(
        &mut self,
        waiter: Waiter,
        after: u64,
        batch: &mut Batch<Self>,
    ) -> Result<(), Reason> {
        if self.oom_waiters.len() == OOM_WAITERS_MAX {
            return Err(Reason::TooManyOomWaiters);
        }
        self.oom_waiters.push(OomWaiter { waiter, after });
        self.tell_ooms(batch);
        Ok(())
    }

    /// Its time is up.
    pub(super) fn oom_wait_over(&mut self, waiter: Waiter, batch: &mut Batch<Self>) {
        if let Some(place) = self.oom_waiters.iter().position(|w| w.waiter == waiter) {
            let OomWaiter { waiter, after } = self.oom_waiters.remove(place);
            let answer = Answer::Ooms(Ok(self.ooms_above(after)));
            batch.replies.push((waiter, answer));
        }
    }

    /// Answers whoever waits for what is there, and everybody where no more will come.
    pub(super) fn tell_ooms(&mut self, batch: &mut Batch<Self>) {
        let waiters = std::mem::take(&mut self.oom_waiters);
        for waiter in waiters {
            let found = self.ooms_above(waiter.after);
            match found.ooms.is_empty() && !found.over {
                true => self.oom_waiters.push(waiter),
                false => batch.replies.push((waiter.waiter, Answer::Ooms(Ok(found)))),
            }
        }
    }

    fn ooms_above(&self, after: u64) -> Ooms {
        let above = self.ooms.iter().filter(|oom| oom.number > after);
        Ooms {
            ooms: above.cloned().collect(),
            over: self.is_over(),
        }
    }

    fn is_over(&self) -> bool {
        match self.state() {
            State::Stopped(ExitStatus { .. })
            | State::Failed
            | State::Closing { .. }
            | State::Removing { .. }
            | State::Finishing { .. }
            | State::Retired => true,
            State::New
            | State::Attaching { .. }
            | State::AwaitingGuest
            | State::Hooking { .. }
            | State::Making
            | State::Created
            | State::Running => false,
        }
    }
}
