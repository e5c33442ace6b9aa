//! The shell around [`Link`]: it owns the ports and decides nothing.
//!
//! What a call carries and what it yields never passes through the machine: the machine names the
//! call, admits it and says by when it must be done; the actor keeps the work and the typed answer
//! beside it.

use crate::{
    call::Call,
    events::{Event, Notice, World},
    machine::Link,
    port::{AgentPort, Answer, Signs},
};
use actix::prelude::*;
use runtime_core::{
    agent::{self, Address, AgentDetails, Parent, RoomGone},
    error::Fault,
    ids::OpId,
    kit::{self, Guard, Room, Shell, Work},
    records::{Change, Records},
};
use std::{rc::Rc, time::Duration};
use tokio::sync::oneshot;

/// What an agent room is built with. The ports outlive it: a rebuilt room finds in them what a
/// stock guest cannot be asked for.
#[derive(Clone)]
pub struct Surroundings {
    pub port: Rc<dyn AgentPort>,
    pub signs: Rc<dyn Signs>,
    pub parent: Parent,
}

/// The agent room of one sandbox.
pub struct AgentActor {
    shell: Shell<Link>,
    around: Surroundings,
    /// The work of the command that is being applied; taken when the machine admits it.
    work: Option<Job>,
    _guard: Guard,
}

/// A call that was not begun yet; it yields what the machine may know of its outcome.
type Job = Box<dyn FnOnce(Duration) -> Work<Result<(), Fault>>>;

impl AgentActor {
    /// Opens the room; the link is opened by [`agent::Open`].
    pub fn open(around: Surroundings) -> Address {
        let gone = around.parent.gone.clone();
        let guard = Guard::new(move |how| {
            if let Some(parent) = gone.upgrade() {
                parent.do_send(RoomGone(how));
            }
        });
        let room = Self {
            shell: Shell::new(Link::new()),
            around,
            work: None,
            _guard: guard,
        };
        room.start().into()
    }

    /// A call of another room: admitted by the machine, performed by the port, answered with what
    /// it yields.
    fn call<T: Send + 'static>(
        &mut self,
        call: Call,
        perform: impl FnOnce(&dyn AgentPort, Duration) -> Answer<T> + 'static,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<T, Fault>> {
        let (give, take) = oneshot::channel();
        let port = self.around.port.clone();
        self.work = Some(Box::new(move |deadline| {
            let answer = perform(&*port, deadline);
            Box::pin(async move {
                let value = answer.await?;
                // A caller that gave up is not a fault of ours.
                let _ = give.send(value);
                Ok(())
            })
        }));
        let verdict = kit::command(self, |waiter| Event::Call { waiter, call }, ctx);
        // This room writes no record, so a command is applied at once: admitted and taken, or
        // refused and dropped here.
        self.work = None;
        Box::pin(async move {
            verdict.await??;
            let value = take.await;
            Ok(value.expect("a call that succeeded has given its value"))
        })
    }

    fn perform(&mut self, op: OpId, deadline: Duration, ctx: &mut Context<Self>) {
        let job = self.work.take();
        let job = job.expect("only the call that is being applied is admitted");
        let work = job(deadline);
        kit::complete(ctx, async move {
            let outcome = work.await;
            Event::Called { op, outcome }
        });
    }

    fn wait(&self, event: Event, delay: Duration, ctx: &mut Context<Self>) {
        kit::complete(ctx, async move {
            tokio::time::sleep(delay).await;
            event
        });
    }
}

impl Actor for AgentActor {
    type Context = Context<Self>;
}

/// Whatever ends the actor, a panic too: its successor dials anew, and calls on the old link would
/// keep the connection that it needs.
impl Drop for AgentActor {
    fn drop(&mut self) {
        self.around.port.hang_up();
    }
}

impl Room for AgentActor {
    type Machine = Link;

