//! Scripted rooms: they keep the world as sets, and fail where a test says so.

use super::pass;
use actix::prelude::*;
use runtime_core::{
    agent::{self, ExitReason, ExitStatus, GuestExit, GuestNews, GuestOom},
    devices,
    error::{Fault as CoreFault, Kind},
    hypervisor::{self, GuestEndpoint, HostEndpoint, StdioKind, StreamLease, VmExit, VmStatus},
    ids::{ContainerNumber, EpochMs, ExecId, HostProcess, ProcessId, RequestKey, SandboxUid},
    kit::{Gone, Work},
    network,
    premises::{Cgroup, HookRun, Premises, PremisesSpec, Spent},
    rooms::Rooms,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use tokio::sync::Notify;

/// Where a step of the world breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Rooms,
    Prepare,
    Connect,
    OpenShare,
    Attach,
    Plug,
    Launch,
    Open,
    Greet,
    Lease,
    Create,
    Start,
    Exec,
    List,
    Freeze,
    Thaw,
    Update,
    Prestart,
    LaterHook,
    RemoveEmpty,
    Remove,
    Detach,
    Vacate,
    Stop,
    Release,
    Disconnect,
    Clear,
    Pause,
    Resume,
}

#[derive(Default)]
struct State {
    /// Added to what each effect takes.
    slower: Duration,
    /// Added to what this one takes.
    slow: BTreeMap<Fault, Duration>,
    daemon: u64,
    /// So many times more the work panics that clears the premises.
    panics_at_clear: u32,
    /// What happens right before the next of these panics.
    before_panic: Option<Box<dyn FnOnce()>>,
    faults: BTreeSet<Fault>,
    unanswered: BTreeSet<Fault>,
    unheard: BTreeSet<Fault>,
    /// Where effects were carried out, in their order.
    carried_out: Vec<Fault>,
    premises: BTreeSet<SandboxUid>,
    networks: BTreeSet<SandboxUid>,
    shares: BTreeSet<SandboxUid>,
    vms: BTreeMap<SandboxUid, Vm>,
    hypervisors: BTreeMap<SandboxUid, hypervisor::Parent>,
    agents: BTreeMap<SandboxUid, agent::Parent>,
    devices: BTreeMap<SandboxUid, devices::Parent>,
    dead_relays: BTreeSet<u32>,
    /// With their exit codes.
    dismissed: Vec<(HostProcess, u8)>,
    confirmed: Vec<u64>,
    signals: Vec<(ProcessId, u32)>,
    hooks: Vec<HookRun>,
    delivered: BTreeSet<RequestKey>,
    /// SIGKILL is heard, and the exit comes when somebody says so.
    dies_late: bool,
    /// How often each process was started.
    starts: BTreeMap<ProcessId, u32>,
    /// What guests have instead of streams.
    stdio: StdioKind,
    adopted: Vec<agent::Adopt>,
    /// What containers have plugged.
    blocks: Vec<hypervisor::BlockSpec>,
    /// So many times more a resume is refused, because a pause is under way.
    pausing: u32,
    /// A guest is not done making it.
    making: Option<ProcessId>,
    /// Rooms that live, by their kind, sandbox and daemon.
    rooms: BTreeMap<(&'static str, SandboxUid, u64), usize>,
    /// Rooms that were opened while their predecessor lived.
    doubles: Vec<&'static str>,
}

#[derive(Default)]
struct Vm {
    leased: BTreeSet<u32>,
    paused: bool,
    clock: EpochMs,
    processes: BTreeMap<(ContainerNumber, ProcessId), bool>,
    exits: Vec<GuestExit>,
    frozen: BTreeSet<ContainerNumber>,
}

#[derive(Clone, Default)]
pub struct World {
    state: Rc<RefCell<State>>,
    /// Which daemon sees it: what an earlier one still has under way never happens.
    daemon: u64,
    relays: Rc<Notify>,
}

/// What each part of a sandbox costs.
pub const SPENT: Spent = Spent {
    cpu_usec: 5,
    memory_bytes: 4096,
    processes: 1,
};

/// How long each effect on the world takes.
const STEP: Duration = Duration::from_millis(3);

impl World {
    pub fn break_at(&self, fault: Fault) {
        self.state.borrow_mut().faults.insert(fault);
    }

