//! Why a relay cannot do its work. A lost VM is not among it: that is an outcome.

use crate::session::StreamAddress;
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;
use stream::Fault;

#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("connect to stream {address}")]
    Connect {
        address: StreamAddress,
        #[source]
        source: Errno,
    },
    #[error("stream {address}: guest did not answer in {} s", limit.as_secs())]
    NoAnswer {
        address: StreamAddress,
        limit: Duration,
    },
    #[error("stream {address}: guest broke the protocol")]
    Protocol {
        address: StreamAddress,
        #[source]
        source: Fault,
    },
    #[error("{step}")]
    System {
        step: &'static str,
        #[source]
        source: Errno,
    },
    #[error("send terminal over console socket {path}: {step}")]
    Console {
        path: PathBuf,
        step: &'static str,
        #[source]
        source: Errno,
    },
    #[error("tell hutchd at {path}: {step}")]
    Daemon {
        path: PathBuf,
        step: &'static str,
        #[source]
        source: ttrpc::Error,
    },
    #[error("{step} {path}")]
    Place {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("no hutchd listens at {path}")]
    NoDaemon {
        path: PathBuf,
        #[source]
        source: Errno,
    },
}

/// For `map_err`: names the step that failed.
pub(crate) fn doing(step: &'static str) -> impl FnOnce(Errno) -> RelayError {
    move |source| RelayError::System { step, source }
}
