//! The part of [`Sandbox`] that ends: what it held is released, what was never created is undone, and
//! its record goes last. Also what a rebuilt one takes up.

use super::{
    events::{Answer, Notice, Released, Why, World},
    machine::{Boot, Entry, Progress, Sandbox, State},
    orders::{Asking, aborted},
    record::Lifetime,
};
use crate::{
    agent::Warnings,
    container::Guest,
    error::{Fault, Kind},
    ids::ContainerNumber,
    kit::Batch,
};
use std::time::Duration;

/// What keeps something from being released is mostly a room that is being rebuilt.
const RELEASE_RETRIES: u32 = 2;
const RELEASE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Of what nobody can delete again: it takes little, and is said once each time.
const RELEASE_RETRY_DELAY_LONG: Duration = Duration::from_secs(60);

impl Sandbox {
    /// Ends the VM and releases everything.
    pub(super) fn stop(&mut self, why: Why, batch: &mut Batch<Self>) {
        let op = self.op();
        let unwritten = self.to_be_written(&why);
        self.settle_for_end(&why, batch);
        batch.world.push(World::TellGuestGone { why: why.clone() });
        self.state = State::Stopping {
            op,
            why,
            failures: 0,
        };
        batch.world.push(World::TearDown {
            op,
            after: Duration::ZERO,
            unwritten,
        });
    }

    pub(super) fn lost(&mut self, why: Why, batch: &mut Batch<Self>) {
        match &self.state {
            State::Up { .. }
            | State::Beginning { .. }
            | State::Pausing { .. }
            | State::Paused { .. }
            | State::Resuming { .. }
            | State::Thawed { .. } => self.stop(why, batch),
            // It was to end.
            State::Quieting { .. } => self.stop(Why::Asked, batch),
            State::Launching { .. } | State::Linking { .. } | State::Greeting { .. } => {
                self.fail(Fault::new(Kind::Aborted, why.text()), batch);
            }
            State::New
            | State::Opening { .. }
            | State::Premises { .. }
            | State::Plumbing { .. }
            | State::Attaching { .. }
            | State::Stopping { .. }
            | State::Stopped { .. }
            | State::Gone => {}
        }
    }

    /// A link that is closed on purpose is not lost.
    pub(super) fn link_lost(&mut self, why: &Fault, batch: &mut Batch<Self>) {
        match self.state {
            State::Pausing { .. } | State::Paused { .. } | State::Resuming { .. } => {}
            _ => self.lost(unanswered(why), batch),
        }
    }

    /// It does not come up.
    pub(super) fn fail(&mut self, why: Fault, batch: &mut Batch<Self>) {
        let why = match self.boot {
            Boot::Again => Why::NotStarted(why),
            Boot::Over | Boot::Container(_) | Boot::Empty => Why::NotCreated(why),
        };
        self.stop(why, batch);
    }

    pub(super) fn torn_down(
        &mut self,
        why: Why,
        failures: u32,
        unwritten: Warnings,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        // Of the first attempt, whatever becomes of that.
        self.unwritten.extend(unwritten);
        let released = match outcome {
            Ok(()) => Released::Wholly,
            Err(_) if failures < RELEASE_RETRIES => {
                return self.tear_down_again(why, failures + 1, RELEASE_RETRY_DELAY, batch);
            }
            Err(fault) => Released::Partly(fault),
        };
        self.vm = None;
        self.writers.clear();
        let why = match (why, &released) {
            (Why::Again, Released::Wholly) => return self.boot(Boot::Again, batch),
            // Whoever wants it to start asks again.
            (Why::Again, Released::Partly(fault)) => Why::NotStarted(fault.clone()),
            (why, _) => why,
        };
        if self.boot == Boot::Again {
            self.boot = Boot::Over;
        }
        let started = Err(match &why {
            Why::NotStarted(fault) => fault.clone(),
            why => aborted(why),
        });
        let stopped = match &released {
            Released::Wholly => Ok(self.unwritten.clone()),
            Released::Partly(fault) => Err(fault.clone().during("release what it held")),
        };
        self.state = State::Stopped { why, released };
        self.settle(Asking::Start, &started, batch);
        if self.is_asked(Asking::Stop) {
            self.unwritten.clear();
        }
        self.settle_told(Asking::Stop, &stopped, batch);
        self.stopped(batch);
    }

    fn tear_down_again(
        &mut self,
        why: Why,
        failures: u32,
        after: Duration,
        batch: &mut Batch<Self>,
    ) {
        let op = self.op();
        self.state = State::Stopping { op, why, failures };
        batch.world.push(World::TearDown {
            op,
            after,
            // It had its time.
            unwritten: None,
        });
    }

