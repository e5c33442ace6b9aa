//! The part of [`Sandbox`] that does what is asked of it as a whole: start, stop, pause, resume,
//! delete, annotate. What may be asked where is in [`super::rules`].
//!
//! Whoever asks is answered when it is done; whoever asks for what is under way, or again under the
//! same key, waits with the first.

use super::{
    ending::{is_unwanted, unanswered},
    events::{
        ANNOTATIONS_BYTES_MAX, Answer, Deletion, Denied, Killing, Order, Released, ResumeFailed,
        Verb, Why, World,
    },
    machine::{Boot, Progress, Sandbox, State},
    record::Stage,
    rules::{Op, Refused, Rule, Standing, rule},
};
use crate::{
    agent::Warnings,
    container::{Force, Guest},
    error::{Fault, Kind},
    hypervisor::VmStatus,
    ids::{OpId, RequestKey},
    kit::{Batch, Waiter},
};
use std::collections::BTreeMap;

/// A caller that asks again has given up its earlier question, whose waiter is still there.
pub(super) const ASKED_MAX: usize = 64;
/// A caller asks again within the minutes for which it waits.
const KEYS_MAX: usize = 32;

/// Who waits for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) waiter: Waiter,
    pub(super) asking: Asking,
    pub(super) key: Option<RequestKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Create,
    Start,
    Stop,
    Pause,
    Resume,
    Delete,
}

/// What ends in the guest of a paused sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Errand {
    Kill(Waiter, Killing),
    Delete(Deletion),
}

/// Why a VM is being paused or resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Asked,
    /// So that the guest can end something; nobody sees it but as paused.
    Errand,
    /// It could not be paused.
    Undo(Fault),
}

impl Sandbox {
    pub(super) fn create_empty(&mut self, waiter: Waiter, batch: &mut Batch<Self>) {
        let key = None;
        let asking = Asking::Create;
        self.asked.push(Asked {
            waiter,
            asking,
            key,
        });
        self.boot(Boot::Empty, batch);
    }

    /// Its VM answers.
    pub(super) fn ready(&mut self, vm: VmStatus, batch: &mut Batch<Self>) {
        self.vm = Some(vm.clone());
        let stage = match std::mem::replace(&mut self.boot, Boot::Over) {
            Boot::Again => Stage::Running,
            Boot::Over | Boot::Container(_) | Boot::Empty => Stage::Ready,
        };
        self.state = State::Up { vm, stage };
        for (number, entry) in &self.containers {
            if entry.progress == Progress::Creating && number.0 >= self.first_of_vm {
                let container = *number;
                batch.world.push(World::TellReady { container });
            }
        }
        self.settle(Asking::Create, &Ok(()), batch);
        self.settle(Asking::Start, &Ok(()), batch);
    }

    pub(super) fn order(
        &mut self,
        waiter: Waiter,
        Order { key, verb }: Order,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        if self.asked.len() == ASKED_MAX {
            return Err(Denied::TooManyAsk);
        }
        if self.state == State::Gone {
            return self.order_of_gone(waiter, &verb, batch);
        }
        if key.as_ref().is_some_and(|key| self.keys.contains(key)) {
            self.asked_again(waiter, key, &verb, batch);
            return Ok(());
        }
        let (op, at) = (verb.op(), self.standing());
        let joins = match rule(op, at) {
            Rule::Refused => return Err(Denied::State(Refused { op, at })),
            Rule::AlreadySo => {
                batch.replies.push((waiter, Answer::done()));
                return Ok(());
            }
            Rule::Joins => true,
            Rule::Done => false,
        };
        self.admit(&verb)?;
        if let Some(key) = &key {
            self.keys.push_back(key.clone());
            if self.keys.len() > KEYS_MAX {
                self.keys.pop_front();
            }
        }
        let Some(asking) = asking(&verb) else {
            self.annotate(verb);
            batch.replies.push((waiter, Answer::done()));
            return Ok(());
        };
        self.asked.push(Asked {
            waiter,
            asking,
            key,
        });
        if !joins {
            self.carry_out(verb, batch);
        }
        Ok(())
    }

