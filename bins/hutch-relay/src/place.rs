//! Where a relay lives on the host: in the container's cgroup and in the sandbox's network namespace, so that
//! whoever looks at its pid finds both. It goes there once the daemon knows it, and before its pid is told.

use crate::error::RelayError;
use rustix::{
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// As the daemon says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// `cgroup.procs` of the container's cgroup, in every hierarchy.
    pub cgroup_procs: Vec<PathBuf>,
    /// `None`: there is no VM any more, and nobody to be beside.
    pub netns: Option<PathBuf>,
}

impl Place {
    /// Moves this process there; of the network namespace, the thread that asks.
    ///
    /// # Errors
    /// Names what does not take it.
    pub fn enter(&self) -> Result<(), RelayError> {
        for procs in &self.cgroup_procs {
            // 0 is whoever writes. cgroups(7).
            fs::write(procs, "0").map_err(failed("join", procs))?;
        }
        if let Some(path) = &self.netns {
            let about = || failed("enter network namespace", path);
            let netns = File::open(path).map_err(about())?;
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| about()(errno.into()))?;
        }
        Ok(())
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RelayError {
    let path = path.to_owned();
    move |source| RelayError::Place {
        step,
        path,
        source: Errno::from_io_error(&source).unwrap_or(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_writes_itself_into_every_hierarchy_and_names_the_one_that_does_not_take_it() {
        let folder = tempfile::tempdir().unwrap();
        let procs = ["a", "b"].map(|name| folder.path().join(name));
        let mut place = Place {
            cgroup_procs: procs.to_vec(),
            netns: None,
        };

        place.enter().unwrap();

        for procs in &procs {
            assert_eq!(fs::read_to_string(procs).unwrap(), "0");
        }
        place.cgroup_procs = vec![folder.path().join("none/cgroup.procs")];
        let text = place.enter().unwrap_err().to_string();
        assert!(
            text.starts_with("join ") && text.ends_with("/none/cgroup.procs"),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_network_namespace_is_named() {
        let place = Place {
            cgroup_procs: Vec::new(),
            netns: Some("/proc/self/status".into()),
        };

        let text = place.enter().unwrap_err().to_string();

        assert_eq!(text, "enter network namespace /proc/self/status");
    }
}