    /// What is left to do in a stopped sandbox: discard what was never created, and delete.
    pub(super) fn stopped(&mut self, batch: &mut Batch<Self>) {
        let State::Stopped { why, released } = &self.state else {
            return;
        };
        if let (Why::NotCreated(_), Boot::Container(first)) = (why, &self.boot) {
            // Its room was never opened, so nobody else can discard it.
            let container = first.number;
            self.boot = Boot::Over;
            self.discarded(container, batch);
            return;
        }
        if self.containers.is_empty() && self.goes(why) {
            match released.clone() {
                Released::Wholly => self.gone(batch),
                Released::Partly(fault) => {
                    let why = why.clone();
                    let fault = fault.during("release what it held");
                    for deletion in self.deletions.drain(..) {
                        let answer = Answer::Deleted(Err(fault.clone()));
                        batch.replies.push((deletion.waiter, answer));
                    }
                    self.settle(Asking::Delete, &Err(fault.clone()), batch);
                    if let Why::NotCreated(first) = &why {
                        let also = format!("{first} (and then: {fault})");
                        let fault = Fault::new(first.kind(), also);
                        self.settle(Asking::Create, &Err(fault), batch);
                    }
                    // Nobody can name it any more.
                    let (tried, later) = (RELEASE_RETRIES, RELEASE_RETRY_DELAY_LONG);
                    self.tear_down_again(why, tried, later, batch);
                }
            }
            return;
        }
        let unmade: Vec<_> = self.unmade(why).collect();
        if !is_unwanted(why) {
            self.retire_past(batch);
        }
        for container in unmade {
            let guest = Guest::Goes;
            batch.world.push(World::Discard { container, guest });
        }
    }

    /// Deletions that waited for the end of the VM.
    pub(super) fn retire_past(&mut self, batch: &mut Batch<Self>) {
        for deletion in std::mem::take(&mut self.deletions) {
            let guest = Guest::Goes;
            batch.world.push(World::Retire { deletion, guest });
        }
    }

    /// It goes when the last of its containers has.
    fn goes(&self, why: &Why) -> bool {
        is_unwanted(why) || self.spec().lifetime == Lifetime::Containers
    }

    /// Containers that never came to be, or go with their sandbox.
    fn unmade(&self, why: &Why) -> impl Iterator<Item = ContainerNumber> {
        let all = is_unwanted(why);
        let unmade = move |entry: &Entry| all || entry.progress == Progress::Creating;
        let entries = self.containers.iter();
        entries
            .filter(move |(_, entry)| unmade(entry))
            .map(|(number, _)| *number)
    }

    pub(super) fn gone(&mut self, batch: &mut Batch<Self>) {
        let created = Err(match &self.state {
            State::Stopped {
                why: Why::NotCreated(fault),
                ..
            } => fault.clone(),
            State::Stopped { why, .. } => aborted(why),
            _ => Fault::new(Kind::Aborted, "it was not created"),
        });
        self.state = State::Gone;
        self.settle(Asking::Create, &created, batch);
        self.settle(Asking::Stop, &Ok(()), batch);
        let unwritten = std::mem::take(&mut self.unwritten);
        self.settle_told(Asking::Delete, &Ok(unwritten.clone()), batch);
        for mut deletion in self.deletions.drain(..) {
            deletion.warnings.extend(unwritten.iter().cloned());
            batch
                .replies
                .push((deletion.waiter, Answer::Deleted(Ok(deletion.warnings))));
        }
        batch.announce.push(Notice::Gone);
    }

    pub(super) fn resume(&mut self, same_boot: bool, batch: &mut Batch<Self>) {
        let is_up = self.vm.is_some()
            && !matches!(
                self.state,
                State::Stopping { .. } | State::Stopped { .. } | State::Gone
            );
        if is_up && !same_boot {
            return self.stop(Why::Lost("the host was restarted".to_owned()), batch);
        }
        match self.state.clone() {
            // Its last container was deleted, and then the daemon ended.
            State::Up { .. }
                if self.containers.is_empty() && self.spec().lifetime == Lifetime::Containers =>
            {
                self.stop(Why::Deleted, batch);
            }
            State::Up { vm, .. } => batch.world.push(World::Adopt { vm }),
            State::Beginning { op, vm } => {
                batch.world.push(World::Adopt { vm });
                batch.world.push(World::Begin { op });
            }
            State::Quieting { op, vm } => {
                batch.world.push(World::Adopt { vm });
                batch.world.push(World::Quiet { op });
            }
            State::Pausing { op, .. } => batch.world.push(World::Pause { op }),
            State::Resuming { op, vm, .. } => batch.world.push(World::Resume { op, vm }),
            State::Stopped {
                released: Released::Partly(_),
                why,
            } => self.stop(why, batch),
            State::Stopped { why, .. } => {
                // Not everyone may have had it on record.
                batch.world.push(World::TellGuestGone { why: why.clone() });
                self.stopped(batch);
            }
            _ => {}
        }
    }
}

pub(super) fn unanswered(why: &Fault) -> Why {
    Why::AgentLost(format!("its agent does not answer: {why}"))
}

/// Nobody wants it any more, and with it goes all that is in it.
pub(super) fn is_unwanted(why: &Why) -> bool {
    match why {
        Why::NotCreated(_) | Why::Deleted => true,
        Why::NotStarted(_)
        | Why::Again
        | Why::Idle
        | Why::Asked
        | Why::Lost(_)
        | Why::AgentLost(_) => false,
    }
}