    /// From now on whoever is killed exits when that is [said](Self::exit).
    pub fn die_late(&self) {
        self.state.borrow_mut().dies_late = true;
    }

    /// From now on each effect takes this much longer.
    pub fn slow_down(&self, by: Duration) {
        self.state.borrow_mut().slower = by;
    }

    /// From now on this effect takes this much longer.
    pub fn slow_down_at(&self, fault: Fault, by: Duration) {
        self.state.borrow_mut().slow.insert(fault, by);
    }

    /// Containers that are created from now on bring a block device.
    pub fn bring_block(&self) {
        self.bring(false);
    }

    /// Containers that are created from now on bring one that nobody writes to.
    pub fn bring_read_only_block(&self) {
        self.bring(true);
    }

    fn bring(&self, read_only: bool) {
        let block = hypervisor::BlockSpec {
            serial: "data".to_owned(),
            path: "/image".into(),
            read_only,
        };
        self.state.borrow_mut().blocks = vec![block];
    }

    /// So many times a resume is refused, because a pause is under way.
    pub fn be_pausing(&self, times: u32) {
        self.state.borrow_mut().pausing = times;
    }

    /// Guests say from now on that this process of container 0 is still being made.
    pub fn never_make(&self, process: ProcessId) {
        self.state.borrow_mut().making = Some(process);
    }

    /// Rooms that were opened while another of their kind lived in the same sandbox.
    pub fn doubles(&self) -> Vec<&'static str> {
        self.state.borrow().doubles.clone()
    }

    /// From now on answers to this get lost: it is carried out, and whoever asked for it does not hear so.
    pub fn lose_answers_of(&self, fault: Fault) {
        self.state.borrow_mut().unanswered.insert(fault);
    }

    /// From now on requests for this get lost: nobody hears of them.
    pub fn lose_requests_for(&self, fault: Fault) {
        self.state.borrow_mut().unheard.insert(fault);
    }

    /// What was carried out since this was asked last.
    pub fn take_carried_out(&self) -> Vec<Fault> {
        std::mem::take(&mut self.state.borrow_mut().carried_out)
    }

    /// The work that clears the premises panics the next few times.
    pub fn panic_at_clear(&self, times: u32) {
        self.state.borrow_mut().panics_at_clear = times;
    }

    pub fn mend(&self) {
        self.state.borrow_mut().unanswered.clear();
        self.state.borrow_mut().unheard.clear();
        self.state.borrow_mut().faults.clear();
    }

    fn check(&self, fault: Fault) -> Result<(), CoreFault> {
        match self.state.borrow().faults.contains(&fault) {
            true => Err(CoreFault::new(
                Kind::Internal,
                format!("{fault:?} is broken"),
            )),
            false => Ok(()),
        }
    }

    /// The daemon is killed; the world as the next one sees it.
    pub fn next_daemon(&self) -> Self {
        self.forget_daemon();
        let daemon = self.daemon + 1;
        self.state.borrow_mut().daemon = daemon;
        Self {
            daemon,
            ..self.clone()
        }
    }

    /// An effect of a daemon that is dead never happens.
    async fn lives(&self) {
        if self.state.borrow().daemon != self.daemon {
            std::future::pending::<()>().await;
        }
    }

    pub fn forget_daemon(&self) {
        let mut state = self.state.borrow_mut();
        state.hypervisors.clear();
        state.agents.clear();
    }

    pub fn kill_vms(&self) {
        let mut state = self.state.borrow_mut();
        state.vms.clear();
        state.premises.clear();
    }

    pub fn vms(&self) -> usize {
        self.state.borrow().vms.len()
    }

    pub fn confirmed(&self) -> Vec<u64> {
        self.state.borrow().confirmed.clone()
    }

    /// The streams of a sandbox's VM that somebody has.
    pub fn leased(&self, uid: SandboxUid) -> Vec<u32> {
        let state = self.state.borrow();
        let vm = state.vms.get(&uid);
        vm.map_or_else(Vec::new, |vm| vm.leased.iter().copied().collect())
    }

