//! What can fail between this host and a guest's agent.
//!
//! Nothing here decides on text: what the agent said is carried for people only, bounded and made
//! printable first.

use runtime_core::error::{Classify, Kind};
use std::{io, path::PathBuf, time::Duration};

/// Why a connection or a call to an agent failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("talk to {address}")]
    Talk {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("no answer from {address} to {step} in {}", Seconds(*.after))]
    Silent {
        address: String,
        step: &'static str,
        after: Duration,
    },
    /// A hybrid-vsock backend ends the connection when nobody listens on the port in the guest.
    #[error("{address} refused port {port}")]
    Refused { address: String, port: u32 },
    #[error("{address} does not speak the protocol: {fault}")]
    Handshake {
        address: String,
        fault: &'static str,
    },
    #[error("{call}: the link to the agent is down")]
    LinkLost { call: &'static str },
    #[error("{call}: no answer from the agent in {}", Seconds(*.after))]
    Deadline { call: &'static str, after: Duration },
    #[error("{call}: the agent answered: {message}")]
    Agent {
        call: &'static str,
        kind: Kind,
        message: String,
    },
    #[error("{call}: bad answer from the agent")]
    Malformed {
        call: &'static str,
        #[source]
        source: Malformed,
    },
    #[error("{call}: a request of {len} bytes; the link carries at most {max}")]
    TooLarge {
        call: &'static str,
        len: usize,
        max: usize,
    },
    #[error("{call}: listen at {}", path.display())]
    Station {
        call: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{call}: {what} cannot be expressed in the agent's protocol")]
    Inexpressible {
        call: &'static str,
        what: &'static str,
    },
    #[error("{call}: {what} asks for something that this agent's protocol cannot carry")]
    Config {
        call: &'static str,
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "signal {signal} was sent before the daemon was restarted; whether it arrived, this agent cannot tell"
    )]
    MaybeDelivered { signal: u32 },
    #[error("{call}: this agent does not offer it")]
    Unsupported { call: &'static str },
}

/// What was wrong with something that came out of a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{field} has {len} entries; at most {max} are allowed")]
    TooMany {
        field: &'static str,
        len: usize,
        max: usize,
    },
    #[error("{field} is {value}; it must be in {min}..={max}")]
    Range {
        field: &'static str,
        value: i64,
        min: i64,
        max: i64,
    },
    #[error("{field} is not an id")]
    Id { field: &'static str },
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} is unknown: {value}")]
    Unknown { field: &'static str, value: i32 },
    #[error("{field} comes twice")]
    Twice { field: &'static str },
    #[error("{field} do not follow each other")]
    Order { field: &'static str },
    #[error("{field} does not read as the kernel writes it")]
    Text { field: &'static str },
    #[error("it cannot be decoded")]
    Encoding,
}

/// `30 s`, `0.05 s`.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. }
            | Self::Talk { .. }
            | Self::Refused { .. }
            | Self::LinkLost { .. } => Kind::Unavailable,
            Self::Silent { .. } | Self::Deadline { .. } => Kind::Timeout,
            Self::Agent { kind, .. } => *kind,
            Self::MaybeDelivered { .. } => Kind::Aborted,
            Self::TooLarge { .. } => Kind::Invalid,
            Self::Unsupported { .. } | Self::Inexpressible { .. } | Self::Config { .. } => {
                Kind::Unsupported
            }
            Self::Handshake { .. } | Self::Malformed { .. } | Self::Station { .. } => {
                Kind::Internal
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::error::fault;

    #[test]
    fn an_error_reads_as_one_line_in_lower_case() {
        let error = Error::Silent {
            address: "s/0/control.sock".to_owned(),
            step: "hello",
            after: Duration::from_millis(1500),
        };

        let line = fault(&error).during("boot guest").to_string();

        assert_eq!(
            line,
            "boot guest: no answer from s/0/control.sock to hello in 1.5 s"
        );
    }

    #[test]
    fn a_bad_answer_names_the_field_once() {
        let source = Malformed::TooMany {
            field: "exits",
            len: 257,
            max: 256,
        };

        let fault = fault(&Error::Malformed {
            call: "next exits",
            source,
        });

        assert_eq!(fault.kind(), Kind::Internal);
        assert_eq!(
            fault.to_string(),
            "next exits: bad answer from the agent: exits has 257 entries; at most 256 are allowed"
        );
    }
}
