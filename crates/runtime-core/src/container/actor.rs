//! The shell around [`Container`], and the parent of its processes.

use super::{
    Plant,
    events::{Event, Notice, World},
    hook::{self, state_json},
    hooks::Stage,
    machine::Container,
    messages::{
        AgentRebuilt, ContainerNotice, Create, GuestExited, GuestGone, GuestOomKilled, GuestReady,
        LeaveGuest,
    },
    ooms::OOM_REST,
    record::{ContainerRecord, ContainerSpec},
    removal,
};
use crate::{
    error::{Fault, Kind},
    ids::{ContainerNumber, HostProcess, OpId, ProcessId, SandboxUid},
    kit::{self, Gone, Guard, Room, Shell, Waiter},
    premises::Premises,
    process::{self, ProcessActor, ProcessNotice, ProcessRecord},
    records::Records,
};
use actix::{WeakRecipient, prelude::*};
use std::{collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// What every container of a sandbox is built with.
#[derive(Clone)]
pub struct Surroundings {
    pub uid: SandboxUid,
    pub plant: Rc<dyn Plant>,
    pub premises: Rc<dyn Premises>,
    pub records: Rc<dyn Records>,
    pub parent: WeakRecipient<ContainerNotice>,
}

pub struct ContainerActor {
    pub(super) shell: Shell<Container>,
    around: Surroundings,
    number: ContainerNumber,
    processes: BTreeMap<ProcessId, Addr<ProcessActor>>,
    /// Records of processes to rebuild; taken when the actor starts.
    rebuild: Vec<ProcessRecord>,
    /// Hooks that run end with it.
    hooks: Option<oneshot::Sender<()>>,
    vmm: Option<HostProcess>,
    _guard: Guard,
}

impl ContainerActor {
    pub fn start_new(around: Surroundings, spec: ContainerSpec) -> Addr<Self> {
        let machine = Container::new(around.uid, Arc::new(spec));
        Self::build(around, machine, Vec::new()).start()
    }

    pub fn start_rebuilt(
        around: Surroundings,
        record: ContainerRecord,
        processes: Vec<ProcessRecord>,
    ) -> Addr<Self> {
        let settled = processes.into_iter();
        let settled = settled.map(|process| process.in_container(&record.state));
        let processes: Vec<_> = settled.collect();
        let machine = Container::rebuilt(record, &processes);
        Self::build(around, machine, processes).start()
    }

    fn build(around: Surroundings, machine: Container, rebuild: Vec<ProcessRecord>) -> Self {
        let (parent, container) = (around.parent.clone(), machine.number());
        let guard = Guard::new(move |how| {
            if let Some(parent) = parent.upgrade() {
                parent.do_send(ContainerNotice::Gone { container, how });
            }
        });
        Self {
            number: machine.number(),
            shell: Shell::new(machine),
            around,
            processes: BTreeMap::new(),
            rebuild,
            hooks: None,
            vmm: None,
            _guard: guard,
        }
    }

    fn surroundings(&self, ctx: &Context<Self>) -> process::Surroundings {
        let plant: Rc<dyn Plant> = self.around.plant.clone();
        process::Surroundings {
            uid: self.around.uid,
            container: self.number,
            plant,
            premises: self.around.premises.clone(),
            records: self.around.records.clone(),
            parent: ctx.address().recipient().downgrade(),
            hooks_limit: self.shell.confirmed().spec().guest_hooks(),
        }
    }

    fn make_process(&mut self, process: ProcessId, make: process::Make, ctx: &Context<Self>) {
        if process == ProcessId::Init {
            let container = self.shell.confirmed();
            let attached = container.attached();
            let attached = attached.expect("an init is made after its devices are attached");
            self.around.plant.describe(container.spec(), attached);
        }
        let address = ProcessActor::start_new(self.surroundings(ctx), process.clone());
        address.do_send(make);
        self.processes.insert(process, address);
    }

    fn attach(&self, op: OpId, ctx: &mut Context<Self>) {
        let spec = self.shell.confirmed().spec();
        let (devices, cgroup) = (spec.devices.clone(), spec.cgroup.clone());
        let (plant, uid) = (self.around.plant.clone(), self.around.uid);
        let lodged = cgroup.map(|cgroup| self.around.premises.lodge(uid, cgroup));
        kit::complete(ctx, async move {
            let outcome = async {
                if let Some(lodged) = lodged {
                    lodged.await?;
                }
                plant.attach(devices).await
            };
            let outcome = outcome.await;
            Event::Attached { op, outcome }
        });
    }

    fn tell_all<M: Message<Result = ()> + Send + Clone + 'static>(&self, message: &M)
    where
        ProcessActor: Handler<M>,
    {
        for address in self.processes.values() {
            address.do_send(message.clone());
        }
    }

    fn remove(&self, op: OpId, ctx: &mut Context<Self>) {
        let (plant, premises) = (&*self.around.plant, &*self.around.premises);
        let work = removal::all(plant, premises, self.around.uid, self.shell.confirmed());
        kit::complete(ctx, async move {
            let outcome = work.await;
            Event::Removed { op, outcome }
        });
    }

    fn leave(&self, op: OpId, ctx: &mut Context<Self>) {
        let work = removal::if_empty(&self.around.plant, self.shell.confirmed());
        kit::complete(ctx, async move {
            let outcome = work.await;
            Event::Departed { op, outcome }
        });
    }

    fn update(&self, waiter: Waiter, resources: Vec<u8>, ctx: &mut Context<Self>) {
        let work = self.around.plant.update(self.number, resources);
        kit::complete(ctx, async move {
            let outcome = work.await;
            Event::Updated { waiter, outcome }
        });
    }

    fn run_hooks(&mut self, op: OpId, stage: Stage, ctx: &mut Context<Self>) {
        let (hold, released) = oneshot::channel();
        self.hooks = Some(hold);
        let (container, premises) = (self.shell.confirmed(), self.around.premises.clone());
        let spec = container.spec().clone();
        let stands = match stage {
            Stage::Create => self.vmm,
            Stage::Poststart => container.relay(),
            Stage::Poststop => None,
        };
        kit::complete(ctx, async move {
            let state = state_json(&spec, stage, stands);
            let run = hook::all(&*premises, &spec, stage, state);
            let outcome = hook::until(released, run).await;
            Event::Hooked { op, outcome }
        });
    }

    fn freeze(&self, op: OpId, ctx: &mut Context<Self>) {
        let work = self.around.plant.freeze(self.number);
        kit::complete(ctx, async move {
            let outcome = work.await;
            Event::Frozen { op, outcome }
        });
    }

    fn thaw(&self, op: OpId, after: Duration, ctx: &mut Context<Self>) {
        let (plant, number) = (self.around.plant.clone(), self.number);
        kit::complete(ctx, async move {
            tokio::time::sleep(after).await;
            let outcome = plant.thaw(number).await;
            Event::Thawed { op, outcome }
        });
    }

    pub(super) fn find(&self, process: &ProcessId) -> Result<Addr<ProcessActor>, Fault> {
        let known = self.processes.get(process).cloned();
        known.ok_or_else(|| {
            let id = &self.shell.confirmed().spec().id;
            let what = format!("container \"{id}\" has no process \"{process}\"");
            Fault::new(Kind::NotFound, what)
        })
    }
}

impl Actor for ContainerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let _within = self.shell.span().entered();
        for record in std::mem::take(&mut self.rebuild) {
            let process = record.process.clone();
            let address = ProcessActor::start_rebuilt(self.surroundings(ctx), record);
            self.processes.insert(process, address);
        }
        kit::apply(self, Event::Resume, ctx);
    }
}

