//! The ports of one daemon of a simulated world: each call goes through its [`Life`] to the fake
//! below. They decide nothing.

use super::fate::{ANY, Life, SOUND};
use agent_client::{
    call::Call,
    fake::{FakeAgent, FakeGuest, Trouble as GuestTrouble},
    port::{AgentPort, Answer, Signs},
};
use devices::{Shares, plan::Survey, steps::Bind};
use host::fake::FakePremises;
use hypervisor::{
    error::{Error as VmmError, QmpError},
    fake::FakeVmm,
    port::{Exit, LaunchPlan, Vmm},
};
use netns::{fake::FakeNamespaces, port::Namespaces};
use runtime_core::{
    agent::{
        Adopt, AgentDetails, ContainerStats, CreateContainer, CreateSandbox, Exec, GetPids,
        GetStats, GuestNews, GuestPid, GuestProcess, LinkSpec, ListProcesses, PauseContainer,
        RemoveContainer, RemoveEmpty, ResumeContainer, SetClock, Signal, StartContainer,
        UpdateContainer, Warnings,
    },
    devices::{ContainerDevices, ShareSpec},
    error::{Fault, Kind},
    hypervisor::BlockSpec,
    ids::{HostProcess, SandboxUid},
    kit::Work,
    premises::{Cgroup, HookRun, Premises, PremisesSpec, Spent},
    records::{Change, Rows},
};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    future::ready,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use store::{Disk, Durability, Figures, fake::FakeDisk};
use tokio::sync::oneshot;

fn failing<T: 'static>(value: T) -> Work<T> {
    Box::pin(ready(value))
}

fn as_wished() -> io::Error {
    io::Error::other("as the weather wished")
}

fn fault() -> Fault {
    Fault::new(Kind::Internal, "as the weather wished")
}

pub struct SimVmm {
    pub life: Rc<Life>,
    pub vmm: FakeVmm,
}

impl SimVmm {
    fn qmp(
        &self,
        verb: &'static str,
        uid: SandboxUid,
        work: impl FnOnce() -> Work<Result<(), VmmError>>,
    ) -> Work<Result<(), VmmError>> {
        let source = QmpError::Refused {
            command: verb,
            reason: "as the weather wished".to_owned(),
        };
        let name = format!("vmm {verb} {uid}");
        let failed = move || failing(Err(VmmError::Qmp { verb, source }));
        self.life.call(name, ANY, work, failed)
    }
}

impl Vmm for SimVmm {
    fn spawn(&self, plan: LaunchPlan) -> Work<Result<HostProcess, VmmError>> {
        let failed = || {
            failing(Err(VmmError::Spawn {
                binary: "fake".into(),
                source: as_wished(),
            }))
        };
        let name = format!("vmm spawn {}", plan.spec.uid);
        self.life.call(name, ANY, || self.vmm.spawn(plan), failed)
    }

    fn connect(&self, uid: SandboxUid) -> Work<Result<(), VmmError>> {
        self.qmp("connect", uid, || self.vmm.connect(uid))
    }

    fn find(
        &self,
        plan: LaunchPlan,
        recorded: Option<HostProcess>,
    ) -> Work<Result<Option<HostProcess>, VmmError>> {
        let path = PathBuf::from(&plan.spec.cgroup.0);
        let failed = || {
            failing(Err(VmmError::Open {
                what: "cgroup",
                path,
                source: as_wished(),
            }))
        };
        let name = format!("vmm find {} {recorded:?}", plan.spec.uid);
        let work = || self.vmm.find(plan, recorded);
        self.life.call(name, ANY, work, failed)
    }

    fn ended(&self, uid: SandboxUid) -> Work<Exit> {
        let watch = || self.vmm.ended(uid);
        let name = format!("vmm watch {uid}");
        self.life.call(name, SOUND, watch, watch)
    }

    fn kill(&self, uid: SandboxUid) -> Work<Result<(), VmmError>> {
        self.qmp("kill", uid, || self.vmm.kill(uid))
    }

    fn forget(&self, uid: SandboxUid) {
        self.vmm.forget(uid);
    }

    fn add_stream(&self, uid: SandboxUid, number: u32) -> Work<Result<(), VmmError>> {
        self.qmp("add stream", uid, || self.vmm.add_stream(uid, number))
    }

    fn attach_block(
        &self,
        uid: SandboxUid,
        slot: u32,
        block: BlockSpec,
    ) -> Work<Result<(), VmmError>> {
        let work = || self.vmm.attach_block(uid, slot, block);
        self.qmp("plug block", uid, work)
    }

    fn detach_block(&self, uid: SandboxUid, serial: String) -> Work<Result<(), VmmError>> {
        self.qmp("unplug block", uid, || self.vmm.detach_block(uid, serial))
    }

