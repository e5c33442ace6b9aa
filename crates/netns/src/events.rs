//! What the network room's machine hears, asks for and refuses.

use runtime_core::{
    error::{Fault, Kind},
    ids::{OpId, SandboxUid},
    kit::Waiter,
    network::{NetworkSpec, NetworkStatus},
};
use std::{convert::Infallible, path::PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    // Commands.
    Connect {
        waiter: Waiter,
        spec: NetworkSpec,
    },
    Disconnect {
        waiter: Waiter,
    },

    // Completions.
    /// A namespace was made, or one of the caller's was looked at.
    Entered {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Removed {
        op: OpId,
        outcome: Result<(), Fault>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    /// Answered by [`Event::Entered`].
    Make { op: OpId, path: PathBuf },
    /// Answered by [`Event::Entered`].
    Check { op: OpId, path: PathBuf },
    /// Answered by [`Event::Removed`].
    Remove { op: OpId, path: PathBuf },
}

/// A namespace does nothing by itself: there is no news.
pub type Notice = Infallible;

/// What a command brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Connected(NetworkStatus),
    Disconnected,
}

pub type Answer = Result<Done, Fault>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("connect network: this is the room of another sandbox than {asked}")]
    OtherSandbox { asked: SandboxUid },
    #[error("connect network: {what} {path:?} is not an absolute path without \"..\"")]
    Path { what: &'static str, path: PathBuf },
    #[error("connect network: it has network namespace {} already", home.display())]
    OtherHome { home: PathBuf },
    #[error("connect network: it is being disconnected")]
    Leaving,
    #[error("{max} rooms wait for the network already")]
    Crowded { max: usize },
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        let kind = match &denied {
            Denied::OtherSandbox { .. } | Denied::Path { .. } => Kind::Invalid,
            Denied::OtherHome { .. } | Denied::Leaving => Kind::Denied,
            Denied::Crowded { .. } => Kind::Exhausted,
        };
        Fault::new(kind, denied.to_string())
    }
}
