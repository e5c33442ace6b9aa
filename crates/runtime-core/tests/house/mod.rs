//! A host room with real sandboxes, containers and processes above scripted rooms and a store in
//! memory: what a test feeds and asks.

#![allow(dead_code, unused_imports)] // Each test file uses its own part.

mod rooms;

pub use rooms::{Fault as Break, World, warned};

use actix::prelude::*;
use runtime_core::{
    agent::{Program, Warnings},
    clock::Clock,
    container::{
        ContainerSpec, ContainerState, ContainerView, Exec, Force, HostHooks, ProcessCommand, Start,
    },
    devices::{ContainerDevices, ShareSpec},
    error::Fault,
    host::{
        self, CreateContainer, CreateSandbox, DeleteSandbox, Find, FindSandbox, HostActor, Located,
        LocatedSandbox, RootKind, SandboxWish, ViewSandbox, Wish,
    },
    hypervisor::{Accelerator, ChannelKind, MachineType, StdioKind, VmSpec},
    ids::{
        ContainerId, ContainerNumber, EpochMs, ExecId, HostProcess, Namespace, ProcessId,
        RequestKey, SandboxId, SandboxUid,
    },
    kit::Work,
    network::NetworkSpec,
    premises::{Cgroup, PremisesSpec},
    process::{Kill, Made},
    records::{Change, Records, Rows},
    sandbox::{
        DeleteContainer, ExecIn, Lifetime, Obey, ProcessIn, SandboxSpec, SandboxView, Standing,
        StartIn, Verb, ViewContainer, WaitIn,
    },
};
use std::collections::BTreeSet;
use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

/// What stands for a process in every story.
pub const RELAY: HostProcess = HostProcess {
    pid: 4711,
    start_time: 5,
};

/// Tells a story on one thread, within an hour of virtual time.
pub async fn told(story: impl Future<Output = ()>) {
    let story = tokio::time::timeout(Duration::from_secs(3600), story);
    tokio::task::LocalSet::new()
        .run_until(story)
        .await
        .expect("a story ends");
}

/// Time passes, on the paused clock of every story.
pub async fn pass(time: Duration) {
    // tidy: the clock is paused; this is virtual time
    tokio::time::sleep(time).await;
}

/// How long a write takes to be durable.
const WRITE: Duration = Duration::from_millis(1);
/// How long a read takes; meanwhile a room that panicked is not there.
const READ: Duration = Duration::from_millis(1);

#[derive(Clone, Default)]
pub struct MemoryRecords(pub Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

impl Records for MemoryRecords {
    fn write(&self, changes: Vec<Change>) -> Work<()> {
        let kept = self.0.clone();
        Box::pin(async move {
            pass(WRITE).await;
            for change in changes {
                match change {
                    Change::Put { key, value } => kept.borrow_mut().insert(key, value),
                    Change::Delete { key } => kept.borrow_mut().remove(&key),
                };
            }
        })
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
        let kept = self.0.borrow();
        let rows = kept.iter().filter(|(key, _)| key.starts_with(&prefix));
        let rows: Rows = rows
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Box::pin(async move {
            pass(READ).await;
            Ok(rows)
        })
    }
}

impl MemoryRecords {
    pub fn keys(&self) -> Vec<String> {
        self.0.borrow().keys().cloned().collect()
    }
}

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> EpochMs {
        EpochMs(1)
    }
}

pub struct House {
    pub host: Addr<HostActor>,
    pub records: MemoryRecords,
    pub world: World,
    around: host::Surroundings,
}

