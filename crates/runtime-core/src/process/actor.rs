//! The shell around [`Process`].

use super::{
    Asked, Plant,
    events::{Answer, Event, Notice, World},
    machine::{Process, State},
    messages::{
        AgentRebuilt, AttachRelay, Begin, Close, Exited, Forget, GetProcess, GuestGone, Kill, Make,
        ProcessNotice, ProcessView, RelayDone, Wait,
    },
    record::ProcessRecord,
};
use crate::{
    agent::{Adopt, Exec, ExitStatus, GuestProcessState, Signal, SignalTarget},
    error::{Fault, Kind},
    hypervisor::GuestEndpoint,
    ids::{ContainerNumber, HostProcess, OpId, ProcessId, SandboxUid},
    kit::{self, Guard, Room, Shell, Waiter},
    premises::Premises,
    records::Records,
};
use actix::{WeakRecipient, prelude::*};
use futures::FutureExt;
use std::{rc::Rc, time::Duration};

/// A process that was killed is gone within milliseconds; one that could not be, or not be looked for, is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What every process of a sandbox is built with.
#[derive(Clone)]
pub struct Surroundings {
    pub uid: SandboxUid,
    pub container: ContainerNumber,
    pub plant: Rc<dyn Plant>,
    pub premises: Rc<dyn Premises>,
    pub records: Rc<dyn Records>,
    pub parent: WeakRecipient<ProcessNotice>,
    /// Of its container, in the guest.
    pub hooks_limit: Duration,
}

pub struct ProcessActor {
    shell: Shell<Process>,
    id: ProcessId,
    around: Surroundings,
    _guard: Guard,
}

impl ProcessActor {
    pub fn start_new(around: Surroundings, id: ProcessId) -> Addr<Self> {
        let machine = Process::new(around.uid, around.container, id);
        Self::build(around, machine).start()
    }

    pub fn start_rebuilt(around: Surroundings, record: ProcessRecord) -> Addr<Self> {
        Self::build(around, Process::rebuilt(record)).start()
    }

    fn build(around: Surroundings, machine: Process) -> Self {
        let (parent, container, process) = (
            around.parent.clone(),
            around.container,
            machine.id().clone(),
        );
        let id = process.clone();
        let guard = Guard::new(move |how| {
            if let Some(parent) = parent.upgrade() {
                parent.do_send(ProcessNotice::Gone {
                    container,
                    process,
                    how,
                });
            }
        });
        Self {
            shell: Shell::new(machine),
            id,
            around,
            _guard: guard,
        }
    }

    fn exec(&self, op: OpId, exec: Exec, ctx: &mut Context<Self>) {
        let work = self.around.plant.exec(exec);
        kit::complete(ctx, async move {
            match work.await {
                Asked::Unsent(why) => Event::Unsent { op, why },
                Asked::Sent(outcome) => Event::Made { op, outcome },
            }
        });
    }

    fn look(&self, op: OpId, after: Duration, ctx: &mut Context<Self>) {
        let (plant, id) = (self.around.plant.clone(), self.id.clone());
        let container = self.around.container;
        kit::complete(ctx, async move {
            tokio::time::sleep(after).await;
            let outcome = plant.look(container, id).await;
            Event::Looked { op, outcome }
        });
    }

    fn adopt(&self, state: GuestProcessState, stream: GuestEndpoint) {
        self.around.plant.adopt(Adopt {
            container: self.around.container,
            process: self.id.clone(),
            state,
            stream,
        });
    }

    fn signal(&self, waiter: Option<Waiter>, signal: Signal, ctx: &mut Context<Self>) {
        let is_the_end = signal.is_the_end();
        let work = self.around.plant.signal(signal);
        match waiter {
            Some(waiter) => kit::complete(ctx, async move {
                let outcome = work.await;
                Event::Signaled {
                    waiter,
                    is_the_end,
                    outcome,
                }
            }),
            None => kit::detach(async move {
                if let Err(why) = work.await {
                    tracing::warn!(%why, "a process that may live in the guest could not be killed");
                }
            }),
        }
    }

    /// It is looked at again until its exit is known.
    fn kill_orphan(&self, relay: HostProcess, target: SignalTarget, ctx: &mut Context<Self>) {
        let work = self.around.plant.signal(Signal {
            container: self.around.container,
            target,
            signal: 9,
            once: None,
        });
        kit::complete(ctx, async move {
            if let Err(why) = work.await {
                tracing::warn!(%why, "the process of a relay that is gone was not killed yet");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            Event::RelayEnded { relay }
        });
    }

    fn dismiss(&self, relay: HostProcess, status: &ExitStatus, ctx: &mut Context<Self>) {
        let code = u8::try_from(status.code).unwrap_or(u8::MAX);
        let work = self.around.premises.dismiss(relay, code);
        kit::complete(ctx, async move {
            if let Err(why) = work.await {
                tracing::warn!(%why, "a relay was not told that its container is gone");
            }
            Event::Dismissed
        });
    }
}

impl Actor for ProcessActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Resume, ctx);
    }
}

impl Room for ProcessActor {
    type Machine = Process;

