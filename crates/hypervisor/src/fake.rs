//! A host that runs VMMs in memory: the port [`Vmm`] for tests and simulation.
//!
//! Deterministic: tokio's clock, no randomness, nothing shared with other threads. [`FakeHost`] is
//! the world, which outlives a daemon; [`FakeVmm`] is one daemon's driver in it. Both the order and
//! the outcome of calls can be bent through [`FakeHost::bend`]. It passes `tests/contract.rs`.

mod ground;

pub use ground::{Ground, OwnGround};

use crate::{
    error::{Error, QmpError},
    port::{Exit, ExitHow, LaunchPlan, Vmm},
};
use runtime_core::{
    hypervisor::{Accelerator, BlockSpec, ChannelKind, MachineType},
    ids::{HostProcess, SandboxUid},
    kit::Work,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// What a real VMM takes, roughly, on a quiet host.
const SPAWN: Duration = Duration::from_millis(5);
const ANSWER: Duration = Duration::from_millis(40);
const COMMAND: Duration = Duration::from_millis(1);
const RELEASE: Duration = Duration::from_millis(400);

/// As the real driver's.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A call of the port, as the one who bends it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Spawn,
    Connect,
    Find,
    Kill,
    AddStream,
    AttachBlock,
    DetachBlock,
    Pause,
    Resume,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    /// Added to what the call takes.
    pub delay: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    #[default]
    AsAsked,
    /// Nothing happens, and the call fails.
    Fails,
    /// For [`Call::Connect`]: the VMM is alive and mute.
    Mute,
}

type Bend = Box<dyn FnMut(SandboxUid, Call) -> Fate>;

/// The world: every VMM process, and what carries the channels of some, whoever started it.
#[derive(Clone)]
pub struct FakeHost(Rc<World>);

struct World {
    processes: RefCell<BTreeMap<HostProcess, Process>>,
    /// By sandbox. One outlives its VMM, as the real one does, until a driver ends it.
    backends: RefCell<BTreeMap<SandboxUid, Backend>>,
    bend: RefCell<Bend>,
    ground: Rc<dyn Ground>,
}

struct Process {
    plan: LaunchPlan,
    streams: BTreeSet<u32>,
    /// By slot.
    blocks: BTreeMap<u32, String>,
    gait: Gait,
    life: Rc<Life>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gait {
    Runs,
    Stands,
}

#[derive(Clone)]
struct Backend {
    process: HostProcess,
    life: Rc<Life>,
}

/// Whoever watches is woken in the order in which they came, which a watch channel does not do.
#[derive(Debug, Default)]
struct Life {
    exit: RefCell<Option<Exit>>,
    ended: Notify,
}

impl Life {
    fn over(exit: Exit) -> Rc<Self> {
        let life = Self::default();
        life.end(exit);
        Rc::new(life)
    }

    fn lasts(&self) -> bool {
        self.exit.borrow().is_none()
    }

    fn end(&self, exit: Exit) {
        self.exit.replace(Some(exit));
        self.ended.notify_waiters();
    }