fn plan(wish: &SandboxWish, _: Option<&ContainerSpec>) -> SandboxSpec {
    let folder = std::path::PathBuf::from(format!("/run/hutch/s/{}", wish.uid));
    let cgroup = |part: &str| Cgroup(format!("/hutch/{}/{part}", wish.uid));
    SandboxSpec {
        uid: wish.uid,
        namespace: wish.namespace.clone(),
        id: wish.id.clone(),
        lifetime: wish.lifetime,
        created_by: wish.created_by.clone(),
        created: EpochMs(1),
        hostname: wish.hostname.clone(),
        premises: PremisesSpec {
            uid: wish.uid,
            folder: folder.clone(),
            vmm: cgroup("vmm"),
            helpers: cgroup("helpers"),
            lodged: BTreeSet::new(),
        },
        network: NetworkSpec {
            uid: wish.uid,
            folder: folder.clone(),
            netns: None,
        },
        share: Some(ShareSpec {
            uid: wish.uid,
            folder: folder.clone(),
            virtiofsd: "/virtiofsd".into(),
            cgroup: cgroup("helpers"),
        }),
        vm: VmSpec {
            uid: wish.uid,
            folder,
            kernel: "/vmlinux".into(),
            initrd: Some("/initrd".into()),
            stdio: StdioKind::Ports,
            kernel_params: Vec::new(),
            vcpus: 1,
            memory_mib: 128,
            machine: MachineType::Q35,
            accelerator: Accelerator::Tcg,
            channel: ChannelKind::Serial,
            cgroup: cgroup("vmm"),
            netns: None,
            share_socket: None,
            blocks: Vec::new(),
            own_blocks: 0,
        },
    }
}

pub fn wish(id: &str, random: u64) -> Wish {
    Wish {
        spec: ContainerSpec {
            number: ContainerNumber(0),
            namespace: Namespace::new("default").unwrap(),
            id: ContainerId::new(id).unwrap(),
            bundle: "/bundle".into(),
            rootfs: "/bundle/rootfs".into(),
            config_json: "{}".to_owned(),
            oci_version: "1.0.2".to_owned(),
            annotations: BTreeMap::new(),
            devices: ContainerDevices {
                container: ContainerNumber(0),
                bundle: "/bundle".into(),
                root: "rootfs".into(),
                root_read_only: false,
                binds: Vec::new(),
            },
            created: EpochMs(1),
            owner_uid: 0,
            hooks: Default::default(),
            guest_hooks_s: 0,
            cgroup: None,
            created_by: None,
            relay: None,
        },
        uid: SandboxUid::from_random(random),
        join: None,
        sandbox: None,
        netns: None,
        hostname: "web".to_owned(),
        root: RootKind::Directory,
    }
}

impl House {
    pub async fn open() -> Self {
        Self::open_with(MemoryRecords::default(), World::default(), "boot-1").await
    }

    async fn open_with(records: MemoryRecords, world: World, boot_id: &str) -> Self {
        let around = host::Surroundings {
            boot_id: boot_id.to_owned(),
            rooms: Rc::new(world.clone()),
            premises: Rc::new(world.clone()),
            records: Rc::new(records.clone()),
            clock: Rc::new(StoppedClock),
            entropy: Rc::new(|| vec![7; 32]),
            architect: Rc::new(plan),
        };
        Self {
            host: HostActor::open(around.clone()).await.unwrap(),
            records,
            world,
            around,
        }
    }

    /// The daemon dies and the next one opens the same store; VMs live on.
    pub async fn restart(self) -> Self {
        let (records, world) = (self.records.clone(), self.world.next_daemon());
        // What was written but not yet durable is lost with the old actors.
        let kept = MemoryRecords(Rc::new(RefCell::new(records.0.borrow().clone())));
        drop(self);
        Self::open_with(kept, world, "boot-1").await
    }

    pub async fn restart_host(self) -> Self {
        let world = self.world.next_daemon();
        world.kill_vms();
        let kept = MemoryRecords(Rc::new(RefCell::new(self.records.0.borrow().clone())));
        drop(self);
        Self::open_with(kept, world, "boot-2").await
    }

    pub async fn create(&self, id: &str) -> Result<host::Created, Fault> {
        self.create_with_key(id, None, 0xaa).await
    }

    pub async fn create_with_hooks(
        &self,
        id: &str,
        hooks: HostHooks,
    ) -> Result<host::Created, Fault> {
        let mut wish = wish(id, self.records.keys().len() as u64 + 77);
        wish.spec.hooks = hooks;
        let wish = Box::new(wish);
        let create = CreateContainer { key: None, wish };
        self.host.send(create).await.unwrap()
    }

