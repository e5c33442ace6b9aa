//! What joins the fakes into one host: who hears of what, at once.

use agent_client::fake::FakeGuest;
use devices::fake::{FakeShares, Ground as SharesGround};
use host::fake::{FakePremises, News};
use hypervisor::{
    fake::{FakeHost, Ground as VmmsGround},
    port::{ExitHow, LaunchPlan},
};
use netns::fake::FakeNamespaces;
use runtime_core::{
    ids::{HostProcess, SandboxUid},
    kit::Work,
    premises::{Cgroup, Premises},
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

/// From a VMM's start until the agent of its guest answers.
const BOOT: Duration = Duration::from_millis(900);
const SIGKILL: i32 = 9;

/// Every guest that there is or was, by its sandbox.
#[derive(Clone, Default)]
pub struct Guests(Rc<RefCell<BTreeMap<SandboxUid, FakeGuest>>>);

impl Guests {
    pub fn of(&self, uid: SandboxUid) -> FakeGuest {
        let mut guests = self.0.borrow_mut();
        guests.entry(uid).or_insert_with(FakeGuest::off).clone()
    }
}

/// A VMM is a process of the premises, with a guest in it, and a virtiofsd and perhaps a vsock
/// backend beside it.
pub struct VmmGround {
    pub premises: FakePremises,
    pub guests: Guests,
    pub shares: FakeShares,
}

impl VmmsGround for VmmGround {
    fn spawn(&self, plan: &LaunchPlan) -> io::Result<HostProcess> {
        let spawned = self.premises.spawn(&plan.spec.cgroup);
        let process = spawned.map_err(io::Error::other)?;
        self.guests.of(plan.spec.uid).boot(BOOT);
        Ok(process)
    }

    fn spawn_backend(&self, cgroup: &Cgroup) -> io::Result<HostProcess> {
        self.premises.spawn(cgroup).map_err(io::Error::other)
    }

    fn backend_ended(&self, uid: SandboxUid, process: HostProcess) {
        self.premises.exit(process);
        self.guests.of(uid).cut();
    }

    fn paused(&self, uid: SandboxUid) {
        self.guests.of(uid).hang();
    }

    fn resumed(&self, uid: SandboxUid) {
        self.guests.of(uid).wake();
    }

    fn ended(&self, uid: SandboxUid, process: HostProcess) {
        self.premises.exit(process);
        self.guests.of(uid).power_off();
        let folder = PathBuf::from(super::ROOT).join("s").join(uid.to_string());
        self.shares.hang_up(&folder);
    }
}

pub struct ShareGround(pub FakePremises);

impl SharesGround for ShareGround {
    fn spawn(&self, cgroup: &Cgroup) -> io::Result<HostProcess> {
        self.0.spawn(cgroup).map_err(io::Error::other)
    }

    fn exit(&self, process: HostProcess) {
        self.0.exit(process);
    }

    fn ended(&self, process: HostProcess) -> Work<()> {
        Premises::ended(&self.0, process)
    }

    fn mount(&self, point: PathBuf) {
        self.0.mount(point);
    }

    fn unmount(&self, point: &Path) {
        self.0.unmount(point);
    }

    fn is_mounted(&self, point: &Path) -> bool {
        self.0.is_mounted(point)
    }
}

pub fn join(
    premises: &FakePremises,
    vms: &FakeHost,
    shares: &FakeShares,
    namespaces: &FakeNamespaces,
) {
    let (vms, shares, namespaces) = (vms.clone(), shares.clone(), namespaces.clone());
    premises.watch(move |news| match news {
        News::Ended(process) => vms.end_process(*process, ExitHow::Signal(SIGKILL)),
        News::Unmounted(point) => namespaces.clear(point),
        News::FolderRemoved(folder) => {
            shares.forget_below(folder);
            let inside = namespaces.things().into_keys();
            for path in inside.filter(|path| path.starts_with(folder)) {
                namespaces.clear(path);
            }
        }
    });
}