    fn shell(&mut self) -> &mut Shell<Link> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        Rc::new(NoRecords)
    }

    fn touch(&mut self, effect: World, ctx: &mut Context<Self>) {
        let (port, signs) = (self.around.port.clone(), self.around.signs.clone());
        match effect {
            World::Look { op } => kit::complete(ctx, async move {
                let console_bytes = signs.console_bytes().await;
                Event::Looked { op, console_bytes }
            }),
            World::PatienceLook { op } => kit::complete(ctx, async move {
                let console_bytes = signs.console_bytes().await;
                Event::PatienceLooked { op, console_bytes }
            }),
            World::PatienceNote { op } => kit::complete(ctx, async move {
                let console_bytes = signs.console_bytes().await;
                Event::PatienceNoted { op, console_bytes }
            }),
            World::Wait { op, delay } => self.wait(Event::RetryDue { op }, delay, ctx),
            World::Patience { op, delay } => self.wait(Event::PatienceDue { op }, delay, ctx),
            World::Dial { op, link, deadline } => {
                let dial = port.dial(link, deadline);
                kit::complete(ctx, async move {
                    let outcome = dial.await;
                    Event::Dialed { op, outcome }
                });
            }
            World::Watch { op } => {
                let hung_up = port.hung_up();
                kit::complete(ctx, async move {
                    hung_up.await;
                    Event::HungUp { op }
                });
            }
            World::Poll {
                op,
                after,
                wait,
                deadline,
            } => {
                let exits = port.next_news(after, wait, deadline);
                kit::complete(ctx, async move {
                    let outcome = exits.await;
                    Event::Polled { op, outcome }
                });
            }
            World::Ack { up_to, deadline } => {
                let ack = port.ack_news(up_to, deadline);
                kit::detach(async move {
                    if let Err(why) = ack.await {
                        tracing::debug!(%why, up_to, "the next acknowledgement covers it");
                    }
                });
            }
            World::Perform { op, deadline } => self.perform(op, deadline, ctx),
            World::HangUp => port.hang_up(),
        }
    }

    fn announce(&mut self, notice: Notice, _: &mut Context<Self>) {
        if let Some(parent) = self.around.parent.notices.upgrade() {
            parent.do_send(match notice {
                Notice::News(news) => agent::Notice::News(news),
                Notice::Lost { why } => agent::Notice::Lost { why },
            });
        }
    }
}

runtime_core::room!(AgentActor);

/// This room keeps no record: the sandbox keeps where its guest is, and which exits it has.
struct NoRecords;

impl Records for NoRecords {
    fn write(&self, changes: Vec<Change>) -> Work<()> {
        unreachable!("the agent room asks for no record, and yet for {changes:?}")
    }

    fn scan(&self, _: String) -> Work<Result<Vec<(String, Vec<u8>)>, Fault>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

impl Handler<agent::Open> for AgentActor {
    type Result = ResponseFuture<Result<AgentDetails, Fault>>;

    fn handle(&mut self, ask: agent::Open, ctx: &mut Context<Self>) -> Self::Result {
        let agent::Open(link) = ask;
        let details = kit::command(self, |waiter| Event::Open { waiter, link }, ctx);
        Box::pin(async move { details.await? })
    }
}

impl Handler<agent::Close> for AgentActor {
    type Result = ();

    fn handle(&mut self, _: agent::Close, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Close, ctx);
    }
}

impl Handler<agent::NewsRecorded> for AgentActor {
    type Result = ();

    fn handle(&mut self, told: agent::NewsRecorded, ctx: &mut Context<Self>) {
        kit::apply(self, Event::NewsRecorded { seq: told.seq }, ctx);
    }
}

impl Handler<agent::Adopt> for AgentActor {
    type Result = ();

    fn handle(&mut self, ask: agent::Adopt, _: &mut Context<Self>) {
        self.around.port.adopt(ask);
    }
}

/// A command that is one call of the port; hooks in the guest may have time of their own.
macro_rules! call {
    ($message:ty, $call:expr, $method:ident, $yields:ty) => {
        call!($message, $call, $method, $yields, |_| Duration::ZERO);
    };
    ($message:ty, $call:expr, $method:ident, $yields:ty, $hooks_limit:expr) => {
        impl Handler<$message> for AgentActor {
            type Result = ResponseFuture<Result<$yields, Fault>>;

            fn handle(&mut self, ask: $message, ctx: &mut Context<Self>) -> Self::Result {
                let hooks_limit: fn(&$message) -> Duration = $hooks_limit;
                let hooks_limit = hooks_limit(&ask);
                let perform =
                    move |port: &dyn AgentPort, deadline| port.$method(ask, deadline + hooks_limit);
                self.call($call, perform, ctx)
            }
        }
    };
}

call!(
    agent::CreateSandbox,
    Call::CreateSandbox,
    create_sandbox,
    ()
);
call!(agent::SetClock, Call::SetClock, set_clock, ());
call!(
    agent::CreateContainer,
    Call::CreateContainer,
    create_container,
    agent::Warnings,
    |ask| ask.hooks_limit
);
call!(
    agent::StartContainer,
    Call::StartContainer,
    start_container,
    (),
    |ask| ask.hooks_limit
);
call!(agent::Exec, Call::Exec, exec, agent::Warnings);
call!(agent::Signal, Call::Signal, signal, ());
call!(
    agent::RemoveContainer,
    Call::RemoveContainer,
    remove_container,
    ()
);
call!(agent::RemoveEmpty, Call::RemoveEmpty, remove_empty, bool);
call!(
    agent::PauseContainer,
    Call::PauseContainer,
    pause_container,
    ()
);
call!(
    agent::ResumeContainer,
    Call::ResumeContainer,
    resume_container,
    ()
);
call!(
    agent::UpdateContainer,
    Call::UpdateContainer,
    update_container,
    agent::Warnings
);
call!(agent::GetStats, Call::Stats, stats, agent::ContainerStats);
call!(
    agent::ListProcesses,
    Call::List,
    list,
    Vec<agent::GuestProcess>
);
call!(agent::GetPids, Call::Pids, pids, Vec<agent::GuestPid>);