    pub async fn create_with_key(
        &self,
        id: &str,
        key: Option<&str>,
        random: u64,
    ) -> Result<host::Created, Fault> {
        let key = key.map(|key| RequestKey::new(key).unwrap());
        let wish = Box::new(wish(id, random));
        self.host.send(CreateContainer { key, wish }).await.unwrap()
    }

    pub async fn join(&self, sandbox: &str, id: &str) -> Result<host::Created, Fault> {
        let mut wish = Box::new(wish(id, 0xbb));
        wish.join = Some(sandbox.to_owned());
        self.host
            .send(CreateContainer { key: None, wish })
            .await
            .unwrap()
    }

    pub async fn create_sandbox(&self, id: &str, key: Option<&str>) -> Result<SandboxUid, Fault> {
        let uid = SandboxUid::from_random(u64::from(id.as_bytes()[0]) * 256 + id.len() as u64);
        let wish = SandboxWish {
            uid,
            namespace: Namespace::new("default").unwrap(),
            id: SandboxId::new(id).unwrap(),
            lifetime: Lifetime::Own,
            created_by: key.map(|key| RequestKey::new(key).unwrap()),
            created: EpochMs(1),
            hostname: id.to_owned(),
            annotations: BTreeMap::new(),
            netns: None,
            cgroup: None,
            root: RootKind::Directory,
        };
        let created = self.host.send(CreateSandbox(Box::new(wish))).await.unwrap();
        created.map(|(_, uid)| uid)
    }

    pub async fn find_sandbox(&self, id: &str) -> Result<LocatedSandbox, Fault> {
        let find = FindSandbox {
            namespace: Some(Namespace::new("default").unwrap()),
            id: id.to_owned(),
        };
        self.host.send(find).await.unwrap()
    }

    pub async fn order(&self, id: &str, verb: Verb) -> Result<(), Fault> {
        self.order_with_key(id, verb, None).await
    }

    /// And what went wrong beside it.
    pub async fn order_told(&self, id: &str, verb: Verb) -> Result<Warnings, Fault> {
        let located = self.find_sandbox(id).await?;
        let key = None;
        located.sandbox.send(Obey { key, verb }).await.unwrap()
    }

    pub async fn order_with_key(
        &self,
        id: &str,
        verb: Verb,
        key: Option<&str>,
    ) -> Result<(), Fault> {
        let key = key.map(|key| RequestKey::new(key).unwrap());
        let located = self.find_sandbox(id).await?;
        let obeyed = located.sandbox.send(Obey { key, verb }).await.unwrap();
        obeyed.map(drop)
    }

    pub async fn delete_sandbox(
        &self,
        id: &str,
        force: Force,
        key: Option<&str>,
    ) -> Result<(), Fault> {
        self.delete_sandbox_told(id, force, key).await.map(drop)
    }

    /// And what may not be on its disks.
    pub async fn delete_sandbox_told(
        &self,
        id: &str,
        force: Force,
        key: Option<&str>,
    ) -> Result<Warnings, Fault> {
        let delete = DeleteSandbox {
            key: key.map(|key| RequestKey::new(key).unwrap()),
            namespace: Namespace::new("default").unwrap(),
            id: id.to_owned(),
            force,
            at: EpochMs(2),
        };
        self.host.send(delete).await.unwrap()
    }

    pub async fn view(&self, id: &str) -> Result<SandboxView, Fault> {
        let find = FindSandbox {
            namespace: None,
            id: id.to_owned(),
        };
        let viewed = self.host.send(ViewSandbox(find)).await.unwrap();
        viewed.map(|(view, _)| view)
    }

    pub async fn standing(&self, id: &str) -> Standing {
        self.view(id).await.unwrap().standing
    }

    pub async fn start(&self, id: &str) -> Result<(), Fault> {
        self.start_told(id, None).await.map(drop)
    }

