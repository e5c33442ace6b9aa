//! The hooks of a container that run on the host: a machine within [`Container`], which persists how far
//! they came.
//!
//! prestart and createRuntime run when the guest is there and before the container is created in it: a
//! failure fails the creation. poststart runs when the program has been started, poststop when the
//! container is gone; their failures are logged and told to whoever asked for the start or the deletion, and
//! change nothing (D18). createContainer and startContainer run in the guest.
//!
//! A daemon that is killed while hooks run takes them along; what was begun and not done is begun again
//! by the next one, so that poststart and poststop run at least once.

use super::{
    events::{Answer, World},
    machine::{Container, State},
    record::ContainerState,
};
use crate::{
    agent::Warnings,
    error::Fault,
    ids::OpId,
    kit::{Batch, Waiter},
    premises::Hook,
};
use serde::{Deserialize, Serialize};

/// As config.json has them, in their order; prestart comes before createRuntime.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostHooks {
    pub create: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Create,
    Poststart,
    Poststop,
}

impl HostHooks {
    pub fn of(&self, stage: Stage) -> &[Hook] {
        match stage {
            Stage::Create => &self.create,
            Stage::Poststart => &self.poststart,
            Stage::Poststop => &self.poststop,
        }
    }
}

/// How far they came, as a record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookProgress {
    /// None ran: its end needs none either.
    #[default]
    Untouched,
    /// The first ones were begun.
    Begun,
    /// Its program was started, and poststart is not done.
    Poststart,
    /// poststart is done.
    Started,
}

/// poststart, as far as this daemon knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Poststart {
    #[default]
    NotRun,
    Running {
        op: OpId,
        /// Callers of the start.
        waiters: Vec<Waiter>,
    },
    /// With what failed, for whoever asks for the same start again.
    Over(Warnings),
}

impl Container {
    /// The guest is there: what must run before the creation in it runs now.
    pub(super) fn guest_ready(&mut self, batch: &mut Batch<Self>) {
        if self.spec().hooks.create.is_empty() {
            return self.make_init(batch);
        }
        let op = self.next_op();
        self.state = State::Hooking { op };
        self.hooks = HookProgress::Begun;
        batch.records.push(self.record());
        let stage = Stage::Create;
        batch.world.push(World::RunHooks { op, stage });
    }

    pub(super) fn hooked(
        &mut self,
        done: OpId,
        outcome: Result<Warnings, Fault>,
        batch: &mut Batch<Self>,
    ) {
        if matches!(self.poststart, Poststart::Running { op, .. } if op == done) {
            return self.poststart_over(warnings_of(outcome), batch);
        }
        match (&self.state, outcome) {
            (&State::Hooking { op }, Ok(_)) if op == done => self.make_init(batch),
            (&State::Hooking { op }, Err(why)) if op == done => self.fail(why, batch),
            (State::Finishing { op, waiters }, outcome) if *op == done => {
                let waiters = waiters.clone();
                self.retired(waiters, &warnings_of(outcome), batch);
            }
            // Stale: it was deleted while they ran.
            (_, Ok(_) | Err(_)) => {}
        }
    }

    /// Its program runs.
    pub(super) fn poststart(&mut self, batch: &mut Batch<Self>) {
        if self.spec().hooks.poststart.is_empty() {
            self.hooks = HookProgress::Started;
            return;
        }
        self.hooks = HookProgress::Poststart;
        let op = self.next_op();
        let waiters = Vec::new();
        self.poststart = Poststart::Running { op, waiters };
        let stage = Stage::Poststart;
        batch.world.push(World::RunHooks { op, stage });
    }

    fn poststart_over(&mut self, failed: Warnings, batch: &mut Batch<Self>) {
        self.hooks = HookProgress::Started;
        if self.told != ContainerState::Creating && !self.is_ending() {
            batch.records.push(self.record());
        }
        self.tell_started(failed, batch);
    }

    fn tell_started(&mut self, failed: Warnings, batch: &mut Batch<Self>) {
        let over = Poststart::Over(failed.clone());
        if let Poststart::Running { waiters, .. } = std::mem::replace(&mut self.poststart, over) {
            for waiter in waiters {
                batch
                    .replies
                    .push((waiter, Answer::Started(failed.clone())));
            }
        }
    }

    /// Answered when its start, poststart included, is on record.
    pub(super) fn settle_start(&mut self, waiter: Waiter, batch: &mut Batch<Self>) {
        let failed = match &mut self.poststart {
            Poststart::Running { waiters, .. } => return waiters.push(waiter),
            Poststart::NotRun => Warnings::new(),
            Poststart::Over(failed) => failed.clone(),
        };
        batch.replies.push((waiter, Answer::Started(failed)));
    }

    /// After a rebuild.
    pub(super) fn resume_hooks(&mut self, batch: &mut Batch<Self>) {
        if self.hooks == HookProgress::Poststart {
            self.poststart(batch);
        }
    }

    /// Hooks that run are given up: the container is being deleted.
    pub(super) fn stop_hooks(&mut self, batch: &mut Batch<Self>) {
        if matches!(self.poststart, Poststart::Running { .. }) {
            self.tell_started(Warnings::new(), batch);
        }
        batch.world.push(World::StopHooks);
    }

    /// Nothing of it is left but its record: poststop, and then that goes too.
    pub(super) fn finish(&mut self, waiters: Vec<Waiter>, batch: &mut Batch<Self>) {
        let touched = match (self.hooks, &self.told) {
            (HookProgress::Untouched, ContainerState::Creating) => false,
            (HookProgress::Untouched, _)
            | (HookProgress::Begun | HookProgress::Poststart | HookProgress::Started, _) => true,
        };
        if !touched || self.spec().hooks.poststop.is_empty() {
            return self.retired(waiters, &Warnings::new(), batch);
        }
        let op = self.next_op();
        self.state = State::Finishing { op, waiters };
        let stage = Stage::Poststop;
        batch.world.push(World::RunHooks { op, stage });
    }
}

/// Hooks that were stopped as a whole are one that failed.
fn warnings_of(outcome: Result<Warnings, Fault>) -> Warnings {
    outcome.unwrap_or_else(|why| vec![why.to_string()])
}
