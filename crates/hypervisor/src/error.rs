//! What can go wrong in this room, each with what was being done. Decides nothing.

use runtime_core::{
    error::{Classify, Kind},
    hypervisor::Accelerator,
    ids::{HostProcess, SandboxUid},
};
use std::{io, path::PathBuf, time::Duration};

/// The world failed, or a wish cannot be put to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("vm spec")]
    Spec(#[source] InvalidSpec),
    #[error("make socket {path:?}")]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open {what} {path:?}")]
    Open {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cgroup {cgroup:?} exists in no hierarchy")]
    NoCgroup { cgroup: String },
    #[error("start {binary:?}")]
    Spawn {
        binary: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("watch the vmm ({process})")]
    Watch {
        process: HostProcess,
        #[source]
        source: io::Error,
    },
    #[error("vmm ended before it answered ({status}){}", said(.stderr))]
    EndedEarly { status: String, stderr: String },
    #[error("vsock backend ended before it listened{}", said(.words))]
    BackendEnded { words: String },
    #[error("vsock backend does not listen after {} s{}", .limit.as_secs(), said(.words))]
    BackendSilent { limit: Duration, words: String },
    #[error("no answer from vmm in {} s ({}){}", .limit.as_secs(), .accelerator.name(), said(.console))]
    NoAnswer {
        accelerator: Accelerator,
        limit: Duration,
        console: String,
        #[source]
        source: QmpError,
    },
    #[error("vmm ({process}) survives SIGKILL for {} s", .limit.as_secs())]
    Unkillable {
        process: HostProcess,
        limit: Duration,
    },
    #[error("no vmm is known for sandbox {uid}")]
    Unknown { uid: SandboxUid },
    #[error("{verb} {device:?}")]
    Device {
        verb: &'static str,
        device: String,
        #[source]
        source: QmpError,
    },
    #[error(
        "plug {device:?}: {image:?} is in use: another vm or container has it, and only one may that writes"
    )]
    Held {
        device: String,
        image: PathBuf,
        #[source]
        source: QmpError,
    },
    #[error("{verb}")]
    Qmp {
        verb: &'static str,
        #[source]
        source: QmpError,
    },
    #[error("unplug {device:?}: the guest did not let go of it in {} s", .limit.as_secs())]
    NotReleased { device: String, limit: Duration },
    #[error("{machine} cannot plug {device:?} into a running vm")]
    NoHotplug {
        machine: &'static str,
        device: String,
    },
}

/// A wish that no command line can express.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    #[error("path {path:?} is not UTF-8, which qemu's options need")]
    NotUtf8 { path: PathBuf },
    #[error("socket path {path:?} has {len} bytes; it may have {max}")]
    SocketPath {
        path: PathBuf,
        len: usize,
        max: usize,
    },
    #[error("kernel parameter {param:?} is empty or has a space, quote or control character")]
    KernelParam { param: String },
    #[error("block serial {serial:?}: 1 to 20 of letters, digits, _ and - are expected")]
    Serial { serial: String },
    #[error("block serial {serial:?} is given twice")]
    SerialTwice { serial: String },
    #[error("{what} is {value}; {min} to {max} is expected")]
    Range {
        what: &'static str,
        value: u64,
        min: u64,
        max: u64,
    },
    #[error("microvm has {max} device slots; {wanted} are needed")]
    MicrovmSlots { wanted: usize, max: usize },
}

/// A QMP conversation that failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("connect to {path:?}")]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no answer to {command} in {} s", .limit.as_secs())]
    Timeout {
        command: &'static str,
        limit: Duration,
    },
    #[error("the vmm closed the connection")]
    Closed,
    #[error("read or write")]
    Io(#[source] io::Error),
    #[error("a line of more than {max} bytes")]
    LineTooLong { max: usize },
    #[error("a line that is not QMP")]
    Line(#[source] serde_json::Error),
    #[error("the answer to {command} does not read")]
    Answer {
        command: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// QEMU's own words; its classes say little.
    #[error("qemu refused {command}: {reason}")]
    Refused {
        command: &'static str,
        reason: String,
    },
}

/// The last words of a program, on the same line; nothing when it had none.
fn said(tail: &str) -> String {
    let words: Vec<&str> = tail
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(": {}", words.join(" | ")),
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Spec(_) => Kind::Invalid,
            Self::NoAnswer { .. }
            | Self::BackendSilent { .. }
            | Self::Unkillable { .. }
            | Self::NotReleased { .. } => Kind::Timeout,
            Self::Unknown { .. } => Kind::NotFound,
            Self::NoHotplug { .. } => Kind::Unsupported,
            Self::Held { .. } => Kind::Denied,
            Self::Device { source, .. } | Self::Qmp { source, .. } => source.kind(),
            Self::Socket { .. }
            | Self::Open { .. }
            | Self::NoCgroup { .. }
            | Self::Spawn { .. }
            | Self::Watch { .. }
            | Self::BackendEnded { .. }
            | Self::EndedEarly { .. } => Kind::Internal,
        }
    }
}

impl Classify for QmpError {
    fn kind(&self) -> Kind {
        match self {
            Self::Timeout { .. } => Kind::Timeout,
            Self::Connect { .. } | Self::Closed | Self::Io(_) => Kind::Unavailable,
            Self::LineTooLong { .. }
            | Self::Line(_)
            | Self::Answer { .. }
            | Self::Refused { .. } => Kind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_vmm_are_part_of_the_same_line() {
        let error = Error::EndedEarly {
            status: "exit code 1".into(),
            stderr: "qemu: no kernel\n\n  bad luck \n".into(),
        };

        assert_eq!(
            error.to_string(),
            "vmm ended before it answered (exit code 1): qemu: no kernel | bad luck"
        );
    }

    #[test]
    fn a_silent_vmm_leaves_no_dangling_colon() {
        let error = Error::NoAnswer {
            accelerator: Accelerator::Tcg,
            limit: Duration::from_secs(60),
            console: "\n".into(),
            source: QmpError::Closed,
        };

        assert_eq!(error.to_string(), "no answer from vmm in 60 s (tcg)");
        assert_eq!(error.kind(), Kind::Timeout);
    }
}
