//! What is asked of a container's room: commands and questions of its sandbox's desk.

use super::{
    actor::ContainerActor,
    events::{Answer, Event},
    messages::{
        ContainerView, Exec, FreezeContainer, GetContainer, GetProcessView, GetRelays, NextOoms,
        ProcessCommand, Retire, Start, UpdateLimits, WaitProcess,
    },
    ooms::Ooms,
};
use crate::{
    agent::{ExitStatus, SIGKILL, Warnings},
    error::{Fault, Kind},
    ids::ProcessId,
    kit,
    process::{self, Begin, Made, ProcessView},
};
use actix::prelude::*;

impl Handler<Exec> for ContainerActor {
    type Result = ResponseFuture<Result<Made, Fault>>;

    fn handle(&mut self, exec: Exec, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Exec { waiter, exec }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Exec(made) => made,
                other => Err(mismatched(&other)),
            }
        })
    }
}

impl Handler<Retire> for ContainerActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, retire: Retire, ctx: &mut Context<Self>) -> Self::Result {
        let Retire { force, guest, at } = retire;
        let event = |waiter| Event::Retire {
            waiter,
            force,
            guest,
            at,
        };
        let answer = kit::command(self, event, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Retired(outcome) => outcome,
                other => Err(mismatched(&other)),
            }
        })
    }
}

fn done(answer: Answer) -> Result<(), Fault> {
    match answer {
        Answer::Done(outcome) => outcome,
        other => Err(mismatched(&other)),
    }
}

fn mismatched(answer: &Answer) -> Fault {
    let what = format!("a command was answered as another one is: {answer:?}");
    Fault::new(Kind::Internal, what)
}

impl Handler<FreezeContainer> for ContainerActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, freeze: FreezeContainer, ctx: &mut Context<Self>) -> Self::Result {
        let FreezeContainer { key, wish } = freeze;
        let answer = kit::command(self, |waiter| Event::Freeze { waiter, key, wish }, ctx);
        Box::pin(async move { done(answer.await?) })
    }
}

impl Handler<UpdateLimits> for ContainerActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, update: UpdateLimits, ctx: &mut Context<Self>) -> Self::Result {
        let UpdateLimits { resources } = update;
        let answer = kit::command(self, |waiter| Event::Update { waiter, resources }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Updated(outcome) => outcome,
                other => Err(mismatched(&other)),
            }
        })
    }
}

impl Handler<NextOoms> for ContainerActor {
    type Result = ResponseFuture<Result<Ooms, Fault>>;

    fn handle(&mut self, ask: NextOoms, ctx: &mut Context<Self>) -> Self::Result {
        let NextOoms { after, wait } = ask;
        let mut asked = None;
        let event = |waiter| {
            asked = Some(waiter);
            Event::NextOoms { waiter, after }
        };
        let answer = kit::command(self, event, ctx);
        if let Some(waiter) = asked {
            kit::complete(ctx, async move {
                tokio::time::sleep(wait).await;
                Event::OomWaitOver { waiter }
            });
        }
        Box::pin(async move {
            match answer.await? {
                Answer::Ooms(ooms) => ooms,
                other => Err(mismatched(&other)),
            }
        })
    }
}

async fn sent<T>(
    answer: impl Future<Output = Result<Result<T, Fault>, MailboxError>>,
) -> Result<T, Fault> {
    let gone = "the process's room is being rebuilt; ask again";
    answer
        .await
        .unwrap_or_else(|_| Err(Fault::new(Kind::Unavailable, gone)))
}

/// Private: what the processes told before is on record when this is answered, so that whoever
/// heard of an exit or sent the last signal finds the container's state to agree.
#[derive(Message)]
#[rtype(result = "Result<(), Fault>")]
struct Settle;

impl Handler<Settle> for ContainerActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, _: Settle, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Settle { waiter }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Settled => Ok(()),
                other => Err(mismatched(&other)),
            }
        })
    }
}

/// Private: so it is, and poststart is done: which hooks failed.
#[derive(Message)]
#[rtype(result = "Result<Warnings, Fault>")]
struct SettleStart;

impl Handler<SettleStart> for ContainerActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, _: SettleStart, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::SettleStart { waiter }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Started(failed) => Ok(failed),
                other => Err(mismatched(&other)),
            }
        })
    }
}

impl Handler<Start> for ContainerActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, Start { key }: Start, ctx: &mut Context<Self>) -> Self::Result {
        let container = self.shell.confirmed();
        let paused = container.stands_still().map(Fault::from);
        if let Err(why) = container.may_start() {
            return Box::pin(async move { Err(why.into()) });
        }
        let (me, room) = (ctx.address(), self.find(&ProcessId::Init));
        Box::pin(async move {
            let begun = sent(room?.send(Begin { key })).await;
            begun.map_err(|why| match why.kind() {
                Kind::Denied => paused.unwrap_or(why),
                _ => why,
            })?;
            sent(me.send(SettleStart)).await
        })
    }
}

impl Handler<ProcessCommand> for ContainerActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, command: ProcessCommand, ctx: &mut Context<Self>) -> Self::Result {
        let (ProcessCommand::Kill(target, _)
        | ProcessCommand::AttachRelay(target, _)
        | ProcessCommand::RelayDone(target)) = &command;
        let (me, room) = (ctx.address(), self.find(target));
        Box::pin(async move {
            let room = room?;
            match command {
                ProcessCommand::Kill(_, kill) => {
                    let is_last = kill.signal == SIGKILL;
                    sent(room.send(kill)).await?;
                    if is_last {
                        // A container that was deleted meanwhile has nothing left to agree with.
                        sent(me.send(Settle)).await.ok();
                    }
                    Ok(())
                }
                ProcessCommand::AttachRelay(_, relay) => sent(room.send(relay)).await,
                ProcessCommand::RelayDone(_) => {
                    room.do_send(process::RelayDone);
                    Ok(())
                }
            }
        })
    }
}

impl Handler<WaitProcess> for ContainerActor {
    type Result = ResponseFuture<Result<ExitStatus, Fault>>;

    fn handle(
        &mut self,
        WaitProcess(process): WaitProcess,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        let asked = self.find(&process).map(|room| room.send(process::Wait));
        // Whoever waits holds no room: what is left of a sandbox whose room panicked would never hear of the exit.
        let me = ctx.address().downgrade();
        Box::pin(async move {
            let exit = sent(asked?).await?;
            // A container that was deleted meanwhile has nothing left to agree with.
            if let Some(me) = me.upgrade() {
                sent(me.send(Settle)).await.ok();
            }
            Ok(exit)
        })
    }
}

impl Handler<GetProcessView> for ContainerActor {
    type Result = ResponseFuture<Result<ProcessView, Fault>>;

    fn handle(
        &mut self,
        GetProcessView(process): GetProcessView,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let room = self.find(&process);
        Box::pin(async move {
            let gone = "the process's room is being rebuilt; ask again";
            let view = room?.send(process::GetProcess).await;
            view.map_err(|_| Fault::new(Kind::Unavailable, gone))
        })
    }
}

impl Handler<GetRelays> for ContainerActor {
    type Result = MessageResult<GetRelays>;

    fn handle(&mut self, _: GetRelays, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.shell.confirmed().relays())
    }
}

impl Handler<GetContainer> for ContainerActor {
    type Result = MessageResult<GetContainer>;

    fn handle(&mut self, _: GetContainer, _: &mut Context<Self>) -> Self::Result {
        let container = self.shell.confirmed();
        MessageResult(ContainerView {
            spec: container.spec().clone(),
            state: container.oci_state(),
            relay: container.relay(),
        })
    }
}
