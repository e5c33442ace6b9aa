//! The part of [`Container`] that ends: its deletion, and the loss of its guest.

use super::{
    events::{Answer, Notice, Reason, World},
    machine::{Container, Force, Guest, RESENDS_MAX, State},
    record::ContainerState,
};
use crate::{
    agent::{ExitReason, ExitStatus, Warnings},
    error::{Fault, Kind},
    ids::EpochMs,
    kit::{Batch, Machine, Waiter},
    process::ProcessRecord,
    records,
};
use std::time::Duration;

/// Between two attempts to kill what a daemon left alive.
const KILL_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// 128 + SIGKILL: the exit code of what we killed.
const KILLED: u32 = 137;

impl Container {
    pub(super) fn retire(
        &mut self,
        waiter: Waiter,
        force: Force,
        guest: Guest,
        at: EpochMs,
        batch: &mut Batch<Self>,
    ) -> Result<(), Reason> {
        let paused = self.oci_state() == ContainerState::Paused;
        match (&mut self.state, force) {
            (State::Retired, _) => {
                let warnings = Warnings::new();
                batch.replies.push((waiter, Answer::Retired(Ok(warnings))));
                return Ok(());
            }
            // It is under way: whoever asks for it too gets its answer.
            (
                State::Closing { waiters, .. }
                | State::Removing { waiters, .. }
                | State::Finishing { waiters, .. },
                _,
            ) => {
                if waiters.len() == RESENDS_MAX {
                    return Err(Reason::TooManyDeletions);
                }
                waiters.push(waiter);
                return Ok(());
            }
            (State::Created | State::Running, Force::No) if paused => {
                return Err(self.cannot_delete("paused"));
            }
            (
                State::New
                | State::Attaching { .. }
                | State::AwaitingGuest
                | State::Hooking { .. }
                | State::Making
                | State::Running,
                Force::No,
            ) => return Err(self.cannot_delete(self.state_name())),
            (State::Created | State::Stopped(_) | State::Failed, Force::No)
            | (
                State::New
                | State::Attaching { .. }
                | State::AwaitingGuest
                | State::Hooking { .. }
                | State::Making
                | State::Created
                | State::Running
                | State::Stopped(_)
                | State::Failed,
                Force::Yes,
            ) => {}
        }
        self.close(vec![waiter], guest, at, batch);
        Ok(())
    }

    fn cannot_delete(&self, state: &'static str) -> Reason {
        let id = self.spec.id.to_string();
        Reason::CannotDelete { id, state }
    }

    fn close(&mut self, waiters: Vec<Waiter>, guest: Guest, at: EpochMs, batch: &mut Batch<Self>) {
        self.state = State::Closing { waiters, guest };
        self.stop_hooks(batch);
        self.freezer_over(batch);
        self.drop_ooms(batch);
        self.tell_ooms(batch);
        let status = killed(at);
        if matches!(self.told, ContainerState::Created | ContainerState::Running) {
            // Whatever becomes of the deletion, its processes are gone.
            self.told = ContainerState::Stopped(status.clone());
            batch.records.push(self.record());
            let status = status.clone();
            batch.announce.push(Notice::Stopped { status });
        }
        batch.world.push(World::CloseProcesses { status });
        self.closed(batch);
    }

    /// Goes on with a retirement once no process is left.
    pub(super) fn closed(&mut self, batch: &mut Batch<Self>) {
        let State::Closing { waiters, guest } = self.state.clone() else {
            return;
        };
        if !self.members.is_empty() {
            return;
        }
        match guest {
            Guest::Stays => self.take_out(waiters, batch),
            Guest::Goes => self.finish(waiters, batch),
        }
    }

    /// What is on record as stopped runs no longer, whoever began to delete it.
    pub(super) fn kill_left(&self, after: Duration, batch: &mut Batch<Self>) {
        if self.left_alive {
            batch.world.push(World::KillLeft { after });
        }
    }

    pub(super) fn left_killed(&self, outcome: Result<(), Fault>, batch: &mut Batch<Self>) {
        match outcome.map_err(|why| why.kind()) {
            // The guest has no such container, or nothing lives in it.
            Ok(()) | Err(Kind::NotFound | Kind::Denied) => {}
            Err(_) => self.kill_left(KILL_AGAIN_AFTER, batch),
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(
            self.state,
            State::Closing { .. }
                | State::Removing { .. }
                | State::Finishing { .. }
                | State::Retired
        )
    }

    pub(super) fn retired(
        &mut self,
        waiters: Vec<Waiter>,
        warnings: &Warnings,
        batch: &mut Batch<Self>,
    ) {
        self.state = State::Retired;
        batch.records.push(records::delete(self.key()));
        self.forget_closed(batch);
        for waiter in waiters {
            let warnings = warnings.clone();
            batch.replies.push((waiter, Answer::Retired(Ok(warnings))));
        }
        batch.announce.push(Notice::Retired);
    }

    fn forget_closed(&mut self, batch: &mut Batch<Self>) {
        let (uid, number) = (self.uid, self.number());
        let closed = self.closed.drain(..);
        let keys = closed.map(|process| ProcessRecord::key(uid, number, &process));
        batch.records.extend(keys.map(records::delete));
    }

    pub(super) fn removed(
        &mut self,
        waiters: Vec<Waiter>,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        match outcome {
            Ok(()) => self.finish(waiters, batch),
            Err(why) => {
                // It stays, stopped, so that the deletion can be asked for again; its processes are over.
                self.state = State::Failed;
                self.forget_closed(batch);
                for waiter in waiters {
                    let why = why.clone();
                    batch.replies.push((waiter, Answer::Retired(Err(why))));
                }
            }
        }
    }

    pub(super) fn guest_gone(&mut self, status: ExitStatus, batch: &mut Batch<Self>) {
        match &self.state {
            State::Attaching { .. } | State::AwaitingGuest | State::Hooking { .. } | State::New => {
                self.fail(Fault::new(Kind::Aborted, status.detail), batch);
            }
            State::Removing { waiters, .. } => {
                let waiters = waiters.clone();
                self.finish(waiters, batch);
            }
            State::Making
            | State::Created
            | State::Running
            | State::Stopped(_)
            | State::Failed
            | State::Closing { .. } => batch.world.push(World::TellGuestGone { status }),
            State::Finishing { .. } | State::Retired => {}
        }
    }
}

fn killed(at: EpochMs) -> ExitStatus {
    ExitStatus {
        code: KILLED,
        reason: ExitReason::Signaled,
        detail: "killed when its container was deleted".to_owned(),
        at,
    }
}
