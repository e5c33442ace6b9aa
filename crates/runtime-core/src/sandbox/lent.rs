//! What a sandbox lends its containers and processes: its rooms, behind one port.
//!
//! Containers ask the rooms of their sandbox through this port, never each other. The rooms tell
//! the sandbox alone, so no cycle of questions can form.

use super::leases::Leases;
use crate::{
    agent::{self, GuestProcess, GuestProcessState, Warnings},
    container,
    container::ContainerSpec,
    devices::{self, Attached, ContainerDevices},
    error::{Fault, Kind},
    hypervisor::{self, GuestEndpoint, StreamLease},
    ids::{ContainerNumber, ProcessId},
    kit::{self, Work, ask, ask_weakly},
    network,
    process::{self, ProcessRecord},
};
use actix::WeakRecipient;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::{Rc, Weak},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Bounds a question whose room hangs; the rooms have deadlines of their own, which say more.
pub const ASK_MAX: Duration = Duration::from_secs(300);

/// Making a process takes the guest tens of milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether the guest can be reached.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// There is no guest, or it is ending.
    #[default]
    None,
    /// Rooms are being opened and the agent is being dialed: questions wait for it.
    Opening,
    Linked,
    /// The guest stands still until its VM is resumed: nobody waits for that.
    Paused,
}

/// The rooms of a sandbox, as far as they are open.
#[derive(Default, Clone)]
pub struct OpenRooms {
    pub reach: Reach,
    pub hypervisor: Option<hypervisor::Address>,
    pub agent: Option<agent::Address>,
    pub devices: Option<devices::Address>,
    pub network: Option<network::Address>,
}

/// What the guest is told when a container's init is created.
#[derive(Clone)]
struct Description {
    config_json: Vec<u8>,
    bundle: PathBuf,
    attached: Attached,
    hooks_limit: Duration,
}

/// Whoever waits is woken in the order in which they came, which a watch channel does not do.
#[derive(Default)]
struct Shelf {
    rooms: RefCell<OpenRooms>,
    changed: Rc<Notify>,
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.changed.notify_waiters();
    }
}

#[derive(Clone, Default)]
pub struct Lent {
    shelf: Rc<Shelf>,
    described: Rc<RefCell<BTreeMap<ContainerNumber, Box<Description>>>>,
    leases: Rc<RefCell<Leases>>,
}

fn closed(room: &str) -> Fault {
    Fault::new(Kind::Unavailable, format!("the sandbox has no {room} now"))
}

/// A room that must be there for what is to be done.
pub fn held<T>(room: Option<T>, name: &str) -> Result<T, Fault> {
    room.ok_or_else(|| closed(name))
}

impl Lent {
    pub fn rooms(&self) -> OpenRooms {
        self.shelf.rooms.borrow().clone()
    }

    pub fn update(&self, change: impl FnOnce(&mut OpenRooms)) {
        change(&mut self.shelf.rooms.borrow_mut());
        self.shelf.changed.notify_waiters();
    }

    /// Lends nothing from now on; also while a panic unwinds, perhaps out of `update`.
    pub fn withdraw(&self) {
        if let Ok(mut rooms) = self.shelf.rooms.try_borrow_mut() {
            *rooms = OpenRooms::default();
        }
        self.shelf.changed.notify_waiters();
    }

