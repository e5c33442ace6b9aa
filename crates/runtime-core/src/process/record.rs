//! What the store keeps of a process; enough to rebuild its actor.

use super::messages::Made;
use crate::{
    agent::{ExitStatus, Warnings},
    container::ContainerState,
    hypervisor::StreamLease,
    ids::{ContainerNumber, HostProcess, ProcessId, RequestKey, SandboxUid},
    records::{Record, UpgradeFailed},
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    pub uid: SandboxUid,
    pub container: ContainerNumber,
    pub process: ProcessId,
    pub state: ProcessState,
    pub lease: Option<StreamLease>,
    /// What the guest could not honour of it.
    #[serde(default)]
    pub warnings: Warnings,
    pub relay: Option<HostProcess>,
    /// The request that started an init, or made an exec: asked again, it gets the same answer.
    #[serde(default)]
    pub begun_by: Option<RequestKey>,
    /// The requests whose signals were sent, oldest first: none is sent a second time.
    #[serde(default)]
    pub signaled_by: Vec<RequestKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// The guest may or may not know it.
    Making,
    Created,
    /// The guest was about to be asked to start it, or it runs.
    Running,
    Exited(ExitStatus),
}

impl ProcessRecord {
    /// What whoever asked for it is told; `None`: nobody can read it any more.
    pub fn made(&self) -> Option<Made> {
        let (lease, warnings) = (self.lease.clone()?, self.warnings.clone());
        Some(Made { lease, warnings })
    }

    /// What the record of its container tells of an init: one that was created has an init that was made.
    #[must_use]
    pub fn in_container(mut self, container: &ContainerState) -> Self {
        let was_created = !matches!(container, ContainerState::Creating);
        if was_created && self.process == ProcessId::Init && self.state == ProcessState::Making {
            self.state = ProcessState::Created;
        }
        self
    }

    /// Of an init that was made, and is not known to have exited.
    pub fn is_living_init(&self) -> bool {
        let lives = matches!(self.state, ProcessState::Created | ProcessState::Running);
        self.process == ProcessId::Init && lives
    }

    pub fn key(uid: SandboxUid, container: ContainerNumber, process: &ProcessId) -> String {
        let prefix = Self::prefix(uid, container);
        match process {
            ProcessId::Init => format!("{prefix}init"),
            // An exec id may be "init" too.
            ProcessId::Exec(id) => format!("{prefix}exec.{id}"),
        }
    }

    pub fn prefix(uid: SandboxUid, container: ContainerNumber) -> String {
        format!("process/{uid}/{container}/")
    }
}

impl Record for ProcessRecord {
    const NAME: &'static str = "process record";
    const VERSION: u32 = 1;

    fn upgrade(from: u32, _: serde_json::Value) -> Result<serde_json::Value, UpgradeFailed> {
        Err(UpgradeFailed { from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::ExitReason,
        ids::{EpochMs, ExecId},
    };

    fn being_made(process: ProcessId) -> ProcessRecord {
        ProcessRecord {
            uid: SandboxUid::from_random(1),
            container: ContainerNumber(0),
            process,
            state: ProcessState::Making,
            lease: None,
            warnings: Warnings::new(),
            relay: None,
            begun_by: None,
            signaled_by: Vec::new(),
        }
    }

    #[test]
    fn an_init_was_made_if_its_container_was_created_whatever_its_own_record_says() {
        let stopped = ContainerState::Stopped(ExitStatus {
            code: 137,
            reason: ExitReason::Signaled,
            detail: String::new(),
            at: EpochMs(0),
        });
        for (container, known) in [
            (ContainerState::Creating, ProcessState::Making),
            (ContainerState::Created, ProcessState::Created),
            (ContainerState::Running, ProcessState::Created),
            // Its deletion was begun: the init may live.
            (stopped, ProcessState::Created),
        ] {
            let init = being_made(ProcessId::Init).in_container(&container);
            assert_eq!(init.state, known, "{container:?}");

            let exec = being_made(ProcessId::Exec(ExecId::new("e").unwrap()));
            assert_eq!(exec.clone().in_container(&container), exec);
        }
    }
}
