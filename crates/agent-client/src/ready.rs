//! A link that stands: the calls on it, and the pump that brings exits.
//!
//! ```text
//!   Asked ──Polled──► Pausing ──RetryDue──► Asked …
//!     │  told and not on record: too many
//!     ▼
//!   Held ──NewsRecorded──► Asked
//! ```

use crate::{
    call::Call,
    events::{Denied, Notice, World},
    machine::{Batch, Ops},
};
use runtime_core::{
    agent::{AgentDetails, GuestNews, LinkSpec},
    error::{Fault, Kind},
    ids::OpId,
    kit::Waiter,
};
use std::{collections::BTreeMap, time::Duration};

/// How long the guest holds a poll that finds no exit: an idle guest is woken this often, and one
/// that hangs is noticed after this and the slack.
const POLL_WAIT: Duration = Duration::from_secs(10);
const POLL_SLACK: Duration = Duration::from_secs(5);
/// Between an answer and the next poll: a guest that answers at once, for ever, costs little.
const POLL_PAUSE: Duration = Duration::from_millis(5);
/// Nothing waits for it, and the next one covers it.
const ACK_DEADLINE: Duration = Duration::from_secs(5);
/// Told and not on record yet: beyond it the guest keeps the rest. Two full answers.
pub const UNRECORDED_MAX: u64 = 512;
/// As many as the permits of one sandbox.
pub const CALLS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The dial that made it.
    op: OpId,
    link: LinkSpec,
    details: AgentDetails,
    /// The number of the last exit that was told to the sandbox over this link.
    told: u64,
    poll: Poll,
    calls: BTreeMap<OpId, Waiter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    Asked { op: OpId },
    Pausing { op: OpId },
    Held,
}

impl Ready {
    pub(crate) fn begin(
        op: OpId,
        link: LinkSpec,
        details: AgentDetails,
        ops: &mut Ops,
        batch: &mut Batch,
    ) -> Self {
        batch.world.push(World::Watch { op });
        let mut ready = Self {
            op,
            told: link.news_recorded,
            link,
            details,
            poll: Poll::Held,
            calls: BTreeMap::new(),
        };
        if ready.told > 0 {
            // The last acknowledgement may have been lost with the last link.
            ready.acknowledge(batch);
        }
        ready.ask(ops, batch);
        ready
    }

    pub(crate) fn op(&self) -> OpId {
        self.op
    }

    pub(crate) fn link(&self) -> &LinkSpec {
        &self.link
    }

    pub(crate) fn details(&self) -> &AgentDetails {
        &self.details
    }

    pub(crate) fn call(
        &mut self,
        waiter: Waiter,
        call: Call,
        ops: &mut Ops,
        batch: &mut Batch,
    ) -> Result<(), Denied> {
        if self.calls.len() == CALLS_MAX {
            let max = CALLS_MAX;
            return Err(Denied::Busy { call, max });
        }
        let op = ops.next();
        self.calls.insert(op, waiter);
        let deadline = call.deadline(self.link.accelerator);
        batch.world.push(World::Perform { op, deadline });
        Ok(())
    }

    pub(crate) fn called(&mut self, op: OpId, outcome: Result<(), Fault>, batch: &mut Batch) {
        // Stale: its caller was answered when its link broke.
        let Some(waiter) = self.calls.remove(&op) else {
            return;
        };
        let answer = outcome.map(|()| self.details.clone());
        batch.replies.push((waiter, answer));
    }

    pub(crate) fn recorded(&mut self, seq: u64, ops: &mut Ops, batch: &mut Batch) {
        if seq <= self.link.news_recorded {
            return;
        }
        self.link.news_recorded = seq;
        self.told = self.told.max(seq);
        self.acknowledge(batch);
        match self.poll {
            Poll::Held if self.has_room() => self.ask(ops, batch),
            Poll::Held | Poll::Asked { .. } | Poll::Pausing { .. } => {}
        }
    }

    pub(crate) fn polls(&self, op: OpId) -> bool {
        self.poll == Poll::Asked { op }
    }

    pub(crate) fn polled(&mut self, all: Vec<GuestNews>, ops: &mut Ops, batch: &mut Batch) {
        for news in all {
            // The port yields only what is above what it was asked for; a record may have
            // overtaken it.
            if news.seq() > self.told {
                self.told = news.seq();
                batch.announce.push(Notice::News(news));
            }
        }
        if self.has_room() {
            let (op, delay) = (ops.next(), POLL_PAUSE);
            batch.world.push(World::Wait { op, delay });
            self.poll = Poll::Pausing { op };
        } else {
            self.poll = Poll::Held;
        }
    }

    pub(crate) fn pause_over(&mut self, op: OpId, ops: &mut Ops, batch: &mut Batch) {
        if self.poll == (Poll::Pausing { op }) {
            self.ask(ops, batch);
        }
    }

    /// Answers every caller, and yields what the next link needs.
    pub(crate) fn end(self, batch: &mut Batch) -> LinkSpec {
        for waiter in self.calls.into_values() {
            let what = "the link to the agent broke; the call may have been carried out";
            let fault = Fault::new(Kind::Unavailable, what);
            batch.replies.push((waiter, Err(fault)));
        }
        self.link
    }

    fn acknowledge(&self, batch: &mut Batch) {
        batch.world.push(World::Ack {
            up_to: self.link.news_recorded,
            deadline: ACK_DEADLINE * self.link.accelerator.patience(),
        });
    }

    fn ask(&mut self, ops: &mut Ops, batch: &mut Batch) {
        let op = ops.next();
        batch.world.push(World::Poll {
            op,
            after: self.told,
            wait: POLL_WAIT,
            deadline: POLL_WAIT + POLL_SLACK * self.link.accelerator.patience(),
        });
        self.poll = Poll::Asked { op };
    }

    fn has_room(&self) -> bool {
        self.told - self.link.news_recorded < UNRECORDED_MAX
    }
}
