//! Which revisions of hutch.v1 a program speaks, and whether two programs can speak with each other.
//!
//! Command line and daemon say this to each other before anything else. A new field that the other
//! side may ignore is no new revision; what it must know is.

/// The interface of this build.
pub const REVISION: u32 = 2;
/// The oldest that this build still speaks.
pub const OLDEST: u32 = 2;

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

#[cfg(test)]
mod tests {
    use super::*;

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
