//! The commands and queries of a sandbox that are for it, or for what is in it.

use super::{
    actor::SandboxActor,
    events::{Answer, Deletion, Event, Killing, Order},
    messages::{
        CreateContainer, CreateEmpty, DeleteContainer, ExecIn, FreezeIn, GetPidsOf, GetSpent,
        GetStatsOf, NextEvents, NextOomsIn, Obey, ProcessIn, SandboxSpent, Seen, StartIn, UpdateIn,
        ViewContainer, ViewProcess, WaitIn,
    },
    orders::is_unheard,
    rules::{Op, Refused, Rule, rule},
};
use crate::{
    agent::{ContainerStats, ExitStatus, GetPids, GetStats, GuestPid, SIGKILL, Warnings},
    container::{
        ContainerActor, ContainerState, ContainerView, GetContainer, GetProcessView, GetRelays,
        Ooms, ProcessCommand, WaitProcess,
    },
    error::{Fault, Kind},
    ids::ContainerNumber,
    kit::{self, ask},
    process::{Made, ProcessView},
    sandbox::lent::ASK_MAX,
};
use actix::prelude::*;

impl SandboxActor {
    fn container(&self, number: ContainerNumber) -> Result<Addr<ContainerActor>, Fault> {
        let known = self.containers.get(&number).cloned();
        known.ok_or_else(|| Fault::new(Kind::NotFound, "container does not exist"))
    }

    /// What the guest is needed for; a paused one is not waited for.
    fn guest_of(&self, number: ContainerNumber) -> Result<Addr<ContainerActor>, Fault> {
        let room = self.container(number)?;
        let (op, at) = (Op::UseGuest, self.shell.confirmed().standing());
        match rule(op, at) {
            Rule::Refused => Err(Refused { op, at }.into()),
            Rule::Done | Rule::AlreadySo | Rule::Joins => Ok(room),
        }
    }

    fn is_paused(&self) -> bool {
        let at = self.shell.confirmed().standing();
        rule(Op::UseGuest, at) == Rule::Refused
    }

    /// SIGKILL, which no pause keeps from its process.
    fn kill_surely(
        &mut self,
        killing: Killing,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<(), Fault>> {
        let (known, me) = (self.container(killing.container), ctx.address());
        let is_paused = self.is_paused();
        let end = End(killing.clone());
        Box::pin(async move {
            let room = known?;
            if is_paused {
                return rebuilding(me.send(end).await)?;
            }
            let Killing { process, kill, .. } = killing;
            let command = ProcessCommand::Kill(process, kill);
            match rebuilding(room.send(command).await)? {
                // A pause may have begun before the guest heard of it.
                Err(why) if is_unheard(&why) => rebuilding(me.send(end).await)?,
                outcome => outcome,
            }
        })
    }
}

/// Private: end a process also where the VM is paused.
#[derive(Message)]
#[rtype(result = "Result<(), Fault>")]
struct End(Killing);

impl Handler<End> for SandboxActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, End(killing): End, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::End { waiter, killing }, ctx);
        Box::pin(async move { ordered(answer.await?).map(drop) })
    }
}

fn rebuilding<T>(outcome: Result<T, MailboxError>) -> Result<T, Fault> {
    let gone = "the container's room is being rebuilt; ask again";
    outcome.map_err(|_| Fault::new(Kind::Unavailable, gone))
}

impl Handler<CreateContainer> for SandboxActor {
    type Result = ResponseFuture<Result<Made, Fault>>;

    fn handle(
        &mut self,
        CreateContainer(spec): CreateContainer,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        if self.containers.is_empty() {
            self.name(&spec);
        }
        let spec = Box::new(spec);
        let answer = kit::command(self, |waiter| Event::Create { waiter, spec }, ctx);
        Box::pin(async move { created(answer.await?) })
    }
}

impl Handler<DeleteContainer> for SandboxActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, delete: DeleteContainer, ctx: &mut Context<Self>) -> Self::Result {
        let event = |waiter| {
            Event::Delete(Deletion {
                waiter,
                container: delete.container,
                force: delete.force,
                at: delete.at,
                warnings: Warnings::new(),
            })
        };
        let answer = kit::command(self, event, ctx);
        Box::pin(async move { deleted(answer.await?) })
    }
}

