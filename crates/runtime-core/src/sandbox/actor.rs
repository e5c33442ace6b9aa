//! The shell around [`Sandbox`]: opens its rooms, and is the parent of its containers.

use super::{
    board::Board,
    events::{Event, Notice, Unwritten, World},
    exits::Exits,
    ladder::Ladder,
    lent::{ASK_MAX, Lent, Reach, held},
    machine::{Member, Sandbox},
    messages::{GetSandbox, SandboxNotice, SandboxView, TakeNumber},
    record::{SandboxRecord, SandboxSpec},
};
use crate::{
    agent::{self, Warnings},
    clock::Clock,
    container::{self, ContainerActor, ContainerNotice, ContainerRecord, ContainerSpec},
    devices,
    error::Fault,
    hypervisor::{self, VmStatus},
    ids::{ContainerNumber, OpId, SandboxUid},
    kit::{self, Gone, Guard, Room, Shell, Work, ask},
    network,
    premises::Premises,
    process::ProcessRecord,
    records::Records,
    rooms::Rooms,
};
use actix::{WeakRecipient, prelude::*};
use std::{collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

/// What every sandbox is built with.
#[derive(Clone)]
pub struct Surroundings {
    pub boot_id: String,
    pub rooms: Rc<dyn Rooms>,
    pub premises: Rc<dyn Premises>,
    pub records: Rc<dyn Records>,
    pub clock: Rc<dyn Clock>,
    /// Bytes for the guest's random pool.
    pub entropy: Rc<dyn Fn() -> Vec<u8>>,
    pub parent: WeakRecipient<SandboxNotice>,
}

/// A VMM's end is told with its console and its exit status, which take some milliseconds to read; on a loaded host more.
const VM_EXIT_TOLD: Duration = Duration::from_millis(500);

pub struct SandboxActor {
    pub(super) shell: Shell<Sandbox>,
    pub(super) uid: SandboxUid,
    pub(super) around: Surroundings,
    pub(super) lent: Lent,
    pub(super) containers: BTreeMap<ContainerNumber, Addr<ContainerActor>>,
    /// As many were given away; the record knows of those that were used.
    numbers_given: u32,
    rebuild: Vec<(ContainerRecord, Vec<ProcessRecord>)>,
    resume: Option<Event>,
    pub(super) exits: Exits,
    pub(super) ladder: Ladder,
    pub(super) board: Rc<Board>,
    _guard: Guard,
}

impl SandboxActor {
    pub fn start_new(
        around: Surroundings,
        spec: SandboxSpec,
        annotations: BTreeMap<String, String>,
    ) -> Addr<Self> {
        let machine = Sandbox::new(Arc::new(spec), annotations, around.boot_id.clone());
        Self::build(around, machine, Ladder::start("record")).start()
    }

    /// From the records of the sandbox, its containers and their processes.
    pub fn start_rebuilt(
        around: Surroundings,
        record: SandboxRecord,
        containers: Vec<(ContainerRecord, Vec<ProcessRecord>)>,
    ) -> Addr<Self> {
        let same_boot = record.boot_id == around.boot_id;
        let member = |(record, _): &(ContainerRecord, Vec<ProcessRecord>)| Member {
            number: record.spec.number,
            id: record.spec.id.clone(),
            state: record.state.clone(),
        };
        let known: Vec<_> = containers.iter().map(member).collect();
        let mut actor = Self::build(around, Sandbox::rebuilt(record, known), Ladder::over());
        if let Some((first, _)) = containers.first() {
            actor.name(&first.spec);
        }
        let (sandbox, lent) = (actor.shell.confirmed(), &actor.lent);
        for (ContainerRecord { spec, .. }, processes) in &containers {
            let of_vm = sandbox.vm().is_some() && !sandbox.is_past(spec.number);
            lent.arrived(spec.number, processes.iter().filter(|_| of_vm));
        }
        actor.rebuild = containers;
        actor.resume = Some(Event::Resume { same_boot });
        actor.start()
    }

    fn build(around: Surroundings, machine: Sandbox, ladder: Ladder) -> Self {
        let (parent, uid) = (around.parent.clone(), machine.spec().uid);
        // Its first container's id comes with its creation.
        let span = tracing::info_span!(parent: None, "sandbox", %uid, id = tracing::field::Empty);
        if machine.spec().id != uid.as_id() {
            span.record("id", tracing::field::display(&machine.spec().id));
        }
        let guard = Guard::new(move |how| {
            if let Some(parent) = parent.upgrade() {
                parent.do_send(SandboxNotice::Gone { uid, how });
            }
        });
        let board = Rc::new(Board::default());
        board.show(machine.journal());
        Self {
            uid,
            board,
            shell: Shell::new(machine).within(span),
            around,
            lent: Lent::default(),
            containers: BTreeMap::new(),
            numbers_given: 0,
            rebuild: Vec::new(),
            resume: None,
            exits: Exits::default(),
            ladder,
            _guard: guard,
        }
    }

    /// Logs show it by the id of its first container.
    pub(super) fn name(&self, first: &ContainerSpec) {
        if self.spec().id != self.uid.as_id() {
            return;
        }
        let id = tracing::field::display(&first.id);
        self.shell.span().record("id", id);
    }

    pub(super) fn spec(&self) -> &SandboxSpec {
        self.shell.confirmed().spec()
    }

    fn container_surroundings(&self, ctx: &Context<Self>) -> container::Surroundings {
        container::Surroundings {
            uid: self.uid,
            plant: Rc::new(self.lent.clone()),
            premises: self.around.premises.clone(),
            records: self.around.records.clone(),
            parent: ctx.address().recipient().downgrade(),
        }
    }

    fn start_container(&mut self, spec: ContainerSpec, ctx: &Context<Self>) {
        let number = spec.number;
        self.lent.arrived(number, []);
        let address = ContainerActor::start_new(self.container_surroundings(ctx), spec);
        address.do_send(container::Create);
        self.containers.insert(number, address);
    }

    /// Opens the rooms that are not open yet.
    pub(super) fn open_rooms(&self, ctx: &Context<Self>) -> Work<Result<(), Fault>> {
        let (uid, rooms, lent) = (self.uid, self.around.rooms.clone(), self.lent.clone());
        let (notices, gone) = (ctx.address(), ctx.address());
        let hypervisor_parent = hypervisor::Parent {
            notices: notices.clone().recipient().downgrade(),
            gone: gone.clone().recipient().downgrade(),
        };
        let agent_parent = agent::Parent {
            notices: notices.clone().recipient().downgrade(),
            gone: gone.clone().recipient().downgrade(),
        };
        let devices_parent = devices::Parent {
            notices: notices.recipient().downgrade(),
            gone: gone.clone().recipient().downgrade(),
        };
        let network_parent = network::Parent {
            gone: gone.recipient().downgrade(),
        };
        Box::pin(async move {
            let open = lent.rooms();
            if open.hypervisor.is_none() {
                let room = rooms.hypervisor(uid, lent.leased(), hypervisor_parent);
                let room = room.await?;
                lent.update(|open| open.hypervisor = Some(room));
            }
            if open.agent.is_none() {
                let room = rooms.agent(uid, agent_parent).await?;
                lent.update(|open| open.agent = Some(room));
            }
            if open.devices.is_none() {
                let room = rooms.devices(uid, devices_parent).await?;
                lent.update(|open| open.devices = Some(room));
            }
            if open.network.is_none() {
                let room = rooms.network(uid, network_parent).await?;
                lent.update(|open| open.network = Some(room));
            }
            Ok(())
        })
    }

    pub(super) fn link(&self, vm: VmStatus) -> Work<Result<(), Fault>> {
        let (lent, dial) = (self.lent.clone(), self.dial(vm));
        Box::pin(async move {
            dial.await?;
            lent.update(|open| open.reach = Reach::Linked);
            Ok(())
        })
    }

    /// For the one who asks alone.
    pub(super) fn dial(&self, vm: VmStatus) -> Work<Result<(), Fault>> {
        let (lent, vm_spec) = (self.lent.clone(), &self.spec().vm);
        let (accelerator, stdio) = (vm_spec.accelerator, vm_spec.stdio);
        Box::pin(async move {
            let room = lent.agent()?.open;
            let command = agent::Open(agent::LinkSpec {
                control: vm.control,
                accelerator,
                news_recorded: 0,
                stdio,
            });
            ask(room, command, "reach agent", ASK_MAX).await.map(drop)
        })
    }

    /// Rooms that panicked since they were opened are opened again first.
    fn greet(&self, ctx: &Context<Self>) -> Work<Result<(), Fault>> {
        let (open, lent) = (self.open_rooms(ctx), self.lent.clone());
        let command = agent::CreateSandbox {
            sandbox: self.uid.to_string(),
            hostname: self.spec().hostname.clone(),
            share: self.spec().share.is_some(),
            now: Some(self.around.clock.now()),
            entropy: (self.around.entropy)(),
        };
        Box::pin(async move {
            open.await?;
            let room = lent.agent()?.create_sandbox;
            ask(room, command, "prepare guest", ASK_MAX).await
        })
    }

    /// Every step runs, whatever the one before it came to; the errors are joined. Gives what may not have been written.
    fn tear_down(
        &self,
        unwritten: Option<Unwritten>,
        ctx: &Context<Self>,
    ) -> Work<(Warnings, Result<(), Fault>)> {
        let reach = self.lent.rooms().reach;
        self.lent.update(|open| open.reach = Reach::None);
        let (open, lent) = (self.open_rooms(ctx), self.lent.clone());
        let written = self.write_back(unwritten, reach);
        let premises = self.around.premises.clone();
        let spec = self.spec().premises.clone();
        Box::pin(async move {
            let mut faults = Vec::new();
            faults.extend(open.await.err());
            let warnings = written.await;
            let stopped = async {
                let room = held(lent.rooms().hypervisor, "hypervisor")?.stop;
                ask(room, hypervisor::Stop, "stop vm", ASK_MAX).await
            };
            faults.extend(stopped.await.err());
            let released = async {
                let room = held(lent.rooms().devices, "devices")?.release;
                ask(room, devices::Release, "release devices", ASK_MAX).await
            };
            faults.extend(released.await.err());
            let disconnected = async {
                let room = held(lent.rooms().network, "network")?.disconnect;
                let command = network::Disconnect;
                ask(room, command, "release network", ASK_MAX).await
            };
            faults.extend(disconnected.await.err());
            faults.extend(premises.clear(spec).await.err());
            lent.vm_is_gone();
            (warnings, Fault::join(faults))
        })
    }

    pub(super) fn adopt(&self, vm: VmStatus, ctx: &Context<Self>) {
        self.lent.update(|open| open.reach = Reach::Opening);
        let (open, link) = (self.open_rooms(ctx), self.link(vm));
        let me = ctx.address().downgrade();
        kit::detach(async move {
            let outcome = match open.await {
                Ok(()) => link.await,
                Err(why) => Err(why),
            };
            if let (Err(why), Some(me)) = (outcome, me.upgrade()) {
                me.do_send(agent::Notice::Lost { why });
            }
        });
    }

    pub(super) fn confirm_exit(&mut self, seq: u64) {
        if let (Some(seq), Ok(room)) = (self.exits.recorded(seq), self.lent.agent()) {
            room.news_recorded.do_send(agent::NewsRecorded { seq });
        }
    }

    fn step_name(effect: &World) -> Option<&'static str> {
        match effect {
            World::OpenRooms { .. } => Some("rooms"),
            World::Prepare { .. } => Some("premises"),
            World::Connect { .. } => Some("plumbing"),
            World::StartContainer { .. } => Some("attach"),
            World::Launch { .. } => Some("vmm"),
            World::Link { .. } => Some("guest boot"),
            World::Greet { .. } => Some("guest setup"),
            World::TellReady { .. } => Some("container create"),
            World::OpenShare { .. }
            | World::Plug { .. }
            | World::TellGuestGone { .. }
            | World::Retire { .. }
            | World::Discard { .. }
            | World::Leave { .. }
            | World::Forget { .. }
            | World::AwaitVmExit { .. }
            | World::TearDown { .. }
            | World::Adopt { .. }
            | World::Begin { .. }
            | World::Quiet { .. }
            | World::Pause { .. }
            | World::Resume { .. }
            | World::Kill { .. } => None,
        }
    }

    fn launch(&self, op: OpId, vm: hypervisor::VmSpec, ctx: &mut Context<Self>) {
        let room = self.lent.rooms().hypervisor;
        kit::complete(ctx, async move {
            let room = room.expect("rooms are open before a vm is launched").launch;
            let outcome = ask(room, hypervisor::Launch(vm), "launch vm", ASK_MAX).await;
            Event::Launched { op, outcome }
        });
    }

    fn boot_step(&mut self, effect: World, ctx: &mut Context<Self>) {
        match effect {
            World::OpenRooms { op } => {
                // Another guest numbers its exits anew, and lends all its streams.
                self.exits = Exits::default();
                self.lent.forget_leases();
                self.lent.update(|open| open.reach = Reach::Opening);
                let work = self.open_rooms(ctx);
                kit::complete(ctx, async move {
                    let outcome = work.await;
                    Event::RoomsOpened { op, outcome }
                });
            }
            World::Prepare { op } => {
                let work = self.around.premises.prepare(self.spec().premises.clone());
                kit::complete(ctx, async move {
                    let outcome = work.await;
                    Event::Prepared { op, outcome }
                });
            }
            World::Connect { op } => {
                let (room, spec) = (self.lent.rooms().network, self.spec().network.clone());
                kit::complete(ctx, async move {
                    let room = room.expect("rooms are open before they are used").connect;
                    let command = network::Connect(spec);
                    let outcome = ask(room, command, "set up network", ASK_MAX).await;
                    Event::Connected { op, outcome }
                });
            }
            World::OpenShare { op } => {
                let (room, spec) = (self.lent.rooms().devices, self.spec().share.clone());
                kit::complete(ctx, async move {
                    let room = room
                        .expect("rooms are open before they are used")
                        .open_share;
                    let spec = spec.expect("a share is opened only where the spec has one");
                    let command = devices::OpenShare(spec);
                    let outcome = ask(room, command, "open share", ASK_MAX).await;
                    Event::ShareOpened { op, outcome }
                });
            }
            World::Link { op, vm } => {
                let work = self.link(vm);
                kit::complete(ctx, async move {
                    let outcome = work.await.map_err(|why| why.during("boot guest"));
                    Event::Linked { op, outcome }
                });
            }
            World::Greet { op } => {
                let work = self.greet(ctx);
                kit::complete(ctx, async move {
                    let outcome = work.await;
                    Event::Greeted { op, outcome }
                });
            }
            other => unreachable!("not a step of the start: {other:?}"),
        }
    }
}

