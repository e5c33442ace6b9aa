//! The part of [`Sandbox`] that looks after its containers: what they tell, and how they go.

use super::{
    events::{Answer, Deletion, Denied, Notice, Released, Why, World},
    journal::Happening,
    machine::{Boot, CONTAINERS_MAX, Entry, Progress, Sandbox, State},
    orders::{Asking, Errand, refused},
    record::{Lifetime, Stage},
    rules::Op,
};
use crate::{
    agent::Warnings,
    container::{self, Container, ContainerSpec, Force, Guest},
    error::{Fault, Kind},
    hypervisor::BlockSpec,
    ids::ContainerNumber,
    kit::{Batch, Waiter},
};
use std::sync::Arc;

impl Sandbox {
    /// Nothing of it was made: there is nothing to release, and no container to discard.
    pub(super) fn never_opened(&mut self, why: Fault, batch: &mut Batch<Self>) {
        if self.boot == Boot::Again {
            return self.fail(why, batch);
        }
        self.settle(Asking::Create, &Err(why.clone()), batch);
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

    pub(super) fn create(
        &mut self,
        waiter: Waiter,
        spec: Box<ContainerSpec>,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        if self.containers.len() == CONTAINERS_MAX {
            return Err(Denied::TooManyContainers);
        }
        let entry = Entry {
            id: spec.id.clone(),
            creator: Some(waiter),
            progress: Progress::Creating,
        };
        let number = spec.number;
        match self.state {
            State::New => self.boot(Boot::Container(spec), batch),
            _ => {
                refused(Op::CreateContainer, self.standing())?;
                self.take_in(spec, batch);
            }
        }
        self.containers.insert(number, Box::new(entry));
        self.containers_numbered = self.containers_numbered.max(number.0 + 1);
        Ok(())
    }

    /// One transaction puts it on record, and that the sandbox has it.
    pub(super) fn take_in(&self, spec: Box<ContainerSpec>, batch: &mut Batch<Self>) {
        let shared = Arc::from(spec.clone());
        batch
            .records
            .push(Container::taken_in(self.spec.uid, shared));
        batch.world.push(World::StartContainer { spec });
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
                    .push((deletion.waiter, Answer::Deleted(Ok(Warnings::new()))));
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
                self.stop(why, batch);
            }
            // Asked again: its containers are deleted, and it is going.
            (State::Stopping { .. }, _) if self.containers.is_empty() => {
                self.deletions.push(deletion);
            }
            _ if known.is_none() => return Err(Denied::NoSuchContainer),
            _ if self.is_past(deletion.container) => {
                let guest = Guest::Goes;
                batch.world.push(World::Retire { deletion, guest });
            }
            (State::Up { .. } | State::Beginning { .. }, _) => {
                let guest = self.guest_of_last();
                batch.world.push(World::Retire { deletion, guest });
            }
            (
                State::Pausing { .. }
                | State::Paused { .. }
                | State::Resuming { .. }
                | State::Thawed { .. },
                _,
            ) => return self.delete_in_paused(deletion, batch),
            (State::Stopped { .. }, _) => {
                let guest = Guest::Goes;
                batch.world.push(World::Retire { deletion, guest });
            }
            (State::Stopping { .. } | State::Quieting { .. }, _) => self.deletions.push(deletion),
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

    /// With the last container of a sandbox that was made for them the VM goes.
    fn guest_of_last(&self) -> Guest {
        match (self.containers.len(), self.spec().lifetime) {
            (1, Lifetime::Containers) => Guest::Goes,
            (_, Lifetime::Containers | Lifetime::Own) => Guest::Stays,
        }
    }

    /// While the VM is paused, the guest ends only what is ended by force.
    fn delete_in_paused(
        &mut self,
        deletion: Deletion,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        let op = match deletion.force {
            Force::No => Op::UseGuest,
            Force::Yes => Op::EndInGuest,
        };
        refused(op, self.standing())?;
        match self.guest_of_last() {
            Guest::Stays => self.end(Errand::Delete(deletion), batch),
            guest @ Guest::Goes => batch.world.push(World::Retire { deletion, guest }),
        }
        Ok(())
    }

    pub(super) fn retired(
        &mut self,
        mut deletion: Deletion,
        guest: Guest,
        outcome: Result<Warnings, Fault>,
        batch: &mut Batch<Self>,
    ) {
        if deletion.force == Force::Yes && self.is_cut_off(&outcome) {
            return self.end(Errand::Delete(deletion), batch);
        }
        match outcome {
            Ok(warnings) => deletion.warnings.extend(warnings),
            Err(why) => {
                batch
                    .replies
                    .push((deletion.waiter, Answer::Deleted(Err(why))));
                return self.errand_done(batch);
            }
        }
        self.let_go(deletion.container, guest);
        self.delete_early(deletion.container, batch);
        let stays = self.spec().lifetime == Lifetime::Own;
        if !self.containers.is_empty() || stays {
            batch
                .replies
                .push((deletion.waiter, Answer::Deleted(Ok(deletion.warnings))));
            self.errand_done(batch);
            if self.containers.is_empty() {
                // It may have been the last one of a sandbox that is going.
                self.stopped(batch);
            }
            return;
        }
        if self.state == State::Gone {
            // Its creation failed, and undoing that was faster.
            let answer = Answer::Deleted(Ok(deletion.warnings));
            batch.replies.push((deletion.waiter, answer));
            return;
        }
        self.deletions.push(deletion);
        match self.state.clone() {
            State::Up { .. }
            | State::Beginning { .. }
            | State::Pausing { .. }
            | State::Paused { .. }
            | State::Resuming { .. }
            | State::Thawed { .. }
            // It was on its way to a fresh VM, of which nobody is left to make use.
            | State::Opening { .. }
            | State::Premises { .. }
            | State::Plumbing { .. }
            | State::Attaching { .. }
            | State::Launching { .. }
            | State::Linking { .. }
            | State::Greeting { .. } => self.stop(Why::Deleted, batch),
            // It began to stop meanwhile; its end answers.
            State::Stopping { .. } | State::Quieting { .. } => {}
            State::Stopped {
                released: Released::Partly(_),
                why,
            } => self.stop(why, batch),
            State::Stopped { .. } | State::New | State::Gone => self.stopped(batch),
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
    ) -> Option<Box<Entry>> {
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
            container::Notice::Attached { blocks } => self.attached(container, blocks, batch),
            container::Notice::Created(made) => {
                if let Some(entry) = self.containers.get_mut(&container) {
                    entry.progress = Progress::Lives;
                    if let Some(waiter) = entry.creator.take() {
                        batch.replies.push((waiter, Answer::Created(Ok(made))));
                    }
                }
            }
            container::Notice::Failed { why } => self.container_failed(container, why, batch),
            container::Notice::Started => self.started(container),
            container::Notice::Stopped { status } => {
                if let Some(entry) = self.containers.get(&container) {
                    let container = entry.id.clone();
                    self.journal.note(Happening::Exited { container, status });
                }
            }
            // The shell confirms it to the guest.
            container::Notice::ExitRecorded { .. } => {}
            container::Notice::Drained => self.drained(container, batch),
            container::Notice::Retired => self.discarded(container, batch),
        }
    }

    fn attached(
        &mut self,
        container: ContainerNumber,
        blocks: Vec<BlockSpec>,
        batch: &mut Batch<Self>,
    ) {
        match &self.state {
            State::Attaching { .. } => {
                self.brings(container, &blocks);
                self.launch(blocks, batch);
            }
            State::Up { .. } | State::Beginning { .. } if blocks.is_empty() => {
                batch.world.push(World::TellReady { container });
            }
            State::Up { .. } | State::Beginning { .. } => {
                self.brings(container, &blocks);
                batch.world.push(World::Plug { container, blocks });
            }
            // The sandbox is ending; the container hears of that.
            _ => {}
        }
    }

    /// It lived in a VM that is gone.
    pub fn is_past(&self, container: ContainerNumber) -> bool {
        self.containers.contains_key(&container) && container.0 < self.first_of_vm
    }

    /// The first one makes it a running sandbox.
    fn started(&mut self, container: ContainerNumber) {
        if let Some(entry) = self.containers.get_mut(&container)
            && entry.progress == Progress::Lives
        {
            entry.progress = Progress::Started;
        }
        match &mut self.state {
            State::Up { stage, .. }
            | State::Pausing { stage, .. }
            | State::Paused { stage, .. }
            | State::Resuming { stage, .. }
            | State::Thawed { stage, .. } => *stage = Stage::Running,
            _ => {}
        }
    }

    pub(super) fn container_failed(
        &mut self,
        container: ContainerNumber,
        why: Fault,
        batch: &mut Batch<Self>,
    ) {
        match &self.state {
            // What is left to do in a stopped one undoes it.
            State::Stopping { .. } | State::Stopped { .. } | State::Gone => {}
            _ if self.is_past(container) => {
                let guest = Guest::Goes;
                batch.world.push(World::Discard { container, guest });
            }
            // With its only container a new sandbox fails whole.
            State::Attaching { .. }
            | State::Launching { .. }
            | State::Linking { .. }
            | State::Greeting { .. } => {
                self.fail(why, batch);
            }
            State::Up { .. } if self.guest_of_last() == Guest::Goes => self.fail(why, batch),
            State::Up { .. } | State::Beginning { .. } => {
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
        let Some(entry) = self.containers.get(&container).cloned() else {
            return;
        };
        let Entry {
            creator, progress, ..
        } = *entry;
        let (why, released) = match (self.state.clone(), progress) {
            (
                State::Stopped {
                    why: Why::NotCreated(why),
                    released,
                },
                _,
            ) => (why, released),
            (
                State::Stopped {
                    why: why @ Why::Deleted,
                    released,
                },
                _,
            )
            | (State::Stopped { why, released }, Progress::Creating) => {
                (Fault::new(Kind::Aborted, why.text()), released)
            }
            (_, Progress::Creating) => {
                self.let_go(container, self.guest_of_last());
                self.delete_early(container, batch);
                return;
            }
            (_, Progress::Lives | Progress::Started | Progress::Drained | Progress::Past) => return,
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

    fn drained(&mut self, container: ContainerNumber, batch: &mut Batch<Self>) {
        match self.containers.get_mut(&container) {
            Some(entry) if entry.progress != Progress::Past => entry.progress = Progress::Drained,
            Some(_) | None => return,
        }
        // With the last one the whole VM may go.
        let attended = matches!(self.state, State::Up { .. } | State::Beginning { .. });
        if attended && !self.is_idle() {
            batch.world.push(World::Leave { container });
        }
    }

    /// Its VM goes on. What was read to its end while it stood still leaves now.
    pub(super) fn let_all_leave(&mut self, batch: &mut Batch<Self>) {
        if self.is_idle() {
            return;
        }
        let entries = self.containers.iter();
        let drained = entries.filter(|(_, entry)| entry.progress == Progress::Drained);
        let leaving = drained.map(|(container, _)| World::Leave {
            container: *container,
        });
        batch.world.extend(leaving);
    }

    /// They may have been done before it came to rest here.
    pub(super) fn stop_if_idle(&mut self, batch: &mut Batch<Self>) {
        if self.is_idle() && matches!(self.state, State::Up { .. } | State::Paused { .. }) {
            self.stop(Why::Idle, batch);
        }
    }

    /// It was made for its containers, and they are done.
    fn is_idle(&self) -> bool {
        let mut all = self.containers.values().map(|entry| entry.progress);
        let over = all
            .clone()
            .all(|progress| matches!(progress, Progress::Drained | Progress::Past));
        let done = over && all.any(|progress| progress == Progress::Drained);
        done && self.spec().lifetime == Lifetime::Containers
    }
}

fn deleted_early() -> Fault {
    Fault::new(Kind::Aborted, "deleted while it was being created")
}
