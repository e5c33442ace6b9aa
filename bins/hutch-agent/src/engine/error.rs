//! What can go wrong in the engine, and of which kind it is.
//!
//! A message names the object and the step, never its source: the chain is joined once, where
//! an answer or a log line is made of it.

use super::plan::Failure;
use serde::{Deserialize, Serialize};
use std::{fmt, io};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("container {id:?} exists already")]
    ContainerExists { id: String },
    #[error("container {id:?} does not exist")]
    NoContainer { id: String },
    #[error("process {exec_id:?} of container {id:?} exists already")]
    ProcessExists { id: String, exec_id: String },
    #[error("container {id:?} has no process {exec_id:?}")]
    NoProcess { id: String, exec_id: String },
    #[error("process {exec_id:?} of container {id:?} has ended")]
    ProcessEnded { id: String, exec_id: String },
    #[error("container {id:?} is {state}")]
    State { id: String, state: &'static str },
    #[error("parse {what}")]
    Parse {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// Asked for something that can never be done as it stands.
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    /// A limit below what is in use: runc and its callers know it by the words at the end.
    #[error("{what}: {limit} is below the current use of {in_use} bytes: device or resource busy")]
    Busy {
        what: &'static str,
        limit: u64,
        in_use: u64,
    },
    /// Asked for something that this guest cannot give.
    #[error("{what}: not supported in the guest")]
    Unsupported { what: String },
    /// The program of a process cannot be run.
    #[error("{0}")]
    Program(ProgramFault),
    /// A hook in the guest failed.
    #[error("{hook}: {fault}")]
    Hook { hook: String, fault: HookFault },
    /// The process ended before it was set up, without a word.
    #[error("process ended while it was set up{}", if *.oom { ": killed for want of memory" } else { "" })]
    Died { oom: bool },
    #[error("{step}: not done after {seconds} s")]
    Timeout { step: String, seconds: u64 },
    #[error("{step}")]
    Io {
        step: String,
        #[source]
        source: Cause,
    },
}

/// What the kernel said, in its own words and lower case.
#[derive(Debug)]
pub struct Cause(io::Error);

/// Why a program cannot be run, in the words that callers of OCI runtimes look for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgramFault {
    /// A bare name that no folder of PATH holds.
    NotInPath {
        name: String,
    },
    Missing {
        path: String,
    },
    Forbidden {
        path: String,
    },
    Directory {
        path: String,
    },
    /// It is there and may be run, and the kernel does not run it.
    Refused {
        path: String,
        errno: i32,
    },
}

/// How a hook failed; the line is the last of its stderr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookFault {
    NotRun { errno: i32 },
    Exited { code: i32, line: String },
    Killed { signal: i32, line: String },
    TooLong { seconds: u32, line: String },
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    AlreadyExists,
    Invalid,
    /// Not in the state for this.
    Denied,
    Timeout,
    Unsupported,
    Internal,
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Self::ContainerExists { .. } | Self::ProcessExists { .. } => Kind::AlreadyExists,
            Self::NoContainer { .. } | Self::NoProcess { .. } => Kind::NotFound,
            Self::State { .. } | Self::ProcessEnded { .. } | Self::Busy { .. } => Kind::Denied,
            Self::Parse { .. } | Self::Invalid { .. } | Self::Program(_) => Kind::Invalid,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::Timeout { .. } => Kind::Timeout,
            Self::Died { .. } | Self::Hook { .. } | Self::Io { .. } => Kind::Internal,
        }
    }
}

impl fmt::Display for ProgramFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInPath { name } => {
                write!(f, "exec: {name:?}: executable file not found in $PATH")
            }
            Self::Missing { path } => {
                write!(f, "exec: {path:?}: stat {path}: no such file or directory")
            }
            Self::Forbidden { path } => write!(f, "exec: {path:?}: permission denied"),
            Self::Directory { path } => write!(f, "exec: {path:?}: is a directory"),
            Self::Refused { path, errno } => write!(f, "exec {path}: {}", cause(*errno)),
        }
    }
}

impl fmt::Display for HookFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Self::NotRun { errno } => {
                f.write_str(&cause(*errno))?;
                // The kernel says the same of a program and of what it needs to be loaded.
                match *errno {
                    libc::ENOENT => ", or what loads it is not there",
                    _ => "",
                }
            }
            Self::Exited { code, line } => {
                write!(f, "exit status {code}")?;
                line
            }
            Self::Killed { signal, line } => {
                write!(f, "killed by signal {signal}")?;
                line
            }
            Self::TooLong { seconds, line } => {
                write!(f, "ran past its timeout of {seconds} s")?;
                line
            }
        };
        match (self, line) {
            (_, "") => Ok(()),
            (Self::NotRun { .. }, more) => f.write_str(more),
            (_, line) => write!(f, ": {line}"),
        }
    }
}

/// What the kernel's number means, without the number.
pub fn cause(errno: i32) -> String {
    nix::errno::Errno::from_raw(errno).desc().to_lowercase()
}

impl Cause {
    /// The kernel's number, where it was the kernel that said it.
    pub fn errno(&self) -> Option<i32> {
        self.0.raw_os_error()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno() {
            Some(errno) => f.write_str(&cause(errno)),
            None => self.0.fmt(f),
        }
    }
}

impl std::error::Error for Cause {}

impl From<io::Error> for Cause {
    fn from(source: io::Error) -> Self {
        Self(source)
    }
}

impl From<rustix::io::Errno> for Cause {
    fn from(source: rustix::io::Errno) -> Self {
        Self(source.into())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Step { step, errno } => Self::Io {
                step,
                source: io::Error::from_raw_os_error(errno).into(),
            },
            Failure::Invalid { what, why } => Self::Invalid { what, why },
            Failure::Program(fault) => Self::Program(fault),
            Failure::Hook { hook, fault } => Self::Hook { hook, fault },
        }
    }
}

/// Says what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// # Errors
    /// The failure, with its step.
    fn doing(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Cause>> Doing<T> for Result<T, E> {
    fn doing(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            step: step(),
            source: source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_in_the_words_that_callers_look_for() {
        let bare = ProgramFault::NotInPath { name: "foo".into() };
        let path = ProgramFault::Missing {
            path: "/foo".into(),
        };
        let file = ProgramFault::Forbidden {
            path: "/etc/passwd".into(),
        };
        let format = ProgramFault::Refused {
            path: "/x".into(),
            errno: libc::ENOEXEC,
        };

        assert_eq!(
            bare.to_string(),
            r#"exec: "foo": executable file not found in $PATH"#
        );
        assert_eq!(
            path.to_string(),
            r#"exec: "/foo": stat /foo: no such file or directory"#
        );
        assert_eq!(
            file.to_string(),
            r#"exec: "/etc/passwd": permission denied"#
        );
        assert_eq!(format.to_string(), "exec /x: exec format error");
    }
}
