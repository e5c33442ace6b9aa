//! What a daemon's own wiring stands on in tests: fakes of everything below it, but for what a test brings along.

use devices::{
    fake::{FakeShares, OwnGround as SharesOwn},
    plan::Nature,
};
use host::fake::FakePremises;
use hutchd::{
    api::now,
    architect::{Grounds, plan},
    config::Config,
    profile::Profiles,
    wiring::{AgentPorts, Ports},
};
use hypervisor::{
    fake::{FakeHost, Ground as VmmGround, OwnGround as VmmsOwn},
    port::LaunchPlan,
};
use netns::fake::FakeNamespaces;
use runtime_core::{
    agent::FsType,
    clock::Clock,
    hypervisor::Accelerator,
    ids::{EpochMs, HostProcess, SandboxUid},
    premises::Cgroup,
};
use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};
use store::{Schema, StoreRecords};
use tokio::{task::LocalSet, time::timeout};

/// Nothing here takes a second on a quiet machine.
pub const LIMIT: Duration = Duration::from_secs(60);

const SCHEMA: Schema = Schema {
    version: 1,
    upgrades: &[],
    written_by: "hutchd's tests",
};

struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> EpochMs {
        now()
    }
}

/// A virtiofsd ends with its VMM, or each sandbox would wait for it at its end.
struct Vmms {
    own: VmmsOwn,
    shares: FakeShares,
    root: PathBuf,
}

impl VmmGround for Vmms {
    fn spawn(&self, plan: &LaunchPlan) -> io::Result<HostProcess> {
        self.own.spawn(plan)
    }

    fn spawn_backend(&self, cgroup: &Cgroup) -> io::Result<HostProcess> {
        self.own.spawn_backend(cgroup)
    }

    fn ended(&self, uid: SandboxUid, _: HostProcess) {
        self.shares
            .hang_up(&self.root.join("s").join(uid.to_string()));
    }

    fn paused(&self, _: SandboxUid) {}

    fn resumed(&self, _: SandboxUid) {}

    fn backend_ended(&self, _: SandboxUid, _: HostProcess) {}
}

/// What a test brings along.
pub struct Ground<'a> {
    /// The daemon's own folder.
    pub root: &'a Path,
    pub config: Config,
    /// Of its containers, with a `rootfs` and an `image` in it.
    pub bundle: &'a Path,
    pub namespaces: FakeNamespaces,
    pub agent: Rc<dyn Fn(SandboxUid) -> AgentPorts>,
}

impl Ground<'_> {
    pub fn ports(self) -> Ports {
        let root = self.root.to_owned();
        let opened = store::open(&root.join("store"), &SCHEMA).unwrap();
        let end = |why: &store::Error| panic!("the store failed: {why}");
        let shares = FakeShares::new(Rc::new(SharesOwn::default()));
        for path in [self.bundle.to_owned(), self.bundle.join("rootfs")] {
            shares.put(path, Nature::Directory);
        }
        let image = Nature::File(Some(FsType::Ext4));
        shares.put(self.bundle.join("image"), image);
        shares.put(self.config.share.virtiofsd.clone(), Nature::File(None));
        let grounds = Grounds {
            root: root.clone(),
            profiles: Profiles::of(&self.config).unwrap(),
            config: self.config,
            accelerator: Accelerator::Tcg,
        };
        let vmms = FakeHost::on(Rc::new(Vmms {
            own: VmmsOwn::default(),
            shares: shares.clone(),
            root: root.clone(),
        }));
        Ports {
            vmm: Rc::new(vmms.driver()),
            agent: self.agent,
            devices: Rc::new(shares),
            namespaces: Rc::new(self.namespaces),
            premises: Rc::new(FakePremises::new(root)),
            records: Rc::new(StoreRecords::new(Rc::new(opened.store), &[], Rc::new(end))),
            clock: Rc::new(HostClock),
            entropy: Rc::new(|| vec![0; 32]),
            architect: Rc::new(move |wish, first| plan(&grounds, wish, first)),
            boot_id: "boot".to_owned(),
        }
    }
}

pub fn told(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(LIMIT, story).await.expect("the story ends");
    });
}
