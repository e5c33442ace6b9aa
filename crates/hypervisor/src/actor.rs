//! The shell around [`Hypervisor`]: it owns the ports and decides nothing.

use crate::{
    error::Error,
    events::{Answer, Command, Event, Notice, Turn, World},
    machine::Hypervisor,
    port::{LaunchPlan, PortPlan, Vmm},
    record::{HypervisorRecord, key},
};
use actix::prelude::*;
use runtime_core::{
    error::{Fault, Kind, fault},
    hypervisor::{
        self as messages, Address, AttachBlock, ChannelKind, DetachBlock, GetStatus, Launch,
        LeaseStream, MachineType, Parent, Pause, Resume, ReturnStream, RoomGone, StdioKind, Stop,
        StreamLease, VmSpec, VmStatus,
    },
    ids::{OpId, SandboxUid},
    kit::{self, Guard, Room, Shell, Work},
    records::{self, Records},
};
use std::{collections::BTreeSet, rc::Rc};

/// How every VM of this host is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmDefaults {
    pub ports: PortPlan,
    /// Block devices that can be plugged into a running VM (q35 only).
    pub slots: u32,
}

impl Default for VmDefaults {
    fn default() -> Self {
        Self {
            // A container's init and two execs start without waiting for a port; each port that was made costs
            // the guest 512 KiB of buffers. 64 ports in all, two of which are not for streams: as many cost a boot
            // nothing that can be measured, and 128 a tenth of a second (docs/adr/0004-machine-type.md).
            ports: PortPlan { cold: 4, max: 62 },
            slots: 4,
        }
    }
}

/// What a hypervisor room is built with.
#[derive(Clone)]
pub struct Surroundings {
    pub vmm: Rc<dyn Vmm>,
    pub records: Rc<dyn Records>,
    /// Of the running host.
    pub boot_id: String,
    pub defaults: VmDefaults,
    pub parent: Parent,
}

/// Opens the room of a sandbox from its record: with one, what may live is adopted, with the streams that processes have
/// of it.
///
/// # Errors
/// The record cannot be read.
pub async fn open(
    uid: SandboxUid,
    leased: BTreeSet<u32>,
    around: Surroundings,
) -> Result<Address, Fault> {
    HypervisorActor::open(uid, leased, around).await
}

/// The hypervisor room of one sandbox.
pub struct HypervisorActor {
    uid: SandboxUid,
    shell: Shell<Hypervisor>,
    around: Surroundings,
    _guard: Guard,
}

impl HypervisorActor {
    async fn open(
        uid: SandboxUid,
        leased: BTreeSet<u32>,
        around: Surroundings,
    ) -> Result<Address, Fault> {
        let key = key(uid);
        let rows = around.records.scan(key.clone()).await?;
        let row = rows.into_iter().find(|(found, _)| *found == key);
        let boot_id = around.boot_id.clone();
        let machine = match row {
            None => Hypervisor::new(uid, boot_id),
            Some((_, bytes)) => {
                let record = records::decode::<HypervisorRecord>(&bytes);
                let unreadable = |error: records::UnreadableRecord| {
                    Fault::new(Kind::Internal, error.to_string()).during("open the hypervisor room")
                };
                Hypervisor::rebuilt(uid, boot_id, record.map_err(unreadable)?, leased)
            }
        };
        let gone = around.parent.gone.clone();
        let guard = Guard::new(move |how| {
            if let Some(parent) = gone.upgrade() {
                parent.do_send(RoomGone(how));
            }
        });
        let room = Self {
            uid,
            shell: Shell::new(machine),
            around,
            _guard: guard,
        };
        Ok(room.start().into())
    }

    fn plan(&self, spec: VmSpec) -> Box<LaunchPlan> {
        let VmDefaults { ports, slots } = self.around.defaults;
        let all = ports.max;
        Box::new(LaunchPlan {
            ports: match (spec.stdio, &spec.channel) {
                (StdioKind::Ports, ChannelKind::Serial) => ports,
                // A vsock port is a number, and so is a stream that the daemon carries: none has to
                // be made.
                (StdioKind::Calls, _)
                | (StdioKind::Ports, ChannelKind::Vsock { .. } | ChannelKind::HybridVsock { .. }) => {
                    PortPlan {
                        cold: all,
                        max: all,
                    }
                }
            },
            slots: match spec.machine {
                MachineType::Q35 => slots,
                MachineType::Microvm => 0,
            },
            spec,
        })
    }

    fn command<T: Send + 'static>(
        &mut self,
        command: Command,
        read: impl FnOnce(Answer) -> Option<T> + Send + 'static,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<T, Fault>> {
        let answer = kit::command(self, |waiter| Event::Asked { waiter, command }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Failed(why) => Err(why),
                answer => Ok(read(answer).expect("each command has its own kind of answer")),
            }
        })
    }

    fn done(
        &mut self,
        command: Command,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<(), Fault>> {
        let read = |answer| matches!(answer, Answer::Done).then_some(());
        self.command(command, read, ctx)
    }

    fn turn(&self, op: OpId, turn: Turn, ctx: &mut Context<Self>) {
        let (uid, vmm) = (self.uid, &self.around.vmm);
        let (during, work) = match turn {
            Turn::Pause => ("pause vm", vmm.pause(uid)),
            Turn::Resume => ("resume vm", vmm.resume(uid)),
        };
        let turned = move |outcome| Event::Turned { op, outcome };
        Self::begin(ctx, during, work, turned);
    }

    /// Beside the actor: what the work yields comes home as an event.
    fn begin<T: 'static>(
        ctx: &mut Context<Self>,
        during: &'static str,
        work: Work<Result<T, Error>>,
        event: impl FnOnce(Result<T, Fault>) -> Event + 'static,
    ) {
        kit::complete(ctx, async move {
            let outcome = work.await;
            event(outcome.map_err(|error| fault(&error).during(during)))
        });
    }
}

