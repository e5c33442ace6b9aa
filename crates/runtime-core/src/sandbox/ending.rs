//! The part of [`Sandbox`] that ends: what it held is released, what was never created is undone, and
//! its record goes last. Also what a rebuilt one takes up.

use super::{
    events::{Answer, Notice, Released, Why, World},
    machine::{Entry, KILLED, LOST, Progress, Sandbox, State},
};
use crate::{container::Guest, error::Fault, ids::ContainerNumber, kit::Batch, records};
use std::time::Duration;

/// What keeps something from being released is mostly a room that is being rebuilt.
const RELEASE_RETRIES: u32 = 2;
const RELEASE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Of what nobody can delete again: it takes little, and is said once each time.
const RELEASE_RETRY_DELAY_LONG: Duration = Duration::from_secs(60);

impl Sandbox {
    /// Ends the VM and releases everything; `code` is what its processes are said to have exited with.
    pub(super) fn stop(&mut self, why: Why, code: u32, batch: &mut Batch<Self>) {
        let op = self.op();
        batch.world.push(World::TellGuestGone {
            code,
            why: why.text(),
        });
        self.state = State::Stopping {
            op,
            why,
            failures: 0,
        };
        batch.records.push(self.record());
        let after = Duration::ZERO;
        batch.world.push(World::TearDown { op, after });
    }

    pub(super) fn fail(&mut self, why: Fault, batch: &mut Batch<Self>) {
        self.stop(Why::NotCreated(why), LOST, batch);
    }

    pub(super) fn torn_down(
        &mut self,
        why: Why,
        failures: u32,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        let released = match outcome {
            Ok(()) => Released::Wholly,
            Err(_) if failures < RELEASE_RETRIES => {
                return self.tear_down_again(why, failures + 1, RELEASE_RETRY_DELAY, batch);
            }
            Err(fault) => Released::Partly(fault),
        };
        self.vm = None;
        self.state = State::Stopped { why, released };
        batch.records.push(self.record());
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
        batch.world.push(World::TearDown { op, after });
    }

    /// What is left to do in a stopped sandbox: discard what was never created, and delete.
    pub(super) fn stopped(&mut self, batch: &mut Batch<Self>) {
        let State::Stopped { why, released } = &self.state else {
            return;
        };
        if let (Why::NotCreated(_), Some(first)) = (why, &self.first) {
            // Its room was never opened, so nobody else can discard it.
            let container = first.number;
            self.first = None;
            self.discarded(container, batch);
            return;
        }
        let unmade: Vec<_> = self.unmade(why).collect();
        if !unmade.is_empty() {
            for container in unmade {
                let guest = Guest::Goes;
                batch.world.push(World::Discard { container, guest });
            }
            return;
        }
        if self.containers.is_empty() {
            match released.clone() {
                Released::Wholly => self.gone(batch),
                Released::Partly(fault) => {
                    let why = why.clone();
                    for deletion in self.deletions.drain(..) {
                        let fault = fault.clone().during("release what it held");
                        batch
                            .replies
                            .push((deletion.waiter, Answer::Deleted(Err(fault))));
                    }
                    // Nobody can name it any more.
                    let (tried, later) = (RELEASE_RETRIES, RELEASE_RETRY_DELAY_LONG);
                    self.tear_down_again(why, tried, later, batch);
                }
            }
            return;
        }
        for deletion in std::mem::take(&mut self.deletions) {
            let guest = Guest::Goes;
            batch.world.push(World::Retire { deletion, guest });
        }
    }

    /// Containers that never came to be.
    fn unmade(&self, why: &Why) -> impl Iterator<Item = ContainerNumber> {
        let all = matches!(why, Why::NotCreated(_));
        let unmade = move |entry: &Entry| all || entry.progress == Progress::Creating;
        let entries = self.containers.iter();
        entries
            .filter(move |(_, entry)| unmade(entry))
            .map(|(number, _)| *number)
    }

    pub(super) fn gone(&mut self, batch: &mut Batch<Self>) {
        self.state = State::Gone;
        batch.records.push(records::delete(self.key()));
        for deletion in self.deletions.drain(..) {
            batch
                .replies
                .push((deletion.waiter, Answer::Deleted(Ok(()))));
        }
        batch.announce.push(Notice::Gone);
    }

    pub(super) fn resume(&mut self, same_boot: bool, batch: &mut Batch<Self>) {
        match self.state.clone() {
            // Its last container was deleted, and then the daemon ended.
            State::Ready { .. } if self.containers.is_empty() => {
                self.stop(Why::Deleted, KILLED, batch);
            }
            State::Ready { vm } if same_boot => batch.world.push(World::Adopt { vm }),
            State::Ready { .. } => {
                self.stop(Why::Lost("the host was restarted".to_owned()), LOST, batch);
            }
            State::Stopped {
                released: Released::Partly(_),
                why,
            } => self.stop(why, LOST, batch),
            State::Stopped { why, .. } => {
                // Not everyone may have had it on record.
                let why = why.text();
                batch.world.push(World::TellGuestGone { code: LOST, why });
                self.stopped(batch);
            }
            _ => {}
        }
    }
}