    /// It came when the record was being taken away.
    fn order_of_gone(
        &self,
        waiter: Waiter,
        verb: &Verb,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        match verb {
            Verb::Delete(_) => {
                batch.replies.push((waiter, Answer::done()));
                Ok(())
            }
            Verb::Start | Verb::Stop(_) | Verb::Pause | Verb::Resume | Verb::Annotate(_) => {
                Err(Denied::Gone)
            }
        }
    }

    /// What the table cannot know.
    fn admit(&self, verb: &Verb) -> Result<(), Denied> {
        match verb {
            Verb::Pause => {
                let mut all = self.containers.values();
                match all.find(|entry| entry.progress == Progress::Creating) {
                    Some(entry) => Err(Denied::BeingCreated(entry.id.clone())),
                    None => Ok(()),
                }
            }
            Verb::Annotate(more) => {
                let bytes = |all: &BTreeMap<String, String>| -> usize {
                    all.iter().map(|(key, value)| key.len() + value.len()).sum()
                };
                match bytes(&self.annotations) + bytes(more) > ANNOTATIONS_BYTES_MAX {
                    true => Err(Denied::AnnotationsTooLarge),
                    false => Ok(()),
                }
            }
            Verb::Start | Verb::Stop(_) | Verb::Resume | Verb::Delete(_) => Ok(()),
        }
    }

    fn annotate(&mut self, verb: Verb) {
        if let Verb::Annotate(more) = verb {
            self.annotations.extend(more);
        }
    }

    /// An earlier daemon may have begun it: then it is under way, and nobody waits for it yet.
    fn asked_again(
        &mut self,
        waiter: Waiter,
        key: Option<RequestKey>,
        verb: &Verb,
        batch: &mut Batch<Self>,
    ) {
        let under_way = |asking: &Asking| match (asking, self.standing()) {
            (Asking::Start, Standing::Starting)
            | (Asking::Pause, Standing::Pausing)
            | (Asking::Resume, Standing::Resuming)
            | (Asking::Stop, Standing::Stopping) => true,
            (Asking::Delete, Standing::Stopping) => self.is_going(),
            (asking, _) => self.is_asked(*asking),
        };
        match asking(verb).filter(under_way) {
            Some(asking) => self.asked.push(Asked {
                waiter,
                asking,
                key,
            }),
            None => batch.replies.push((waiter, Answer::done())),
        }
    }

    /// The release that is under way answers; it is not to be followed by a fresh VM.
    fn stop_the_stopping(&mut self, op: OpId, why: Why, failures: u32, batch: &mut Batch<Self>) {
        if why == Why::Again {
            let why = Why::Asked;
            self.settle(Asking::Start, &Err(aborted(&why)), batch);
            self.state = State::Stopping { op, why, failures };
        }
    }

    /// It does not stop only.
    fn is_going(&self) -> bool {
        match &self.state {
            State::Stopping { why, .. } | State::Stopped { why, .. } => is_unwanted(why),
            _ => false,
        }
    }

