//! What can fail between a container's directories and its guest.

use crate::{plan::Refusal, tree::Unfit};
use runtime_core::error::{Classify, Kind};
use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{step} {path:?}")]
    Path {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start virtiofsd {path:?}")]
    Spawn {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("virtiofsd ended before it listened: {said}")]
    EndedEarly { said: String },
    #[error("virtiofsd did not listen in {limit_s} s: {said}")]
    Silent { limit_s: u64, said: String },
    #[error("{path:?} is still mounted")]
    StillMounted { path: PathBuf },
    /// What was a directory is a file now, or the other way round, or a link.
    #[error("{path:?} changed while it was brought into the share")]
    Changed { path: PathBuf },
    #[error("copy {path:?} into the share")]
    Unfit {
        path: PathBuf,
        #[source]
        why: Unfit,
    },
    #[error("copy {path:?} into the share: it changes faster than it can be read")]
    Restless { path: PathBuf },
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Error {
    pub(crate) fn path(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path { step, path, source }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Path { .. }
            | Self::Spawn { .. }
            | Self::EndedEarly { .. }
            | Self::StillMounted { .. } => Kind::Internal,
            Self::Unfit { .. } => Kind::Unsupported,
            Self::Changed { .. } | Self::Restless { .. } => Kind::Aborted,
            Self::Silent { .. } => Kind::Timeout,
            Self::Refused(refusal) => refusal.kind(),
        }
    }
}
