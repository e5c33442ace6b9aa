//! The part of [`Sandbox`] that looks after its containers: what they tell, and how they go.

use super::{
    events::{Answer, Deletion, Denied, Notice, Released, Why, World},
    machine::{Entry, KILLED, LOST, Progress, Sandbox, State},
};
use crate::{
    container::{self, Force, Guest},
    error::{Fault, Kind},
    ids::ContainerNumber,
    kit::Batch,
};

impl Sandbox {
    /// Nothing of it was made: there is nothing to release, and no container to discard.
    pub(super) fn never_was(&mut self, why: Fault, batch: &mut Batch<Self>) {
        for (container, entry) in std::mem::take(&mut self.containers) {
            if let Some(waiter) = entry.creator {
                batch
                    .replies
                    .push((waiter, Answer::Created(Err(why.clone()))));
            }
            batch.announce.push(Notice::ContainerGone { container });
        }
        self.gone(batch);
    }

    pub(super) fn plumb(&mut self, batch: &mut Batch<Self>) {
        let op = self.op();
        self.state = State::Plumbing {
            op,
            network: None,
            share: None,
        };
        batch.world.push(World::Connect { op });
        if self.spec().share.is_some() {
            batch.world.push(World::OpenShare { op });
        }
    }

    pub(super) fn delete(
        &mut self,
        deletion: Deletion,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        let known = self.containers.get(&deletion.container);
        match (&self.state, deletion.force) {
            (State::Gone, _) => {
                batch
                    .replies
                    .push((deletion.waiter, Answer::Deleted(Ok(()))));
            }
            (
                State::Stopped {
                    released: Released::Partly(_),
                    why,
                },
                _,
            ) if self.containers.is_empty() => {
                let why = why.clone();
                self.deletions.push(deletion);
                self.stop(why, LOST, batch);
            }
            // Asked again: its containers are deleted, and it is going.
            (State::Stopping { .. }, _) if self.containers.is_empty() => {
                self.deletions.push(deletion);
            }
            _ if known.is_none() => return Err(Denied::NoSuchContainer),
            (State::Ready { .. }, _) => {
                let guest = match self.containers.len() {
                    1 => Guest::Goes,
                    _ => Guest::Stays,
                };
                batch.world.push(World::Retire { deletion, guest });
            }
            (State::Stopped { .. }, _) => {
                let guest = Guest::Goes;
                batch.world.push(World::Retire { deletion, guest });
            }
            (State::Stopping { .. }, _) => self.deletions.push(deletion),
            (
                State::New
                | State::Opening { .. }
                | State::Premises { .. }
                | State::Plumbing { .. }
                | State::Attaching { .. }
                | State::Launching { .. }
                | State::Linking { .. }
                | State::Greeting { .. },
                force,
            ) => {
                if force == Force::No {
                    return Err(Denied::StillCreating);
                }
                self.deletions.push(deletion);
                self.fail(deleted_early(), batch);
            }
        }
        Ok(())
    }

    pub(super) fn retired(
        &mut self,
        deletion: Deletion,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        if let Err(why) = outcome {
            batch
                .replies
                .push((deletion.waiter, Answer::Deleted(Err(why))));
            return;
        }
        self.delete_early(deletion.container, batch);
        if !self.containers.is_empty() {
            batch
                .replies
                .push((deletion.waiter, Answer::Deleted(Ok(()))));
            return;
        }
        if self.state == State::Gone {
            // Its creation failed, and undoing that was faster.
            let answer = Answer::Deleted(Ok(()));
            batch.replies.push((deletion.waiter, answer));
            return;
        }
        self.deletions.push(deletion);
        match self.state.clone() {
            State::Ready { .. } => self.stop(Why::Deleted, KILLED, batch),
            // It began to stop meanwhile; its end answers.
            State::Stopping { .. } => {}
            State::Stopped {
                released: Released::Partly(_),
                why,
            } => self.stop(why, LOST, batch),
            _ => self.stopped(batch),
        }
    }

    /// Whoever still waits for its creation hears that it was deleted.
    fn delete_early(&mut self, container: ContainerNumber, batch: &mut Batch<Self>) {
        let creator = self.remove(container, batch).and_then(|e| e.creator);
        if let Some(waiter) = creator {
            let answer = Answer::Created(Err(deleted_early()));
            batch.replies.push((waiter, answer));
        }
    }