    /// A container is there, perhaps with processes that have streams of a VM that may live.
    pub fn arrived<'p>(
        &self,
        container: ContainerNumber,
        with: impl IntoIterator<Item = &'p ProcessRecord>,
    ) {
        let mut leases = self.leases.borrow_mut();
        leases.arrived(container);
        for process in with {
            if let Some(lease) = &process.lease {
                let holder = (container, process.process.clone());
                let _ = leases.hold(lease.number, holder);
            }
        }
    }

    /// The container is gone: whatever of its processes did not give back is free.
    pub fn left(&self, container: ContainerNumber) {
        self.described.borrow_mut().remove(&container);
        let (room, leases) = (self.hypervisor(), self.leases.clone());
        kit::detach(async move {
            // Until a room hears of it the next one is told that they are lent.
            let taker = taker(room).await;
            let left = leases.borrow_mut().left(container);
            for number in left {
                give_back(&taker, number).await;
            }
        });
    }

    /// The streams that processes have.
    pub fn leased(&self) -> BTreeSet<u32> {
        self.leases.borrow().numbers()
    }

    /// Its rooms went with it.
    pub fn vm_is_gone(&self) {
        self.update(|open| *open = OpenRooms::default());
        self.forget_leases();
    }

    /// They were of a VM that is gone.
    pub fn forget_leases(&self) {
        self.leases.borrow_mut().vm_is_gone();
    }

    pub fn agent(&self) -> Result<agent::Address, Fault> {
        held(self.shelf.rooms.borrow().agent.clone(), "agent")
    }

    /// The room, once it is open: after a restart, callers come before it is.
    fn awaited<T: 'static>(
        &self,
        name: &'static str,
        pick: impl Fn(&OpenRooms) -> Option<T> + 'static,
    ) -> Work<Result<T, Fault>> {
        self.awaited_unless(&[Reach::None, Reach::Paused], name, pick)
    }

    /// Where it is `hopeless`, nobody waits.
    fn awaited_unless<T: 'static>(
        &self,
        hopeless: &'static [Reach],
        name: &'static str,
        pick: impl Fn(&OpenRooms) -> Option<T> + 'static,
    ) -> Work<Result<T, Fault>> {
        let (shelf, changed) = (Rc::downgrade(&self.shelf), self.shelf.changed.clone());
        let settled = async move {
            loop {
                let change = changed.notified();
                // It goes with the sandbox.
                let shelf = shelf.upgrade()?;
                let picked = pick(&shelf.rooms.borrow());
                let reach = shelf.rooms.borrow().reach;
                if picked.is_some() || hopeless.contains(&reach) {
                    return picked;
                }
                drop(shelf);
                change.await;
            }
        };
        Box::pin(async move {
            let settled = timeout(ASK_MAX, settled).await;
            held(settled.ok().flatten(), name)
        })
    }

    fn hypervisor(&self) -> Work<Result<hypervisor::Address, Fault>> {
        self.awaited("hypervisor", |rooms| rooms.hypervisor.clone())
    }

    fn devices(&self) -> Work<Result<devices::Address, Fault>> {
        self.awaited("devices", |rooms| rooms.devices.clone())
    }

    /// The agent, once it has answered.
    pub fn linked(&self) -> Work<Result<agent::Address, Fault>> {
        if self.shelf.rooms.borrow().reach == Reach::Paused {
            let paused = "the sandbox is paused: resume it first";
            return Box::pin(async move { Err(Fault::new(Kind::Unavailable, paused)) });
        }
        self.awaited("agent", |rooms| {
            let agent = rooms.agent.as_ref();
            agent.filter(|_| rooms.reach == Reach::Linked).cloned()
        })
    }

    /// Plugs block devices into the running VM.
    pub fn plug(&self, blocks: Vec<hypervisor::BlockSpec>) -> Work<Result<(), Fault>> {
        let room = self.hypervisor();
        Box::pin(async move {
            let room = room.await?.attach_block.downgrade();
            for block in blocks {
                let command = hypervisor::AttachBlock(block);
                ask_weakly(&room, command, "plug block device", ASK_MAX).await?;
            }
            Ok(())
        })
    }
}

/// From the room that is there when it answers: one that is opened instead meanwhile was not told of the lease.
async fn lease(
    room: Work<Result<hypervisor::Address, Fault>>,
    shelf: Weak<Shelf>,
) -> Result<StreamLease, Fault> {
    let room = room.await?.lease.downgrade();
    let lease = ask_weakly(&room, hypervisor::LeaseStream, "lease a stream", ASK_MAX).await?;
    let shelf = shelf.upgrade();
    let now = shelf.and_then(|shelf| Some(shelf.rooms.borrow().hypervisor.as_ref()?.lease.clone()));
    match (room.upgrade(), now) {
        (Some(room), Some(now)) if room == now => Ok(lease),
        _ => Err(closed("hypervisor")),
    }
}

/// Who takes streams back. `None`: where there is no room there is no VM either.
type Taker = Option<WeakRecipient<hypervisor::ReturnStream>>;

