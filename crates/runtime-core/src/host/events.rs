//! What the host hears, does and says, and how it names things.

use super::{
    machine::CREATIONS_MAX,
    messages::{Delete, DeleteSandbox, SandboxWish, Wish},
    sandboxes::{Forlorn, FoundSandbox, SandboxName},
};
use crate::{
    agent::Warnings,
    container::{ContainerSpec, Force},
    error::{Fault, Kind},
    ids::{ContainerId, ContainerNumber, EpochMs, Namespace, RequestKey, SandboxUid},
    kit::Waiter,
    process::Made,
};
use serde::{Deserialize, Serialize};

/// What identifies a container to its callers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub namespace: Namespace,
    pub id: ContainerId,
}

/// Where a container lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub uid: SandboxUid,
    pub number: ContainerNumber,
}

/// What a deletion is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doomed {
    Container(Place),
    Sandbox(SandboxUid),
}

impl Doomed {
    pub fn uid(self) -> SandboxUid {
        match self {
            Self::Container(place) => place.uid,
            Self::Sandbox(uid) => uid,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Created(Result<Created, Fault>),
    SandboxCreated(Result<(SandboxName, SandboxUid), Fault>),
    Deleted(Result<Warnings, Fault>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub place: Place,
    pub init: Made,
}

/// Into which sandbox a container goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// A new one, under the uid that was drawn for it.
    New,
    /// An existing one, under its next number.
    Existing(Place),
}

#[derive(Debug)]
pub enum Event {
    Create {
        waiter: Waiter,
        key: Option<RequestKey>,
        into: Into,
        wish: Box<Wish>,
    },
    CreateSandbox {
        waiter: Waiter,
        wish: Box<SandboxWish>,
    },
    SandboxCreated {
        uid: SandboxUid,
        outcome: Result<(), Fault>,
    },
    Delete {
        waiter: Waiter,
        delete: Delete,
    },
    DeleteSandbox {
        waiter: Waiter,
        delete: DeleteSandbox,
    },
    Deleted {
        waiter: Option<Waiter>,
        key: Option<RequestKey>,
        outcome: Result<Warnings, Fault>,
    },
    /// After a restart: finish the deletions that were begun.
    Resume,
    Created {
        name: Name,
        key: Option<RequestKey>,
        waiter: Waiter,
        outcome: Result<Made, Fault>,
    },
    ContainerGone(Place),
    SandboxGone(SandboxUid),
    /// Its own record does not read: nobody can look after it.
    Unread {
        uid: SandboxUid,
        forlorn: Forlorn,
    },
    RoomPanicked {
        uid: SandboxUid,
        at: EpochMs,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    Create {
        waiter: Waiter,
        key: Option<RequestKey>,
        into: Into,
        wish: Box<Wish>,
    },
    CreateSandbox {
        wish: Box<SandboxWish>,
    },
    Delete {
        waiter: Option<Waiter>,
        key: Option<RequestKey>,
        doomed: Doomed,
        force: Force,
        at: EpochMs,
        repeated: Repeated,
    },
    /// Who waits for this name may go on.
    TellUndone(Name),
    ForgetSandbox(SandboxUid),
    Rebuild(SandboxUid),
    /// Its room panics again and again: end its VM, keep its records and its console.
    GiveUp(SandboxUid),
}

/// Whether a deletion may find its work done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    No,
    Yes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    Exists(Name),
    SandboxExists(SandboxName),
    TooManyCreations,
    Taken(SandboxUid),
    /// The id of a deletion names nothing, or several.
    NotOne(Found, String),
    NotOneSandbox(FoundSandbox, String),
    /// Others would go with it, and nobody named them.
    NotAlone(SandboxUid, Forlorn),
}

/// Which command was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Create(Denied),
    CreateSandbox(Denied),
    Delete(Denied),
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        match denied {
            // runc's words.
            Denied::Exists(_) => Self::new(
                Kind::AlreadyExists,
                "container with given ID already exists",
            ),
            Denied::TooManyCreations => Self::new(
                Kind::Exhausted,
                format!("{CREATIONS_MAX} containers are being created already; try again"),
            ),
            Denied::SandboxExists(_) => {
                Self::new(Kind::AlreadyExists, "sandbox with given id already exists")
            }
            Denied::NotOneSandbox(found, id) => found.fault(&id),
            Denied::NotAlone(uid, forlorn) => {
                let why = forlorn.why();
                let what = format!(
                    "its sandbox {uid} failed: {why}; it holds other containers: delete the sandbox by force"
                );
                Self::new(Kind::Denied, what)
            }
            Denied::Taken(uid) => Self::new(Kind::Internal, format!("uid {uid} is taken")),
            Denied::NotOne(found, id) => found.fault(&id),
        }
    }
}

/// What an id of a caller may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    One(Name, Place),
    /// What an earlier daemon left half made; it is going.
    Undoing(Name, Place),
    None,
    /// A prefix of several; at most a few of them.
    Ambiguous(Vec<String>),
}

impl Found {
    /// Why it is not one.
    pub(super) fn fault(self, id: &str) -> Fault {
        match self {
            Self::Ambiguous(candidates) => {
                let candidates = candidates.join(", ");
                let why = format!(
                    "id {id:?} is ambiguous and could refer to multiple containers: {candidates}"
                );
                Fault::invalid(why)
            }
            // runc's words.
            Self::One(..) | Self::Undoing(..) | Self::None => {
                Fault::new(Kind::NotFound, "container does not exist")
            }
        }
    }
}

/// A sandbox on record.
#[derive(Debug, Clone)]
pub struct KnownHome {
    pub name: SandboxName,
    pub uid: SandboxUid,
    pub created_by: Option<RequestKey>,
    pub fate: HomeFate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HomeFate {
    Made,
    HalfMade,
    Failed(Forlorn),
}

/// A container on record.
#[derive(Debug, Clone)]
pub struct Known {
    pub name: Name,
    pub place: Place,
    pub fate: Fate,
}

#[derive(Debug, Clone)]
pub enum Fate {
    /// It was created, by this request; the same request gets this answer.
    Made(Option<(RequestKey, Made)>),
    HalfMade,
}

impl Name {
    pub(super) fn of(spec: &ContainerSpec) -> Self {
        Self {
            namespace: spec.namespace.clone(),
            id: spec.id.clone(),
        }
    }
}