    pub fn is_paused(&self, uid: SandboxUid) -> bool {
        self.state
            .borrow()
            .vms
            .get(&uid)
            .is_some_and(|vm| vm.paused)
    }

    /// What the guest was told last.
    pub fn clock(&self, uid: SandboxUid) -> EpochMs {
        self.state
            .borrow()
            .vms
            .get(&uid)
            .expect("the vm lives")
            .clock
    }

    pub fn signals(&self) -> Vec<(ProcessId, u32)> {
        self.state.borrow().signals.clone()
    }

    pub fn hooks(&self) -> Vec<HookRun> {
        self.state.borrow().hooks.clone()
    }

    pub fn starts(&self, process: &ProcessId) -> u32 {
        let state = self.state.borrow();
        state.starts.get(process).copied().unwrap_or(0)
    }

    pub fn is_running(&self, uid: SandboxUid, process: &ProcessId) -> bool {
        let state = self.state.borrow();
        let key = (ContainerNumber(0), process.clone());
        state
            .vms
            .get(&uid)
            .and_then(|vm| vm.processes.get(&key))
            .copied()
            == Some(true)
    }

    /// Whether container 0 stands still.
    pub fn is_frozen(&self, uid: SandboxUid) -> bool {
        let state = self.state.borrow();
        let vm = state.vms.get(&uid);
        vm.is_some_and(|vm| vm.frozen.contains(&ContainerNumber(0)))
    }

    pub fn assert_empty(&self) {
        let state = self.state.borrow();
        assert!(state.vms.is_empty(), "a vm is left");
        assert!(state.premises.is_empty(), "premises are left");
        assert!(state.networks.is_empty(), "a network is left");
        assert!(state.shares.is_empty(), "a share is left");
    }

    /// The guest tells so many kills for want of memory in container 0, numbered from 1.
    pub fn kill_for_want_of_memory(&self, uid: SandboxUid, times: u64) {
        let parent = self.state.borrow().agents.get(&uid).cloned();
        let parent = parent.and_then(|parent| parent.notices.upgrade());
        let parent = parent.expect("the sandbox lives");
        for seq in 1..=times {
            let oom = GuestOom {
                seq,
                container: ContainerNumber(0),
                at: EpochMs(9),
            };
            parent.do_send(agent::Notice::News(GuestNews::OomKilled(oom)));
        }
    }

    /// A process of container 0 exits; the guest tells it.
    pub fn exit(&self, uid: SandboxUid, process: ProcessId, code: u32) {
        let container = ContainerNumber(0);
        let (exit, parent) = {
            let mut state = self.state.borrow_mut();
            let vm = state.vms.get_mut(&uid).expect("the vm lives");
            vm.processes.remove(&(container, process.clone()));
            let seq = vm.exits.len() as u64 + 1;
            let status = ExitStatus {
                code,
                reason: ExitReason::Exited,
                detail: String::new(),
                at: EpochMs(9),
            };
            let exit = GuestExit {
                seq,
                container,
                process,
                status,
            };
            vm.exits.push(exit.clone());
            (exit, state.agents.get(&uid).cloned())
        };
        if let Some(parent) = parent.and_then(|parent| parent.notices.upgrade()) {
            parent.do_send(agent::Notice::News(GuestNews::Exited(exit)));
        }
    }

    /// Something that container 0 began outlives its init.
    pub fn leave_behind(&self, uid: SandboxUid) {
        let mut state = self.state.borrow_mut();
        let vm = state.vms.get_mut(&uid).expect("the vm lives");
        let orphan = ProcessId::Exec(ExecId::new("orphan").unwrap());
        vm.processes.insert((ContainerNumber(0), orphan), true);
    }

    /// Guests have a stock agent from now on.
    pub fn carry_stdio_by_calls(&self) {
        self.state.borrow_mut().stdio = StdioKind::Calls;
    }

    /// What guests without streams were told of.
    pub fn adopted(&self) -> Vec<agent::Adopt> {
        self.state.borrow().adopted.clone()
    }

