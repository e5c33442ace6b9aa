//! Whether a container's processes stand still: a machine within [`Container`](super::Container), which
//! persists it and performs what it asks for.
//!
//! ```text
//!             Pause                Frozen(ok)
//!  Thawed ────────────► Freezing ────────────► Frozen
//!    ▲                     │ failed: told, and      │ Resume, or SIGKILL
//!    │       Thawed(ok)    ▼ undone                 ▼
//!    └───────────────── Thawing ◄───────────────────┘
//!                        │  ▲ failed: told, and tried again
//!                        └──┘
//! ```
//!
//! Invariants:
//! - What is wanted is on record before the guest is asked for it, so that whoever comes after a crash
//!   finishes it. Asking the guest twice changes nothing.
//! - A container is told to be paused only while the guest has said so.
//! - The first error is the answer (D2); a freeze that failed may have been carried out, and is undone.
//! - SIGKILL to its init, or to all of it, ends the pause, as with runc: whether the exit is known already makes
//!   no difference to who resumes it. What is being frozen is thawed when it is frozen, not before.
//! - A container that was paused before it was started is created afterwards, not running (D5): what is
//!   beneath is not this machine's business.

use super::{
    events::{Answer, Reason, World},
    machine::{Container, RESENDS_MAX},
};
use crate::{
    error::{Fault, Kind},
    ids::{OpId, RequestKey},
    kit::{Batch, Waiter},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A link that is down comes back within seconds, or its guest is given up.
const THAW_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Freezer {
    #[default]
    Thawed,
    Freezing {
        op: OpId,
        waiters: Vec<Waiter>,
        /// It was sent SIGKILL meanwhile.
        doomed: bool,
    },
    Frozen,
    Thawing {
        op: OpId,
        waiters: Vec<Waiter>,
        from: From,
    },
}

/// What callers are told until it is thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum From {
    /// It was paused.
    Frozen,
    /// It was never said to be.
    Thawed,
    /// It was, until it was sent SIGKILL.
    Doomed,
}

/// What a record keeps of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FreezerRecord {
    #[default]
    Thawed,
    Freezing,
    Frozen,
    Thawing,
    /// A freeze that failed is being undone, or one that its end made needless.
    Undoing,
}

/// Who asked last, and for what: asked again, it is answered again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeRequest {
    pub key: RequestKey,
    pub wish: Freeze,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freeze {
    Pause,
    Resume,
}

impl Freezer {
    pub(super) fn record(&self) -> FreezerRecord {
        match self {
            Self::Thawed => FreezerRecord::Thawed,
            Self::Freezing { .. } => FreezerRecord::Freezing,
            Self::Frozen => FreezerRecord::Frozen,
            Self::Thawing {
                from: From::Frozen, ..
            } => FreezerRecord::Thawing,
            Self::Thawing {
                from: From::Thawed | From::Doomed,
                ..
            } => FreezerRecord::Undoing,
        }
    }

    /// Callers are told that it is paused.
    pub(super) fn is_paused(&self) -> bool {
        match self {
            Self::Frozen
            | Self::Thawing {
                from: From::Frozen, ..
            } => true,
            Self::Thawed
            | Self::Freezing { .. }
            | Self::Thawing {
                from: From::Thawed | From::Doomed,
                ..
            } => false,
        }
    }
}

impl Container {
    /// Takes up what the record says; whoever asked for it asks again.
    pub(super) fn rebuilt_freezer(&mut self, record: &FreezerRecord) {
        let waiters = Vec::new();
        self.freezer = match record {
            FreezerRecord::Thawed => Freezer::Thawed,
            FreezerRecord::Frozen => Freezer::Frozen,
            FreezerRecord::Freezing => Freezer::Freezing {
                op: self.next_op(),
                waiters,
                doomed: false,
            },
            FreezerRecord::Thawing => self.thawing(waiters, From::Frozen),
            FreezerRecord::Undoing => self.thawing(waiters, From::Thawed),
        };
    }

    fn thawing(&mut self, waiters: Vec<Waiter>, from: From) -> Freezer {
        let op = self.next_op();
        Freezer::Thawing { op, waiters, from }
    }

    pub(super) fn resume_freezer(&mut self, batch: &mut Batch<Self>) {
        match self.freezer {
            Freezer::Thawed | Freezer::Frozen => {}
            Freezer::Freezing { op, .. } => batch.world.push(World::Freeze { op }),
            Freezer::Thawing { op, .. } => {
                let after = Duration::ZERO;
                batch.world.push(World::Thaw { op, after });
            }
        }
    }