async fn taker(room: Work<Result<hypervisor::Address, Fault>>) -> Taker {
    let room = room.await.ok()?;
    Some(room.give_back.downgrade())
}

async fn give_back(taker: &Taker, number: u32) {
    let Some(taker) = taker else {
        return;
    };
    let command = hypervisor::ReturnStream { number };
    let outcome = ask_weakly(taker, command, "give back a stream", ASK_MAX).await;
    if let Err(why) = outcome {
        tracing::debug!(%why, number, "stream not given back; it goes with its vm");
    }
}

/// What could not be unplugged, and why.
async fn unplug(
    room: Work<Result<hypervisor::Address, Fault>>,
    blocks: Vec<hypervisor::BlockSpec>,
) -> Vec<Fault> {
    if blocks.is_empty() {
        return Vec::new();
    }
    let room = match room.await {
        Ok(room) => room.detach_block.downgrade(),
        Err(why) => return vec![why],
    };
    let mut faults = Vec::new();
    for block in blocks {
        let serial = block.serial;
        let command = hypervisor::DetachBlock { serial };
        let unplugged = ask_weakly(&room, command, "unplug block device", ASK_MAX);
        faults.extend(unplugged.await.err());
    }
    faults
}

impl process::Plant for Lent {
    fn lease(
        &self,
        container: ContainerNumber,
        process: ProcessId,
    ) -> Work<Result<StreamLease, Fault>> {
        let (room, room_again) = (self.hypervisor(), self.hypervisor());
        let (shelf, leases) = (Rc::downgrade(&self.shelf), self.leases.clone());
        Box::pin(async move {
            let lease = lease(room, shelf).await?;
            let holder = (container, process);
            if leases.borrow_mut().hold(lease.number, holder) {
                return Ok(lease);
            }
            give_back(&taker(room_again).await, lease.number).await;
            let deleted = "its container was deleted meanwhile";
            Err(Fault::new(Kind::Aborted, deleted))
        })
    }

    fn give_back(&self, container: ContainerNumber, process: &ProcessId, number: u32) -> Work<()> {
        let (room, leases) = (self.hypervisor(), self.leases.clone());
        let holder = (container, process.clone());
        Box::pin(async move {
            // Until a room hears of it the next one is told that it is lent.
            let taker = taker(room).await;
            let is_theirs = leases.borrow_mut().let_go(number, &holder);
            if is_theirs {
                give_back(&taker, number).await;
            }
        })
    }

    fn create(
        &self,
        container: ContainerNumber,
        stream: GuestEndpoint,
    ) -> Work<Result<Warnings, Fault>> {
        let room = self.linked();
        let described = self.described.borrow_mut().remove(&container);
        Box::pin(async move {
            let described = described.expect("a container is described before its init is made");
            let command = agent::CreateContainer {
                container,
                config_json: described.config_json,
                rootfs: described.attached.rootfs,
                mounts: described.attached.mounts,
                hook_programs: described.attached.hook_programs,
                disks: described.attached.disks,
                devices: described.attached.devices,
                bundle: described.bundle,
                stream: Some(stream),
                hooks_limit: described.hooks_limit,
            };
            let room = room.await?.create_container;
            let limit = ASK_MAX + described.hooks_limit;
            ask(room, command, "create in guest", limit).await
        })
    }

    fn start(&self, container: ContainerNumber, hooks_limit: Duration) -> Work<Result<(), Fault>> {
        let room = self.linked();
        Box::pin(async move {
            let command = agent::StartContainer {
                container,
                hooks_limit,
            };
            let room = room.await?.start_container;
            ask(room, command, "start in guest", ASK_MAX + hooks_limit).await
        })
    }

    fn adopt(&self, adopt: agent::Adopt) {
        // Before anyone looks: the room hears what it is told in order. Of a paused guest too: it goes on one day.
        let room = self.awaited_unless(&[Reach::None], "agent", |rooms| rooms.agent.clone());
        kit::detach(async move {
            match room.await {
                Ok(room) => room.adopt.do_send(adopt),
                Err(why) => tracing::debug!(%why, "a process without its guest"),
            }
        });
    }