    /// The VMM dies of itself.
    pub fn crash(&self, uid: SandboxUid) {
        let parent = {
            let mut state = self.state.borrow_mut();
            state.vms.remove(&uid);
            state.hypervisors.get(&uid).cloned()
        };
        if let Some(parent) = parent.and_then(|parent| parent.notices.upgrade()) {
            let exit = VmExit::Crashed {
                status: "signal 9".to_owned(),
                stderr: String::new(),
            };
            parent.do_send(hypervisor::Notice::VmExited(exit));
        }
    }

    /// The room of its VM panics.
    pub fn panic_hypervisor_room(&self, uid: SandboxUid) {
        let parent = self.state.borrow().hypervisors.get(&uid).cloned();
        if let Some(parent) = parent.and_then(|parent| parent.gone.upgrade()) {
            parent.do_send(hypervisor::RoomGone(Gone::Panicked));
        }
    }

    /// The room of its agent panics.
    pub fn panic_agent_room(&self, uid: SandboxUid) {
        let parent = self.state.borrow().agents.get(&uid).cloned();
        if let Some(parent) = parent.and_then(|parent| parent.gone.upgrade()) {
            parent.do_send(agent::RoomGone(Gone::Panicked));
        }
    }

    /// Its agent is given up on.
    pub fn lose_agent(&self, uid: SandboxUid) {
        let parent = self.state.borrow().agents.get(&uid).cloned();
        if let Some(parent) = parent.and_then(|parent| parent.notices.upgrade()) {
            let why = CoreFault::new(Kind::Unavailable, "nobody answers");
            parent.do_send(agent::Notice::Lost { why });
        }
    }

    /// virtiofsd is seen to have ended.
    pub fn lose_share(&self, uid: SandboxUid) {
        let parent = self.state.borrow().devices.get(&uid).cloned();
        if let Some(parent) = parent.and_then(|parent| parent.notices.upgrade()) {
            let why = CoreFault::new(Kind::Aborted, "virtiofsd ended");
            parent.do_send(devices::Notice::ShareLost { why });
        }
    }

    /// The relays that were told that their container goes, with their exit codes.
    pub fn before_panic(&self, act: impl FnOnce() + 'static) {
        self.state.borrow_mut().before_panic = Some(Box::new(act));
    }

    pub fn dismissed(&self) -> Vec<(HostProcess, u8)> {
        self.state.borrow().dismissed.clone()
    }

    pub fn relay_dies(&self, pid: u32) {
        self.state.borrow_mut().dead_relays.insert(pid);
        self.relays.notify_waiters();
    }

    /// One effect: it takes its time, then happens or fails.
    fn effect<T: 'static>(
        &self,
        fault: Fault,
        happen: impl FnOnce(&mut State) -> Result<T, CoreFault> + 'static,
    ) -> Work<Result<T, CoreFault>> {
        let world = self.clone();
        Box::pin(async move {
            let slower = world.state.borrow().slower;
            let slow = world.state.borrow().slow.get(&fault).copied();
            pass(STEP + slower + slow.unwrap_or_default()).await;
            world.lives().await;
            world.check(fault)?;
            if world.state.borrow().unheard.contains(&fault) {
                return Err(broken_link());
            }
            world.state.borrow_mut().carried_out.push(fault);
            let done = happen(&mut world.state.borrow_mut());
            if world.state.borrow().unanswered.contains(&fault) {
                return Err(broken_link());
            }
            done
        })
    }
}

impl Premises for World {
    fn prepare(&self, spec: PremisesSpec) -> Work<Result<(), CoreFault>> {
        self.effect(Fault::Prepare, move |state| {
            state.premises.insert(spec.uid);
            Ok(())
        })
    }

    fn lodge(&self, _: SandboxUid, _: Cgroup) -> Work<Result<(), CoreFault>> {
        Box::pin(async { Ok(()) })
    }

    fn vacate(&self, _: SandboxUid, _: Cgroup) -> Work<Result<(), CoreFault>> {
        self.effect(Fault::Vacate, |_| Ok(()))
    }

    fn clear(&self, spec: PremisesSpec) -> Work<Result<(), CoreFault>> {
        let left = self.state.borrow().panics_at_clear;
        if left > 0 {
            self.state.borrow_mut().panics_at_clear = left - 1;
            let before = self.state.borrow_mut().before_panic.take();
            if let Some(act) = before {
                act();
            }
            return Box::pin(async { panic!("a test wants this panic") });
        }
        self.effect(Fault::Clear, move |state| {
            state.premises.remove(&spec.uid);
            state.vms.remove(&spec.uid);
            Ok(())
        })
    }

