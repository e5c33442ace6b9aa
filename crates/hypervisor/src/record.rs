//! What the store keeps of a VM: enough to find it again, whatever died.

use crate::port::LaunchPlan;
use runtime_core::{
    hypervisor::{BlockSpec, VmExit},
    ids::{HostProcess, SandboxUid},
    records::{Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the record of a sandbox's VM is kept.
pub fn key(uid: SandboxUid) -> String {
    format!("hypervisor/{uid}")
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HypervisorRecord {
    /// Of the boot in which it was written: where it differs, no process of the record lives.
    pub boot_id: String,
    pub phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each sandbox, seldom moved"
)]
pub enum Phase {
    MayLive(Suspect),
    /// It ended by itself. Kept until the sandbox has acted on it.
    Ended(VmExit),
}

/// A VMM that may live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suspect {
    /// About to be started; its pid is not known. If there is one, it is in the cgroup.
    Starting {
        plan: LaunchPlan,
    },
    Started(StartedRecord),
    /// About to be killed.
    Stopping {
        plan: LaunchPlan,
        process: Option<HostProcess>,
    },
}

impl Suspect {
    pub fn plan(&self) -> &LaunchPlan {
        match self {
            Self::Starting { plan } | Self::Stopping { plan, .. } => plan,
            Self::Started(record) => &record.plan,
        }
    }

    pub fn process(&self) -> Option<HostProcess> {
        match self {
            Self::Starting { .. } => None,
            Self::Started(record) => Some(record.process),
            Self::Stopping { process, .. } => *process,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedRecord {
    pub plan: LaunchPlan,
    pub process: HostProcess,
    /// What is plugged in, by slot.
    pub blocks: BTreeMap<u32, BlockRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    pub block: BlockSpec,
    pub plugged: Plugged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plugged {
    Yes,
    /// Being plugged or unplugged: whoever reads this unplugs it.
    Unsettled,
}

impl Record for HypervisorRecord {
    const NAME: &'static str = "hypervisor record";
    const VERSION: u32 = 2;

    /// The first version had the ports that processes have, which those have on record too.
    fn upgrade(from: u32, old: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed> {
        match from {
            1 => Ok(old),
            _ => Err(UpgradeFailed { from }),
        }
    }
}
