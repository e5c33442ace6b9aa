//! A container's spec, and what the store keeps of it.

use super::{
    freezer::{FreezeRequest, FreezerRecord},
    hooks::{HookProgress, HostHooks},
    ooms::Oom,
};
use crate::{
    agent::ExitStatus,
    devices::{Attached, ContainerDevices},
    ids::{ContainerId, ContainerNumber, EpochMs, HostProcess, Namespace, RequestKey, SandboxUid},
    premises::Cgroup,
    records::{Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// A container to create: every wish resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub number: ContainerNumber,
    pub namespace: Namespace,
    pub id: ContainerId,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// The bundle's config.json, byte for byte.
    pub config_json: String,
    pub oci_version: String,
    pub annotations: BTreeMap<String, String>,
    pub devices: ContainerDevices,
    #[serde(default)]
    pub hooks: HostHooks,
    /// How long those that run in the guest may take in all, in seconds.
    #[serde(default)]
    pub guest_hooks_s: u32,
    pub created: EpochMs,
    pub owner_uid: u32,
    /// The caller's own for it, where one is named.
    #[serde(default)]
    pub cgroup: Option<Cgroup>,
    /// The request that created it: asked again, it gets the same answer.
    #[serde(default)]
    pub created_by: Option<RequestKey>,
    /// Who stands for its init from the start.
    #[serde(default)]
    pub relay: Option<HostProcess>,
}

/// One for a machine, its confirmed copy, its record and every view.
pub type SharedSpec = Arc<ContainerSpec>;

impl ContainerSpec {
    /// How much longer than others its creation and its start may take in the guest.
    pub fn guest_hooks(&self) -> Duration {
        Duration::from_secs(self.guest_hooks_s.into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub uid: SandboxUid,
    pub spec: SharedSpec,
    pub state: ContainerState,
    pub attached: Option<Attached>,
    #[serde(default)]
    pub freezer: FreezerRecord,
    #[serde(default)]
    pub asked_to_freeze: Option<FreezeRequest>,
    #[serde(default)]
    pub ooms: VecDeque<Oom>,
    #[serde(default)]
    pub hooks: HookProgress,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerState {
    Creating,
    Created,
    Running,
    /// For views only: a record has what is beneath, and the freezer beside it.
    #[serde(skip)]
    Paused,
    Stopped(ExitStatus),
}

impl ContainerState {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped(_) => "stopped",
        }
    }
}

impl ContainerRecord {
    pub fn key(uid: SandboxUid, number: ContainerNumber) -> String {
        format!("container/{uid}/{number}")
    }

    pub fn prefix(uid: SandboxUid) -> String {
        format!("container/{uid}/")
    }
}

impl Record for ContainerRecord {
    const NAME: &'static str = "container record";
    const VERSION: u32 = 1;

    fn upgrade(from: u32, _: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed> {
        Err(UpgradeFailed { from })
    }
}
