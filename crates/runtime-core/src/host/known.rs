//! What the store knows of sandboxes, put together by sandbox.

use super::{
    deletions::DeletionRecord,
    events::{Fate, HomeFate, Known, KnownHome, Name, Place},
    sandboxes::{Forlorn, SandboxName},
    unread::UnreadSandbox,
};
use crate::{
    container::{Container, ContainerRecord, ContainerState, ContainerView},
    error::Fault,
    ids::{ContainerNumber, Namespace, ProcessId, SandboxId, SandboxUid},
    process::ProcessRecord,
    records::{Record, Records, Rows, decode, sandbox_of},
    sandbox::{Phase, SandboxRecord, SandboxView, Standing},
};
use actix::prelude::*;
use std::{collections::BTreeMap, fmt};

/// A container on record, with its processes.
pub type Held = (ContainerRecord, Vec<ProcessRecord>);

/// The records of one sandbox.
#[derive(Message)]
#[rtype(result = "()")]
pub struct KnownSandbox {
    pub record: SandboxRecord,
    pub containers: Vec<Held>,
}

/// What is on record of one uid.
pub enum OnRecord {
    Nothing,
    Known(KnownSandbox),
    /// It is not gone.
    Unread(UnreadSandbox),
}

impl KnownSandbox {
    /// What is seen of one that nobody looks after.
    pub fn as_failed(&self) -> SandboxView {
        let reason = match &self.record.phase {
            Phase::Failed(text) => text.clone(),
            _ => String::new(),
        };
        SandboxView {
            standing: Standing::Failed,
            vm: None,
            ..self.on_record(reason)
        }
    }

    /// What is seen of one whose room is being rebuilt.
    pub fn as_rebuilding(&self) -> SandboxView {
        self.on_record("its room is being rebuilt".to_owned())
    }

    /// What is seen of a container whose room, or whose sandbox's, is being rebuilt.
    pub fn container(&self, number: ContainerNumber) -> Option<ContainerView> {
        container(&self.containers, number)
    }

    fn on_record(&self, reason: String) -> SandboxView {
        let record = &self.record;
        SandboxView {
            spec: record.spec.clone(),
            standing: record.phase.standing(),
            annotations: record.annotations.clone(),
            reason,
            vm: record.vm.clone(),
            containers: self.containers.iter().map(|(c, _)| c.spec.number).collect(),
            phases: Vec::new(),
        }
    }

    fn is_half_made(&self) -> bool {
        let phase = &self.record.phase;
        *phase == Phase::Creating || (phase.is_up() && self.record.vm.is_none())
    }

    /// As the registry knows it.
    pub fn home(&self) -> KnownHome {
        let spec = &self.record.spec;
        KnownHome {
            name: SandboxName {
                namespace: spec.namespace.clone(),
                id: spec.id.clone(),
            },
            uid: spec.uid,
            created_by: spec.created_by.clone(),
            fate: match (self.is_half_made(), &self.record.phase) {
                (true, _) => HomeFate::HalfMade,
                (false, Phase::Failed(why)) => HomeFate::Failed(Forlorn::Panicking(why.clone())),
                (false, _) => HomeFate::Made,
            },
        }
    }

    /// Its containers as the registry knows them.
    pub fn names(&self) -> impl Iterator<Item = Known> {
        names(&self.containers, self.is_half_made())
    }
}

pub(super) fn names(containers: &[Held], half_made: bool) -> impl Iterator<Item = Known> {
    containers.iter().map(move |(container, processes)| {
        let spec = &container.spec;
        let fate = match (half_made, &container.state) {
            (true, _) | (_, ContainerState::Creating) => Fate::HalfMade,
            (
                false,
                ContainerState::Created
                | ContainerState::Running
                | ContainerState::Paused
                | ContainerState::Stopped(_),
            ) => {
                let init = processes.iter().find(|p| p.process == ProcessId::Init);
                let made = init.and_then(ProcessRecord::made);
                Fate::Made(spec.created_by.clone().zip(made))
            }
        };
        let (uid, number) = (container.uid, spec.number);
        Known {
            name: Name::of(spec),
            place: Place { uid, number },
            fate,
        }
    })
}

pub(super) fn container(containers: &[Held], number: ContainerNumber) -> Option<ContainerView> {
    let mut found = containers.iter();
    let (record, processes) = found.find(|(record, _)| record.spec.number == number)?;
    let init = processes.iter().find(|p| p.process == ProcessId::Init);
    Some(ContainerView {
        spec: record.spec.clone(),
        state: Container::rebuilt(record.clone(), processes).oci_state(),
        relay: init.and_then(|init| init.relay),
    })
}

/// A record that does not read. It is left where it is, and nobody looks after what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub key: String,
    pub why: String,
}

impl Unread {
    /// Of which sandbox it is a record, if of one.
    pub fn uid(&self) -> Option<SandboxUid> {
        sandbox_of(&self.key)
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {:?} does not read: {}", self.key, self.why)
    }
}

/// Everything on record.
#[derive(Default)]
pub struct Kept {
    pub sandboxes: Vec<KnownSandbox>,
    pub unread_sandboxes: Vec<UnreadSandbox>,
    pub deletions: Vec<DeletionRecord>,
    pub unread: Vec<Unread>,
}