    fn shell(&mut self) -> &mut Shell<Process> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        self.around.records.clone()
    }

    fn touch(&mut self, effect: World, ctx: &mut Context<Self>) {
        let (plant, container) = (&self.around.plant, self.around.container);
        match effect {
            World::Lease { op } => {
                let leased = move |outcome| Event::Leased { op, outcome };
                let lease = plant.lease(container, self.id.clone());
                kit::complete(ctx, lease.map(leased));
            }
            World::Create { op, stream } => {
                let made = move |outcome| Event::Made { op, outcome };
                kit::complete(ctx, plant.create(container, stream).map(made));
            }
            World::Exec {
                op,
                stream,
                program,
            } => {
                let exec = Exec {
                    container,
                    process: self.id.clone(),
                    program,
                    stream: Some(stream),
                };
                self.exec(op, exec, ctx);
            }
            World::Note => kit::complete(ctx, async { Event::Note }),
            World::Start { op } => {
                let begun = move |outcome| Event::Begun { op, outcome };
                let start = plant.start(container, self.around.hooks_limit);
                kit::complete(ctx, start.map(begun));
            }
            World::Adopt { state, stream } => self.adopt(state, stream),
            World::Look { op } => self.look(op, Duration::ZERO, ctx),
            World::LookAgain { op } => self.look(op, LOOK_AGAIN, ctx),
            World::Signal {
                waiter,
                target,
                signal,
                once,
            } => {
                let signal = Signal {
                    container,
                    target,
                    signal,
                    once,
                };
                self.signal(waiter, signal, ctx);
            }
            World::WatchRelay { relay } => {
                let work = self.around.premises.ended(relay);
                kit::complete(ctx, async move {
                    work.await;
                    Event::RelayEnded { relay }
                });
            }
            World::KillOrphan { relay, target } => self.kill_orphan(relay, target, ctx),
            World::Dismiss { relay, status } => self.dismiss(relay, &status, ctx),
            World::GiveBack { number } => {
                kit::detach(plant.give_back(container, &self.id, number));
            }
        }
    }

    fn announce(&mut self, notice: Notice, _: &mut Context<Self>) {
        if let Some(parent) = self.around.parent.upgrade() {
            parent.do_send(ProcessNotice::News {
                process: self.id.clone(),
                notice,
            });
        }
    }
}

crate::room!(ProcessActor);

/// The answer of a command that is done or not.
fn done(answer: Result<Answer, Fault>) -> Result<(), Fault> {
    match answer? {
        Answer::Done(outcome) => outcome,
        Answer::Exit(_) => unreachable!("only a wait is answered with an exit"),
    }
}

impl Handler<Make> for ProcessActor {
    type Result = ();

    fn handle(&mut self, make: Make, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Make(make), ctx);
    }
}

impl Handler<Begin> for ProcessActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, Begin { key }: Begin, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Begin { waiter, key }, ctx);
        Box::pin(async move { done(answer.await) })
    }
}

impl Handler<Kill> for ProcessActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, kill: Kill, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Kill { waiter, kill }, ctx);
        Box::pin(async move { done(answer.await) })
    }
}

impl Handler<AttachRelay> for ProcessActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, relay: AttachRelay, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::AttachRelay { waiter, relay }, ctx);
        Box::pin(async move { done(answer.await) })
    }
}

impl Handler<Wait> for ProcessActor {
    type Result = ResponseFuture<Result<ExitStatus, Fault>>;

    fn handle(&mut self, _: Wait, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Wait { waiter }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Exit(exit) => exit,
                Answer::Done(_) => Err(Fault::new(
                    Kind::Internal,
                    "a wait was answered as a command",
                )),
            }
        })
    }
}

impl Handler<RelayDone> for ProcessActor {
    type Result = ();

    fn handle(&mut self, _: RelayDone, ctx: &mut Context<Self>) {
        kit::apply(self, Event::RelayDone, ctx);
    }
}

impl Handler<Exited> for ProcessActor {
    type Result = ();

    fn handle(&mut self, Exited { seq, status }: Exited, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Exited { seq, status }, ctx);
    }
}

impl Handler<AgentRebuilt> for ProcessActor {
    type Result = ();

    fn handle(&mut self, _: AgentRebuilt, ctx: &mut Context<Self>) {
        kit::apply(self, Event::AgentRebuilt, ctx);
    }
}

impl Handler<GuestGone> for ProcessActor {
    type Result = ();

    fn handle(&mut self, GuestGone { status }: GuestGone, ctx: &mut Context<Self>) {
        kit::apply(self, Event::GuestGone { status }, ctx);
    }
}

impl Handler<Close> for ProcessActor {
    type Result = ();

    fn handle(&mut self, Close { status }: Close, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Close { status }, ctx);
    }
}

impl Handler<Forget> for ProcessActor {
    type Result = ();

    fn handle(&mut self, _: Forget, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Forget, ctx);
    }
}

impl Handler<GetProcess> for ProcessActor {
    type Result = MessageResult<GetProcess>;

    fn handle(&mut self, _: GetProcess, _: &mut Context<Self>) -> Self::Result {
        let process = self.shell.confirmed();
        MessageResult(ProcessView {
            process: self.id.clone(),
            exit: match process.state() {
                State::Exited(status) => Some(status.clone()),
                _ => None,
            },
            relay: process.relay(),
            lease: process.lease().cloned(),
        })
    }
}