    /// # Errors
    /// Neither created nor running, or not what is to be changed.
    pub(super) fn freeze(
        &mut self,
        waiter: Waiter,
        key: Option<RequestKey>,
        wish: Freeze,
        batch: &mut Batch<Self>,
    ) -> Result<(), Reason> {
        let request = key.map(|key| FreezeRequest { key, wish });
        let again = request.is_some() && request == self.asked_to_freeze;
        let lives = self.lives();
        match (&mut self.freezer, wish) {
            (Freezer::Thawed, Freeze::Pause) if lives => {
                let op = self.next_op();
                self.freezer = Freezer::Freezing {
                    op,
                    waiters: vec![waiter],
                    doomed: false,
                };
                self.asked_to_freeze = request;
                batch.records.push(self.record());
                batch.world.push(World::Freeze { op });
            }
            (Freezer::Frozen, Freeze::Resume) if lives => {
                let op = self.next_op();
                let (waiters, from) = (vec![waiter], From::Frozen);
                self.freezer = Freezer::Thawing { op, waiters, from };
                self.asked_to_freeze = request;
                batch.records.push(self.record());
                let after = Duration::ZERO;
                batch.world.push(World::Thaw { op, after });
            }
            (Freezer::Freezing { waiters, .. }, Freeze::Pause)
            | (
                Freezer::Thawing {
                    waiters,
                    from: From::Frozen | From::Thawed,
                    ..
                },
                Freeze::Resume,
            ) if waiters.len() < RESENDS_MAX => {
                waiters.push(waiter);
            }
            // What it waited for before is still to come.
            (Freezer::Thawing { waiters, .. }, Freeze::Resume)
                if again && waiters.len() < RESENDS_MAX =>
            {
                waiters.push(waiter);
            }
            // It is as it was wished, by the same request.
            (Freezer::Frozen, Freeze::Pause) | (Freezer::Thawed, Freeze::Resume) if again => {
                batch.replies.push((waiter, Answer::Done(Ok(()))));
            }
            (_, wish) => {
                let state = self.oci_state().name();
                return Err(Reason::CannotFreeze { wish, state });
            }
        }
        Ok(())
    }

    pub(super) fn frozen(
        &mut self,
        done: OpId,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        let Freezer::Freezing {
            op,
            waiters,
            doomed,
        } = &mut self.freezer
        else {
            return;
        };
        if *op != done {
            return;
        }
        let (waiters, doomed) = (std::mem::take(waiters), *doomed);
        match &outcome {
            Ok(()) | Err(_) if doomed => self.thaw(From::Doomed, Duration::ZERO, batch),
            Ok(()) => self.freezer = Freezer::Frozen,
            Err(_) => self.thaw(From::Thawed, Duration::ZERO, batch),
        }
        batch.records.push(self.record());
        answer(waiters, &outcome, batch);
    }

    pub(super) fn thawed(
        &mut self,
        done: OpId,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        let before = self.freezer.record();
        let Freezer::Thawing { op, waiters, from } = &mut self.freezer else {
            return;
        };
        if *op != done {
            return;
        }
        let (waiters, from) = (std::mem::take(waiters), *from);
        match (&outcome, from) {
            (Ok(()), _) => self.freezer = Freezer::Thawed,
            (Err(why), _) if may_pass(why.kind()) => self.thaw(from, THAW_AGAIN, batch),
            // The guest has said what is so.
            (Err(_), From::Frozen) => self.freezer = Freezer::Frozen,
            (Err(_), From::Thawed | From::Doomed) => self.freezer = Freezer::Thawed,
        }
        // A guest that is away is asked each second.
        if self.freezer.record() != before {
            batch.records.push(self.record());
        }
        answer(waiters, &outcome, batch);
    }

    fn thaw(&mut self, from: From, after: Duration, batch: &mut Batch<Self>) {
        let op = self.next_op();
        let waiters = Vec::new();
        self.freezer = Freezer::Thawing { op, waiters, from };
        batch.world.push(World::Thaw { op, after });
    }

    /// It was sent SIGKILL: whatever is in it is to end.
    pub(super) fn doomed(&mut self, batch: &mut Batch<Self>) {
        if !self.lives() {
            return;
        }
        let before = self.freezer.record();
        match &mut self.freezer {
            Freezer::Thawed => {}
            Freezer::Freezing { doomed, .. } => *doomed = true,
            Freezer::Frozen => self.thaw(From::Doomed, Duration::ZERO, batch),
            // Whoever waits for it is answered when it is thawed.
            Freezer::Thawing { from, .. } => *from = From::Doomed,
        }
        if self.freezer.record() != before {
            batch.records.push(self.record());
        }
    }

    /// It is over: nothing stands still any more, and whoever waits for it hears that.
    pub(super) fn freezer_over(&mut self, batch: &mut Batch<Self>) {
        let (Freezer::Freezing { waiters, .. } | Freezer::Thawing { waiters, .. }) =
            std::mem::take(&mut self.freezer)
        else {
            return;
        };
        let over = Fault::new(Kind::Denied, "container not running");
        answer(waiters, &Err(over), batch);
    }
}

/// The call may have been carried out, and may succeed later.
fn may_pass(kind: Kind) -> bool {
    match kind {
        Kind::Unavailable | Kind::Timeout | Kind::Exhausted | Kind::Aborted | Kind::Internal => {
            true
        }
        Kind::NotFound | Kind::AlreadyExists | Kind::Invalid | Kind::Denied | Kind::Unsupported => {
            false
        }
    }
}

fn answer(waiters: Vec<Waiter>, outcome: &Result<(), Fault>, batch: &mut Batch<Container>) {
    for waiter in waiters {
        let outcome = outcome.clone();
        batch.replies.push((waiter, Answer::Done(outcome)));
    }
}
