//! What [`SandboxActor`] does to a VM that is up, and to all that is in it.

use super::{
    actor::SandboxActor,
    events::{Deletion, Event, Killing, ResumeFailed, Why},
    lent::{ASK_MAX, Reach, held},
};
use crate::{
    agent::{self, Warnings},
    container::{
        self, ContainerActor, ContainerState, Force, GetContainer, Guest, ProcessCommand, Retire,
        Start, WaitProcess,
    },
    error::{Fault, Kind},
    hypervisor::{self, VmStatus},
    ids::{ContainerNumber, OpId, ProcessId},
    kit::{self, Waiter, ask},
    process::Kill,
};
use actix::prelude::*;
use futures::future::join_all;
use std::time::Duration;
use tokio::time::timeout;

/// What Docker and Podman give a container that is stopped; under emulation the guest needs some of it.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// A guest that lives ends what it is told to kill in milliseconds.
const END_MAX: Duration = Duration::from_secs(10);
const SIGTERM: u32 = 15;
/// What keeps a failed container from being removed, a link that is down most often, is over soon.
const DISCARD_AGAIN: Duration = Duration::from_secs(1);

fn rebuilding<T>(outcome: Result<Result<T, Fault>, MailboxError>) -> Result<T, Fault> {
    let gone = "the container's room is being rebuilt; ask again";
    outcome.unwrap_or_else(|_| Err(Fault::new(Kind::Unavailable, gone)))
}

/// A container that is not created has been started, or cannot be. Gives which of its hooks failed.
async fn begun(room: Addr<ContainerActor>) -> Result<Warnings, Fault> {
    let Ok(view) = room.send(GetContainer).await else {
        return rebuilding(Err(MailboxError::Closed));
    };
    if view.state != ContainerState::Created {
        return Ok(Warnings::new());
    }
    let outcome = rebuilding(room.send(Start { key: None }).await);
    let about = format!("start container \"{}\"", view.spec.id);
    match outcome {
        Ok(failed) => Ok(failed.iter().map(|one| format!("{about}: {one}")).collect()),
        Err(why) => Err(why.during(about)),
    }
}

/// SIGTERM, and then its end.
async fn quiet(room: Addr<ContainerActor>) {
    let Ok(view) = room.send(GetContainer).await else {
        return;
    };
    if view.state != ContainerState::Running {
        return;
    }
    let kill = Kill {
        key: None,
        signal: SIGTERM,
        all: false,
    };
    let command = ProcessCommand::Kill(ProcessId::Init, kill);
    if let Err(why) = rebuilding(room.send(command).await) {
        let id = view.spec.id.clone();
        return tracing::warn!(%why, %id, "container not told to end; it ends with its vm");
    }
    // Nothing hangs on it: its vm ends.
    let _ = room.send(WaitProcess(ProcessId::Init)).await;
}

/// What it began may outlive it and wait for its rooms: they end with it all the same, before another sandbox room reads
/// what they have on record.
impl Drop for SandboxActor {
    fn drop(&mut self) {
        self.lent.withdraw();
    }
}

impl SandboxActor {
    pub(super) fn begin(&self, op: OpId, ctx: &mut Context<Self>) {
        let rooms: Vec<_> = self.containers.values().cloned().collect();
        kit::complete(ctx, async move {
            let begun = join_all(rooms.into_iter().map(begun)).await;
            let outcome: Result<Vec<Warnings>, Fault> = begun.into_iter().collect();
            let outcome = outcome.map(|all| all.concat());
            Event::Begun { op, outcome }
        });
    }

    pub(super) fn quiet(&self, op: OpId, ctx: &mut Context<Self>) {
        let rooms: Vec<_> = self.containers.values().cloned().collect();
        let patience = self.spec().vm.accelerator.patience();
        kit::complete(ctx, async move {
            let quieted = join_all(rooms.into_iter().map(quiet));
            if timeout(QUIET_MAX * patience, quieted).await.is_err() {
                tracing::info!("a container did not end when it was told to; its vm is ended");
            }
            Event::Quieted { op }
        });
    }

    pub(super) fn pause(&self, op: OpId, ctx: &mut Context<Self>) {
        self.lent.update(|open| open.reach = Reach::Paused);
        let (open, lent) = (self.open_rooms(ctx), self.lent.clone());
        kit::complete(ctx, async move {
            let paused = async {
                open.await?;
                let agent = lent.agent()?.close;
                // A room that is gone has no link.
                let _ = agent.send(agent::Close).await;
                let room = held(lent.rooms().hypervisor, "hypervisor")?.pause;
                ask(room, hypervisor::Pause, "pause vm", ASK_MAX).await
            };
            let outcome = paused.await;
            Event::PauseDone { op, outcome }
        });
    }

