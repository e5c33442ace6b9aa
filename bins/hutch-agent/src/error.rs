//! What can go wrong in the agent, and of which kind it is.
//!
//! A message names the object and the step, never its source: the chain is joined once, where
//! an answer or a log line is made of it.

use crate::{engine, table::Denied};
use std::{fmt, io};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("kernel command line: option not known: hutch.{0}")]
    Option(String),
    #[error("{step}")]
    Io {
        step: String,
        #[source]
        source: io::Error,
    },
    #[error("{what} not ready after {seconds} s")]
    Timeout { what: String, seconds: u64 },
    #[error("{object} id of {length} bytes is not a valid name: {shown:?}")]
    Id {
        object: &'static str,
        shown: String,
        length: usize,
    },
    /// The state of things refuses.
    #[error("{what}: {denied}")]
    Denied { what: String, denied: Denied },
    #[error("{what}")]
    Engine {
        what: String,
        #[source]
        source: engine::Error,
    },
    #[error("parse {what}")]
    Json {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// A request that can never be done as it stands.
    #[error("{what}: {why}")]
    Invalid { what: String, why: &'static str },
    /// There was something, and nothing more will come.
    #[error("{what}: end")]
    Over { what: String },
    #[error("{call}: not supported by this agent")]
    Unsupported { call: &'static str },
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    AlreadyExists,
    Invalid,
    Denied,
    Timeout,
    Exhausted,
    Over,
    Unsupported,
    Internal,
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Option(_) | Self::Id { .. } | Self::Json { .. } | Self::Invalid { .. } => {
                Kind::Invalid
            }
            Self::Denied { denied, .. } => match denied {
                Denied::Exists => Kind::AlreadyExists,
                Denied::NotFound => Kind::NotFound,
                Denied::NotRunning | Denied::Making => Kind::Denied,
                Denied::Exhausted => Kind::Exhausted,
            },
            Self::Engine { source, .. } => match source.kind() {
                engine::Kind::NotFound => Kind::NotFound,
                engine::Kind::AlreadyExists => Kind::AlreadyExists,
                engine::Kind::Invalid => Kind::Invalid,
                engine::Kind::Denied => Kind::Denied,
                engine::Kind::Unsupported => Kind::Unsupported,
                engine::Kind::Timeout => Kind::Timeout,
                engine::Kind::Internal => Kind::Internal,
            },
            Self::Io { .. } => Kind::Internal,
            Self::Timeout { .. } => Kind::Timeout,
            Self::Over { .. } => Kind::Over,
            Self::Unsupported { .. } => Kind::Unsupported,
        }
    }

    /// The whole chain on one line.
    pub fn chain(&self) -> Chain<'_> {
        Chain(self)
    }
}

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// # Errors
    /// The failure, with its step.
    fn doing(self, step: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, step: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            step: step(),
            source: source.into(),
        })
    }
}

pub struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_step_and_cause_once() {
        let failed: Result<(), io::Error> = Err(io::Error::from_raw_os_error(libc::ENOENT));

        let error = failed.doing(|| "mount /run".to_owned()).unwrap_err();

        assert_eq!(
            error.chain().to_string(),
            "mount /run: No such file or directory (os error 2)"
        );
    }
}
