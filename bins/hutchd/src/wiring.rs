//! Where the rooms meet: the only place that knows all of them.
//!
//! The daemon calls [`build`] with the real ports, the simulation with fakes. Nothing else differs.

use crate::{
    api::Lodging,
    config::{AcceleratorChoice, Config},
};
use actix::Addr;
use agent_client::{
    actor::AgentActor,
    port::{AgentPort, Signs},
};
use anyhow::{Result, bail};
use devices::{Shares, driver::HostShares};
use host::{HostPremises, cgroup::CgroupPath};
use hypervisor::{
    accelerator::{Choice, Probe, Verdict, decide},
    actor::VmDefaults,
    port::Vmm,
    qemu::{Qemu, QemuConfig},
};
use netns::port::Namespaces;
use runtime_core::{
    agent,
    clock::Clock,
    devices as devices_room,
    error::Fault,
    host::{self as host_room, HostActor},
    hypervisor as hypervisor_room,
    ids::SandboxUid,
    kit::Work,
    network,
    premises::{Cgroup, Premises},
    records::Records,
    rooms::Rooms,
};
use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

/// The ports to one guest's agent.
pub type AgentPorts = (Rc<dyn AgentPort>, Rc<dyn Signs>);

/// Everything that touches the world.
#[derive(Clone)]
pub struct Ports {
    pub vmm: Rc<dyn Vmm>,
    pub agent: Rc<dyn Fn(SandboxUid) -> AgentPorts>,
    pub devices: Rc<dyn Shares>,
    pub namespaces: Rc<dyn Namespaces>,
    pub premises: Rc<dyn Premises>,
    pub records: Rc<dyn Records>,
    pub clock: Rc<dyn Clock>,
    pub entropy: Rc<dyn Fn() -> Vec<u8>>,
    pub architect: host_room::Architect,
    pub boot_id: String,
}

struct PortedRooms(Ports);

impl Rooms for PortedRooms {
    fn hypervisor(
        &self,
        uid: SandboxUid,
        leased: BTreeSet<u32>,
        parent: hypervisor_room::Parent,
    ) -> Work<Result<hypervisor_room::Address, Fault>> {
        let around = hypervisor::actor::Surroundings {
            vmm: self.0.vmm.clone(),
            records: self.0.records.clone(),
            boot_id: self.0.boot_id.clone(),
            defaults: VmDefaults::default(),
            parent,
        };
        Box::pin(hypervisor::actor::open(uid, leased, around))
    }

    fn agent(&self, uid: SandboxUid, parent: agent::Parent) -> Work<Result<agent::Address, Fault>> {
        let (port, signs) = (self.0.agent)(uid);
        let room = AgentActor::open(agent_client::actor::Surroundings {
            port,
            signs,
            parent,
        });
        Box::pin(async move { Ok(room) })
    }

    fn devices(
        &self,
        uid: SandboxUid,
        parent: devices_room::Parent,
    ) -> Work<Result<devices_room::Address, Fault>> {
        let (records, port) = (self.0.records.clone(), self.0.devices.clone());
        Box::pin(devices::open(uid, parent, records, port))
    }

    fn network(
        &self,
        uid: SandboxUid,
        parent: network::Parent,
    ) -> Work<Result<network::Address, Fault>> {
        let (records, port) = (self.0.records.clone(), self.0.namespaces.clone());
        Box::pin(netns::open(uid, parent, records, port))
    }
}

/// Builds the house: the host room, with everything on record adopted.
///
/// # Errors
/// The store cannot be read.
pub async fn build(ports: Ports) -> Result<Addr<HostActor>, Fault> {
    HostActor::open(host_room::Surroundings {
        boot_id: ports.boot_id.clone(),
        rooms: Rc::new(PortedRooms(ports.clone())),
        premises: ports.premises,
        records: ports.records,
        clock: ports.clock,
        entropy: ports.entropy,
        architect: ports.architect,
    })
    .await
}

/// QEMU by its path, or by its name in PATH; with what carries a hybrid vsock beside it.
///
/// # Errors
/// There is none.
pub fn qemu(config: &Config) -> Result<Rc<dyn Vmm>> {
    let config = &config.hypervisor;
    Ok(Rc::new(Qemu::new(QemuConfig {
        binary: find_program(&config.qemu)?,
        vsock_backend: config.vsock_backend.clone(),
        ..QemuConfig::default()
    })))
}

/// A command that starts a daemon may have been given no PATH: Podman's `kill` has none.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn find_program(named: &Path) -> Result<PathBuf> {
    if named.components().count() > 1 {
        return Ok(named.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    let found = env::split_paths(&path)
        .map(|folder| folder.join(named))
        .find(|path| path.is_file());
    match found {
        Some(found) => Ok(found),
        None => bail!("hypervisor.qemu: {} is not in PATH", named.display()),
    }
}

/// virtiofsd, inside the cgroups of this host.
pub fn shares(premises: &HostPremises) -> Rc<dyn Shares> {
    let hierarchies = premises.hierarchies().clone();
    let procs_files = move |cgroup: &Cgroup| match CgroupPath::new(&cgroup.0) {
        Ok(path) => hierarchies.procs_files(&path),
        // The premises refused such a cgroup before.
        Err(_) => Vec::new(),
    };
    Rc::new(HostShares::new(Arc::new(procs_files)))
}

/// How whoever stands for a container joins its cgroup.
pub fn lodging(premises: &HostPremises) -> Lodging {
    let hierarchies = premises.hierarchies().clone();
    Arc::new(move |cgroup| match CgroupPath::new(&cgroup.0) {
        Ok(path) => {
            let files = hierarchies.lodging(&path);
            let shown = |file: PathBuf| file.display().to_string();
            files.into_iter().map(shown).collect()
        }
        // The premises refused such a cgroup before.
        Err(_) => Vec::new(),
    })
}

/// What runs the guests, and why; `auto` proves that KVM boots a guest before it is used.
///
/// # Errors
/// QEMU is not there.
pub async fn accelerator(root: &Path, config: &Config, boot_id: &str) -> Result<Verdict> {
    let choice = match config.hypervisor.accelerator {
        AcceleratorChoice::Auto => Choice::Auto,
        AcceleratorChoice::Kvm => Choice::Kvm,
        AcceleratorChoice::Tcg => Choice::Tcg,
    };
    let probe = Probe {
        binary: find_program(&config.hypervisor.qemu)?,
        firmware: QemuConfig::default().firmware.0,
        kernel: config.guest.kernel.clone(),
        machine: config.hypervisor.machine,
        boot_id: boot_id.to_owned(),
        state: root.to_owned(),
    };
    Ok(decide(choice, &probe).await)
}