    /// And which hooks failed.
    pub async fn start_told(&self, id: &str, key: Option<&str>) -> Result<Warnings, Fault> {
        let located = self.find(id).await?;
        let key = key.map(|key| RequestKey::new(key).unwrap());
        let start = StartIn {
            container: located.place.number,
            start: Start { key },
        };
        located.sandbox.send(start).await.unwrap()
    }

    pub async fn find(&self, id: &str) -> Result<Located, Fault> {
        let namespace = Namespace::new("default").unwrap();
        let id = id.to_owned();
        self.host.send(Find { namespace, id }).await.unwrap()
    }

    pub async fn command(&self, id: &str, command: ProcessCommand) -> Result<(), Fault> {
        let located = self.find(id).await?;
        let container = located.place.number;
        located
            .sandbox
            .send(ProcessIn { container, command })
            .await
            .unwrap()
    }

    pub async fn state(&self, id: &str) -> Result<ContainerState, Fault> {
        Ok(self.view_container(id).await?.state)
    }

    pub async fn view_container(&self, id: &str) -> Result<ContainerView, Fault> {
        let located = self.find(id).await?;
        let view = ViewContainer(located.place.number);
        located.sandbox.send(view).await.unwrap()
    }

    pub async fn wait(&self, id: &str) -> Result<runtime_core::agent::ExitStatus, Fault> {
        let located = self.find(id).await?;
        let (container, process) = (located.place.number, ProcessId::Init);
        located
            .sandbox
            .send(WaitIn { container, process })
            .await
            .unwrap()
    }

    pub async fn delete(&self, id: &str, force: Force) -> Result<(), Fault> {
        self.delete_told(id, force).await.map(drop)
    }

    /// And which hooks failed.
    pub async fn delete_told(&self, id: &str, force: Force) -> Result<Warnings, Fault> {
        let located = self.find(id).await?;
        let (container, at) = (located.place.number, EpochMs(2));
        let delete = DeleteContainer {
            container,
            force,
            at,
        };
        located.sandbox.send(delete).await.unwrap()
    }

    pub async fn delete_with_key(&self, id: &str, force: Force, key: &str) -> Result<(), Fault> {
        self.delete_with_key_told(id, force, key).await.map(drop)
    }

    /// And which hooks failed.
    pub async fn delete_with_key_told(
        &self,
        id: &str,
        force: Force,
        key: &str,
    ) -> Result<Warnings, Fault> {
        let delete = host::Delete {
            key: Some(RequestKey::new(key).unwrap()),
            namespace: Namespace::new("default").unwrap(),
            id: id.to_owned(),
            force,
            at: EpochMs(2),
        };
        self.host.send(delete).await.unwrap()
    }

    pub async fn start_with_key(&self, id: &str, key: &str) -> Result<(), Fault> {
        self.start_told(id, Some(key)).await.map(drop)
    }

    pub async fn kill_with_key(&self, id: &str, signal: u32, key: &str) -> Result<(), Fault> {
        let kill = Kill {
            key: Some(RequestKey::new(key).unwrap()),
            signal,
            all: false,
        };
        self.command(id, ProcessCommand::Kill(ProcessId::Init, kill))
            .await
    }

    pub async fn exec_with_key(&self, id: &str, exec: &str, key: &str) -> Result<Made, Fault> {
        let located = self.find(id).await?;
        let exec = Exec {
            key: Some(RequestKey::new(key).unwrap()),
            exec: ExecId::new(exec).unwrap(),
            program: Program::default(),
            relay: None,
        };
        let container = located.place.number;
        let exec = ExecIn { container, exec };
        located.sandbox.send(exec).await.unwrap()
    }

    /// Nothing on record but the keys of deletions, nothing in the world.
    pub fn assert_clean(&self) {
        let mut keys = self.records.keys();
        keys.retain(|key| !key.starts_with(host::DeletionRecord::PREFIX));
        assert_eq!(keys, Vec::<String>::new());
        self.world.assert_empty();
    }
}

/// Lets everything that is under way come to rest.
pub async fn settle() {
    pass(Duration::from_secs(5)).await;
}