    fn carry_out(&mut self, verb: Verb, batch: &mut Batch<Self>) {
        match (verb, self.state.clone()) {
            (Verb::Start, State::Up { vm, .. }) => self.begin(vm, batch),
            (Verb::Start, _) => self.boot(Boot::Again, batch),
            (Verb::Stop(Force::No), State::Up { vm, .. }) => {
                let op = self.op();
                self.state = State::Quieting { op, vm };
                batch.world.push(World::Quiet { op });
            }
            (Verb::Stop(_), State::Stopping { op, why, failures }) => {
                self.stop_the_stopping(op, why, failures, batch);
            }
            (Verb::Stop(_), State::Stopped { why, .. }) => self.stop(why, batch),
            (Verb::Stop(_), _) => self.stop(Why::Asked, batch),
            (Verb::Pause, State::Up { vm, stage }) => {
                self.pause(vm, stage, Cause::Asked, batch);
            }
            (Verb::Resume, State::Paused { vm, stage }) => {
                self.resume_vm(vm, stage, Cause::Asked, batch);
            }
            // The VM goes on for an errand, or has just done so: it stays so.
            (Verb::Resume, State::Thawed { vm, stage, .. }) => {
                self.state = State::Up { vm, stage };
                self.settle(Asking::Resume, &Ok(()), batch);
                self.let_all_leave(batch);
            }
            (Verb::Delete(_), state) => self.delete_all(state, batch),
            // A VM that is on its way because of an errand goes on when it has come there.
            (Verb::Pause | Verb::Resume | Verb::Annotate(_), _) => {}
        }
    }

    pub(super) fn begin(&mut self, vm: VmStatus, batch: &mut Batch<Self>) {
        let op = self.op();
        self.state = State::Beginning { op, vm };
        batch.world.push(World::Begin { op });
    }

    pub(super) fn begun(
        &mut self,
        vm: VmStatus,
        outcome: &Result<Warnings, Fault>,
        batch: &mut Batch<Self>,
    ) {
        let started = self
            .containers
            .values()
            .any(|entry| entry.progress == Progress::Started);
        let stage = match outcome.is_ok() || started {
            true => Stage::Running,
            false => Stage::Ready,
        };
        self.state = State::Up { vm, stage };
        self.settle_told(Asking::Start, outcome, batch);
    }

    pub(super) fn pause(
        &mut self,
        vm: VmStatus,
        stage: Stage,
        cause: Cause,
        batch: &mut Batch<Self>,
    ) {
        let op = self.op();
        self.state = State::Pausing {
            op,
            vm,
            stage,
            cause,
        };
        batch.world.push(World::Pause { op });
    }

    fn resume_vm(&mut self, vm: VmStatus, stage: Stage, cause: Cause, batch: &mut Batch<Self>) {
        let op = self.op();
        self.state = State::Resuming {
            op,
            vm: vm.clone(),
            stage,
            cause,
        };
        batch.world.push(World::Resume { op, vm });
    }

    pub(super) fn pause_done(
        &mut self,
        vm: VmStatus,
        stage: Stage,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        match outcome {
            Ok(()) if self.is_asked(Asking::Resume) => {
                self.resume_vm(vm, stage, Cause::Asked, batch);
            }
            Ok(()) => {
                self.settle(Asking::Pause, &Ok(()), batch);
                match self.errands.is_empty() {
                    true => self.state = State::Paused { vm, stage },
                    false => self.resume_vm(vm, stage, Cause::Errand, batch),
                }
            }
            // The first error is the one that counts (behaviours.md, D2).
            Err(why) => self.resume_vm(vm, stage, Cause::Undo(why), batch),
        }
    }

