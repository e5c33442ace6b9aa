//! Which network namespace a sandbox lives in: a pure answer to what was asked.

use crate::events::Denied;
use runtime_core::{ids::SandboxUid, network::NetworkSpec};
use std::{
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// The name of a namespace of ours within the sandbox's folder.
pub const NAME: &str = "netns";

/// Where the VMM of a sandbox lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// A namespace of the sandbox's own: made, recorded, and taken away by this room.
    Own(PathBuf),
    /// A namespace of the caller's: looked at, used as it is, never changed or deleted.
    Lent(PathBuf),
}

impl Home {
    pub fn path(&self) -> &Path {
        let (Self::Own(path) | Self::Lent(path)) = self;
        path
    }
}

/// The home that `spec` asks for.
///
/// # Errors
/// The spec is another sandbox's, or a path of it could mean something else in another process.
pub fn plan(uid: SandboxUid, spec: &NetworkSpec) -> Result<Home, Denied> {
    if spec.uid != uid {
        return Err(Denied::OtherSandbox { asked: spec.uid });
    }
    let (what, path) = match &spec.netns {
        None => ("folder", &spec.folder),
        Some(path) => ("network namespace", path),
    };
    let back = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || back || path.as_os_str().as_bytes().contains(&0) {
        let path = path.clone();
        return Err(Denied::Path { what, path });
    }
    Ok(match &spec.netns {
        None => Home::Own(spec.folder.join(NAME)),
        Some(path) => Home::Lent(path.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: u64 = 0x0123_4567_89ab_cdef;

    fn spec(folder: &str, netns: Option<&str>) -> NetworkSpec {
        NetworkSpec {
            uid: SandboxUid::from_random(UID),
            folder: folder.into(),
            netns: netns.map(PathBuf::from),
        }
    }

    fn planned(folder: &str, netns: Option<&str>) -> Result<Home, Denied> {
        plan(SandboxUid::from_random(UID), &spec(folder, netns))
    }

    #[test]
    fn a_sandbox_without_a_namespace_gets_one_in_its_folder() {
        let home = planned("/run/hutch/s/0123456789abcdef", None);

        let path = "/run/hutch/s/0123456789abcdef/netns";
        assert_eq!(home, Ok(Home::Own(path.into())));
    }

    #[test]
    fn a_namespace_that_is_given_is_used_wherever_it_is() {
        for path in ["/run/netns/cni-1", "/proc/4711/ns/net"] {
            let home = planned("/run/hutch/s/x", Some(path));

            assert_eq!(home, Ok(Home::Lent(path.into())));
        }
    }

    #[test]
    fn a_path_that_depends_on_who_reads_it_is_refused_by_name() {
        for path in ["", "netns", "./netns", "/run/../etc/netns", "/run/a\0b"] {
            let lent = planned("/run/hutch/s/x", Some(path)).unwrap_err();
            let own = planned(path, None).unwrap_err();

            assert!(lent.to_string().contains("network namespace"), "{lent}");
            assert!(own.to_string().contains("folder"), "{own}");
        }
    }

    #[test]
    fn the_spec_of_another_sandbox_is_refused() {
        let other = SandboxUid::from_random(7);

        let refused = plan(other, &spec("/run/hutch/s/x", None));

        let asked = SandboxUid::from_random(UID);
        assert_eq!(refused, Err(Denied::OtherSandbox { asked }));
    }
}