    pub(super) fn remove(
        &mut self,
        container: ContainerNumber,
        batch: &mut Batch<Self>,
    ) -> Option<Entry> {
        let entry = self.containers.remove(&container);
        if entry.is_some() {
            batch.world.push(World::Forget { container });
            batch.announce.push(Notice::ContainerGone { container });
        }
        entry
    }

    pub(super) fn news(
        &mut self,
        container: ContainerNumber,
        notice: container::Notice,
        batch: &mut Batch<Self>,
    ) {
        match notice {
            container::Notice::Attached { blocks } => match &self.state {
                State::Attaching { .. } => self.launch(blocks, batch),
                State::Ready { .. } if blocks.is_empty() => {
                    batch.world.push(World::TellReady { container });
                }
                State::Ready { .. } => batch.world.push(World::Plug { container, blocks }),
                // The sandbox is ending; the container hears of that.
                _ => {}
            },
            container::Notice::Created { lease } => {
                if let Some(entry) = self.containers.get_mut(&container) {
                    entry.progress = Progress::Lives;
                    if let Some(waiter) = entry.creator.take() {
                        batch.replies.push((waiter, Answer::Created(Ok(lease))));
                    }
                }
            }
            container::Notice::Failed { why } => self.container_failed(container, why, batch),
            container::Notice::Started | container::Notice::Stopped { .. } => {}
            container::Notice::ExitRecorded { seq } => {
                batch.world.push(World::ConfirmExit { seq });
            }
            container::Notice::Drained => self.drained(container, batch),
            container::Notice::Retired => self.discarded(container, batch),
        }
    }

    pub(super) fn container_failed(
        &mut self,
        container: ContainerNumber,
        why: Fault,
        batch: &mut Batch<Self>,
    ) {
        match &self.state {
            // With its only container a new sandbox fails whole.
            State::Attaching { .. }
            | State::Launching { .. }
            | State::Linking { .. }
            | State::Greeting { .. } => {
                self.fail(why, batch);
            }
            State::Ready { .. } if self.containers.len() == 1 => self.fail(why, batch),
            State::Ready { .. } => {
                if let Some(waiter) = self
                    .containers
                    .get_mut(&container)
                    .and_then(|e| e.creator.take())
                {
                    batch.replies.push((waiter, Answer::Created(Err(why))));
                }
                let guest = Guest::Stays;
                batch.world.push(World::Discard { container, guest });
            }
            _ => {}
        }
    }

    /// A container whose creation failed has no record any more.
    pub(super) fn discarded(&mut self, container: ContainerNumber, batch: &mut Batch<Self>) {
        let Some(Entry { creator, progress }) = self.containers.get(&container).cloned() else {
            return;
        };
        let (why, released) = match (self.state.clone(), progress) {
            (
                State::Stopped {
                    why: Why::NotCreated(why),
                    released,
                },
                _,
            ) => (why, released),
            (State::Stopped { why, released }, Progress::Creating) => {
                (Fault::new(Kind::Aborted, why.text()), released)
            }
            (_, Progress::Creating) => {
                self.delete_early(container, batch);
                return;
            }
            (_, Progress::Lives | Progress::Drained) => return,
        };
        self.remove(container, batch);
        if let Some(waiter) = creator {
            let why = match released {
                Released::Wholly => why,
                Released::Partly(also) => {
                    Fault::new(why.kind(), format!("{why} (and then: {also})"))
                }
            };
            batch.replies.push((waiter, Answer::Created(Err(why))));
        }
        self.stopped(batch);
    }

    pub(super) fn drained(&mut self, container: ContainerNumber, batch: &mut Batch<Self>) {
        if let Some(entry) = self.containers.get_mut(&container) {
            entry.progress = Progress::Drained;
        }
        let idle = self
            .containers
            .values()
            .all(|e| e.progress == Progress::Drained);
        if idle && matches!(self.state, State::Ready { .. }) {
            self.stop(Why::Idle, KILLED, batch);
        }
    }
}

fn deleted_early() -> Fault {
    Fault::new(Kind::Aborted, "deleted while it was being created")
}