    pub(super) fn resume_done(
        &mut self,
        (vm, stage): (VmStatus, Stage),
        cause: Cause,
        outcome: Result<(), ResumeFailed>,
        batch: &mut Batch<Self>,
    ) {
        let cause = match cause {
            Cause::Errand if self.is_asked(Asking::Resume) => Cause::Asked,
            cause => cause,
        };
        match (outcome, cause) {
            (Ok(()), Cause::Asked) => {
                self.state = State::Up { vm, stage };
                self.settle(Asking::Resume, &Ok(()), batch);
                self.run_errands(batch);
                self.let_all_leave(batch);
            }
            (Ok(()), Cause::Errand) => {
                let open = self.errands.len();
                self.state = State::Thawed { vm, stage, open };
                self.run_errands(batch);
            }
            (Ok(()), Cause::Undo(why)) => {
                self.state = State::Up { vm, stage };
                self.settle(Asking::Pause, &Err(why), batch);
                // Whoever wanted it to go on while it was to be paused again has that.
                self.settle(Asking::Resume, &Ok(()), batch);
                self.run_errands(batch);
                self.let_all_leave(batch);
            }
            (Err(ResumeFailed::Vm(why)), Cause::Asked | Cause::Errand) => {
                self.state = State::Paused { vm, stage };
                self.settle(Asking::Resume, &Err(why.clone()), batch);
                self.drop_errands(&why, batch);
            }
            (Err(ResumeFailed::Vm(why)), Cause::Undo(first)) => {
                self.settle(Asking::Pause, &Err(first), batch);
                let text = format!("it could neither be paused nor resumed: {why}");
                self.stop(Why::Lost(text), batch);
            }
            (Err(ResumeFailed::Agent(why)), cause) => {
                if let Cause::Undo(first) = cause {
                    self.settle(Asking::Pause, &Err(first), batch);
                }
                self.settle(Asking::Resume, &Err(why.clone()), batch);
                self.stop(unanswered(&why), batch);
            }
        }
    }

    /// Ends it whatever it does, and then all that is in it.
    fn delete_all(&mut self, state: State, batch: &mut Batch<Self>) {
        match state {
            State::Stopping {
                why: Why::NotCreated(_),
                ..
            }
            | State::Stopped {
                why: Why::NotCreated(_),
                ..
            }
            | State::Gone => {}
            State::Stopping { op, failures, why } => {
                self.settle(Asking::Start, &Err(aborted(&why)), batch);
                let why = Why::Deleted;
                self.state = State::Stopping { op, why, failures };
            }
            State::Stopped {
                released: Released::Wholly,
                ..
            } => {
                let (why, released) = (Why::Deleted, Released::Wholly);
                self.state = State::Stopped { why, released };
                self.stopped(batch);
            }
            State::Stopped { .. } => self.stop(Why::Deleted, batch),
            _ if self.is_being_created() => {
                let why = Fault::new(Kind::Aborted, "deleted while it was being created");
                self.fail(why, batch);
            }
            _ => self.stop(Why::Deleted, batch),
        }
    }

    pub(super) fn is_asked(&self, what: Asking) -> bool {
        self.asked.iter().any(|asked| asked.asking == what)
    }

    /// Of those who asked for this, where nothing is to be said beside it.
    pub(super) fn settle(
        &mut self,
        what: Asking,
        outcome: &Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        let outcome = outcome.clone().map(|()| Warnings::new());
        self.settle_told(what, &outcome, batch);
    }

    /// Of those who asked for this; a failure keeps no key.
    pub(super) fn settle_told(
        &mut self,
        what: Asking,
        outcome: &Result<Warnings, Fault>,
        batch: &mut Batch<Self>,
    ) {
        let asked = std::mem::take(&mut self.asked);
        let (over, rest): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|asked| asked.asking == what);
        self.asked = rest;
        for Asked { waiter, key, .. } in over {
            if outcome.is_err() {
                self.keys.retain(|kept| Some(kept) != key.as_ref());
            }
            batch
                .replies
                .push((waiter, Answer::Ordered(outcome.clone())));
        }
    }

    /// What nothing comes of, because the VM ends.
    pub(super) fn settle_for_end(&mut self, why: &Why, batch: &mut Batch<Self>) {
        let ended = Err(aborted(why));
        self.settle(Asking::Pause, &ended, batch);
        self.settle(Asking::Resume, &ended, batch);
        if !matches!(why, Why::NotStarted(_) | Why::Again) {
            self.settle(Asking::Start, &ended, batch);
        }
        self.drop_errands(&aborted(why), batch);
    }
}

