//! Ending every process of a cgroup, those included that fork while they are being killed.
//!
//! cgroup v2 does it at one stroke (cgroup.kill, since Linux 5.14). Else the cgroup is frozen, so
//! that nobody forks any more, its members get SIGKILL, and it is thawed so that they can die.

use super::{CgroupPath, Hierarchies, Hierarchy, Version};
use crate::{Error, PidFd, proc};
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A process dies within milliseconds of SIGKILL unless it waits for a disk or a mount that does
/// not answer; then it may never, and somebody has to be told.
pub const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Members that were seen to end are gone at once; who came meanwhile is looked for after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub(super) enum Freeze {
    Frozen,
    Thawed,
}

impl Hierarchies {
    /// Kills every member of the cgroup and of those below it, and waits until it is empty. The
    /// pids that were met are returned.
    ///
    /// # Errors
    /// This process is a member (then nobody is killed), or someone lived on after `limit`.
    pub fn kill(&self, cgroup: &CgroupPath, limit: Duration) -> Result<BTreeSet<u32>, Error> {
        let deadline = Instant::now() + limit;
        let mut met = BTreeSet::new();
        loop {
            let members = self.members(cgroup)?;
            if members.is_empty() {
                return Ok(met);
            }
            if members.contains(&std::process::id()) {
                return Err(Error::OwnCgroup {
                    cgroup: cgroup.to_string(),
                });
            }
            if Instant::now() >= deadline {
                return Err(Error::StillPopulated {
                    cgroup: cgroup.to_string(),
                    pids: members.into_iter().collect(),
                    limit,
                });
            }
            met.extend(&members);
            let struck = self.strike(cgroup, &members)?;
            proc::wait_for_all(&struck, LOOK_AGAIN);
        }
    }

    fn strike(&self, cgroup: &CgroupPath, members: &BTreeSet<u32>) -> Result<Vec<PidFd>, Error> {
        for hierarchy in &self.0 {
            if hierarchy.version == Version::V2 {
                // A kernel that does not know the file leaves it to the rest.
                let _ = fs::write(hierarchy.folder(cgroup).join("cgroup.kill"), "1");
            }
        }
        self.freeze(cgroup, Freeze::Frozen);
        let struck = self.kill_each(cgroup, members);
        // Whatever went wrong, nobody may stay frozen.
        self.freeze(cgroup, Freeze::Thawed);
        struck
    }

    /// A pidfd first, then a second look: a pid that is a member then is the process that the
    /// pidfd holds, or the pidfd's process is gone and the signal meets nobody.
    fn kill_each(&self, cgroup: &CgroupPath, members: &BTreeSet<u32>) -> Result<Vec<PidFd>, Error> {
        let mut targets = Vec::new();
        for &pid in members {
            if let Some(process) = proc::identify(pid)? {
                targets.extend(PidFd::open(process)?);
            }
        }
        let still = self.members(cgroup)?;
        targets.retain(|pidfd| still.contains(&pidfd.process().pid));
        for pidfd in &targets {
            pidfd.signal(Signal::KILL)?;
        }
        Ok(targets)
    }

    /// As well as it goes: a host without a freezer only takes more rounds.
    pub(super) fn freeze(&self, cgroup: &CgroupPath, freeze: Freeze) {
        for (file, word) in self.0.iter().filter_map(|h| h.freezer(cgroup, freeze)) {
            let _ = fs::write(file, word);
        }
    }
}

impl Hierarchy {
    fn freezer(&self, cgroup: &CgroupPath, freeze: Freeze) -> Option<(PathBuf, &'static str)> {
        let folder = self.folder(cgroup);
        match (&self.version, freeze) {
            (Version::V2, Freeze::Frozen) => Some((folder.join("cgroup.freeze"), "1")),
            (Version::V2, Freeze::Thawed) => Some((folder.join("cgroup.freeze"), "0")),
            (Version::V1 { .. }, _) if !self.has("freezer") => None,
            (Version::V1 { .. }, Freeze::Frozen) => Some((folder.join("freezer.state"), "FROZEN")),
            (Version::V1 { .. }, Freeze::Thawed) => Some((folder.join("freezer.state"), "THAWED")),
        }
    }
}
