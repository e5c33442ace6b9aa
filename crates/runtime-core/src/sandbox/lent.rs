//! What a sandbox lends its containers and processes: its rooms, behind one port.
//!
//! Containers ask the rooms of their sandbox through this port, never each other. The rooms tell
//! the sandbox alone, so no cycle of questions can form.

use crate::{
    agent, container,
    container::ContainerSpec,
    devices::{self, Attached, ContainerDevices},
    error::{Fault, Kind},
    hypervisor::{self, GuestEndpoint, StreamLease},
    ids::ContainerNumber,
    kit::{Work, ask},
    network, process,
};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

/// Bounds a question whose room hangs; the rooms have deadlines of their own, which say more.
pub const ASK_MAX: Duration = Duration::from_secs(300);

/// The rooms of a sandbox, as far as they are open.
#[derive(Default, Clone)]
pub struct OpenRooms {
    pub hypervisor: Option<hypervisor::Address>,
    pub agent: Option<agent::Address>,
    pub devices: Option<devices::Address>,
    pub network: Option<network::Address>,
}

/// What the guest is told when a container's init is created.
#[derive(Clone)]
struct Description {
    config_json: Vec<u8>,
    attached: Attached,
}

#[derive(Clone, Default)]
pub struct Lent {
    rooms: Rc<RefCell<OpenRooms>>,
    described: Rc<RefCell<BTreeMap<ContainerNumber, Description>>>,
}

fn closed(room: &str) -> Fault {
    Fault::new(Kind::Unavailable, format!("the sandbox has no {room} now"))
}

impl Lent {
    pub fn rooms(&self) -> OpenRooms {
        self.rooms.borrow().clone()
    }

    pub fn update(&self, change: impl FnOnce(&mut OpenRooms)) {
        change(&mut self.rooms.borrow_mut());
    }

    pub fn agent(&self) -> Result<agent::Address, Fault> {
        self.rooms
            .borrow()
            .agent
            .clone()
            .ok_or_else(|| closed("agent"))
    }

    fn hypervisor(&self) -> Result<hypervisor::Address, Fault> {
        let rooms = self.rooms.borrow();
        rooms.hypervisor.clone().ok_or_else(|| closed("hypervisor"))
    }

    fn devices(&self) -> Result<devices::Address, Fault> {
        let rooms = self.rooms.borrow();
        rooms.devices.clone().ok_or_else(|| closed("devices"))
    }

    /// Plugs block devices into the running VM.
    pub fn plug(&self, blocks: Vec<hypervisor::BlockSpec>) -> Work<Result<(), Fault>> {
        let room = self.hypervisor();
        Box::pin(async move {
            let room = room?;
            for block in blocks {
                let command = hypervisor::AttachBlock(block);
                ask(
                    room.attach_block.clone(),
                    command,
                    "plug block device",
                    ASK_MAX,
                )
                .await?;
            }
            Ok(())
        })
    }
}

impl process::Plant for Lent {
    fn lease(&self) -> Work<Result<StreamLease, Fault>> {
        let room = self.hypervisor();
        Box::pin(async move {
            ask(
                room?.lease,
                hypervisor::LeaseStream,
                "lease a stream",
                ASK_MAX,
            )
            .await
        })
    }

    fn give_back(&self, number: u32) -> Work<()> {
        let room = self.hypervisor();
        Box::pin(async move {
            let Ok(room) = room else { return };
            let command = hypervisor::ReturnStream { number };
            let outcome = ask(room.give_back, command, "give back a stream", ASK_MAX).await;
            if let Err(why) = outcome {
                tracing::debug!(%why, number, "stream not given back; it goes with its vm");
            }
        })
    }

    fn create(&self, container: ContainerNumber, stream: GuestEndpoint) -> Work<Result<(), Fault>> {
        let room = self.agent();
        let described = self.described.borrow().get(&container).cloned();
        Box::pin(async move {
            let described = described.expect("a container is described before its init is made");
            let command = agent::CreateContainer {
                container,
                config_json: described.config_json,
                rootfs: described.attached.rootfs,
                mounts: described.attached.mounts,
                stream: Some(stream),
            };
            ask(room?.create_container, command, "create in guest", ASK_MAX).await
        })
    }

    fn start(&self, container: ContainerNumber) -> Work<Result<(), Fault>> {
        let room = self.agent();
        Box::pin(async move {
            let command = agent::StartContainer { container };
            ask(room?.start_container, command, "start in guest", ASK_MAX).await
        })
    }

    fn exec(&self, exec: agent::Exec) -> Work<Result<(), Fault>> {
        let room = self.agent();
        Box::pin(async move { ask(room?.exec, exec, "exec in guest", ASK_MAX).await })
    }

    fn signal(&self, signal: agent::Signal) -> Work<Result<(), Fault>> {
        let room = self.agent();
        Box::pin(async move { ask(room?.signal, signal, "signal in guest", ASK_MAX).await })
    }
}

impl container::Plant for Lent {
    fn attach(&self, devices: ContainerDevices) -> Work<Result<Attached, Fault>> {
        let room = self.devices();
        Box::pin(async move {
            let command = devices::Attach(devices);
            ask(room?.attach, command, "attach root file system", ASK_MAX).await
        })
    }

    fn remove(
        &self,
        container: ContainerNumber,
        attached: Option<Attached>,
    ) -> Work<Result<(), Fault>> {
        let (agent, hypervisor, devices) = (self.agent(), self.hypervisor(), self.devices());
        Box::pin(async move {
            let command = agent::RemoveContainer { container };
            ask(
                agent?.remove_container,
                command,
                "remove from guest",
                ASK_MAX,
            )
            .await?;
            let hypervisor = hypervisor?;
            for block in attached.into_iter().flat_map(|attached| attached.blocks) {
                let command = hypervisor::DetachBlock {
                    serial: block.serial,
                };
                ask(
                    hypervisor.detach_block.clone(),
                    command,
                    "unplug block device",
                    ASK_MAX,
                )
                .await?;
            }
            let command = devices::Detach { container };
            ask(devices?.detach, command, "detach root file system", ASK_MAX).await
        })
    }

    fn describe(&self, spec: &ContainerSpec, attached: &Attached) {
        let description = Description {
            config_json: spec.config_json.clone().into_bytes(),
            attached: attached.clone(),
        };
        self.described.borrow_mut().insert(spec.number, description);
    }
}
