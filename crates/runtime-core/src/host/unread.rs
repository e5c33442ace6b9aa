//! A sandbox whose own record does not read: what can be told of it all the same, and how all of it goes
//! when somebody says so. Nothing else ends what may live in it.

use super::{
    events::{HomeFate, Known, KnownHome},
    known::{Held, names},
    messages::{RootKind, SandboxWish},
    sandboxes::{Forlorn, SandboxName},
};
use crate::{
    error::Fault,
    ids::{EpochMs, Namespace, SandboxUid},
    premises::Premises,
    records::{self, ROOMS, Records},
    sandbox::{Lifetime, SandboxRecord, SandboxSpec, SandboxView, Standing},
};
use actix::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// For relays, whose guest is ended: 128 and SIGKILL.
const KILLED: u8 = 137;

/// A store takes so many in one write; a container may have thousands of execs.
const CHANGES_AT_ONCE: usize = 1024;

#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct UnreadSandbox {
    pub uid: SandboxUid,
    /// Which record does not read, and why.
    pub why: String,
    /// What it goes by, if that much reads.
    pub name: Option<SandboxName>,
    /// Those whose records read.
    pub containers: Vec<Held>,
    /// There are others.
    pub nameless: bool,
}

impl UnreadSandbox {
    /// As the registry knows it: else by its uid, and in the namespace of what is in it.
    pub fn home(&self) -> KnownHome {
        let by_uid = || SandboxName {
            namespace: self.namespace(),
            id: self.uid.as_id(),
        };
        KnownHome {
            name: self.name.clone().unwrap_or_else(by_uid),
            uid: self.uid,
            created_by: None,
            fate: HomeFate::Failed(self.forlorn()),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = Known> {
        names(&self.containers, false)
    }

    pub fn forlorn(&self) -> Forlorn {
        Forlorn::Unread {
            why: self.why.clone(),
            nameless: self.nameless,
        }
    }

    fn namespace(&self) -> Namespace {
        let first = self.containers.first();
        first.map_or_else(Namespace::default, |(container, _)| {
            container.spec.namespace.clone()
        })
    }

    /// The wish of a sandbox that goes by this name: what is not known of it is as with any other.
    pub fn wish(&self, name: SandboxName) -> SandboxWish {
        let created = self.containers.iter().map(|(of, _)| of.spec.created);
        SandboxWish {
            uid: self.uid,
            namespace: name.namespace,
            hostname: String::new(),
            id: name.id,
            lifetime: Lifetime::Own,
            created_by: None,
            created: created.min().unwrap_or(EpochMs(0)),
            annotations: BTreeMap::new(),
            netns: None,
            cgroup: None,
            root: RootKind::Directory,
        }
    }

    pub fn seen_as(&self, spec: SandboxSpec) -> SandboxView {
        SandboxView {
            spec: Arc::new(spec),
            standing: Standing::Failed,
            annotations: BTreeMap::new(),
            reason: self.why.clone(),
            vm: None,
            containers: self.containers.iter().map(|(c, _)| c.spec.number).collect(),
            phases: Vec::new(),
        }
    }

    /// Tells its relays, ends whatever is there of it, and then forgets it; its own record goes with the rest.
    ///
    /// # Errors
    /// Something of it is left; then its records stay too.
    pub async fn evict(
        self,
        records: &dyn Records,
        premises: &dyn Premises,
        others: BTreeSet<SandboxUid>,
    ) -> Result<(), Fault> {
        let uid = self.uid;
        let processes = self.containers.iter().flat_map(|(_, processes)| processes);
        for relay in processes.filter_map(|process| process.relay) {
            if let Err(why) = premises.dismiss(relay, KILLED).await {
                tracing::warn!(%uid, %relay, %why, "a relay was not told that its sandbox goes");
            }
        }
        premises.evict(uid, others).await?;
        let own = SandboxRecord::key(uid);
        let mut changes = Vec::new();
        for room in ROOMS {
            let rows = records.scan(format!("{room}/{uid}")).await?;
            let rows = rows.into_iter().filter(|(key, _)| *key != own);
            changes.extend(rows.map(|(key, _)| records::delete(key)));
        }
        // Whoever is interrupted finds it by its own record.
        changes.push(records::delete(own));
        for few in changes.chunks(CHANGES_AT_ONCE) {
            records.write(few.to_vec()).await;
        }
        Ok(())
    }
}