impl Room for ContainerActor {
    type Machine = Container;

    fn shell(&mut self) -> &mut Shell<Container> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        self.around.records.clone()
    }

    fn touch(&mut self, effect: World, ctx: &mut Context<Self>) {
        match effect {
            World::Attach { op } => self.attach(op, ctx),
            World::MakeProcess { process, make } => self.make_process(process, make, ctx),
            World::TellExit {
                process,
                seq,
                status,
            } => {
                if let Some(address) = self.processes.get(&process) {
                    address.do_send(process::Exited { seq, status });
                }
            }
            World::TellGuestGone { status } => self.tell_all(&process::GuestGone { status }),
            World::CloseProcesses { status } => self.tell_all(&process::Close { status }),
            World::CloseProcess { process } => {
                if let Some(address) = self.processes.get(&process) {
                    address.do_send(process::Forget);
                }
            }
            World::KillLeft { after } => {
                let plant = self.around.plant.clone();
                kit::complete(ctx, removal::kill_left(plant, self.number, after));
            }
            World::RestOoms => kit::complete(ctx, async {
                tokio::time::sleep(OOM_REST).await;
                Event::OomRested
            }),
            World::Forget { process } => {
                self.processes.remove(&process);
            }
            World::Remove { op } => self.remove(op, ctx),
            World::Leave { op } => self.leave(op, ctx),
            World::Freeze { op } => self.freeze(op, ctx),
            World::Thaw { op, after } => self.thaw(op, after, ctx),
            World::RunHooks { op, stage } => self.run_hooks(op, stage, ctx),
            // Whoever runs them sees that nobody holds the other end.
            World::StopHooks => self.hooks = None,
            World::Update { waiter, resources } => self.update(waiter, resources, ctx),
        }
    }

    fn announce(&mut self, notice: Notice, _: &mut Context<Self>) {
        if let Some(parent) = self.around.parent.upgrade() {
            parent.do_send(ContainerNotice::News {
                container: self.number,
                notice,
            });
        }
    }
}

