//! What can go wrong with a store, said once and in full.

use crate::{Holder, UpgradeRefused};
use runtime_core::error::{Classify, Kind};
use std::{fmt, io, path::PathBuf, sync::Arc};

/// What was being done when the disk or sled failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    MakeFolder,
    TakeLock,
    NameHolder,
    ReadBootId,
    OpenEngine,
    WriteVersion,
    ReadRecords,
    ReadMark,
    MarkIncomplete,
    MoveAside,
    StartThread,
    Apply,
    Flush,
    Sync,
    NoteHead,
    Scan,
}

/// Errors are handed to every writer of a group, so they can be cloned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("open store {}: held by {holder}", path.display())]
    Held { path: PathBuf, holder: Holder },

    #[error("open store {}: held by a process that left no name", path.display())]
    HeldByUnknown { path: PathBuf },

    #[error("open store {}: {step}", path.display())]
    Open {
        path: PathBuf,
        step: Step,
        source: Arc<io::Error>,
    },

    #[error(
        "open store {}: its records have version {found} (written by {written_by}), \
         this program knows versions up to {known}; use a newer hutchd", path.display()
    )]
    Newer {
        path: PathBuf,
        found: u32,
        written_by: String,
        known: u32,
    },

    #[error("open store {}: kept by engine {found:?}, this program knows {known:?}", path.display())]
    ForeignEngine {
        path: PathBuf,
        found: String,
        known: &'static str,
    },

    #[error("open store {}: no step upgrades records of version {from}", path.display())]
    NoUpgrade { path: PathBuf, from: u32 },

    #[error("open store {}: upgrade {name:?} from version {from}", path.display())]
    Upgrade {
        path: PathBuf,
        name: &'static str,
        from: u32,
        source: Arc<UpgradeRefused>,
    },

    #[error("store {}: {step}", path.display())]
    Engine {
        path: PathBuf,
        step: Step,
        source: Arc<sled::Error>,
    },

    #[error("store {}: {step}", path.display())]
    Disk {
        path: PathBuf,
        step: Step,
        source: Arc<io::Error>,
    },

    #[error("open store {}: made anew, and unreadable: {damage}", path.display())]
    FreshUnreadable { path: PathBuf, damage: String },

    #[error("store {}: a key is not text", path.display())]
    KeyUnreadable { path: PathBuf },

    #[error("store {}: the engine panicked: {message}", path.display())]
    Panicked { path: PathBuf, message: String },

    #[error("store: closed")]
    Closed,

    #[error("store: its actor panicked {rebuilds} times within a minute")]
    ActorGone { rebuilds: usize },

    #[error("store: the fake disk is broken")]
    FakeBroken,

    #[error("store: refuse key {key:?} of {bytes} bytes")]
    KeyRefused { key: String, bytes: usize },

    #[error("store: value of {key:?} has {bytes} bytes, more than a record may have")]
    ValueTooLarge { key: String, bytes: usize },

    #[error("store: a write of {changes} changes is more than one write may have")]
    TooManyChanges { changes: usize },
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Held { .. } | Self::HeldByUnknown { .. } | Self::Closed => Kind::Unavailable,
            Self::Newer { .. } | Self::ForeignEngine { .. } | Self::NoUpgrade { .. } => {
                Kind::Unsupported
            }
            Self::KeyRefused { .. } => Kind::Invalid,
            Self::ValueTooLarge { .. } | Self::TooManyChanges { .. } => Kind::Exhausted,
            Self::Open { .. }
            | Self::Upgrade { .. }
            | Self::Engine { .. }
            | Self::Disk { .. }
            | Self::FreshUnreadable { .. }
            | Self::KeyUnreadable { .. }
            | Self::Panicked { .. }
            | Self::ActorGone { .. }
            | Self::FakeBroken => Kind::Internal,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MakeFolder => "make folder",
            Self::TakeLock => "take lock",
            Self::NameHolder => "write holder file",
            Self::ReadBootId => "read boot id",
            Self::OpenEngine => "open engine",
            Self::WriteVersion => "write version record",
            Self::ReadRecords => "read records",
            Self::ReadMark => "read whether it is complete",
            Self::MarkIncomplete => "mark it as incomplete",
            Self::MoveAside => "move damaged store aside",
            Self::StartThread => "start thread",
            Self::Apply => "apply changes",
            Self::Flush => "flush",
            Self::Sync => "sync to disk",
            Self::NoteHead => "note what was acknowledged",
            Self::Scan => "scan",
        })
    }
}
