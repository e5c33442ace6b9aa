//! The commands and queries of a sandbox that are for it, or for what is in it.

use super::{
    actor::SandboxActor,
    events::{Answer, Deletion, Event},
    messages::{
        CreateContainer, DeleteContainer, ExecIn, FreezeIn, GetPidsOf, GetStatsOf, NextOomsIn,
        ProcessIn, UpdateIn, ViewContainer, ViewProcess, WaitIn,
    },
};
use crate::{
    agent::{ContainerStats, ExitStatus, GetPids, GetStats, GuestPid},
    container::{
        ContainerActor, ContainerState, ContainerView, GetContainer, GetProcessView, Ooms,
        ProcessCommand, WaitProcess,
    },
    error::{Fault, Kind},
    hypervisor::StreamLease,
    ids::ContainerNumber,
    kit::{self, ask},
    process::ProcessView,
    sandbox::lent::ASK_MAX,
};
use actix::prelude::*;

impl SandboxActor {
    fn container(&self, number: ContainerNumber) -> Result<Addr<ContainerActor>, Fault> {
        let known = self.containers.get(&number).cloned();
        known.ok_or_else(|| Fault::new(Kind::NotFound, "container does not exist"))
    }
}

fn rebuilding<T>(outcome: Result<T, MailboxError>) -> Result<T, Fault> {
    let gone = "the container's room is being rebuilt; ask again";
    outcome.map_err(|_| Fault::new(Kind::Unavailable, gone))
}

impl Handler<CreateContainer> for SandboxActor {
    type Result = ResponseFuture<Result<StreamLease, Fault>>;

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
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, delete: DeleteContainer, ctx: &mut Context<Self>) -> Self::Result {
        let event = |waiter| {
            Event::Delete(Deletion {
                waiter,
                container: delete.container,
                force: delete.force,
                at: delete.at,
            })
        };
        let answer = kit::command(self, event, ctx);
        Box::pin(async move { deleted(answer.await?) })
    }
}

impl Handler<ProcessIn> for SandboxActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, command: ProcessIn, _: &mut Context<Self>) -> Self::Result {
        if matches!(command.command, ProcessCommand::Begin(_)) {
            self.ladder.begin("container start");
        }
        let room = self.container(command.container);
        Box::pin(async move { rebuilding(room?.send(command.command).await)? })
    }
}

impl Handler<ExecIn> for SandboxActor {
    type Result = ResponseFuture<Result<StreamLease, Fault>>;

    fn handle(&mut self, exec: ExecIn, _: &mut Context<Self>) -> Self::Result {
        let room = self.container(exec.container);
        Box::pin(async move { rebuilding(room?.send(exec.exec).await)? })
    }
}

impl Handler<WaitIn> for SandboxActor {
    type Result = ResponseFuture<Result<ExitStatus, Fault>>;

    fn handle(&mut self, wait: WaitIn, _: &mut Context<Self>) -> Self::Result {
        let room = self.container(wait.container);
        Box::pin(async move { rebuilding(room?.send(WaitProcess(wait.process)).await)? })
    }
}

impl Handler<ViewContainer> for SandboxActor {
    type Result = ResponseFuture<Result<ContainerView, Fault>>;

    fn handle(
        &mut self,
        ViewContainer(number): ViewContainer,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let room = self.container(number);
        Box::pin(async move { rebuilding(room?.send(GetContainer).await) })
    }
}

impl Handler<ViewProcess> for SandboxActor {
    type Result = ResponseFuture<Result<ProcessView, Fault>>;

    fn handle(&mut self, view: ViewProcess, _: &mut Context<Self>) -> Self::Result {
        let room = self.container(view.container);
        Box::pin(async move { rebuilding(room?.send(GetProcessView(view.process)).await)? })
    }
}

impl Handler<FreezeIn> for SandboxActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, freeze: FreezeIn, _: &mut Context<Self>) -> Self::Result {
        let room = self.container(freeze.container);
        Box::pin(async move { rebuilding(room?.send(freeze.freeze).await)? })
    }
}

impl Handler<UpdateIn> for SandboxActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, update: UpdateIn, _: &mut Context<Self>) -> Self::Result {
        let room = self.container(update.container);
        Box::pin(async move { rebuilding(room?.send(update.update).await)? })
    }
}

impl Handler<NextOomsIn> for SandboxActor {
    type Result = ResponseFuture<Result<Ooms, Fault>>;

    fn handle(&mut self, ask: NextOomsIn, _: &mut Context<Self>) -> Self::Result {
        let room = self.container(ask.container);
        Box::pin(async move { rebuilding(room?.send(ask.next).await)? })
    }
}

impl Handler<GetStatsOf> for SandboxActor {
    type Result = ResponseFuture<Result<ContainerStats, Fault>>;

    fn handle(&mut self, GetStatsOf(container): GetStatsOf, _: &mut Context<Self>) -> Self::Result {
        let known = self.container(container);
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
        let known = self.container(container);
        let room = self.lent.linked();
        Box::pin(async move {
            living(known?, "list the processes").await?;
            ask(
                room.await?.pids,
                GetPids { container },
                "list processes in guest",
                ASK_MAX,
            )
            .await
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

/// The answer of the command that was asked.
fn created(answer: Answer) -> Result<StreamLease, Fault> {
    match answer {
        Answer::Created(outcome) => outcome,
        Answer::Deleted(_) => Err(Fault::new(
            Kind::Internal,
            "a creation was answered as a deletion",
        )),
    }
}

fn deleted(answer: Answer) -> Result<(), Fault> {
    match answer {
        Answer::Deleted(outcome) => outcome,
        Answer::Created(_) => Err(Fault::new(
            Kind::Internal,
            "a deletion was answered as a creation",
        )),
    }
}