impl Actor for HypervisorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        kit::apply(self, Event::Adopt, ctx);
    }
}

impl Room for HypervisorActor {
    type Machine = Hypervisor;

    fn shell(&mut self) -> &mut Shell<Hypervisor> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        self.around.records.clone()
    }

    fn touch(&mut self, effect: World, ctx: &mut Context<Self>) {
        let (uid, vmm) = (self.uid, self.around.vmm.clone());
        match effect {
            World::Find { op, plan, recorded } => {
                let find = vmm.find(*plan, recorded);
                Self::begin(ctx, "look for the vmm", find, move |outcome| Event::Found {
                    op,
                    outcome,
                });
            }
            World::Spawn { op, plan } => {
                let spawn = vmm.spawn(*plan);
                Self::begin(ctx, "start vmm", spawn, move |outcome| Event::Spawned {
                    op,
                    outcome,
                });
            }
            World::Connect { op } => {
                let connect = vmm.connect(uid);
                Self::begin(ctx, "start vmm", connect, move |outcome| Event::Answered {
                    op,
                    outcome,
                });
            }
            World::Watch { op } => {
                let ended = vmm.ended(uid);
                kit::complete(ctx, async move {
                    let exit = ended.await;
                    Event::Ended { op, exit }
                });
            }
            World::Kill { op } => {
                let kill = vmm.kill(uid);
                Self::begin(ctx, "stop vm", kill, move |outcome| Event::Killed {
                    op,
                    outcome,
                });
            }
            World::Forget => vmm.forget(uid),
            World::AddStream { op, number } => {
                let add = vmm.add_stream(uid, number);
                Self::begin(ctx, "add a stream port", add, move |outcome| {
                    Event::StreamAdded { op, outcome }
                });
            }
            World::AttachBlock { op, slot, block } => {
                let attach = vmm.attach_block(uid, slot, block);
                Self::begin(ctx, "plug block device", attach, move |outcome| {
                    Event::BlockAttached { op, outcome }
                });
            }
            World::DetachBlock { op, serial } => {
                let detach = vmm.detach_block(uid, serial);
                Self::begin(ctx, "unplug block device", detach, move |outcome| {
                    Event::BlockDetached { op, outcome }
                });
            }
            World::Turn { op, turn } => self.turn(op, turn, ctx),
            World::Wait { op, delay } => kit::complete(ctx, async move {
                tokio::time::sleep(delay).await;
                Event::RetryDue { op }
            }),
        }
    }

    fn announce(&mut self, notice: Notice, _: &mut Context<Self>) {
        if let Some(parent) = self.around.parent.notices.upgrade() {
            parent.do_send(match notice {
                Notice::Exited(exit) => messages::Notice::VmExited(exit),
                Notice::Adopted(status) => messages::Notice::Adopted(status),
            });
        }
    }
}

runtime_core::room!(HypervisorActor);

impl Handler<Launch> for HypervisorActor {
    type Result = ResponseFuture<Result<VmStatus, Fault>>;

    fn handle(&mut self, Launch(spec): Launch, ctx: &mut Self::Context) -> Self::Result {
        let command = Command::Launch(self.plan(spec));
        let read = |answer| match answer {
            Answer::Launched(status) => Some(status),
            Answer::Leased(_) | Answer::Done | Answer::Failed(_) => None,
        };
        self.command(command, read, ctx)
    }
}

impl Handler<LeaseStream> for HypervisorActor {
    type Result = ResponseFuture<Result<StreamLease, Fault>>;

    fn handle(&mut self, _: LeaseStream, ctx: &mut Self::Context) -> Self::Result {
        let read = |answer| match answer {
            Answer::Leased(lease) => Some(lease),
            Answer::Launched(_) | Answer::Done | Answer::Failed(_) => None,
        };
        self.command(Command::LeaseStream, read, ctx)
    }
}

impl Handler<ReturnStream> for HypervisorActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, message: ReturnStream, ctx: &mut Self::Context) -> Self::Result {
        let number = message.number;
        self.done(Command::ReturnStream { number }, ctx)
    }
}

impl Handler<AttachBlock> for HypervisorActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, AttachBlock(block): AttachBlock, ctx: &mut Self::Context) -> Self::Result {
        self.done(Command::AttachBlock(block), ctx)
    }
}

impl Handler<DetachBlock> for HypervisorActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, message: DetachBlock, ctx: &mut Self::Context) -> Self::Result {
        let serial = message.serial;
        self.done(Command::DetachBlock { serial }, ctx)
    }
}

impl Handler<Pause> for HypervisorActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, _: Pause, ctx: &mut Self::Context) -> Self::Result {
        self.done(Command::Turn(Turn::Pause), ctx)
    }
}

impl Handler<Resume> for HypervisorActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, _: Resume, ctx: &mut Self::Context) -> Self::Result {
        self.done(Command::Turn(Turn::Resume), ctx)
    }
}

impl Handler<Stop> for HypervisorActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) -> Self::Result {
        self.done(Command::Stop, ctx)
    }
}

impl Handler<GetStatus> for HypervisorActor {
    type Result = MessageResult<GetStatus>;

    fn handle(&mut self, _: GetStatus, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.shell.confirmed().status())
    }
}
