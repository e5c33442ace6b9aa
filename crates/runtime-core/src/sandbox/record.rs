//! A sandbox's spec, and what the store keeps of it.

use super::{journal::Journal, rules::Standing};
use crate::{
    devices::ShareSpec,
    hypervisor::{VmSpec, VmStatus},
    ids::{ContainerNumber, EpochMs, Namespace, RequestKey, SandboxId, SandboxUid},
    network::NetworkSpec,
    premises::PremisesSpec,
    records::{Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A sandbox to create: every wish resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub uid: SandboxUid,
    pub namespace: Namespace,
    /// Of one sandbox of its namespace.
    pub id: SandboxId,
    pub lifetime: Lifetime,
    /// The request that created it, where that was for the sandbox itself: asked again, it gets the
    /// same answer.
    pub created_by: Option<RequestKey>,
    pub created: EpochMs,
    pub hostname: String,
    pub premises: PremisesSpec,
    pub network: NetworkSpec,
    /// `None`: every root file system of the sandbox is a block device.
    pub share: Option<ShareSpec>,
    /// Without what is only known later: namespace, share, block devices.
    pub vm: VmSpec,
}

/// What a sandbox ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// It is there until it is deleted.
    Own,
    /// It was made for a container: its VM goes when the last one is done, its records with the last
    /// one's.
    Containers,
}

impl Lifetime {
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Containers => "containers",
        }
    }
}

/// One for a machine, its confirmed copy, its record and every view.
pub type SharedSpec = Arc<SandboxSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// `/proc/sys/kernel/random/boot_id` of the host when it was written: where it differs, every
    /// VM is known dead.
    pub boot_id: String,
    pub spec: SharedSpec,
    pub phase: Phase,
    pub vm: Option<VmStatus>,
    pub containers_numbered: u32,
    /// Containers with a lower number lived in a VM that is gone.
    pub first_of_vm: u32,
    /// Containers that brought the VM that is there a disk to write to.
    #[serde(default)]
    pub writers: BTreeSet<ContainerNumber>,
    pub annotations: BTreeMap<String, String>,
    /// Requests that were begun or are done, the oldest first.
    pub keys: Vec<RequestKey>,
    pub journal: Journal,
}

/// How far a sandbox that is up has come: what it is when it is not paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing in it was started yet.
    Ready,
    Running,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Creating,
    /// A stopped one gets a fresh VM.
    Starting,
    Ready,
    /// Its created containers are being started.
    Beginning,
    Running,
    /// Its inits were told to end; then it is released.
    Quieting,
    Pausing(Stage),
    /// Also while its VM goes on for a moment, so that the guest can end something.
    Paused(Stage),
    Resuming(Stage),
    /// Being released.
    Stopping(Ended),
    /// Nothing of it is left on the host but its records.
    Stopped(Ended),
    /// It is going, and all that is in it.
    Deleting,
    /// Its room panicked too often: nobody looks after it any more.
    Failed(String),
}

/// Why a sandbox is not up, where its records stay: what became of its processes follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    Asked,
    /// Its containers are done.
    Idle,
    Lost(String),
    /// Its VM was there, and nobody in it answered.
    AgentLost(String),
}

impl Phase {
    /// As callers see it while no room answers for the sandbox.
    pub fn standing(&self) -> Standing {
        match self {
            Self::Creating => Standing::Creating,
            Self::Starting | Self::Beginning => Standing::Starting,
            Self::Ready => Standing::Ready,
            Self::Running => Standing::Running,
            Self::Pausing(_) => Standing::Pausing,
            Self::Paused(_) => Standing::Paused,
            Self::Resuming(_) => Standing::Resuming,
            Self::Quieting | Self::Stopping(_) | Self::Deleting => Standing::Stopping,
            Self::Stopped(_) => Standing::Stopped,
            Self::Failed(_) => Standing::Failed,
        }
    }

