//! Where a user's home is, and by what that is known again without reading it once more.
//!
//! On a share each look into a file asks the host, while what is known of a file's attributes holds for a moment (a second) or
//! until the guest itself changes it.

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// A change within the same tick of its file system's clock could not be told; and clocks of guest and host may differ as much.
/// As the kernel has it for what it keeps of a program (guest/patches/0002).
const SETTLED_AFTER_S: u64 = 10;

/// What an image's passwd file says of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHome {
    pub uid: u32,
    /// None: nothing.
    pub path: Option<String>,
    pub by: Witness,
}

/// What is still as it was, where nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Witness {
    Passwd(Stamp),
    /// There is no such file in this folder.
    Folder(Stamp),
}

/// A file, and when it was last changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    /// Seconds since the epoch, and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    /// None: it was changed too recently to be told from what it is changed into next.
    pub fn of_settled(found: &Stat) -> Option<Self> {
        is_settled(found).then(|| Self::of(found))
    }

    pub fn of(found: &Stat) -> Self {
        Self {
            device: found.st_dev,
            inode: found.st_ino,
            changed: (found.st_ctime, found.st_ctime_nsec as i64),
        }
    }
}

/// Whether a file was last changed long enough ago for its change time to tell it from what it will be.
pub fn is_settled(found: &Stat) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let (Ok(changed), Ok(now)) = (u64::try_from(found.st_ctime), now) else {
        return false;
    };
    // Whole seconds, as the kernel counts.
    changed.saturating_add(SETTLED_AFTER_S) < now.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::stat;

    #[test]
    fn what_was_changed_a_moment_ago_is_no_witness() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = stat(file.path()).unwrap();

        assert_eq!(Stamp::of_settled(&found), None);
        let at = |ctime| {
            let mut other = found;
            other.st_ctime = ctime;
            other
        };
        let long_ago = at(found.st_ctime - 12);
        assert_eq!(Stamp::of_settled(&long_ago), Some(Stamp::of(&long_ago)));
        assert_ne!(Stamp::of(&at(0)), Stamp::of(&long_ago));
        assert_eq!(Stamp::of_settled(&at(found.st_ctime + 86_400)), None);
    }
}
