//! A sandbox's spec, and what the store keeps of it.

use crate::{
    devices::ShareSpec,
    hypervisor::{VmSpec, VmStatus},
    ids::{EpochMs, SandboxUid},
    network::NetworkSpec,
    premises::PremisesSpec,
    records::{Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};

/// A sandbox to create: every wish resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub uid: SandboxUid,
    pub created: EpochMs,
    pub hostname: String,
    pub premises: PremisesSpec,
    pub network: NetworkSpec,
    /// `None`: every root file system of the sandbox is a block device.
    pub share: Option<ShareSpec>,
    /// Without what is only known later: namespace, share, block devices.
    pub vm: VmSpec,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// `/proc/sys/kernel/random/boot_id` of the host when it was written: where it differs, every
    /// VM is known dead.
    pub boot_id: String,
    pub spec: SandboxSpec,
    pub phase: Phase,
    pub vm: Option<VmStatus>,
    pub containers_numbered: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Creating,
    Ready,
    /// Being released, and why.
    Stopping(String),
    /// Nothing of it is left on the host but its records.
    Stopped(String),
}

impl SandboxRecord {
    pub const PREFIX: &'static str = "sandbox/";

    pub fn key(uid: SandboxUid) -> String {
        format!("{}{uid}", Self::PREFIX)
    }
}

impl Record for SandboxRecord {
    const NAME: &'static str = "sandbox record";
    const VERSION: u32 = 1;

    fn upgrade(from: u32, _: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed> {
        Err(UpgradeFailed { from })
    }
}