impl Handler<StartIn> for SandboxActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, start: StartIn, ctx: &mut Context<Self>) -> Self::Result {
        self.ladder.begin("container start");
        let (room, me) = (self.guest_of(start.container), ctx.address());
        Box::pin(async move {
            let failed = rebuilding(room?.send(start.start).await)??;
            // Whoever heard of a start finds the sandbox to agree.
            rebuilding(me.send(Settle).await)??;
            Ok(failed)
        })
    }
}

impl Handler<ProcessIn> for SandboxActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, command: ProcessIn, ctx: &mut Context<Self>) -> Self::Result {
        let ProcessIn { container, command } = command;
        let room = match &command {
            ProcessCommand::Kill(process, kill) if kill.signal == SIGKILL => {
                let killing = Killing {
                    container,
                    process: process.clone(),
                    kill: kill.clone(),
                };
                return self.kill_surely(killing, ctx);
            }
            ProcessCommand::Kill(..) => self.guest_of(container),
            ProcessCommand::AttachRelay(..) | ProcessCommand::RelayDone(_) => {
                self.container(container)
            }
        };
        let asked = room.map(|room| room.send(command));
        Box::pin(async move { rebuilding(asked?.await)? })
    }
}

/// Private: what the containers told before is on record when this is answered.
#[derive(Message)]
#[rtype(result = "Result<(), Fault>")]
struct Settle;

impl Handler<Settle> for SandboxActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, _: Settle, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Settle { waiter }, ctx);
        Box::pin(async move { ordered(answer.await?).map(drop) })
    }
}

impl Handler<CreateEmpty> for SandboxActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, _: CreateEmpty, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::CreateEmpty { waiter }, ctx);
        Box::pin(async move { ordered(answer.await?).map(drop) })
    }
}

impl Handler<Obey> for SandboxActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, Obey { key, verb }: Obey, ctx: &mut Context<Self>) -> Self::Result {
        let order = Order { key, verb };
        let answer = kit::command(self, |waiter| Event::Order { waiter, order }, ctx);
        Box::pin(async move { ordered(answer.await?) })
    }
}

impl Handler<GetSpent> for SandboxActor {
    type Result = ResponseFuture<Result<SandboxSpent, Fault>>;

    fn handle(&mut self, _: GetSpent, _: &mut Context<Self>) -> Self::Result {
        let premises = self.around.premises.clone();
        let spec = self.shell.confirmed().spec();
        let (vcpus, memory_mib) = (spec.vm.vcpus, spec.vm.memory_mib);
        let cgroups = spec.premises.clone();
        let rooms: Vec<_> = self.containers.values().cloned().collect();
        Box::pin(async move {
            let mut relays = Vec::new();
            for room in rooms {
                // One that goes away meanwhile has no relay.
                if let Ok(mine) = room.send(GetRelays).await {
                    relays.extend(mine);
                }
            }
            let parts = vec![
                ("vmm", premises.spent(cgroups.vmm).await?),
                ("helpers", premises.spent(cgroups.helpers).await?),
                ("relays", premises.spent_by(relays).await?),
            ];
            Ok(SandboxSpent {
                vcpus,
                memory_mib,
                parts,
            })
        })
    }
}

impl Handler<NextEvents> for SandboxActor {
    type Result = ResponseFuture<Seen>;

    fn handle(&mut self, next: NextEvents, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.board.next(next.after, next.wait))
    }
}

impl Handler<ExecIn> for SandboxActor {
    type Result = ResponseFuture<Result<Made, Fault>>;

    fn handle(&mut self, exec: ExecIn, _: &mut Context<Self>) -> Self::Result {
        let asked = self
            .guest_of(exec.container)
            .map(|room| room.send(exec.exec));
        Box::pin(async move { rebuilding(asked?.await)? })
    }
}

impl Handler<WaitIn> for SandboxActor {
    type Result = ResponseFuture<Result<ExitStatus, Fault>>;

    fn handle(&mut self, wait: WaitIn, _: &mut Context<Self>) -> Self::Result {
        let asked = self
            .container(wait.container)
            .map(|room| room.send(WaitProcess(wait.process)));
        Box::pin(async move { rebuilding(asked?.await)? })
    }
}