    fn pause(&self, uid: SandboxUid) -> Work<Result<(), VmmError>> {
        self.qmp("pause", uid, || self.vmm.pause(uid))
    }

    fn resume(&self, uid: SandboxUid) -> Work<Result<(), VmmError>> {
        self.qmp("resume", uid, || self.vmm.resume(uid))
    }
}

/// Where a call fails, its link does: before it was carried out or after, as the uid has it.
pub struct SimAgent {
    pub life: Rc<Life>,
    pub uid: SandboxUid,
    pub guest: FakeGuest,
    pub agent: FakeAgent,
}

impl SimAgent {
    fn call<T: 'static>(&self, call: Call, work: impl Fn() -> Answer<T>) -> Answer<T> {
        let name = format!("agent {call} {}", self.uid);
        let failed = || {
            let calls = self.life.fates.calls();
            let trouble = match calls % 4 {
                0 => GuestTrouble::CutBefore,
                1 => GuestTrouble::CutAfter,
                2 => GuestTrouble::Lost,
                _ => GuestTrouble::Refused(Kind::Internal),
            };
            self.guest.trouble(call, trouble);
            work()
        };
        self.life.call(name, ANY, &work, failed)
    }

    fn plain<T: 'static>(&self, name: &str, work: impl Fn() -> Answer<T>) -> Answer<T> {
        let name = format!("agent {name} {}", self.uid);
        let failed = || {
            self.guest.cut();
            work()
        };
        self.life.call(name, ANY, &work, failed)
    }
}

impl AgentPort for SimAgent {
    fn dial(&self, link: LinkSpec, deadline: Duration) -> Answer<AgentDetails> {
        let dial = || self.agent.dial(link.clone(), deadline);
        let failed = || {
            self.guest.refuse_dials(2);
            dial()
        };
        let name = format!("agent dial {}", self.uid);
        self.life.call(name, ANY, dial, failed)
    }

    fn hung_up(&self) -> Work<()> {
        let watch = || self.agent.hung_up();
        let name = format!("agent watch {}", self.uid);
        self.life.call(name, SOUND, watch, watch)
    }

    /// What a dead process had open is closed by its kernel.
    fn hang_up(&self) {
        self.agent.hang_up();
    }

    fn create_sandbox(&self, ask: CreateSandbox, deadline: Duration) -> Answer<()> {
        self.call(Call::CreateSandbox, || {
            self.agent.create_sandbox(ask.clone(), deadline)
        })
    }

    /// The guests of stories know what is in them.
    fn adopt(&self, ask: Adopt) {
        self.agent.adopt(ask);
    }

    fn set_clock(&self, ask: SetClock, deadline: Duration) -> Answer<()> {
        self.call(Call::SetClock, || {
            self.agent.set_clock(ask.clone(), deadline)
        })
    }

    fn create_container(&self, ask: CreateContainer, deadline: Duration) -> Answer<Warnings> {
        self.call(Call::CreateContainer, || {
            self.agent.create_container(ask.clone(), deadline)
        })
    }

    fn start_container(&self, ask: StartContainer, deadline: Duration) -> Answer<()> {
        self.call(Call::StartContainer, || {
            self.agent.start_container(ask.clone(), deadline)
        })
    }

    fn exec(&self, ask: Exec, deadline: Duration) -> Answer<Warnings> {
        self.call(Call::Exec, || self.agent.exec(ask.clone(), deadline))
    }

    fn signal(&self, ask: Signal, deadline: Duration) -> Answer<()> {
        self.call(Call::Signal, || self.agent.signal(ask.clone(), deadline))
    }

    fn remove_container(&self, ask: RemoveContainer, deadline: Duration) -> Answer<()> {
        self.call(Call::RemoveContainer, || {
            self.agent.remove_container(ask.clone(), deadline)
        })
    }

    fn remove_empty(&self, ask: RemoveEmpty, deadline: Duration) -> Answer<bool> {
        self.call(Call::RemoveEmpty, || {
            self.agent.remove_empty(ask.clone(), deadline)
        })
    }

    fn pause_container(&self, ask: PauseContainer, deadline: Duration) -> Answer<()> {
        self.call(Call::PauseContainer, || {
            self.agent.pause_container(ask.clone(), deadline)
        })
    }

    fn resume_container(&self, ask: ResumeContainer, deadline: Duration) -> Answer<()> {
        self.call(Call::ResumeContainer, || {
            self.agent.resume_container(ask.clone(), deadline)
        })
    }

    fn update_container(&self, ask: UpdateContainer, deadline: Duration) -> Answer<Warnings> {
        self.call(Call::UpdateContainer, || {
            self.agent.update_container(ask.clone(), deadline)
        })
    }

