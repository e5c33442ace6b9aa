//! Which revisions of hutch.v1 a program speaks, and whether two programs can speak with each other.
//!
//! Command line and daemon say this to each other before anything else; the daemon says it in a file beside its socket,
//! too. A new field that the other side may ignore is no new revision; what it must know is.

use std::{fmt, str::FromStr};

/// The interface of this build.
pub const REVISION: u32 = 4;
/// The oldest that this build still speaks.
pub const OLDEST: u32 = 4;

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// For people.
    pub version: String,
    pub revision: u32,
    pub oldest: u32,
}

impl Speaker {
    /// This build, in the program of that version.
    pub fn of(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            revision: REVISION,
            oldest: OLDEST,
        }
    }

    /// Whether both speak at least one common revision.
    pub fn understands(&self, other: &Self) -> bool {
        self.revision >= other.oldest && other.revision >= self.oldest
    }

    /// Says who each is, and what to do.
    pub fn cannot_speak_with(&self, daemon: &Self) -> String {
        let Self {
            version, revision, ..
        } = self;
        format!(
            "hutch {version} (interface {revision}) and hutchd {} (interface {}) cannot speak with each other: \
             install both from one version and restart hutchd; containers keep running meanwhile",
            daemon.version, daemon.revision
        )
    }
}

/// What a daemon writes beside its socket before it listens there, so that nobody has to ask it. It is true of whoever listens
/// if that is this very process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    pub pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
    pub speaker: Speaker,
}

/// The name of that file, beside the socket.
pub const SIGN: &str = "hutchd.version";

/// `PID START-TIME REVISION OLDEST VERSION`
impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            start_time,
            speaker,
        } = self;
        let Speaker {
            version,
            revision,
            oldest,
        } = speaker;
        write!(f, "{pid} {start_time} {revision} {oldest} {version}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSign;

impl FromStr for Sign {
    type Err = NoSign;

    fn from_str(text: &str) -> Result<Self, NoSign> {
        fn number<T: FromStr>(word: &str) -> Result<T, NoSign> {
            word.parse().map_err(|_| NoSign)
        }
        let words: Vec<&str> = text.splitn(5, ' ').collect();
        let [pid, start_time, revision, oldest, version] = words[..] else {
            return Err(NoSign);
        };
        Ok(Self {
            pid: number(pid)?,
            start_time: number(start_time)?,
            speaker: Speaker {
                version: version.to_owned(),
                revision: number(revision)?,
                oldest: number(oldest)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_read_as_it_was_written_and_nothing_else_is_one() {
        let sign = Sign {
            pid: 7,
            start_time: 4711,
            speaker: speaker(2, 3),
        };

        assert_eq!(sign.to_string().parse(), Ok(sign));
        for wrong in ["", "7 4711 3 2", "7 x 3 2 9.9.9", "-7 4711 3 2 9.9.9"] {
            assert_eq!(wrong.parse::<Sign>(), Err(NoSign), "{wrong:?}");
        }
    }

    fn speaker(oldest: u32, revision: u32) -> Speaker {
        Speaker {
            version: "9.9.9".to_owned(),
            revision,
            oldest,
        }
    }

    #[test]
    fn one_common_revision_is_enough_and_none_is_not() {
        assert!(speaker(1, 3).understands(&speaker(3, 5)));
        assert!(speaker(3, 5).understands(&speaker(1, 3)));
        assert!(!speaker(1, 2).understands(&speaker(3, 5)));
        assert!(!speaker(3, 5).understands(&speaker(1, 2)));
    }

    #[test]
    fn a_peer_that_says_nothing_is_older_than_all() {
        assert!(!Speaker::of("1").understands(&speaker(0, 0)));
    }
}
