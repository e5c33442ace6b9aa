//! What is plugged into VMs, as checkers see it: all of it is on record before it is there, and at rest each
//! container that lives has its disks, and nobody has those of one that is gone.

use super::World;
use hypervisor::record::{HypervisorRecord, Phase, Suspect, key};
use runtime_core::{
    container::{ContainerRecord, ContainerState},
    ids::SandboxUid,
    records::decode,
    sandbox::SandboxRecord,
};
use std::collections::BTreeSet;

/// By their serial numbers, as the record of a VM has them.
fn recorded(world: &World, uid: SandboxUid) -> BTreeSet<String> {
    let row = world.on_disk().remove(&key(uid));
    let record = row.and_then(|row| decode::<HypervisorRecord>(&row).ok());
    let Some(Phase::MayLive(suspect)) = record.map(|record| record.phase) else {
        return BTreeSet::new();
    };
    let hot = match &suspect {
        Suspect::Started(started) => started.blocks.values().map(|slot| &slot.block).collect(),
        // Its VMM may not be killed yet, with all that was plugged.
        Suspect::Stopping { .. } => return world.vms.blocks(uid),
        Suspect::Starting { .. } => Vec::new(),
    };
    let boot = suspect.plan().spec.blocks.iter();
    let all = hot.into_iter().chain(boot);
    all.map(|block| block.serial.clone()).collect()
}

pub fn check_on_record(world: &World, after: &str) {
    for (uid, _) in world.vms.live() {
        let plugged = world.vms.blocks(uid);
        if plugged.is_empty() {
            continue;
        }
        let known = recorded(world, uid);
        for serial in plugged.difference(&known) {
            world.violated(format_args!(
                "after {after}: disk {serial} is in the vm of {uid}, and on no record of it"
            ));
        }
    }
}

pub fn check_at_rest(world: &World, record: &SandboxRecord) {
    let uid = record.spec.uid;
    if !record.phase.is_up() {
        return;
    }
    let on_disk = world.on_disk();
    let prefix = ContainerRecord::prefix(uid);
    let rows = on_disk.iter().filter(|(key, _)| key.starts_with(&prefix));
    let containers = rows.filter_map(|(_, row)| decode::<ContainerRecord>(row).ok());
    let mut known = BTreeSet::new();
    let plugged = world.vms.blocks(uid);
    for container in containers.filter(|one| one.spec.number.0 >= record.first_of_vm) {
        let blocks = container.attached.into_iter().flat_map(|a| a.blocks);
        let serials: BTreeSet<_> = blocks.map(|block| block.serial).collect();
        let lives = matches!(
            container.state,
            ContainerState::Created | ContainerState::Running
        );
        for serial in serials.difference(&plugged).filter(|_| lives) {
            let number = container.spec.number;
            world.violated(format_args!(
                "at rest {uid}/{number} lives, and its disk {serial} is not in the vm"
            ));
        }
        known.extend(serials);
    }
    for serial in plugged.difference(&known) {
        world.violated(format_args!(
            "at rest disk {serial} is in the vm of {uid}, and nobody's"
        ));
    }
}
