//! What the host room understands; the daemon's interface is built on it.

use super::events::{Created, Name, Place};
use crate::{
    container::{ContainerSpec, ContainerView, Force},
    error::Fault,
    ids::{EpochMs, Namespace, RequestKey, SandboxUid},
    sandbox::{SandboxActor, SandboxView},
};
use actix::prelude::*;

/// A container that a caller wishes for; number and sandbox are still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub spec: ContainerSpec,
    /// A uid that was drawn for it, in case it gets a sandbox of its own.
    pub uid: SandboxUid,
    /// The id of a container whose sandbox it joins.
    pub join: Option<String>,
    /// A network namespace of the caller's.
    pub netns: Option<std::path::PathBuf>,
    pub hostname: String,
}

/// Command: create a container. Answered when its init waits for its start.
#[derive(Message, Debug)]
#[rtype(result = "Result<Created, Fault>")]
pub struct CreateContainer {
    pub key: Option<RequestKey>,
    pub wish: Box<Wish>,
}

/// Command: delete a container, named by id or by a unique prefix of one, and with the last one its
/// sandbox. Answered when nothing of it is left; asked again under the same key, it is answered again.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
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
}

/// Query: all sandboxes, with the ids of their containers.
#[derive(Message, Debug)]
#[rtype(result = "Vec<(SandboxView, Vec<Name>)>")]
pub struct ListSandboxes;

/// Command: no more creations; answered when none is in progress.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Drain;