    fn stats(&self, ask: GetStats, deadline: Duration) -> Answer<ContainerStats> {
        self.call(Call::Stats, || self.agent.stats(ask.clone(), deadline))
    }

    fn list(&self, ask: ListProcesses, deadline: Duration) -> Answer<Vec<GuestProcess>> {
        self.call(Call::List, || self.agent.list(ask.clone(), deadline))
    }

    fn pids(&self, ask: GetPids, deadline: Duration) -> Answer<Vec<GuestPid>> {
        self.call(Call::Pids, || self.agent.pids(ask.clone(), deadline))
    }

    fn next_news(&self, after: u64, wait: Duration, deadline: Duration) -> Answer<Vec<GuestNews>> {
        let name = format!("next exits after {after}");
        self.plain(&name, || self.agent.next_news(after, wait, deadline))
    }

    fn ack_news(&self, up_to: u64, deadline: Duration) -> Answer<()> {
        let name = format!("ack exits up to {up_to}");
        self.plain(&name, || self.agent.ack_news(up_to, deadline))
    }
}

pub struct SimSigns {
    pub life: Rc<Life>,
    pub guest: FakeGuest,
}

impl Signs for SimSigns {
    fn console_bytes(&self) -> Work<u64> {
        let look = || self.guest.console_bytes();
        self.life.call("signs".to_owned(), SOUND, look, look)
    }
}

pub struct SimShares<S> {
    pub life: Rc<Life>,
    pub shares: S,
}

impl<S: Shares> SimShares<S> {
    fn call<T: 'static>(
        &self,
        name: String,
        work: impl FnOnce() -> Work<Result<T, devices::Error>>,
    ) -> Work<Result<T, devices::Error>> {
        let failed = || {
            failing(Err(devices::Error::Path {
                step: "touch",
                path: "/fake".into(),
                source: as_wished(),
            }))
        };
        self.life.call(name, ANY, work, failed)
    }
}

impl<S: Shares> Shares for SimShares<S> {
    fn open(&self, spec: ShareSpec) -> Work<Result<HostProcess, devices::Error>> {
        let name = format!("share open {}", spec.uid);
        self.call(name, || self.shares.open(spec))
    }

    fn survey(&self, devices: ContainerDevices) -> Work<Result<Survey, devices::Error>> {
        let name = format!("share survey {}", devices.container);
        self.call(name, || self.shares.survey(devices))
    }

    fn bind(&self, binds: Vec<Bind>) -> Work<Result<(), devices::Error>> {
        let name = format!("share bind {}", places(&binds));
        self.call(name, || self.shares.bind(binds))
    }

    fn follow(&self, copies: Bind) -> Work<Result<(), devices::Error>> {
        let name = format!("share follow {}", copies.place);
        self.call(name, || self.shares.follow(copies))
    }

    fn unbind(&self, binds: Vec<Bind>) -> Work<Result<(), devices::Error>> {
        let name = format!("share unbind {}", places(&binds));
        self.call(name, || self.shares.unbind(binds))
    }

    fn close(
        &self,
        spec: ShareSpec,
        virtiofsd: Option<HostProcess>,
    ) -> Work<Result<(), devices::Error>> {
        let name = format!("share close {}", spec.uid);
        self.call(name, || self.shares.close(spec, virtiofsd))
    }

    fn ended(&self, spec: ShareSpec, virtiofsd: HostProcess) -> Work<String> {
        let watch = || self.shares.ended(spec.clone(), virtiofsd);
        let name = format!("share watch {}", spec.uid);
        self.life.call(name, SOUND, watch, watch)
    }
}

fn places(binds: &[Bind]) -> String {
    let places: Vec<_> = binds.iter().map(|bind| bind.place.as_str()).collect();
    places.join(" ")
}

/// A namespace is kept by a mount, which the premises know of.
pub struct SimNamespaces {
    pub life: Rc<Life>,
    pub namespaces: FakeNamespaces,
    pub premises: FakePremises,
    /// One call after another, however slow one is, as the port promises.
    pub last: RefCell<Option<oneshot::Receiver<()>>>,
}

impl SimNamespaces {
    fn call(
        &self,
        name: &str,
        path: &Path,
        work: impl FnOnce() -> Work<Result<(), netns::error::Error>>,
    ) -> Work<Result<(), netns::error::Error>> {
        let failed = || {
            failing(Err(netns::error::Error::Unshare {
                path: path.to_owned(),
                source: as_wished(),
            }))
        };
        let name = format!("netns {name} {}", path.display());
        let (over, next) = oneshot::channel::<()>();
        let before = self.last.replace(Some(next));
        let work = self.life.call(name, ANY, work, failed);
        Box::pin(async move {
            let _over = over;
            if let Some(before) = before {
                // Nothing is sent: it ends when the call before does.
                let _ = before.await;
            }
            work.await
        })
    }
}