crate::room!(ContainerActor);

impl Handler<ProcessNotice> for ContainerActor {
    type Result = ();

    fn handle(&mut self, notice: ProcessNotice, ctx: &mut Context<Self>) {
        match notice {
            ProcessNotice::News { process, notice } => {
                kit::apply(self, Event::News { process, notice }, ctx);
            }
            ProcessNotice::Gone { process, how, .. } => match how {
                Gone::Stopped => {}
                Gone::Panicked => {
                    panic!(
                        "the room of process {process} panicked: the container is rebuilt with it"
                    )
                }
            },
        }
    }
}

impl Handler<Create> for ContainerActor {
    type Result = ();

    fn handle(&mut self, _: Create, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Create, ctx);
    }
}

impl Handler<GuestReady> for ContainerActor {
    type Result = ();

    fn handle(&mut self, GuestReady { vmm }: GuestReady, ctx: &mut Context<Self>) {
        self.vmm = Some(vmm);
        kit::apply(self, Event::GuestReady, ctx);
    }
}

impl Handler<GuestExited> for ContainerActor {
    type Result = ();

    fn handle(&mut self, exit: GuestExited, ctx: &mut Context<Self>) {
        let GuestExited {
            seq,
            process,
            status,
        } = exit;
        let event = Event::GuestExited {
            seq,
            process,
            status,
        };
        kit::apply(self, event, ctx);
    }
}

impl Handler<GuestGone> for ContainerActor {
    type Result = ();

    fn handle(&mut self, GuestGone { status }: GuestGone, ctx: &mut Context<Self>) {
        kit::apply(self, Event::GuestGone { status }, ctx);
    }
}

impl Handler<AgentRebuilt> for ContainerActor {
    type Result = ();

    fn handle(&mut self, _: AgentRebuilt, _: &mut Context<Self>) {
        self.tell_all(&process::AgentRebuilt);
    }
}

impl Handler<LeaveGuest> for ContainerActor {
    type Result = ();

    fn handle(&mut self, _: LeaveGuest, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Leave, ctx);
    }
}

impl Handler<GuestOomKilled> for ContainerActor {
    type Result = ();

    fn handle(&mut self, oom: GuestOomKilled, ctx: &mut Context<Self>) {
        let GuestOomKilled { seq, at } = oom;
        kit::apply(self, Event::GuestOomKilled { seq, at }, ctx);
    }
}