/// Reads every record.
///
/// # Errors
/// The store does not answer.
pub async fn read_all(records: &dyn Records) -> Result<Kept, Fault> {
    let sandboxes = records.scan(SandboxRecord::PREFIX.to_owned()).await?;
    let containers = records.scan("container/".to_owned()).await?;
    let processes = records.scan("process/".to_owned()).await?;
    let deletions = records.scan(DeletionRecord::PREFIX.to_owned()).await?;
    let mut unread = Vec::new();
    let (sandboxes, unread_sandboxes) = known([&sandboxes, &containers, &processes], &mut unread);
    Ok(Kept {
        sandboxes,
        unread_sandboxes,
        deletions: readable(&deletions, &mut unread),
        unread,
    })
}

/// Reads the records of one sandbox.
///
/// # Errors
/// The store does not answer.
pub async fn read_one(records: &dyn Records, uid: SandboxUid) -> Result<OnRecord, Fault> {
    let sandboxes = records.scan(SandboxRecord::key(uid)).await?;
    let containers = records.scan(ContainerRecord::prefix(uid)).await?;
    let processes = records.scan(format!("process/{uid}/")).await?;
    let rows = [&sandboxes, &containers, &processes];
    let (mut known, mut unread) = known(rows, &mut Vec::new());
    Ok(match (known.pop(), unread.pop()) {
        (Some(known), _) => OnRecord::Known(known),
        (None, Some(unread)) => OnRecord::Unread(unread),
        (None, None) => OnRecord::Nothing,
    })
}

/// A record that does not read is left where it is, and named.
fn readable<R: Record>(rows: &Rows, unread: &mut Vec<Unread>) -> Vec<R> {
    let mut found = Vec::new();
    for (key, bytes) in rows {
        match decode(bytes) {
            Ok(record) => found.push(record),
            Err(why) => {
                let (key, why) = (key.clone(), crate::error::chain(&why));
                tracing::error!(%key, %why, "record left aside");
                unread.push(Unread { key, why });
            }
        }
    }
    found
}

fn known(
    [sandboxes, containers, processes]: [&Rows; 3],
    unread: &mut Vec<Unread>,
) -> (Vec<KnownSandbox>, Vec<UnreadSandbox>) {
    let mut by_sandbox: BTreeMap<SandboxUid, Vec<Held>> = BTreeMap::new();
    let mut by_container: BTreeMap<(SandboxUid, ContainerNumber), Vec<ProcessRecord>> =
        BTreeMap::new();
    for process in readable::<ProcessRecord>(processes, unread) {
        let place = (process.uid, process.container);
        by_container.entry(place).or_default().push(process);
    }
    for container in readable::<ContainerRecord>(containers, unread) {
        let place = (container.uid, container.spec.number);
        let processes = by_container.remove(&place).unwrap_or_default();
        by_sandbox
            .entry(container.uid)
            .or_default()
            .push((container, processes));
    }
    let read = readable::<SandboxRecord>(sandboxes, unread).into_iter();
    let with_containers = read.map(|record| KnownSandbox {
        containers: by_sandbox.remove(&record.spec.uid).unwrap_or_default(),
        record,
    });
    let known = with_containers.collect();
    let torn = |one: &Unread| {
        let uid = one.key.strip_prefix(SandboxRecord::PREFIX)?.parse().ok()?;
        let prefix = ContainerRecord::prefix(uid);
        Some(UnreadSandbox {
            uid,
            why: one.to_string(),
            name: name_in(sandboxes, &one.key),
            containers: by_sandbox.remove(&uid).unwrap_or_default(),
            nameless: unread.iter().any(|other| other.key.starts_with(&prefix)),
        })
    };
    (known, unread.iter().filter_map(torn).collect())
}

/// A record of another version may still say what the sandbox goes by.
fn name_in(sandboxes: &Rows, key: &str) -> Option<SandboxName> {
    let (_, bytes) = sandboxes.iter().find(|(found, _)| found == key)?;
    let record: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let spec = &record["body"]["spec"];
    Some(SandboxName {
        namespace: Namespace::new(spec["namespace"].as_str()?).ok()?,
        id: SandboxId::new(spec["id"].as_str()?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{OnRecord, read_one};
    use crate::{
        error::Fault,
        ids::SandboxUid,
        kit::Work,
        records::{Change, Records, Rows},
        sandbox::SandboxRecord,
    };

    struct Kept(Rows);

    impl Records for Kept {
        fn write(&self, _: Vec<Change>) -> Work<()> {
            unreachable!("what is read is not written")
        }

        fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
            let rows = self.0.iter().filter(|(key, _)| key.starts_with(&prefix));
            let rows = rows.cloned().collect();
            Box::pin(async move { Ok(rows) })
        }
    }

    #[tokio::test]
    async fn a_sandbox_whose_record_does_not_read_is_not_taken_for_gone() {
        let uid = SandboxUid::from_random(7);
        let torn = Kept(vec![(SandboxRecord::key(uid), b"{".to_vec())]);

        let found = read_one(&torn, uid).await.unwrap();

        let OnRecord::Unread(unread) = found else {
            panic!("it is taken for another");
        };
        let key = SandboxRecord::key(uid);
        assert!(unread.why.contains(&key), "{}", unread.why);
        let none = read_one(&Kept(Vec::new()), uid).await.unwrap();
        assert!(matches!(none, OnRecord::Nothing));
    }
}
