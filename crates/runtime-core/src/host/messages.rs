//! What the host room understands; the daemon's interface is built on it.

use super::{
    events::{Created, Name, Place},
    known::Unread,
    sandboxes::SandboxName,
};
use crate::{
    agent::Warnings,
    container::{ContainerSpec, ContainerView, Force},
    error::Fault,
    ids::{EpochMs, Namespace, RequestKey, SandboxId, SandboxUid},
    premises::Cgroup,
    sandbox::{Lifetime, SandboxActor, SandboxView},
};
use actix::prelude::*;
use std::{collections::BTreeMap, path::PathBuf};

/// A container that a caller wishes for; number and sandbox are still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub spec: ContainerSpec,
    /// A uid that was drawn for it, in case it gets a sandbox of its own.
    pub uid: SandboxUid,
    /// What the sandbox that it joins goes by.
    pub join: Option<String>,
    /// The id of the sandbox that is made for it; `None`: its uid.
    pub sandbox: Option<SandboxId>,
    /// A network namespace of the caller's.
    pub netns: Option<PathBuf>,
    pub hostname: String,
    /// Found before the wish is told: nobody looks at a caller's path in the host room.
    pub root: RootKind,
}

/// What a container's root file system is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootKind {
    /// Or nobody knows: whoever takes it finds out.
    #[default]
    Directory,
    /// A file or a block device with a file system in it.
    Image,
}

/// A sandbox that a caller wishes for, or that a container needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxWish {
    pub uid: SandboxUid,
    pub namespace: Namespace,
    pub id: SandboxId,
    pub lifetime: Lifetime,
    pub created_by: Option<RequestKey>,
    pub created: EpochMs,
    pub hostname: String,
    pub annotations: BTreeMap<String, String>,
    pub netns: Option<PathBuf>,
    /// The caller's; `None`: ours is used.
    pub cgroup: Option<Cgroup>,
    /// Of the container that it is made for.
    pub root: RootKind,
}

impl Wish {
    /// The sandbox that is made for this container.
    pub fn home(&self) -> SandboxWish {
        let spec = &self.spec;
        SandboxWish {
            uid: self.uid,
            namespace: spec.namespace.clone(),
            id: self.sandbox.clone().unwrap_or_else(|| self.uid.as_id()),
            lifetime: Lifetime::Containers,
            created_by: None,
            created: spec.created,
            hostname: self.hostname.clone(),
            annotations: match self.sandbox {
                Some(_) => spec.annotations.clone(),
                None => BTreeMap::new(),
            },
            netns: self.netns.clone(),
            cgroup: spec.cgroup.clone(),
            root: self.root,
        }
    }
}

/// Command: create a sandbox without a container. Answered when its VM is there; the same key gets the
/// same answer.
#[derive(Message, Debug)]
#[rtype(result = "Result<(SandboxName, SandboxUid), Fault>")]
pub struct CreateSandbox(pub Box<SandboxWish>);

/// Command: delete a sandbox and all that is in it, named as [`FindSandbox`] has it. With what may not be on its disks.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct DeleteSandbox {
    pub key: Option<RequestKey>,
    pub namespace: Namespace,
    pub id: String,
    pub force: Force,
    pub at: EpochMs,
}

/// Query: a sandbox by its id, its uid, the id of a container in it, or a unique prefix of an id or a uid.
#[derive(Message, Debug)]
#[rtype(result = "Result<LocatedSandbox, Fault>")]
pub struct FindSandbox {
    /// `None`: whatever the namespace.
    pub namespace: Option<Namespace>,
    pub id: String,
}

#[derive(Clone)]
pub struct LocatedSandbox {
    pub name: SandboxName,
    pub uid: SandboxUid,
    pub sandbox: Addr<SandboxActor>,
}

/// Query: what is seen of a sandbox, and the names of what is in it; also of one that failed.
#[derive(Message, Debug)]
#[rtype(result = "Result<(SandboxView, Vec<Name>), Fault>")]
pub struct ViewSandbox(pub FindSandbox);

/// Command: create a container. Answered when its init waits for its start.
#[derive(Message, Debug)]
#[rtype(result = "Result<Created, Fault>")]
pub struct CreateContainer {
    pub key: Option<RequestKey>,
    pub wish: Box<Wish>,
}

/// Command: delete a container, named by id or by a unique prefix of one (with force by its id alone), and with the
/// last one its sandbox. Answered when nothing of it is left, with the poststop hooks that failed; asked again
/// under the same key, it is answered again.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct Delete {
    pub key: Option<RequestKey>,
    pub namespace: Namespace,
    pub id: String,
    pub force: Force,
    pub at: EpochMs,
}

/// Query: where a container lives; by id, or by a unique prefix of one. One that an earlier daemon
/// left half made is waited for until it is undone.
#[derive(Message, Debug)]
#[rtype(result = "Result<Located, Fault>")]
pub struct Find {
    pub namespace: Namespace,
    pub id: String,
}

#[derive(Clone)]
pub struct Located {
    pub name: Name,
    pub place: Place,
    pub sandbox: Addr<SandboxActor>,
}

/// Query: all containers, or those of one namespace.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Listed>")]
pub struct List {
    pub namespace: Option<Namespace>,
}

#[derive(Debug, Clone)]
pub struct Listed {
    pub uid: SandboxUid,
    pub view: ContainerView,
    /// Why the view may be wrong: nobody looks after what may live. Empty: it is right.
    pub unsure: String,
}

/// Query: all sandboxes or those of one namespace, with the ids of their containers.
#[derive(Message, Debug)]
#[rtype(result = "Vec<(SandboxView, Vec<Name>)>")]
pub struct ListSandboxes {
    pub namespace: Option<Namespace>,
}

/// Query: the records that did not read when the daemon began.
#[derive(Message, Debug)]
#[rtype(result = "Vec<Unread>")]
pub struct GetUnread;

/// Command: no more creations; answered when none is in progress.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Drain;
