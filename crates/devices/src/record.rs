//! What the store keeps of a sandbox's devices.

use crate::plan::Plan;
use runtime_core::{
    devices::ShareSpec,
    error::{Fault, Kind},
    ids::{ContainerNumber, HostProcess, SandboxUid},
    records::{Change, Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// What is on record of one sandbox, in bytes: some thousand volumes with the longest paths, far beyond any pod.
pub(crate) const RECORD_BYTES_MAX: usize = 8 << 20;

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

/// A store takes twice as much, and ends the daemon over what it does not take.
///
/// # Errors
/// `Exhausted`: with that container there is too much.
pub(crate) fn check_size(record: &Change, number: ContainerNumber) -> Result<(), Fault> {
    let is_too_large =
        matches!(record, Change::Put { value, .. } if value.len() > RECORD_BYTES_MAX);
    let most = RECORD_BYTES_MAX >> 20;
    let what = format!(
        "volumes of container {number}: with them the paths of this sandbox's volumes take more than {most} MiB on record"
    );
    match is_too_large {
        true => Err(Fault::new(Kind::Exhausted, what)),
        false => Ok(()),
    }
}