impl Actor for SandboxActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let _within = self.shell.span().entered();
        for (record, processes) in std::mem::take(&mut self.rebuild) {
            let number = record.spec.number;
            let around = self.container_surroundings(ctx);
            let address = ContainerActor::start_rebuilt(around, record, processes);
            self.containers.insert(number, address);
        }
        if let Some(resume) = self.resume.take() {
            kit::apply(self, resume, ctx);
        }
    }
}

impl Room for SandboxActor {
    type Machine = Sandbox;

    fn shell(&mut self) -> &mut Shell<Sandbox> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        self.around.records.clone()
    }

    fn touch(&mut self, effect: World, ctx: &mut Context<Self>) {
        if let Some(name) = Self::step_name(&effect) {
            self.ladder.begin(name);
        }
        match effect {
            World::OpenRooms { .. }
            | World::Prepare { .. }
            | World::Connect { .. }
            | World::OpenShare { .. }
            | World::Link { .. }
            | World::Greet { .. } => self.boot_step(effect, ctx),
            World::StartContainer { spec } => self.start_container(*spec, ctx),
            World::Launch { op, vm } => self.launch(op, *vm, ctx),
            World::Plug { container, blocks } => {
                let work = self.lent.plug(blocks);
                kit::complete(ctx, async move {
                    let outcome = work.await;
                    Event::Plugged { container, outcome }
                });
            }
            World::TellReady { container } => {
                // The confirmed machine is ready, or is ending and tells that.
                let vmm = self.shell.confirmed().vm().map(|vm| vm.vmm);
                if let (Some(room), Some(vmm)) = (self.containers.get(&container), vmm) {
                    room.do_send(container::GuestReady { vmm });
                }
            }
            World::TellGuestGone { why } => self.tell_guest_gone(&why),
            World::Retire { deletion, guest } => self.retire(deletion, guest, ctx),
            World::Discard { container, guest } => self.discard(container, guest),
            World::Leave { container } => self.let_leave(container),
            World::Forget { container } => {
                self.containers.remove(&container);
                self.lent.left(container);
            }
            World::AwaitVmExit { op, share: why } => kit::complete(ctx, async move {
                tokio::time::sleep(VM_EXIT_TOLD).await;
                Event::ShareLossDue { op, why }
            }),
            World::TearDown {
                op,
                after,
                unwritten,
            } => {
                let work = self.tear_down(unwritten, ctx);
                kit::complete(ctx, async move {
                    tokio::time::sleep(after).await;
                    let (unwritten, outcome) = work.await;
                    Event::TornDown {
                        op,
                        unwritten,
                        outcome,
                    }
                });
            }
            World::Adopt { vm } => self.adopt(vm, ctx),
            World::Begin { op } => self.begin(op, ctx),
            World::Quiet { op } => self.quiet(op, ctx),
            World::Pause { op } => self.pause(op, ctx),
            World::Resume { op, vm } => self.resume_vm(op, vm, ctx),
            World::Kill { waiter, killing } => self.kill(waiter, killing, ctx),
        }
    }

    fn announce(&mut self, notice: Notice, _: &mut Context<Self>) {
        if notice == Notice::Happened {
            return self.board.show(self.shell.confirmed().journal());
        }
        if notice == Notice::Gone {
            self.board.close();
        }
        if let Some(parent) = self.around.parent.upgrade() {
            let uid = self.uid;
            parent.do_send(SandboxNotice::News { uid, notice });
        }
    }
}