    fn evict(&self, uid: SandboxUid, others: BTreeSet<SandboxUid>) -> Work<Result<(), CoreFault>> {
        assert!(!others.contains(&uid), "it is no other");
        self.effect(Fault::Clear, move |state| {
            state.premises.remove(&uid);
            state.vms.remove(&uid);
            // Both are below the folder, or in the cgroups.
            state.networks.remove(&uid);
            state.shares.remove(&uid);
            Ok(())
        })
    }

    fn run_hook(&self, run: HookRun) -> Work<Result<(), CoreFault>> {
        let name = run.hook.name.clone();
        let fault = match name.as_str() {
            "prestart" => Fault::Prestart,
            _ => Fault::LaterHook,
        };
        self.state.borrow_mut().hooks.push(run);
        self.effect(fault, |_| Ok(()))
    }

    fn spent(&self, _: Cgroup) -> Work<Result<Spent, CoreFault>> {
        Box::pin(async { Ok(SPENT) })
    }

    fn spent_by(&self, processes: Vec<HostProcess>) -> Work<Result<Spent, CoreFault>> {
        let count = processes.len() as u64;
        Box::pin(async move {
            Ok(Spent {
                cpu_usec: SPENT.cpu_usec * count,
                memory_bytes: SPENT.memory_bytes * count,
                processes: SPENT.processes * count as u32,
            })
        })
    }

    fn ended(&self, process: HostProcess) -> Work<()> {
        let world = self.clone();
        Box::pin(async move {
            loop {
                let notified = world.relays.notified();
                if world.state.borrow().dead_relays.contains(&process.pid) {
                    return;
                }
                notified.await;
            }
        })
    }

    fn dismiss(&self, relay: HostProcess, code: u8) -> Work<Result<(), CoreFault>> {
        self.state.borrow_mut().dismissed.push((relay, code));
        Box::pin(async { Ok(()) })
    }

    fn kill(&self, _: HostProcess) -> Work<Result<(), CoreFault>> {
        Box::pin(async { Ok(()) })
    }
}

struct Room {
    world: World,
    uid: SandboxUid,
    kind: &'static str,
}

impl Room {
    fn open(world: World, uid: SandboxUid, kind: &'static str) -> Addr<Self> {
        {
            let mut state = world.state.borrow_mut();
            let alive = state.rooms.entry((kind, uid, world.daemon)).or_default();
            *alive += 1;
            if *alive > 1 {
                state.doubles.push(kind);
            }
        }
        Self { world, uid, kind }.start()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.world.state.borrow_mut();
        let key = (self.kind, self.uid, self.world.daemon);
        *state.rooms.get_mut(&key).expect("it was opened") -= 1;
    }
}

impl Actor for Room {
    type Context = Context<Self>;
}

impl Rooms for World {
    fn hypervisor(
        &self,
        uid: SandboxUid,
        leased: BTreeSet<u32>,
        parent: hypervisor::Parent,
    ) -> Work<Result<hypervisor::Address, CoreFault>> {
        let mut state = self.state.borrow_mut();
        state.hypervisors.insert(uid, parent);
        // A room knows no more of it than it is told.
        if let Some(vm) = state.vms.get_mut(&uid) {
            vm.leased = leased;
        }
        drop(state);
        self.room(uid, "hypervisor")
    }

    fn agent(
        &self,
        uid: SandboxUid,
        parent: agent::Parent,
    ) -> Work<Result<agent::Address, CoreFault>> {
        self.state.borrow_mut().agents.insert(uid, parent);
        self.room(uid, "agent")
    }

    fn devices(
        &self,
        uid: SandboxUid,
        parent: devices::Parent,
    ) -> Work<Result<devices::Address, CoreFault>> {
        self.state.borrow_mut().devices.insert(uid, parent);
        self.room(uid, "devices")
    }

    fn network(
        &self,
        uid: SandboxUid,
        _: network::Parent,
    ) -> Work<Result<network::Address, CoreFault>> {
        self.room(uid, "network")
    }
}