impl Namespaces for SimNamespaces {
    fn make(&self, path: PathBuf) -> Work<Result<(), netns::error::Error>> {
        let premises = self.premises.clone();
        self.call("make", &path, || {
            let (made, point) = (self.namespaces.make(path.clone()), path.clone());
            Box::pin(async move {
                made.await?;
                premises.mount(point);
                Ok(())
            })
        })
    }

    fn remove(&self, path: PathBuf) -> Work<Result<(), netns::error::Error>> {
        let premises = self.premises.clone();
        self.call("remove", &path, || {
            let (removed, point) = (self.namespaces.remove(path.clone()), path.clone());
            Box::pin(async move {
                removed.await?;
                premises.unmount(&point);
                Ok(())
            })
        })
    }

    fn check(&self, path: PathBuf) -> Work<Result<(), netns::error::Error>> {
        self.call("check", &path, || self.namespaces.check(path.clone()))
    }
}

pub struct SimPremises {
    pub life: Rc<Life>,
    pub premises: FakePremises,
}

impl Premises for SimPremises {
    fn prepare(&self, spec: PremisesSpec) -> Work<Result<(), Fault>> {
        let name = format!("premises prepare {}", spec.uid);
        let work = || self.premises.prepare(spec);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn lodge(&self, uid: SandboxUid, cgroup: Cgroup) -> Work<Result<(), Fault>> {
        let name = format!("premises lodge {uid}");
        let work = || self.premises.lodge(uid, cgroup);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn vacate(&self, uid: SandboxUid, cgroup: Cgroup) -> Work<Result<(), Fault>> {
        let name = format!("premises vacate {uid}");
        let work = || self.premises.vacate(uid, cgroup);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn clear(&self, spec: PremisesSpec) -> Work<Result<(), Fault>> {
        let name = format!("premises clear {}", spec.uid);
        let work = || self.premises.clear(spec);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn evict(&self, uid: SandboxUid, others: BTreeSet<SandboxUid>) -> Work<Result<(), Fault>> {
        let name = format!("premises evict {uid}");
        let work = || self.premises.evict(uid, others);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn run_hook(&self, run: HookRun) -> Work<Result<(), Fault>> {
        let name = format!("premises hook {}", run.hook.name);
        self.premises.note_hook(&run);
        let work = || self.premises.run_hook(run);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn spent(&self, cgroup: Cgroup) -> Work<Result<Spent, Fault>> {
        let name = format!("premises spent {}", cgroup.0);
        let work = || self.premises.spent(cgroup);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn spent_by(&self, processes: Vec<HostProcess>) -> Work<Result<Spent, Fault>> {
        let name = format!("premises spent by {}", processes.len());
        let work = || self.premises.spent_by(processes);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn ended(&self, process: HostProcess) -> Work<()> {
        let watch = || self.premises.ended(process);
        let name = format!("premises watch {process}");
        self.life.call(name, SOUND, watch, watch)
    }

    fn dismiss(&self, relay: HostProcess, code: u8) -> Work<Result<(), Fault>> {
        let name = format!("premises dismiss {relay}");
        let work = || self.premises.dismiss(relay, code);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }

    fn kill(&self, process: HostProcess) -> Work<Result<(), Fault>> {
        let name = format!("premises kill {process}");
        let work = || self.premises.kill(process);
        self.life.call(name, ANY, work, || failing(Err(fault())))
    }
}

pub struct SimDisk {
    pub life: Rc<Life>,
    pub disk: FakeDisk,
}

impl Disk for SimDisk {
    fn write(
        &self,
        changes: Arc<[Change]>,
        durability: Durability,
    ) -> Work<Result<(), store::Error>> {
        let keys = changes.iter().map(|change| match change {
            Change::Put { key, .. } => format!("+{key}"),
            Change::Delete { key } => format!("-{key}"),
        });
        let name = format!("disk write {}", keys.collect::<Vec<_>>().join(" "));
        let work = || self.disk.write(changes, durability);
        let failed = || {
            self.disk.break_down();
            failing(Err(store::Error::FakeBroken))
        };
        self.life.call(name, ANY, work, failed)
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, store::Error>> {
        let name = format!("disk scan {prefix}");
        let failed = || failing(Err(store::Error::FakeBroken));
        let work = || self.disk.scan(prefix);
        self.life.call(name, ANY, work, failed)
    }

    fn figures(&self) -> Figures {
        self.disk.figures()
    }
}