impl Handler<ViewContainer> for SandboxActor {
    type Result = ResponseFuture<Result<ContainerView, Fault>>;

    fn handle(
        &mut self,
        ViewContainer(number): ViewContainer,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let asked = self.container(number).map(|room| room.send(GetContainer));
        Box::pin(async move { rebuilding(asked?.await) })
    }
}

impl Handler<ViewProcess> for SandboxActor {
    type Result = ResponseFuture<Result<ProcessView, Fault>>;

    fn handle(&mut self, view: ViewProcess, _: &mut Context<Self>) -> Self::Result {
        let asked = self
            .container(view.container)
            .map(|room| room.send(GetProcessView(view.process)));
        Box::pin(async move { rebuilding(asked?.await)? })
    }
}

impl Handler<FreezeIn> for SandboxActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, freeze: FreezeIn, _: &mut Context<Self>) -> Self::Result {
        let asked = self
            .guest_of(freeze.container)
            .map(|room| room.send(freeze.freeze));
        Box::pin(async move { rebuilding(asked?.await)? })
    }
}

impl Handler<UpdateIn> for SandboxActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, update: UpdateIn, _: &mut Context<Self>) -> Self::Result {
        let asked = self
            .guest_of(update.container)
            .map(|room| room.send(update.update));
        Box::pin(async move { rebuilding(asked?.await)? })
    }
}

impl Handler<NextOomsIn> for SandboxActor {
    type Result = ResponseFuture<Result<Ooms, Fault>>;

    fn handle(&mut self, ask: NextOomsIn, _: &mut Context<Self>) -> Self::Result {
        let asked = self
            .container(ask.container)
            .map(|room| room.send(ask.next));
        Box::pin(async move { rebuilding(asked?.await)? })
    }
}

impl Handler<GetStatsOf> for SandboxActor {
    type Result = ResponseFuture<Result<ContainerStats, Fault>>;

    fn handle(&mut self, GetStatsOf(container): GetStatsOf, _: &mut Context<Self>) -> Self::Result {
        let known = self.guest_of(container);
        let room = self.lent.linked();
        Box::pin(async move {
            living(known?, "read the statistics").await?;
            let (room, question) = (room.await?.stats, GetStats { container });
            ask(room, question, "read statistics in guest", ASK_MAX).await
        })
    }
}

impl Handler<GetPidsOf> for SandboxActor {
    type Result = ResponseFuture<Result<Vec<GuestPid>, Fault>>;

    fn handle(&mut self, GetPidsOf(container): GetPidsOf, _: &mut Context<Self>) -> Self::Result {
        let known = self.guest_of(container);
        let room = self.lent.linked();
        Box::pin(async move {
            living(known?, "list the processes").await?;
            let (room, question) = (room.await?.pids, GetPids { container });
            ask(room, question, "list processes in guest", ASK_MAX).await
        })
    }
}

/// Only a container that has processes can be looked into.
async fn living(room: Addr<ContainerActor>, what: &str) -> Result<(), Fault> {
    match rebuilding(room.send(GetContainer).await)?.state {
        ContainerState::Created | ContainerState::Running | ContainerState::Paused => Ok(()),
        state @ (ContainerState::Creating | ContainerState::Stopped(_)) => {
            let state = state.name();
            let why = format!("cannot {what} of a container in the {state} state");
            Err(Fault::new(Kind::Denied, why))
        }
    }
}

fn crossed<T>() -> Result<T, Fault> {
    let wrong = "a command was answered as another";
    Err(Fault::new(Kind::Internal, wrong))
}

/// The answer of the command that was asked.
fn created(answer: Answer) -> Result<Made, Fault> {
    match answer {
        Answer::Created(outcome) => outcome,
        Answer::Deleted(_) | Answer::Ordered(_) => crossed(),
    }
}

fn deleted(answer: Answer) -> Result<Warnings, Fault> {
    match answer {
        Answer::Deleted(outcome) => outcome,
        Answer::Created(_) | Answer::Ordered(_) => crossed(),
    }
}

fn ordered(answer: Answer) -> Result<Warnings, Fault> {
    match answer {
        Answer::Ordered(outcome) => outcome,
        Answer::Created(_) | Answer::Deleted(_) => crossed(),
    }
}