    async fn ended(&self) -> Exit {
        loop {
            let ended = self.ended.notified();
            if let Some(exit) = &*self.exit.borrow() {
                return exit.clone();
            }
            ended.await;
        }
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    pub fn new() -> Self {
        Self::on(Rc::new(OwnGround::default()))
    }

    /// Whose processes are where the ground says.
    pub fn on(ground: Rc<dyn Ground>) -> Self {
        Self(Rc::new(World {
            processes: RefCell::default(),
            backends: RefCell::default(),
            bend: RefCell::new(Box::new(|_, _| Fate::default())),
            ground,
        }))
    }

    /// A daemon's driver in this world; it knows nothing of what others started.
    pub fn driver(&self) -> FakeVmm {
        FakeVmm {
            host: self.clone(),
            vms: Rc::default(),
        }
    }

    /// From now on `bend` says what becomes of each call.
    pub fn bend(&self, bend: impl FnMut(SandboxUid, Call) -> Fate + 'static) {
        *self.0.bend.borrow_mut() = Box::new(bend);
    }

    /// Every VMM that lives, for those who look for leaks.
    pub fn live(&self) -> Vec<(SandboxUid, HostProcess)> {
        let processes = self.0.processes.borrow();
        let live = processes.iter().filter(|(_, p)| p.life.lasts());
        live.map(|(process, p)| (p.plan.spec.uid, *process))
            .collect()
    }

    /// What carries the channel of a sandbox beside its VMM and lives.
    pub fn backend(&self, uid: SandboxUid) -> Option<HostProcess> {
        let backends = self.0.backends.borrow();
        let backend = backends.get(&uid).filter(|backend| backend.life.lasts());
        backend.map(|backend| backend.process)
    }

    /// The stream ports of a live VM.
    pub fn streams(&self, uid: SandboxUid) -> BTreeSet<u32> {
        let streams = self.with_live(uid, |process| process.streams.clone());
        streams.unwrap_or_default()
    }

    /// The serials of what was plugged into a live VM.
    pub fn blocks(&self, uid: SandboxUid) -> BTreeSet<String> {
        let blocks = self.with_live(uid, |process| process.blocks.values().cloned().collect());
        blocks.unwrap_or_default()
    }

    /// Whether a live VM's processors stand still.
    pub fn is_paused(&self, uid: SandboxUid) -> bool {
        self.with_live(uid, |process| process.gait == Gait::Stands) == Some(true)
    }

    fn turn(&self, uid: SandboxUid, gait: Gait) {
        if self.with_live(uid, |process| process.gait = gait).is_some() {
            match gait {
                Gait::Runs => self.0.ground.resumed(uid),
                Gait::Stands => self.0.ground.paused(uid),
            }
        }
    }

    /// Ends the VMM of a sandbox as `how` says; one that is gone stays as it is.
    pub fn end(&self, uid: SandboxUid, how: ExitHow) {
        self.end_where(how, |_, process| process.plan.spec.uid == uid);
    }

    /// Ends one process, if it is a VMM that lives, or what carries a channel.
    pub fn end_process(&self, process: HostProcess, how: ExitHow) {
        self.end_where(how, |id, _| id == process);
        self.end_backend_where(|_, id| id == process);
    }

    /// Ends what carries the channel of a sandbox; one that is gone stays as it is.
    pub fn end_backend(&self, uid: SandboxUid) {
        self.end_backend_where(|of, _| of == uid);
    }

    /// The host restarts: nothing lives.
    pub fn restart(&self) {
        self.end_where(ExitHow::Unknown, |_, _| true);
        self.end_backend_where(|_, _| true);
        self.0.processes.borrow_mut().clear();
        self.0.backends.borrow_mut().clear();
    }

    fn end_backend_where(&self, which: impl Fn(SandboxUid, HostProcess) -> bool) {
        let mut ended = Vec::new();
        for (uid, backend) in self.0.backends.borrow().iter() {
            if backend.life.lasts() && which(*uid, backend.process) {
                backend.life.end(words(ExitHow::Unknown));
                ended.push((*uid, backend.process));
            }
        }
        for (uid, process) in ended {
            self.0.ground.backend_ended(uid, process);
        }
    }

    fn end_where(&self, how: ExitHow, which: impl Fn(HostProcess, &Process) -> bool) {
        let mut ended = Vec::new();
        for (id, process) in self.0.processes.borrow().iter() {
            if process.life.lasts() && which(*id, process) {
                process.life.end(words(how));
                ended.push((process.plan.spec.uid, *id));
            }
        }
        for (uid, process) in ended {
            self.0.ground.ended(uid, process);
        }
    }

    fn with_live<T>(&self, uid: SandboxUid, look: impl FnOnce(&mut Process) -> T) -> Option<T> {
        let mut processes = self.0.processes.borrow_mut();
        let mut live = processes
            .values_mut()
            .filter(|p| p.plan.spec.uid == uid && p.life.lasts());
        live.next().map(look)
    }

    fn fate(&self, uid: SandboxUid, call: Call) -> Fate {
        (self.0.bend.borrow_mut())(uid, call)
    }

    /// What carries the plan's channel, if that is a program of its own.
    fn begin_backend(&self, plan: &LaunchPlan) -> io::Result<()> {
        if let ChannelKind::HybridVsock { backend, .. } = &plan.spec.channel {
            let begun = Backend {
                process: self.0.ground.spawn_backend(backend)?,
                life: Rc::default(),
            };
            self.0.backends.borrow_mut().insert(plan.spec.uid, begun);
        }
        Ok(())
    }

    /// Answers when nothing carries the plan's channel any more; never where that is nobody's task.
    async fn channel_lost(&self, uid: SandboxUid, channel: &ChannelKind) {
        match channel {
            ChannelKind::Serial | ChannelKind::Vsock { .. } => std::future::pending().await,
            ChannelKind::HybridVsock { .. } => {
                let backend = self.0.backends.borrow().get(&uid).cloned();
                if let Some(backend) = backend {
                    backend.life.ended().await;
                }
            }
        }
    }

    fn begin(&self, plan: &LaunchPlan) -> io::Result<(HostProcess, Rc<Life>)> {
        let process = self.0.ground.spawn(plan)?;
        let life = Rc::<Life>::default();
        let begun = Process {
            plan: plan.clone(),
            streams: (1..=plan.ports.cold).collect(),
            blocks: plan
                .in_slots()
                .map(|(slot, block)| (slot, block.serial.clone()))
                .collect(),
            gait: Gait::Runs,
            life: life.clone(),
        };
        self.0.processes.borrow_mut().insert(process, begun);
        Ok((process, life))
    }
}

fn words(how: ExitHow) -> Exit {
    Exit {
        how,
        console: format!("fake guest: {how}"),
        stderr: format!("fake vmm: {how}"),
    }
}

/// One daemon's driver.
#[derive(Clone)]
pub struct FakeVmm {
    host: FakeHost,
    vms: Rc<RefCell<BTreeMap<SandboxUid, Known>>>,
}

#[derive(Debug, Clone)]
struct Known {
    process: Option<HostProcess>,
    accelerator: Accelerator,
    machine: MachineType,
    channel: ChannelKind,
    life: Rc<Life>,
}

impl FakeVmm {
    fn known(&self, uid: SandboxUid) -> Result<Known, Error> {
        let known = self.vms.borrow().get(&uid).cloned();
        known.ok_or(Error::Unknown { uid })
    }