    pub(super) fn resume_vm(&self, op: OpId, vm: VmStatus, ctx: &mut Context<Self>) {
        self.lent.update(|open| open.reach = Reach::Opening);
        let (open, lent, link) = (self.open_rooms(ctx), self.lent.clone(), self.link(vm));
        let clock = self.around.clock.clone();
        kit::complete(ctx, async move {
            let resumed = async {
                open.await?;
                let room = held(lent.rooms().hypervisor, "hypervisor")?.resume;
                ask(room, hypervisor::Resume, "resume vm", ASK_MAX).await
            };
            if let Err(why) = resumed.await {
                lent.update(|open| open.reach = Reach::Paused);
                let outcome = Err(ResumeFailed::Vm(why));
                return Event::ResumeDone { op, outcome };
            }
            let linked = async {
                link.await?;
                let command = agent::SetClock { now: clock.now() };
                let room = lent.agent()?.set_clock;
                ask(room, command, "set clock of guest", ASK_MAX).await
            };
            let outcome = linked.await.map_err(ResumeFailed::Agent);
            Event::ResumeDone { op, outcome }
        });
    }

    /// A VM that is paused, or that has just come up, is watched; its agent is left alone.
    pub(super) fn open_again(&self, ctx: &mut Context<Self>) {
        let open = self.open_rooms(ctx);
        kit::detach(async move {
            if let Err(why) = open.await {
                tracing::warn!(%why, "a room is not open again");
            }
        });
    }

    pub(super) fn kill(&self, waiter: Waiter, killing: Killing, ctx: &mut Context<Self>) {
        let room = self.containers.get(&killing.container).cloned();
        let limit = END_MAX * self.spec().vm.accelerator.patience();
        kit::complete(ctx, async move {
            let Some(room) = room else {
                let outcome = Err(Fault::new(Kind::NotFound, "container does not exist"));
                return Event::Killed {
                    waiter,
                    killing,
                    outcome,
                };
            };
            let Killing { process, kill, .. } = killing.clone();
            let command = ProcessCommand::Kill(process.clone(), kill);
            let outcome = rebuilding(room.send(command).await);
            if outcome.is_ok() {
                // The VM goes on until then, and no longer.
                let _ = timeout(limit, room.send(WaitProcess(process))).await;
            }
            Event::Killed {
                waiter,
                killing,
                outcome,
            }
        });
    }

    pub(super) fn tell_guest_gone(&self, why: &Why) {
        let status = agent::ExitStatus {
            code: why.code(),
            reason: why.reason(),
            detail: why.text(),
            at: self.around.clock.now(),
        };
        for address in self.containers.values() {
            let status = status.clone();
            address.do_send(container::GuestGone { status });
        }
    }

    pub(super) fn retire(&self, deletion: Deletion, guest: Guest, ctx: &mut Context<Self>) {
        let room = self.containers.get(&deletion.container).cloned();
        let (force, at) = (deletion.force, deletion.at);
        kit::complete(ctx, async move {
            let outcome = match room {
                None => Ok(Warnings::new()),
                Some(room) => rebuilding(room.send(Retire { force, guest, at }).await),
            };
            Event::Retired {
                deletion,
                guest,
                outcome,
            }
        });
    }

    /// Until it is done: nobody can name a container that was never created, to ask again.
    pub(super) fn discard(&self, container: ContainerNumber, guest: Guest) {
        let Some(room) = self.containers.get(&container).map(Addr::downgrade) else {
            return;
        };
        let (force, at) = (Force::Yes, self.around.clock.now());
        kit::detach(async move {
            // A room that is gone was rebuilt by a sandbox that discards it anew, or went with it.
            while let Some(room) = room.upgrade() {
                let retired = room.send(Retire { force, guest, at });
                drop(room);
                match retired.await {
                    Ok(Ok(_)) => return,
                    Ok(Err(why)) => {
                        tracing::warn!(%why, %container, "container that failed is not removed yet");
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(DISCARD_AGAIN).await;
            }
        });
    }

    pub(super) fn let_leave(&self, container: ContainerNumber) {
        if let Some(room) = self.containers.get(&container) {
            room.do_send(container::LeaveGuest);
        }
    }
}
