//! The part of [`Sandbox`] that is seen and kept of it: where it stands, and what is on record.

use super::{
    events::{Released, Why},
    machine::{Boot, Sandbox, State},
    orders::Cause,
    record::{Ended, Phase, SandboxRecord, Stage},
    rules::Standing,
};
use crate::error::{Fault, Kind};

impl Sandbox {
    /// Why it ends or has ended; empty while all is well.
    pub fn reason(&self) -> String {
        match &self.state {
            State::Stopped {
                why,
                released: Released::Partly(fault),
            } => format!("{}; and what it held is not released: {fault}", why.text()),
            State::Stopping { why, .. } | State::Stopped { why, .. } => why.text(),
            _ => String::new(),
        }
    }

    /// As callers see it.
    pub fn standing(&self) -> Standing {
        match &self.state {
            State::New
            | State::Opening { .. }
            | State::Premises { .. }
            | State::Plumbing { .. }
            | State::Attaching { .. }
            | State::Launching { .. }
            | State::Linking { .. }
            | State::Greeting { .. } => match self.boot {
                Boot::Again => Standing::Starting,
                Boot::Over | Boot::Container(_) | Boot::Empty => Standing::Creating,
            },
            State::Beginning { .. } => Standing::Starting,
            State::Up { stage, .. } => match stage {
                Stage::Ready => Standing::Ready,
                Stage::Running => Standing::Running,
            },
            State::Pausing { cause, .. } => match cause {
                Cause::Asked | Cause::Undo(_) => Standing::Pausing,
                Cause::Errand => Standing::Paused,
            },
            State::Paused { .. } | State::Thawed { .. } => Standing::Paused,
            State::Resuming { cause, .. } => match cause {
                Cause::Asked => Standing::Resuming,
                Cause::Errand => Standing::Paused,
                Cause::Undo(_) => Standing::Pausing,
            },
            State::Stopping {
                why: Why::Again, ..
            } => Standing::Starting,
            State::Quieting { .. } | State::Stopping { .. } => Standing::Stopping,
            State::Stopped {
                why: Why::NotCreated(_) | Why::Deleted,
                ..
            } => Standing::Stopping,
            State::Stopped {
                released: Released::Partly(_),
                ..
            } => Standing::Failed,
            State::Stopped { .. } | State::Gone => Standing::Stopped,
        }
    }

    fn phase(&self) -> Phase {
        match &self.state {
            State::Up { stage, .. } => match stage {
                Stage::Ready => Phase::Ready,
                Stage::Running => Phase::Running,
            },
            State::Beginning { .. } => Phase::Beginning,
            State::Pausing { stage, cause, .. } => match cause {
                Cause::Asked | Cause::Undo(_) => Phase::Pausing(*stage),
                Cause::Errand => Phase::Paused(*stage),
            },
            State::Paused { stage, .. } | State::Thawed { stage, .. } => Phase::Paused(*stage),
            State::Resuming { stage, cause, .. } => match cause {
                Cause::Asked | Cause::Undo(_) => Phase::Resuming(*stage),
                Cause::Errand => Phase::Paused(*stage),
            },
            State::Quieting { .. } => Phase::Quieting,
            State::Stopping { why, .. } => going(why),
            State::Stopped { why, released } => match (going(why), released) {
                (Phase::Stopping(ended), Released::Wholly) => Phase::Stopped(ended),
                (phase, _) => phase,
            },
            State::New
            | State::Opening { .. }
            | State::Premises { .. }
            | State::Plumbing { .. }
            | State::Attaching { .. }
            | State::Launching { .. }
            | State::Linking { .. }
            | State::Greeting { .. }
            | State::Gone => match self.boot {
                Boot::Again => Phase::Starting,
                Boot::Over | Boot::Container(_) | Boot::Empty => Phase::Creating,
            },
        }
    }