    fn keep(&self, plan: &LaunchPlan, process: Option<HostProcess>, life: Rc<Life>) {
        let known = Known {
            process,
            accelerator: plan.spec.accelerator,
            machine: plan.spec.machine,
            channel: plan.spec.channel.clone(),
            life,
        };
        self.vms.borrow_mut().insert(plan.spec.uid, known);
    }

    /// A call that changes a live VM: as a QMP command would.
    fn change(
        &self,
        uid: SandboxUid,
        call: Call,
        takes: Duration,
        verb: &'static str,
        change: impl FnOnce(&mut Process) + 'static,
    ) -> Work<Result<(), Error>> {
        let vmm = self.clone();
        let fate = self.host.fate(uid, call);
        Box::pin(async move {
            vmm.known(uid)?;
            sleep(takes + fate.delay).await;
            let source = match fate.outcome {
                Outcome::AsAsked | Outcome::Mute => match vmm.host.with_live(uid, change) {
                    Some(()) => return Ok(()),
                    None => QmpError::Closed,
                },
                Outcome::Fails => refused(verb),
            };
            Err(Error::Qmp { verb, source })
        })
    }

    fn turned(
        &self,
        uid: SandboxUid,
        call: Call,
        verb: &'static str,
        gait: Gait,
    ) -> Work<Result<(), Error>> {
        let host = self.host.clone();
        let told = self.change(uid, call, COMMAND, verb, |_| {});
        Box::pin(async move {
            told.await?;
            host.turn(uid, gait);
            Ok(())
        })
    }

    fn plugs(&self, uid: SandboxUid, device: &str) -> Result<(), Error> {
        match self.known(uid)?.machine {
            MachineType::Q35 => Ok(()),
            MachineType::Microvm => Err(Error::NoHotplug {
                machine: "microvm",
                device: device.to_owned(),
            }),
        }
    }
}

fn refused(command: &'static str) -> QmpError {
    QmpError::Refused {
        command,
        reason: "as the test wished".to_owned(),
    }
}

fn io_failure() -> io::Error {
    io::Error::other("as the test wished")
}

impl Vmm for FakeVmm {
    fn spawn(&self, plan: LaunchPlan) -> Work<Result<HostProcess, Error>> {
        let vmm = self.clone();
        let fate = self.host.fate(plan.spec.uid, Call::Spawn);
        Box::pin(async move {
            crate::qemu::command_line::check(&plan).map_err(Error::Spec)?;
            let failed = |source| Error::Spawn {
                binary: "fake".into(),
                source,
            };
            vmm.host.begin_backend(&plan).map_err(failed)?;
            sleep(SPAWN + fate.delay).await;
            let begun = match fate.outcome {
                Outcome::Fails => Err(io_failure()),
                Outcome::AsAsked | Outcome::Mute => vmm.host.begin(&plan),
            };
            if begun.is_err() {
                vmm.host.end_backend(plan.spec.uid);
            }
            let (process, life) = begun.map_err(failed)?;
            vmm.keep(&plan, Some(process), life);
            Ok(process)
        })
    }

    fn connect(&self, uid: SandboxUid) -> Work<Result<(), Error>> {
        let vmm = self.clone();
        let fate = self.host.fate(uid, Call::Connect);
        Box::pin(async move {
            let known = vmm.known(uid)?;
            let limit = ANSWER_LIMIT * known.accelerator.patience();
            let answer = match fate.outcome {
                Outcome::AsAsked => ANSWER + fate.delay,
                Outcome::Fails | Outcome::Mute => Duration::MAX,
            };
            tokio::select! {
                biased;
                exit = known.life.ended() => Err(Error::EndedEarly {
                    status: exit.how.to_string(),
                    stderr: exit.stderr,
                }),
                late = timeout(limit, sleep(answer)) => late.map_err(|_| Error::NoAnswer {
                    accelerator: known.accelerator,
                    limit,
                    console: words(ExitHow::Unknown).console,
                    source: QmpError::Timeout { command: "greeting", limit },
                }),
            }
        })
    }