    /// Its VM is there.
    pub fn is_up(&self) -> bool {
        match self {
            Self::Ready
            | Self::Beginning
            | Self::Running
            | Self::Quieting
            | Self::Pausing(_)
            | Self::Paused(_)
            | Self::Resuming(_) => true,
            Self::Creating
            | Self::Starting
            | Self::Stopping(_)
            | Self::Stopped(_)
            | Self::Deleting
            | Self::Failed(_) => false,
        }
    }
}

impl SandboxRecord {
    pub const PREFIX: &'static str = "sandbox/";

    pub fn key(uid: SandboxUid) -> String {
        format!("{}{uid}", Self::PREFIX)
    }
}

impl Record for SandboxRecord {
    const NAME: &'static str = "sandbox record";
    const VERSION: u32 = 3;

    fn upgrade(from: u32, old: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed> {
        match from {
            1 => known_by_its_containers(old),
            2 => Some(ended_for_a_text(old)),
            _ => None,
        }
        .ok_or(UpgradeFailed { from })
    }
}

/// Version 1 knew sandboxes by their containers alone.
fn known_by_its_containers(mut old: serde_json::Value) -> Option<serde_json::Value> {
    let uid = old["spec"]["uid"].as_str()?.to_owned();
    let spec = &mut old["spec"];
    spec["namespace"] = "default".into();
    spec["id"] = uid.into();
    spec["lifetime"] = "containers".into();
    spec["created_by"] = serde_json::Value::Null;
    old["first_of_vm"] = 0.into();
    old["annotations"] = serde_json::json!({});
    old["keys"] = serde_json::json!([]);
    old["journal"] = serde_json::json!({ "numbered": 0, "last": [] });
    Some(old)
}

/// Version 2 kept why it ended as a text, of which only that can be said.
fn ended_for_a_text(mut old: serde_json::Value) -> serde_json::Value {
    for phase in ["stopping", "stopped"] {
        if let Some(why) = old["phase"].get_mut(phase) {
            *why = serde_json::json!({ "lost": why.take() });
        }
    }
    old
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::decode;

    #[test]
    fn a_record_of_the_second_version_says_in_its_own_words_why_it_ended() {
        let read = |phase: &str| {
            let body = serde_json::json!({ "phase": serde_json::from_str::<serde_json::Value>(phase).unwrap() });
            let body = SandboxRecord::upgrade(2, body).unwrap();
            serde_json::from_value::<Phase>(body["phase"].clone()).unwrap()
        };

        let lost = || Ended::Lost("its vmm died".to_owned());
        assert_eq!(
            read(r#"{"stopped":"its vmm died"}"#),
            Phase::Stopped(lost())
        );
        assert_eq!(
            read(r#"{"stopping":"its vmm died"}"#),
            Phase::Stopping(lost())
        );
        assert_eq!(read(r#""ready""#), Phase::Ready);
        assert_eq!(
            read(r#"{"paused":"running"}"#),
            Phase::Paused(Stage::Running)
        );
    }

    #[test]
    fn a_record_of_the_first_version_is_of_a_sandbox_that_was_made_for_its_containers() {
        let old =
            br#"{"v":1,"body":{"boot_id":"b","phase":"ready","vm":null,"containers_numbered":1,
            "spec":{"uid":"0000000000000007","created":1,"hostname":"h",
            "premises":{"uid":"0000000000000007","folder":"/f","vmm":"/v","helpers":"/h"},
            "network":{"uid":"0000000000000007","folder":"/f","netns":null},"share":null,
            "vm":{"uid":"0000000000000007","folder":"/f","kernel":"/k","initrd":"/i",
            "kernel_params":[],"vcpus":1,"memory_mib":128,"machine":"q35","accelerator":"tcg",
            "channel":"serial","cgroup":"/v","netns":null,"share_socket":null,"blocks":[]}}}}"#;

        let record: SandboxRecord = decode(old).expect("it reads");

        assert_eq!(record.spec.id, record.spec.uid.as_id());
        assert_eq!(record.spec.lifetime, Lifetime::Containers);
        assert_eq!(record.phase, Phase::Ready);
    }
}
