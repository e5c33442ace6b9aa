//! What the store keeps of a sandbox's devices.

use crate::plan::Plan;
use runtime_core::{
    devices::ShareSpec,
    ids::{ContainerNumber, HostProcess, SandboxUid},
    records::{Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// It never changes: one for a machine, its confirmed copy and its record.
pub type SharedPlan = Arc<Plan>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesRecord {
    pub uid: SandboxUid,
    /// On record before anything of it exists.
    pub share: Option<ShareSpec>,
    /// On record once it listens.
    pub virtiofsd: Option<HostProcess>,
    /// On record before anything is bound.
    pub containers: BTreeMap<ContainerNumber, SharedPlan>,
}

impl DevicesRecord {
    pub fn key(uid: SandboxUid) -> String {
        format!("devices/{uid}")
    }
}

impl Record for DevicesRecord {
    const NAME: &'static str = "devices record";
    const VERSION: u32 = 1;

    fn upgrade(from: u32, _: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed> {
        Err(UpgradeFailed { from })
    }
}
