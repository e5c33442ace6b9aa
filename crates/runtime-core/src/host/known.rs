//! What the store knows of sandboxes, put together by sandbox.

use super::{
    deletions::DeletionRecord,
    events::{Fate, HomeFate, Known, KnownHome, Name, Place},
    sandboxes::SandboxName,
};
use crate::{
    container::{Container, ContainerRecord, ContainerState, ContainerView},
    error::{Fault, Kind},
    ids::{ContainerNumber, ProcessId, SandboxUid},
    process::ProcessRecord,
    records::{Record, Records, Rows, decode},
    sandbox::{Phase, SandboxRecord, SandboxView, Standing},
};
use actix::prelude::*;
use std::collections::BTreeMap;

/// The records of one sandbox.
#[derive(Message)]
#[rtype(result = "()")]
pub struct KnownSandbox {
    pub record: SandboxRecord,
    pub containers: Vec<(ContainerRecord, Vec<ProcessRecord>)>,
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
        let mut found = self.containers.iter();
        let (record, processes) = found.find(|(record, _)| record.spec.number == number)?;
        let init = processes.iter().find(|p| p.process == ProcessId::Init);
        Some(ContainerView {
            spec: record.spec.clone(),
            state: Container::rebuilt(record.clone(), processes).oci_state(),
            relay: init.and_then(|init| init.relay),
        })
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
                (false, Phase::Failed(_)) => HomeFate::Failed,
                (false, _) => HomeFate::Made,
            },
        }
    }

    /// Its containers as the registry knows them.
    pub fn names(&self) -> impl Iterator<Item = Known> {
        let half_made = self.is_half_made();
        self.containers.iter().map(move |(container, processes)| {
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
}

/// A record that does not read. It is left where it is, and nobody looks after what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub key: String,
    pub why: String,
}

/// Everything on record.
#[derive(Default)]
pub struct Kept {
    pub sandboxes: Vec<KnownSandbox>,
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
    Ok(Kept {
        sandboxes: known([&sandboxes, &containers, &processes], &mut unread),
        deletions: readable(&deletions, &mut unread),
        unread,
    })
}

/// Reads the records of one sandbox; `None`: there are none.
///
/// # Errors
/// The store does not answer, or the sandbox's own record does not read: then it is not gone.
pub async fn read_one(
    records: &dyn Records,
    uid: SandboxUid,
) -> Result<Option<KnownSandbox>, Fault> {
    let sandboxes = records.scan(SandboxRecord::key(uid)).await?;
    let containers = records.scan(ContainerRecord::prefix(uid)).await?;
    let processes = records.scan(format!("process/{uid}/")).await?;
    let mut unread = Vec::new();
    let found = known([&sandboxes, &containers, &processes], &mut unread).pop();
    let own = unread
        .into_iter()
        .find(|one| one.key == SandboxRecord::key(uid));
    match (found, own) {
        (None, Some(Unread { key, why })) => Err(Fault::new(
            Kind::Internal,
            format!("record {key:?} does not read: {why}"),
        )),
        (found, _) => Ok(found),
    }
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
) -> Vec<KnownSandbox> {
    let mut by_sandbox: BTreeMap<SandboxUid, Vec<(ContainerRecord, Vec<ProcessRecord>)>> =
        BTreeMap::new();
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
    let sandboxes = readable::<SandboxRecord>(sandboxes, unread).into_iter();
    let with_containers = sandboxes.map(|record| KnownSandbox {
        containers: by_sandbox.remove(&record.spec.uid).unwrap_or_default(),
        record,
    });
    with_containers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kit::Work, records::Change};

    struct OnRecord(Rows);

    impl Records for OnRecord {
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
        let torn = OnRecord(vec![(SandboxRecord::key(uid), b"{".to_vec())]);

        let refused = read_one(&torn, uid).await.err().unwrap();

        let text = refused.to_string();
        assert!(text.contains(&SandboxRecord::key(uid)), "{text}");
        assert!(
            read_one(&OnRecord(Vec::new()), uid)
                .await
                .unwrap()
                .is_none()
        );
    }
}
