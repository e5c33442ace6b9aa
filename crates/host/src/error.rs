//! What can go wrong on the host itself, with the thing and the step it concerns.

use runtime_core::{
    error::{Classify, Kind},
    ids::{HostProcess, SandboxUid},
};
use std::{fmt, io, path::PathBuf, time::Duration};

/// What was being done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Read,
    Write,
    MakeFolder,
    MakeCgroup,
    FillCpuset,
    MarkCgroup,
    JoinCgroup,
    ListMembers,
    KillMembers,
    RemoveCgroup,
    RemoveTree,
    Unmount,
    ListFolder,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}", path.display())]
    Path {
        doing: Doing,
        path: PathBuf,
        source: io::Error,
    },

    #[error("watch {process}")]
    Watch {
        process: HostProcess,
        source: io::Error,
    },

    #[error("kill {process}")]
    Kill {
        process: HostProcess,
        source: io::Error,
    },

    #[error("tell {process} that its container is gone")]
    Dismiss {
        process: HostProcess,
        source: io::Error,
    },

    #[error("cgroup path {path:?}: {why}")]
    CgroupPath { path: String, why: &'static str },

    #[error("no cgroup hierarchy is mounted that can be written")]
    NoHierarchy,

    #[error("cgroup {cgroup}: this process is a member, so it is not killed")]
    OwnCgroup { cgroup: String },

    #[error("cgroup {cgroup}: processes {pids:?} live {} s after SIGKILL", limit.as_secs())]
    StillPopulated {
        cgroup: String,
        pids: Vec<u32>,
        limit: Duration,
    },

    #[error("cgroup {cgroup}: still busy after {} s", limit.as_secs())]
    StillBusy { cgroup: String, limit: Duration },

    #[error("mounts below {} cannot be taken away: {left:?}", path.display())]
    StillMounted { path: PathBuf, left: Vec<PathBuf> },

    #[error("remove {}: something is mounted on it", path.display())]
    MountPoint { path: PathBuf },

    #[error("{} is no folder of its own", path.display())]
    NotAFolder { path: PathBuf },

    #[error("{} is not the folder of sandbox {uid}", path.display())]
    ForeignFolder { uid: SandboxUid, path: PathBuf },

    #[error("sandbox {uid} claims cgroup {cgroup}, which a known sandbox has")]
    ClaimedTwice { uid: SandboxUid, cgroup: String },

    #[error("start hook {path:?}")]
    HookStart { path: PathBuf, source: io::Error },

    #[error("wait for hook {path:?}")]
    HookWait { path: PathBuf, source: io::Error },

    #[error("hook {path:?}: {status}: {words}")]
    HookFailed {
        path: PathBuf,
        status: String,
        words: String,
    },

    #[error("hook {path:?}: not over after {} ms: {words}", limit.as_millis())]
    HookTimedOut {
        path: PathBuf,
        limit: Duration,
        words: String,
    },

    #[error("{first}; {}", rest.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several { first: String, rest: Vec<String> },

    #[error("work for the host panicked")]
    WorkPanicked,
}

impl Error {
    pub(crate) fn path(doing: Doing, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path {
            doing,
            path,
            source,
        }
    }

    /// One error that tells of all; `Ok` if there is none.
    pub(crate) fn join(errors: Vec<Self>) -> Result<(), Self> {
        if errors.len() <= 1 {
            return errors.into_iter().next().map_or(Ok(()), Err);
        }
        let mut lines = errors.iter().map(chain);
        let first = lines.next().expect("there are two at least");
        Err(Self::Several {
            first,
            rest: lines.collect(),
        })
    }
}

fn chain(error: &Error) -> String {
    runtime_core::error::fault(error).to_string()
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::CgroupPath { .. } | Self::ForeignFolder { .. } => Kind::Invalid,
            Self::NoHierarchy => Kind::Unsupported,
            Self::OwnCgroup { .. } | Self::ClaimedTwice { .. } => Kind::Denied,
            Self::StillPopulated { .. } | Self::StillBusy { .. } | Self::HookTimedOut { .. } => {
                Kind::Timeout
            }
            Self::Path { .. }
            | Self::Watch { .. }
            | Self::Kill { .. }
            | Self::Dismiss { .. }
            | Self::StillMounted { .. }
            | Self::MountPoint { .. }
            | Self::NotAFolder { .. }
            | Self::HookStart { .. }
            | Self::HookWait { .. }
            | Self::HookFailed { .. }
            | Self::Several { .. }
            | Self::WorkPanicked => Kind::Internal,
        }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::MakeFolder => "make folder",
            Self::MakeCgroup => "make cgroup",
            Self::FillCpuset => "fill cpuset",
            Self::MarkCgroup => "mark cgroup",
            Self::JoinCgroup => "move this process into",
            Self::ListMembers => "list members of cgroup",
            Self::KillMembers => "kill members of cgroup",
            Self::RemoveCgroup => "remove cgroup",
            Self::RemoveTree => "remove",
            Self::Unmount => "unmount",
            Self::ListFolder => "list folder",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::error::fault;

    fn missing(path: &str) -> Error {
        Error::path(Doing::Read, path)(io::ErrorKind::NotFound.into())
    }

    #[test]
    fn joined_errors_tell_of_each_with_its_cause() {
        let error = Error::join(vec![missing("/a"), missing("/b")]).unwrap_err();

        assert_eq!(
            fault(&error).to_string(),
            "read /a: entity not found; read /b: entity not found"
        );
    }

    #[test]
    fn one_error_stays_what_it_is_and_none_is_none() {
        assert!(Error::join(Vec::new()).is_ok());
        assert!(matches!(
            Error::join(vec![missing("/a")]),
            Err(Error::Path { .. })
        ));
    }
}