    fn find(
        &self,
        plan: LaunchPlan,
        recorded: Option<HostProcess>,
    ) -> Work<Result<Option<HostProcess>, Error>> {
        let vmm = self.clone();
        let uid = plan.spec.uid;
        let fate = self.host.fate(uid, Call::Find);
        Box::pin(async move {
            sleep(COMMAND + fate.delay).await;
            if fate.outcome == Outcome::Fails {
                return Err(Error::Open {
                    what: "cgroup",
                    path: plan.spec.cgroup.0.into(),
                    source: io_failure(),
                });
            }
            if let Ok(known) = vmm.known(uid) {
                return Ok(known.process.filter(|_| known.life.lasts()));
            }
            let found = {
                let processes = vmm.host.0.processes.borrow();
                let mut ours = processes.iter().filter(|(process, p)| {
                    let wanted = recorded.is_none_or(|recorded| recorded == **process);
                    p.plan.spec.uid == uid && p.life.lasts() && wanted
                });
                ours.next().map(|(id, p)| (*id, p.life.clone()))
            };
            let process = found.as_ref().map(|(process, _)| *process);
            if process.is_none() {
                vmm.host.end_backend(uid);
            }
            let gone = || Life::over(words(ExitHow::Unknown));
            let life = found.map_or_else(gone, |(_, life)| life);
            vmm.keep(&plan, process, life);
            Ok(process)
        })
    }

    fn ended(&self, uid: SandboxUid) -> Work<Exit> {
        let (known, host) = (self.known(uid), self.host.clone());
        Box::pin(async move {
            let Ok(known) = known else {
                return words(ExitHow::Unknown);
            };
            tokio::select! {
                biased;
                _ = known.life.ended() => {}
                () = host.channel_lost(uid, &known.channel) => {
                    host.end(uid, ExitHow::ChannelLost);
                }
            }
            host.end_backend(uid);
            known.life.ended().await
        })
    }

    fn kill(&self, uid: SandboxUid) -> Work<Result<(), Error>> {
        let vmm = self.clone();
        let fate = self.host.fate(uid, Call::Kill);
        Box::pin(async move {
            let known = vmm.known(uid)?;
            sleep(COMMAND + fate.delay).await;
            match (fate.outcome, known.process) {
                (Outcome::Fails, Some(process)) if known.life.lasts() => Err(Error::Unkillable {
                    process,
                    limit: Duration::ZERO,
                }),
                (_, _) => {
                    vmm.host.end(uid, ExitHow::Signal(libc::SIGKILL));
                    vmm.host.end_backend(uid);
                    Ok(())
                }
            }
        })
    }

    fn forget(&self, uid: SandboxUid) {
        self.vms.borrow_mut().remove(&uid);
    }

    fn add_stream(&self, uid: SandboxUid, number: u32) -> Work<Result<(), Error>> {
        let add = move |process: &mut Process| {
            process.streams.insert(number);
        };
        self.change(uid, Call::AddStream, COMMAND * 4, "add stream port", add)
    }

    fn attach_block(
        &self,
        uid: SandboxUid,
        slot: u32,
        block: BlockSpec,
    ) -> Work<Result<(), Error>> {
        if let Err(refused) = self.plugs(uid, &block.serial) {
            return Box::pin(async move { Err(refused) });
        }
        let plug = move |process: &mut Process| {
            let occupant = process.blocks.insert(slot, block.serial.clone());
            let free = occupant.is_none_or(|serial| serial == block.serial);
            assert!(free, "slot {slot} was occupied");
        };
        self.change(uid, Call::AttachBlock, COMMAND * 4, "plug block", plug)
    }

    fn detach_block(&self, uid: SandboxUid, serial: String) -> Work<Result<(), Error>> {
        if let Err(refused) = self.plugs(uid, &serial) {
            return Box::pin(async move { Err(refused) });
        }
        let unplug = move |process: &mut Process| {
            process.blocks.retain(|_, occupant| *occupant != serial);
        };
        self.change(uid, Call::DetachBlock, RELEASE, "unplug block", unplug)
    }

    fn pause(&self, uid: SandboxUid) -> Work<Result<(), Error>> {
        self.turned(uid, Call::Pause, "pause vm", Gait::Stands)
    }

    fn resume(&self, uid: SandboxUid) -> Work<Result<(), Error>> {
        self.turned(uid, Call::Resume, "resume vm", Gait::Runs)
    }
}