impl World {
    fn room<A: From<Addr<Room>> + 'static>(
        &self,
        uid: SandboxUid,
        kind: &'static str,
    ) -> Work<Result<A, CoreFault>> {
        let world = self.clone();
        Box::pin(async move {
            let slow = world.state.borrow().slow.get(&Fault::Rooms).copied();
            if let Some(slow) = slow {
                pass(slow).await;
            }
            world.check(Fault::Rooms)?;
            Ok(A::from(Room::open(world, uid, kind)))
        })
    }
}

impl Handler<agent::Adopt> for Room {
    type Result = ();

    fn handle(&mut self, adopt: agent::Adopt, _: &mut Context<Self>) {
        self.world.state.borrow_mut().adopted.push(adopt);
    }
}

/// A handler whose effect is one change of the world.
macro_rules! scripted {
    ($message:ty, $answer:ty, $fault:expr, |$room:ident, $command:ident, $state:ident| $body:expr) => {
        impl Handler<$message> for Room {
            type Result = ResponseFuture<Result<$answer, CoreFault>>;

            fn handle(&mut self, $command: $message, _: &mut Context<Self>) -> Self::Result {
                let $room = self.uid;
                let _ = $room;
                self.world.effect($fault, move |$state: &mut State| {
                    let _ = &$command;
                    $body
                })
            }
        }
    };
}

/// What this guest says to every call that may be warned of.
pub fn warned(call: &str) -> agent::Warnings {
    vec![format!("{call}: not everything is honoured")]
}

fn broken_link() -> CoreFault {
    CoreFault::new(Kind::Unavailable, "the link broke")
}

fn lost() -> CoreFault {
    CoreFault::new(Kind::Unavailable, "the vm is gone")
}

fn status() -> VmStatus {
    VmStatus {
        vmm: HostProcess {
            pid: 77,
            start_time: 1,
        },
        control: HostEndpoint::Socket("/control.sock".into()),
    }
}

scripted!(
    hypervisor::Launch,
    VmStatus,
    Fault::Launch,
    |uid, command, state| {
        state.vms.insert(uid, Vm::default());
        Ok(status())
    }
);
scripted!(
    hypervisor::LeaseStream,
    StreamLease,
    Fault::Lease,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid).ok_or_else(lost)?;
        let free = (1..).find(|number| !vm.leased.contains(number));
        let number = free.expect("there is no end of numbers");
        vm.leased.insert(number);
        Ok(StreamLease {
            number,
            guest: match state.stdio {
                StdioKind::Ports => GuestEndpoint::SerialPort(format!("hutch.stream.{number}")),
                StdioKind::Calls => GuestEndpoint::Calls(format!("/p{number}.sock").into()),
            },
            host: HostEndpoint::Socket(format!("/p{number}.sock").into()),
        })
    }
);
scripted!(
    hypervisor::ReturnStream,
    (),
    Fault::Lease,
    |uid, command, state| {
        if let Some(vm) = state.vms.get_mut(&uid) {
            vm.leased.remove(&command.number);
        }
        Ok(())
    }
);
scripted!(
    hypervisor::AttachBlock,
    (),
    Fault::Plug,
    |uid, command, state| {
        let _ = state;
        Ok(())
    }
);
scripted!(
    hypervisor::DetachBlock,
    (),
    Fault::Plug,
    |uid, command, state| {
        let _ = state;
        Ok(())
    }
);

scripted!(
    hypervisor::Pause,
    (),
    Fault::Pause,
    |uid, command, state| {
        state.vms.get_mut(&uid).ok_or_else(lost)?.paused = true;
        Ok(())
    }
);
scripted!(
    hypervisor::Resume,
    (),
    Fault::Resume,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid);
        let vm = vm.ok_or_else(|| CoreFault::new(Kind::Denied, "no vm runs"))?;
        if state.pausing > 0 {
            state.pausing -= 1;
            let why = "the vm is being paused or resumed";
            return Err(CoreFault::new(Kind::Denied, why));
        }
        vm.paused = false;
        Ok(())
    }
);

impl Handler<agent::Close> for Room {
    type Result = ();

    fn handle(&mut self, _: agent::Close, _: &mut Context<Self>) {}
}

