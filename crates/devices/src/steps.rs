//! What the room does to the host, as data: each step is on record before it is done, may be
//! repeated, and has an undoing that may be repeated too. Performs nothing.

use runtime_core::devices::ShareSpec;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One step towards a share, or towards a container that is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The shared folder is a mount point of its own, read-only for the guest.
    Share {
        folder: PathBuf,
    },
    Virtiofsd(ShareSpec),
    Bind(Bind),
}

/// What a step leaves on the host: what its undoing takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    Share { folder: PathBuf },
    Virtiofsd(ShareSpec),
    Place { folder: PathBuf, place: String },
}

/// A directory or file of the host, made visible below the share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The sandbox's folder.
    pub folder: PathBuf,
    /// Where below the share: `<container>/rootfs`, `<container>/m<index>`, or
    /// `<container>/w<index>` for copies.
    pub place: String,
    /// Resolved: no part of it is a link.
    pub source: PathBuf,
    pub shape: Shape,
    pub depth: Depth,
    pub access: Access,
}

/// What is at the place: a mount point of the shape of what is mounted on it, or copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    Directory,
    File,
    /// Copies of a directory, each whole; the newest stands for it. See `follow.rs`.
    Copies,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// What is mounted below the source stays behind.
    Top,
    Recursive,
}

/// Held by the host's mount, so that it binds a guest whose kernel is not ours any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    ReadWrite,
    /// The top mount alone, as `ro` means to runc; mounts below it keep their own access.
    ReadOnly,
}

impl Step {
    pub fn trace(&self) -> Trace {
        match self {
            Self::Share { folder } => Trace::Share {
                folder: folder.clone(),
            },
            Self::Virtiofsd(spec) => Trace::Virtiofsd(spec.clone()),
            Self::Bind(bind) => bind.trace(),
        }
    }

    /// For errors: what was being done.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Share { .. } => "make the shared folder",
            Self::Virtiofsd(_) => "start virtiofsd",
            Self::Bind(_) => "bring a directory into the share",
        }
    }
}

impl Bind {
    pub fn trace(&self) -> Trace {
        Trace::Place {
            folder: self.folder.clone(),
            place: self.place.clone(),
        }
    }
}

impl Trace {
    /// For errors: what was being done.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Share { .. } => "take the shared folder away",
            Self::Virtiofsd(_) => "end virtiofsd",
            Self::Place { .. } => "take a directory out of the share",
        }
    }
}
