//! Names of things: parsed once at the edge, trusted afterwards.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A socket path ends at 107 bytes and a file name at 255, so ids never become paths; this bound
/// only keeps records and messages small (behaviours.md, D4).
const ID_BYTES_MAX: usize = 1024;

/// Keys are chosen by callers of ours; a UUID has 36 characters.
const REQUEST_KEY_BYTES_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("{what} must not be empty")]
    Empty { what: &'static str },
    #[error("{what} has {len} bytes; at most {max} are allowed")]
    TooLong {
        what: &'static str,
        len: usize,
        max: usize,
    },
    #[error(
        "invalid {what} {id:?}: only letters, digits and _ + - . are allowed, and no leading dot"
    )]
    Charset { what: &'static str, id: String },
    #[error("invalid sandbox uid {0:?}: 16 lower-case hexadecimal digits are expected")]
    Uid(String),
}

fn check(what: &'static str, id: &str, max: usize) -> Result<(), InvalidId> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    match id.len() {
        0 => Err(InvalidId::Empty { what }),
        len if len > max => Err(InvalidId::TooLong { what, len, max }),
        _ if id.starts_with('.') || !id.chars().all(plain) => Err(InvalidId::Charset {
            what,
            id: id.to_owned(),
        }),
        _ => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// # Errors
            /// Empty, too long, a leading dot, or a character outside `[A-Za-z0-9_+-.]`.
            pub fn new(id: impl Into<String>) -> Result<Self, InvalidId> {
                let id = id.into();
                check($what, &id, $max)?;
                Ok(Self(id))
            }

            /// What a caller looks for: an id, or the beginning of one.
            ///
            /// # Errors
            /// No id begins so.
            pub fn sought(text: &str) -> Result<String, InvalidId> {
                check($what, text, $max)?;
                Ok(text.to_owned())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(id: String) -> Result<Self, InvalidId> {
                Self::new(id)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// The id that a caller gave a container.
    ContainerId, "container id", ID_BYTES_MAX
);
text_id!(
    /// The id that a caller gave a sandbox; its uid where it gave none.
    SandboxId, "sandbox id", ID_BYTES_MAX
);
text_id!(
    /// The id that a caller gave a further process of a container.
    ExecId, "exec id", ID_BYTES_MAX
);
text_id!(
    /// What keeps the ids of one caller apart from another's: containerd's namespace, or `default`.
    Namespace, "namespace", ID_BYTES_MAX
);
impl Default for Namespace {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

text_id!(
    /// The idempotency key of a request: the same key gets the same answer.
    RequestKey, "request key", REQUEST_KEY_BYTES_MAX
);

/// Names one sandbox for ever; everything on the host is named by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxUid(u64);

impl SandboxUid {
    /// From a random number; the caller makes sure that it is not taken.
    pub fn from_random(random: u64) -> Self {
        Self(random)
    }

    /// As the id of a sandbox that was given none.
    pub fn as_id(self) -> SandboxId {
        SandboxId(self.to_string())
    }

    /// Its random number, for what is named by a shorter one.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SandboxUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SandboxUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for SandboxUid {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let bad = || InvalidId::Uid(text.chars().take(32).collect());
        if text.len() != 16 || !text.chars().all(hex) {
            return Err(bad());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| bad())
    }
}

impl TryFrom<String> for SandboxUid {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<SandboxUid> for String {
    fn from(uid: SandboxUid) -> String {
        uid.to_string()
    }
}

/// The number of a container within its sandbox: never reused, safe in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerNumber(pub u32);

impl fmt::Display for ContainerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One outstanding operation of one machine. A completion with another id is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OpId(pub u64);

/// A process of a container: its init, or a further one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProcessId {
    Init,
    Exec(ExecId),
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init => f.write_str("init"),
            Self::Exec(id) => id.fmt(f),
        }
    }
}

/// A process of the host, named so that a reused pid is never mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostProcess {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot. proc(5).
    pub start_time: u64,
}

impl fmt::Display for HostProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)
    }
}

/// Milliseconds since the epoch, by the host's clock. Given by the caller, never read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct EpochMs(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_a_folder_are_refused() {
        for id in ["", ".", "..", ".hidden", "a/b", "a b", "a,b", "ä", "a\0"] {
            assert!(ContainerId::new(id).is_err(), "{id:?}");
        }
        assert!(ContainerId::new("x".repeat(1025)).is_err());
    }

    #[test]
    fn whoever_looks_for_what_is_no_id_hears_so_and_not_that_it_is_not_there() {
        let nothing = ContainerId::sought("").unwrap_err();
        assert_eq!(nothing.to_string(), "container id must not be empty");
        let nothing = SandboxId::sought("").unwrap_err();
        assert_eq!(nothing.to_string(), "sandbox id must not be empty");
        assert!(ContainerId::sought("we\tb").is_err());
        assert_eq!(ContainerId::sought("we").unwrap(), "we");
    }

    #[test]
    fn ids_that_container_engines_use_are_taken() {
        for id in [
            "a",
            "web-1",
            "k8s.io_x+y",
            &"x".repeat(1024),
            "_a",
            "-a",
            "0",
        ] {
            assert_eq!(ContainerId::new(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn a_uid_is_read_back_as_it_is_written() {
        let uid = SandboxUid::from_random(0x0123_4567_89ab_cdef);

        assert_eq!(uid.to_string(), "0123456789abcdef");
        assert_eq!(uid.to_string().parse(), Ok(uid));
        assert!("0123456789ABCDEF".parse::<SandboxUid>().is_err());
        assert!("../../../../etc/x".parse::<SandboxUid>().is_err());
    }
}