    /// What the store keeps of it.
    pub(super) fn record(&self) -> Option<SandboxRecord> {
        if matches!(self.state, State::New | State::Gone) {
            return None;
        }
        Some(SandboxRecord {
            boot_id: self.boot_id.clone(),
            spec: self.spec.clone(),
            phase: self.phase(),
            vm: self.vm.clone(),
            containers_numbered: self.containers_numbered,
            first_of_vm: self.first_of_vm,
            writers: self.writers.clone(),
            annotations: self.annotations.clone(),
            keys: self.keys.iter().cloned().collect(),
            journal: self.journal.clone(),
        })
    }

    /// Where a rebuilt one is, by its record; by those of its containers it may have come further.
    pub(super) fn taken_up(&mut self, phase: Phase, reached: Option<Stage>) -> State {
        let unreleased = |why| State::Stopped {
            why,
            released: Released::Partly(Fault::new(Kind::Aborted, "it was not released yet")),
        };
        let half_made = "the daemon was restarted while the sandbox was being created";
        let not_created = || unreleased(Why::NotCreated(Fault::new(Kind::Aborted, half_made)));
        let stage_of = |stage| reached.unwrap_or(stage);
        match (phase, self.vm.clone()) {
            (Phase::Starting, _) => unreleased(Why::Again),
            (Phase::Stopping(ended), _) => unreleased(ended.into()),
            (Phase::Failed(text), _) => unreleased(Why::Lost(text)),
            (Phase::Deleting, _) => unreleased(Why::Deleted),
            (Phase::Stopped(ended), _) => State::Stopped {
                why: ended.into(),
                released: Released::Wholly,
            },
            (Phase::Creating, _)
            | (
                Phase::Ready
                | Phase::Beginning
                | Phase::Running
                | Phase::Quieting
                | Phase::Pausing(_)
                | Phase::Paused(_)
                | Phase::Resuming(_),
                None,
            ) => not_created(),
            (Phase::Ready, Some(vm)) => {
                let stage = stage_of(Stage::Ready);
                State::Up { vm, stage }
            }
            (Phase::Running, Some(vm)) => {
                let stage = Stage::Running;
                State::Up { vm, stage }
            }
            (Phase::Beginning, Some(vm)) => {
                let op = self.op();
                State::Beginning { op, vm }
            }
            (Phase::Quieting, Some(vm)) => {
                let op = self.op();
                State::Quieting { op, vm }
            }
            (Phase::Pausing(stage), Some(vm)) => State::Pausing {
                op: self.op(),
                vm,
                stage: stage_of(stage),
                cause: Cause::Asked,
            },
            // It may have been going on for an errand.
            (Phase::Paused(stage), Some(vm)) => State::Pausing {
                op: self.op(),
                vm,
                stage: stage_of(stage),
                cause: Cause::Errand,
            },
            (Phase::Resuming(stage), Some(vm)) => State::Resuming {
                op: self.op(),
                vm,
                stage: stage_of(stage),
                cause: Cause::Asked,
            },
        }
    }
}

/// On record while it ends for this.
fn going(why: &Why) -> Phase {
    match why {
        // Whoever finds it must undo it, and all that was to be in it.
        Why::NotCreated(_) => Phase::Creating,
        Why::Again => Phase::Starting,
        Why::Deleted => Phase::Deleting,
        Why::Asked => Phase::Stopping(Ended::Asked),
        Why::Idle => Phase::Stopping(Ended::Idle),
        Why::AgentLost(text) => Phase::Stopping(Ended::AgentLost(text.clone())),
        Why::NotStarted(_) | Why::Lost(_) => Phase::Stopping(Ended::Lost(why.text())),
    }
}

impl From<Ended> for Why {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Asked => Self::Asked,
            Ended::Idle => Self::Idle,
            Ended::Lost(text) => Self::Lost(text),
            Ended::AgentLost(text) => Self::AgentLost(text),
        }
    }
}