scripted!(agent::SetClock, (), Fault::Greet, |uid, command, state| {
    state.vms.get_mut(&uid).ok_or_else(lost)?.clock = command.now;
    Ok(())
});

scripted!(hypervisor::Stop, (), Fault::Stop, |uid, command, state| {
    state.vms.remove(&uid);
    Ok(())
});

impl Handler<hypervisor::GetStatus> for Room {
    type Result = MessageResult<hypervisor::GetStatus>;

    fn handle(&mut self, _: hypervisor::GetStatus, _: &mut Context<Self>) -> Self::Result {
        let lives = self.world.state.borrow().vms.contains_key(&self.uid);
        MessageResult(lives.then(status))
    }
}

impl Handler<agent::Open> for Room {
    type Result = ResponseFuture<Result<agent::AgentDetails, CoreFault>>;

    fn handle(&mut self, _: agent::Open, _: &mut Context<Self>) -> Self::Result {
        let (world, uid) = (self.world.clone(), self.uid);
        Box::pin(async move {
            pass(STEP).await;
            world.lives().await;
            world.check(Fault::Open)?;
            let (untold, parent) = {
                let state = world.state.borrow();
                let vm = state.vms.get(&uid).ok_or_else(lost)?;
                let confirmed = state.confirmed.iter().copied().max().unwrap_or(0);
                let untold: Vec<_> = vm
                    .exits
                    .iter()
                    .filter(|e| e.seq > confirmed)
                    .cloned()
                    .collect();
                (untold, state.agents.get(&uid).cloned())
            };
            let parent = parent.and_then(|parent| parent.notices.upgrade());
            if let Some(parent) = parent {
                for exit in untold {
                    parent.do_send(agent::Notice::News(GuestNews::Exited(exit)));
                }
            }
            Ok(agent::AgentDetails {
                version: "1".to_owned(),
                speaks_hutch: true,
                places_execs: true,
                supports_seccomp: true,
            })
        })
    }
}

scripted!(
    agent::CreateSandbox,
    (),
    Fault::Greet,
    |uid, command, state| state.vms.get(&uid).map(drop).ok_or_else(lost)
);
scripted!(
    agent::CreateContainer,
    agent::Warnings,
    Fault::Create,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid).ok_or_else(lost)?;
        vm.processes
            .insert((command.container, ProcessId::Init), false);
        Ok(warned("create"))
    }
);
scripted!(
    agent::StartContainer,
    (),
    Fault::Start,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid).ok_or_else(lost)?;
        vm.processes
            .insert((command.container, ProcessId::Init), true);
        *state.starts.entry(ProcessId::Init).or_default() += 1;
        Ok(())
    }
);
scripted!(
    agent::Exec,
    agent::Warnings,
    Fault::Exec,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid).ok_or_else(lost)?;
        vm.processes
            .insert((command.container, command.process.clone()), true);
        *state.starts.entry(command.process.clone()).or_default() += 1;
        Ok(warned("exec"))
    }
);
scripted!(
    agent::RemoveContainer,
    (),
    Fault::Remove,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid).ok_or_else(lost)?;
        vm.processes
            .retain(|(container, _), _| *container != command.container);
        Ok(())
    }
);
scripted!(
    agent::RemoveEmpty,
    bool,
    Fault::RemoveEmpty,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid).ok_or_else(lost)?;
        let lives =
            |((container, _), runs): (&(_, _), &bool)| *container == command.container && *runs;
        let empty = !vm.processes.iter().any(lives);
        if empty {
            vm.processes
                .retain(|(container, _), _| *container != command.container);
        }
        Ok(empty)
    }
);
scripted!(
    agent::ListProcesses,
    Vec<agent::GuestProcess>,
    Fault::List,
    |uid, command, state| {
        let vm = state.vms.get(&uid).ok_or_else(lost)?;
        let list = vm
            .processes
            .iter()
            .map(|((container, process), running)| agent::GuestProcess {
                container: *container,
                process: process.clone(),
                state: match running {
                    true => agent::GuestProcessState::Running,
                    false => agent::GuestProcessState::Created,
                },
            });
        let making = state.making.iter().map(|process| agent::GuestProcess {
            container: ContainerNumber(0),
            process: process.clone(),
            state: agent::GuestProcessState::Making,
        });
        Ok(list.chain(making).collect())
    }
);
scripted!(
    agent::GetPids,
    Vec<agent::GuestPid>,
    Fault::Create,
    |uid, command, state| {
        let _ = state;
        Ok(Vec::new())
    }
);