// What is ended in the guest of a paused sandbox: its VM goes on for as long as that takes.
impl Sandbox {
    pub(super) fn end(&mut self, errand: Errand, batch: &mut Batch<Self>) {
        match self.state.clone() {
            State::Paused { vm, stage } => {
                self.errands.push(errand);
                self.resume_vm(vm, stage, Cause::Errand, batch);
            }
            State::Pausing { .. } | State::Resuming { .. } => self.errands.push(errand),
            State::Thawed { vm, stage, open } => {
                let open = open + 1;
                self.state = State::Thawed { vm, stage, open };
                run(errand, batch);
            }
            _ => run(errand, batch),
        }
    }

    pub(super) fn killed(
        &mut self,
        waiter: Waiter,
        killing: Killing,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        if self.is_cut_off(&outcome) {
            return self.end(Errand::Kill(waiter, killing), batch);
        }
        let outcome = outcome.map(|()| Warnings::new());
        batch.replies.push((waiter, Answer::Ordered(outcome)));
        self.errand_done(batch);
    }

    /// It was begun before a pause, which took the guest away from it. While the VM goes on for
    /// errands, nothing is cut off.
    pub(super) fn is_cut_off<T>(&self, outcome: &Result<T, Fault>) -> bool {
        let is_paused = matches!(
            self.state,
            State::Pausing { .. } | State::Paused { .. } | State::Resuming { .. }
        );
        is_paused && outcome.as_ref().is_err_and(is_unheard)
    }

    fn run_errands(&mut self, batch: &mut Batch<Self>) {
        for errand in std::mem::take(&mut self.errands) {
            run(errand, batch);
        }
    }

    fn drop_errands(&mut self, why: &Fault, batch: &mut Batch<Self>) {
        for errand in std::mem::take(&mut self.errands) {
            batch.replies.push(match errand {
                Errand::Kill(waiter, _) => (waiter, Answer::Ordered(Err(why.clone()))),
                Errand::Delete(deletion) => (deletion.waiter, Answer::Deleted(Err(why.clone()))),
            });
        }
    }

    /// One is over, however it went.
    pub(super) fn errand_done(&mut self, batch: &mut Batch<Self>) {
        if let State::Thawed { vm, stage, open } = self.state.clone() {
            match open.saturating_sub(1) {
                0 => self.pause(vm, stage, Cause::Errand, batch),
                open => self.state = State::Thawed { vm, stage, open },
            }
        }
    }
}

fn run(errand: Errand, batch: &mut Batch<Sandbox>) {
    batch.world.push(match errand {
        Errand::Kill(waiter, killing) => World::Kill { waiter, killing },
        Errand::Delete(deletion) => {
            let guest = Guest::Stays;
            World::Retire { deletion, guest }
        }
    });
}

/// The guest may not have heard of it, which says nothing about the thing itself.
pub(super) fn is_unheard(why: &Fault) -> bool {
    match why.kind() {
        Kind::Unavailable | Kind::Timeout | Kind::Aborted => true,
        Kind::NotFound
        | Kind::AlreadyExists
        | Kind::Invalid
        | Kind::Denied
        | Kind::Exhausted
        | Kind::Unsupported
        | Kind::Internal => false,
    }
}

pub(super) fn aborted(why: &Why) -> Fault {
    let text = why.text();
    Fault::new(
        Kind::Aborted,
        format!("the sandbox ended meanwhile: {text}"),
    )
}

/// What there is to wait for; an annotation is made at once.
fn asking(verb: &Verb) -> Option<Asking> {
    match verb {
        Verb::Start => Some(Asking::Start),
        Verb::Stop(_) => Some(Asking::Stop),
        Verb::Pause => Some(Asking::Pause),
        Verb::Resume => Some(Asking::Resume),
        Verb::Delete(_) => Some(Asking::Delete),
        Verb::Annotate(_) => None,
    }
}

/// Where a state refuses what the table refuses there.
pub(super) fn refused(op: Op, at: Standing) -> Result<(), Denied> {
    match rule(op, at) {
        Rule::Refused => Err(Denied::State(Refused { op, at })),
        Rule::Done | Rule::AlreadySo | Rule::Joins => Ok(()),
    }
}
