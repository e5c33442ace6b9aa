//! The name of a cgroup, checked: the same below the root of every hierarchy.
//!
//! Ours are `/hutch/<uid>/vmm` and its like; a caller may name another place, and what it names
//! must neither leave the hierarchy nor be the root of it.

use crate::Error;
use runtime_core::premises::Cgroup;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Linux's NAME_MAX.
const COMPONENT_BYTES_MAX: usize = 255;
/// Together with a mount point it has to stay below PATH_MAX, 4096.
const PATH_BYTES_MAX: usize = 2048;
/// Deeper than any orchestrator nests, and little enough for a walk.
pub(crate) const DEPTH_MAX: usize = 32;
/// The first component of every cgroup that we chose ourselves.
const OURS: &str = "hutch";

/// Absolute, not the root, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// # Errors
    /// Says what is wrong with the path.
    pub fn new(path: &str) -> Result<Self, Error> {
        let refused = |why| {
            Err(Error::CgroupPath {
                path: path.chars().take(COMPONENT_BYTES_MAX).collect(),
                why,
            })
        };
        let Some(below) = path.strip_prefix('/') else {
            return refused("must begin with /");
        };
        if path.len() > PATH_BYTES_MAX {
            return refused("is longer than 2048 bytes");
        }
        if below.split('/').count() > DEPTH_MAX {
            return refused("has more than 32 levels");
        }
        for component in below.split('/') {
            match component {
                "" => return refused("has an empty component"),
                "." | ".." => return refused("must not contain . or .."),
                // The kernel refuses line ends; control characters only serve to deceive.
                _ if component.chars().any(char::is_control) => {
                    return refused("must not contain control characters");
                }
                _ if component.len() > COMPONENT_BYTES_MAX => {
                    return refused("has a component of more than 255 bytes");
                }
                // Interface files live among the child cgroups.
                _ if component.starts_with("cgroup.") => {
                    return refused("has a component that begins with cgroup.");
                }
                _ => {}
            }
        }
        Ok(Self(path.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it is in the hierarchy that is mounted there.
    pub(crate) fn below(&self, mount_point: &Path) -> PathBuf {
        mount_point.join(self.0.trim_start_matches('/'))
    }

    /// `None`: the root is above it.
    pub(crate) fn parent(&self) -> Option<Self> {
        match self.0.rsplit_once('/') {
            Some(("", _)) | None => None,
            Some((parent, _)) => Some(Self(parent.to_owned())),
        }
    }

    /// Itself and all above it, the topmost first.
    pub(crate) fn ladder(&self) -> Vec<Self> {
        let mut ladder: Vec<_> = std::iter::successors(Some(self.clone()), Self::parent).collect();
        ladder.reverse();
        ladder
    }

    /// `other` is this cgroup, or below it.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        Path::new(&other.0).starts_with(&self.0)
    }

    /// The place was chosen by us and not by a caller: it is below `/hutch`.
    pub(crate) fn is_ours(&self) -> bool {
        self.0.split('/').nth(1) == Some(OURS)
    }

    /// `/hutch`, below which each sandbox has a cgroup named by its uid.
    pub(crate) fn ours() -> Self {
        Self(format!("/{OURS}"))
    }

    pub(crate) fn child(&self, name: &str) -> Result<Self, Error> {
        Self::new(&format!("{}/{name}", self.0))
    }
}

impl TryFrom<&Cgroup> for CgroupPath {
    type Error = Error;
    fn try_from(Cgroup(path): &Cgroup) -> Result<Self, Error> {
        Self::new(path)
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_lead_out_of_the_hierarchy_is_refused() {
        for path in [
            "",
            "/",
            "hutch/x",
            "//x",
            "/a//b",
            "/a/",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a\nb",
            "/a\0b",
            "/cgroup.procs",
            "/a/cgroup.kill/b",
            "system.slice:hutch:web",
        ] {
            assert!(CgroupPath::new(path).is_err(), "{path:?}");
        }
        assert!(CgroupPath::new(&format!("/{}", "x".repeat(256))).is_err());
        assert!(CgroupPath::new(&"/x".repeat(33)).is_err());
        assert!(CgroupPath::new(&format!("/{}", "x/".repeat(2000))).is_err());
    }

    #[test]
    fn paths_that_callers_name_are_taken() {
        for path in [
            "/hutch/0123456789abcdef/vmm",
            "/kubepods/burstable/pod1f-2/3_4",
            "/machine.slice/libpod-1.scope/container",
            "/user.slice/user@1000.service/a:b c",
            "/..a/b..",
        ] {
            assert_eq!(CgroupPath::new(path).unwrap().as_str(), path);
        }
        assert!(CgroupPath::new(&"/x".repeat(32)).is_ok());
    }

    #[test]
    fn a_ladder_begins_below_the_root() {
        let path = CgroupPath::new("/a/b/c").unwrap();

        let ladder: Vec<_> = path.ladder().iter().map(ToString::to_string).collect();

        assert_eq!(ladder, ["/a", "/a/b", "/a/b/c"]);
        assert!(
            ladder
                .iter()
                .all(|above| CgroupPath::new(above).unwrap().contains(&path))
        );
        assert!(!CgroupPath::new("/a/b2").unwrap().contains(&path));
        assert!(!path.is_ours());
        assert!(CgroupPath::new("/hutch/x").unwrap().is_ours());
        assert!(!CgroupPath::new("/hutches/x").unwrap().is_ours());
    }
}