impl Handler<agent::Signal> for Room {
    type Result = ResponseFuture<Result<(), CoreFault>>;

    fn handle(&mut self, signal: agent::Signal, _: &mut Context<Self>) -> Self::Result {
        let process = match signal.target {
            agent::SignalTarget::Process(process) => process,
            agent::SignalTarget::All => ProcessId::Init,
        };
        let (world, uid) = (self.world.clone(), self.uid);
        Box::pin(async move {
            pass(STEP).await;
            world.lives().await;
            if world.is_paused(uid) {
                return Err(CoreFault::new(Kind::Unavailable, "the link was cut"));
            }
            if let Some(once) = signal.once
                && !world.state.borrow_mut().delivered.insert(once.key)
            {
                return Ok(());
            }
            world
                .state
                .borrow_mut()
                .signals
                .push((process.clone(), signal.signal));
            if signal.signal == 9 && !world.state.borrow().dies_late {
                world.exit(uid, process, 137);
            }
            Ok(())
        })
    }
}

scripted!(
    agent::PauseContainer,
    (),
    Fault::Freeze,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid).ok_or_else(lost)?;
        vm.frozen.insert(command.container);
        Ok(())
    }
);
scripted!(
    agent::ResumeContainer,
    (),
    Fault::Thaw,
    |uid, command, state| {
        let vm = state.vms.get_mut(&uid).ok_or_else(lost)?;
        vm.frozen.remove(&command.container);
        Ok(())
    }
);
scripted!(
    agent::UpdateContainer,
    agent::Warnings,
    Fault::Update,
    |uid, command, state| state
        .vms
        .get(&uid)
        .map(|_| warned("update"))
        .ok_or_else(lost)
);
scripted!(
    agent::GetStats,
    agent::ContainerStats,
    Fault::Update,
    |uid, command, state| {
        let vm = state.vms.get(&uid).ok_or_else(lost)?;
        let processes = vm.processes.keys();
        let living = processes.filter(|(of, _)| *of == command.container).count();
        let mut stats = agent::ContainerStats::default();
        stats.pids.current = u64::try_from(living).unwrap();
        Ok(stats)
    }
);

impl Handler<agent::NewsRecorded> for Room {
    type Result = ();

    fn handle(&mut self, agent::NewsRecorded { seq }: agent::NewsRecorded, _: &mut Context<Self>) {
        self.world.state.borrow_mut().confirmed.push(seq);
    }
}

scripted!(
    devices::OpenShare,
    devices::Share,
    Fault::OpenShare,
    |uid, command, state| {
        state.shares.insert(uid);
        Ok(devices::Share {
            socket: "/virtiofs.sock".into(),
        })
    }
);
scripted!(
    devices::Attach,
    devices::Attached,
    Fault::Attach,
    |uid, command, state| {
        Ok(devices::Attached {
            rootfs: agent::GuestRootfs::Share("0/rootfs".to_owned()),
            mounts: Vec::new(),
            hook_programs: Vec::new(),
            disks: Vec::new(),
            devices: Vec::new(),
            blocks: state.blocks.clone(),
        })
    }
);
scripted!(devices::Detach, (), Fault::Detach, |uid, command, state| {
    let _ = state;
    Ok(())
});
scripted!(
    network::Connect,
    network::NetworkStatus,
    Fault::Connect,
    |uid, command, state| {
        state.networks.insert(uid);
        Ok(network::NetworkStatus {
            netns: "/netns".into(),
        })
    }
);

scripted!(
    devices::Release,
    (),
    Fault::Release,
    |uid, command, state| {
        state.shares.remove(&uid);
        Ok(())
    }
);

scripted!(
    network::Disconnect,
    (),
    Fault::Disconnect,
    |uid, command, state| {
        state.networks.remove(&uid);
        Ok(())
    }
);