crate::room!(SandboxActor);

impl Handler<ContainerNotice> for SandboxActor {
    type Result = ();

    fn handle(&mut self, notice: ContainerNotice, ctx: &mut Context<Self>) {
        match notice {
            ContainerNotice::News { container, notice } => {
                match &notice {
                    // Numbers of a guest that is gone mean nothing to this one.
                    container::Notice::ExitRecorded { seq }
                        if !self.shell.confirmed().is_past(container) =>
                    {
                        self.confirm_exit(*seq);
                    }
                    container::Notice::Created(_) => self.ladder.begin("relay"),
                    container::Notice::Started => self.ladder.finish(),
                    _ => {}
                }
                kit::apply(self, Event::News { container, notice }, ctx);
            }
            ContainerNotice::Gone {
                how: Gone::Stopped, ..
            } => {}
            ContainerNotice::Gone {
                container,
                how: Gone::Panicked,
            } => {
                panic!("the room of container {container} panicked: the sandbox is rebuilt with it")
            }
        }
    }
}

impl Handler<GetSandbox> for SandboxActor {
    type Result = MessageResult<GetSandbox>;

    fn handle(&mut self, _: GetSandbox, _: &mut Context<Self>) -> Self::Result {
        let sandbox = self.shell.confirmed();
        MessageResult(SandboxView {
            spec: sandbox.spec().clone(),
            standing: sandbox.standing(),
            annotations: sandbox.annotations().clone(),
            reason: sandbox.reason(),
            vm: sandbox.vm().cloned(),
            containers: self.containers.keys().copied().collect(),
            phases: self.ladder.steps(),
        })
    }
}

impl Handler<TakeNumber> for SandboxActor {
    type Result = MessageResult<TakeNumber>;

    fn handle(&mut self, _: TakeNumber, _: &mut Context<Self>) -> Self::Result {
        let used = self.shell.confirmed().next_number();
        let number = self.numbers_given.max(used.0);
        self.numbers_given = number + 1;
        MessageResult(ContainerNumber(number))
    }
}