    fn look(
        &self,
        container: ContainerNumber,
        process: ProcessId,
    ) -> Work<Result<Option<GuestProcessState>, Fault>> {
        let room = self.linked();
        Box::pin(async move {
            let room = room.await?.list.downgrade();
            let mine =
                |found: &GuestProcess| found.container == container && found.process == process;
            loop {
                let all = agent::ListProcesses;
                let all = ask_weakly(&room, all, "list processes in guest", ASK_MAX).await?;
                match all.into_iter().find(mine).map(|found| found.state) {
                    // An earlier daemon asked for it; the guest has its own deadlines.
                    Some(GuestProcessState::Making) => sleep(LOOK_AGAIN).await,
                    settled => return Ok(settled),
                }
            }
        })
    }

    fn exec(&self, exec: agent::Exec) -> Work<process::Asked> {
        let room = self.linked();
        Box::pin(async move {
            let room = match room.await {
                Ok(room) => room.exec,
                Err(why) => return process::Asked::Unsent(why),
            };
            process::Asked::Sent(ask(room, exec, "exec in guest", ASK_MAX).await)
        })
    }

    fn signal(&self, signal: agent::Signal) -> Work<Result<(), Fault>> {
        let room = self.linked();
        Box::pin(async move {
            let room = room.await?.signal;
            ask(room, signal, "signal in guest", ASK_MAX).await
        })
    }
}

impl container::Plant for Lent {
    fn attach(&self, devices: ContainerDevices) -> Work<Result<Attached, Fault>> {
        let room = self.devices();
        Box::pin(async move {
            let command = devices::Attach(devices);
            let room = room.await?.attach;
            ask(room, command, "attach root file system", ASK_MAX).await
        })
    }

    fn remove(&self, container: ContainerNumber) -> Work<Result<(), Fault>> {
        let room = self.linked();
        Box::pin(async move {
            let command = agent::RemoveContainer { container };
            let room = room.await?.remove_container;
            ask(room, command, "remove from guest", ASK_MAX).await
        })
    }

    fn remove_empty(&self, container: ContainerNumber) -> Work<Result<bool, Fault>> {
        let room = self.linked();
        Box::pin(async move {
            let command = agent::RemoveEmpty { container };
            let room = room.await?.remove_empty;
            ask(room, command, "remove from guest", ASK_MAX).await
        })
    }

    fn detach(
        &self,
        container: ContainerNumber,
        attached: Option<Attached>,
    ) -> Work<Result<(), Fault>> {
        let (hypervisor, devices) = (self.hypervisor(), self.devices());
        let blocks = attached.map_or_else(Vec::new, |attached| attached.blocks);
        Box::pin(async move {
            let mut faults = unplug(hypervisor, blocks).await;
            let detached = async {
                let command = devices::Detach { container };
                let room = devices.await?.detach;
                ask(room, command, "detach root file system", ASK_MAX).await
            };
            faults.extend(detached.await.err());
            Fault::join(faults)
        })
    }

    fn freeze(&self, container: ContainerNumber) -> Work<Result<(), Fault>> {
        let room = self.linked();
        Box::pin(async move {
            let command = agent::PauseContainer { container };
            let room = room.await?.pause_container;
            ask(room, command, "freeze in guest", ASK_MAX).await
        })
    }

    fn thaw(&self, container: ContainerNumber) -> Work<Result<(), Fault>> {
        let room = self.linked();
        Box::pin(async move {
            let command = agent::ResumeContainer { container };
            let room = room.await?.resume_container;
            ask(room, command, "thaw in guest", ASK_MAX).await
        })
    }

    fn update(
        &self,
        container: ContainerNumber,
        resources_json: Vec<u8>,
    ) -> Work<Result<Warnings, Fault>> {
        let room = self.linked();
        Box::pin(async move {
            let command = agent::UpdateContainer {
                container,
                resources_json,
            };
            let room = room.await?.update_container;
            ask(room, command, "update in guest", ASK_MAX).await
        })
    }

    fn describe(&self, spec: &ContainerSpec, attached: &Attached) {
        let description = Description {
            config_json: spec.config_json.clone().into_bytes(),
            bundle: spec.bundle.clone(),
            attached: attached.clone(),
            hooks_limit: spec.guest_hooks(),
        };
        let description = Box::new(description);
        self.described.borrow_mut().insert(spec.number, description);
    }
}
