//! What can go wrong with a network namespace in the world, with its path and the step.

use runtime_core::error::{Classify, Kind};
use std::{fmt, io, path::PathBuf};

/// What was being done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Open,
    Look,
    MakeFile,
    Bind,
    SetPropagation,
    Unmount,
    RemoveFile,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}", path.display())]
    Path {
        doing: Doing,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is not a network namespace", path.display())]
    NotANetwork { path: PathBuf },
    /// Somebody put it there: it is not ours to take away.
    #[error("{} holds something that is no network namespace of ours", path.display())]
    Occupied { path: PathBuf },
    #[error("{}: more than {max} mounts lie on each other there", path.display())]
    Stacked { path: PathBuf, max: usize },
    #[error("start a thread for network namespace {}", path.display())]
    Thread { path: PathBuf, source: io::Error },
    #[error("make network namespace {}", path.display())]
    Unshare { path: PathBuf, source: io::Error },
    #[error("bring loopback up in network namespace {}", path.display())]
    Loopback { path: PathBuf, source: io::Error },
    #[error("work on network namespace {} panicked", path.display())]
    WorkPanicked { path: PathBuf },
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NotANetwork { .. } => Kind::Invalid,
            Self::Occupied { .. } => Kind::Denied,
            Self::Stacked { .. } | Self::WorkPanicked { .. } => Kind::Internal,
            Self::Path { source, .. }
            | Self::Thread { source, .. }
            | Self::Unshare { source, .. }
            | Self::Loopback { source, .. } => kind(source),
        }
    }
}

fn kind(source: &io::Error) -> Kind {
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Kind::NotFound,
        Some(libc::EPERM | libc::EACCES) => Kind::Denied,
        // unshare(2): ENOSPC past the bound on namespaces, EINVAL in a kernel without them.
        Some(libc::ENOSPC | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN) => {
            Kind::Exhausted
        }
        Some(libc::EINVAL) => Kind::Unsupported,
        _ => Kind::Internal,
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Look => "look at",
            Self::MakeFile => "make file",
            Self::Bind => "bind network namespace to",
            Self::SetPropagation => "set the propagation of",
            Self::Unmount => "unmount",
            Self::RemoveFile => "remove file",
        })
    }
}
