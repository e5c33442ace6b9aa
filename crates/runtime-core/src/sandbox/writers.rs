//! The part of [`Sandbox`] that knows whose disks only the guest can bring up to date. Before a VM ends that has such, its
//! guest is told to; one that has none ends at once.

use super::{
    events::{Unwritten, Why},
    machine::Sandbox,
};
use crate::{container::Guest, hypervisor::BlockSpec, ids::ContainerNumber};

impl Sandbox {
    /// It brings these along.
    pub(super) fn brings(&mut self, container: ContainerNumber, blocks: &[BlockSpec]) {
        if blocks.iter().any(|block| !block.read_only) {
            self.writers.insert(container);
        }
    }

    /// Where the VM went on without it, the guest has let go of its disks, and they were unplugged.
    pub(super) fn let_go(&mut self, container: ContainerNumber, guest: Guest) {
        match guest {
            Guest::Stays => drop(self.writers.remove(&container)),
            Guest::Goes => {}
        }
    }

    /// What its guest is asked for before its VM ends for this. Where the VM or the agent is lost, or nothing in it was
    /// ever made, there is nobody to ask or nothing to write.
    pub(super) fn to_be_written(&self, why: &Why) -> Option<Unwritten> {
        match why {
            Why::Idle | Why::Asked | Why::Deleted => {}
            Why::NotCreated(_)
            | Why::NotStarted(_)
            | Why::Again
            | Why::Lost(_)
            | Why::AgentLost(_) => return None,
        }
        let vm = self.vm.clone()?;
        let containers: Vec<_> = self.writers.iter().copied().collect();
        (!containers.is_empty()).then_some(Unwritten { vm, containers })
    }
}
