//! How a sandbox gets its rooms, whether it is new or rebuilt.
//!
//! A room is opened from its record: no record means a new room, a record means that something
//! may live and is adopted. So a room that panicked, a sandbox that is rebuilt and a daemon that
//! was restarted take one path. Each room keeps one record under a key of its own, `<room>/<uid>`.

use crate::{agent, devices, error::Fault, hypervisor, ids::SandboxUid, kit::Work, network};
use std::collections::BTreeSet;

/// Opens rooms; built by the wiring, with real ports or fakes.
pub trait Rooms {
    /// With the streams that processes have of a VM that may live: they have them on record, the room has not.
    fn hypervisor(
        &self,
        uid: SandboxUid,
        leased: BTreeSet<u32>,
        parent: hypervisor::Parent,
    ) -> Work<Result<hypervisor::Address, Fault>>;

    fn agent(&self, uid: SandboxUid, parent: agent::Parent) -> Work<Result<agent::Address, Fault>>;

    fn devices(
        &self,
        uid: SandboxUid,
        parent: devices::Parent,
    ) -> Work<Result<devices::Address, Fault>>;

    fn network(
        &self,
        uid: SandboxUid,
        parent: network::Parent,
    ) -> Work<Result<network::Address, Fault>>;
}
