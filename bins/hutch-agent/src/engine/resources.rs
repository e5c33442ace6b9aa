//! What a container may use and what it uses: the engine's calls about its cgroup.

use super::{
    cgroup::{self, Before, Stats},
    container::Freezer,
    engine::Engine,
    error::{Doing, Result},
    spec,
};
use rustix::fd::OwnedFd;
use std::time::Duration;

/// A process is frozen when it next returns to user space.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

impl Engine {
    /// Freezes every process; returns once they are. A container that is not started yet can be
    /// frozen too.
    ///
    /// # Errors
    /// When there is no such container, its init has ended, or the kernel does not get there in
    /// time.
    pub fn pause(&self, id: &str) -> Result<()> {
        let container = self.find(id)?;
        if !container.init_lives() {
            return container.refuse("stopped");
        }
        // First, so that no exec starts in between and waits for the thaw.
        container.set_freezer(Freezer::Frozen);
        let frozen = container.cgroup.freeze(true, FREEZE_LIMIT);
        if frozen.is_err() {
            // Half frozen is worse than not: the caller hears of the failure, not of this.
            let _ = container.cgroup.freeze(false, FREEZE_LIMIT);
            container.set_freezer(Freezer::Thawed);
        }
        frozen
    }

    /// # Errors
    /// When there is no such container, or the kernel does not get there in time.
    pub fn resume(&self, id: &str) -> Result<()> {
        let container = self.find(id)?;
        container.cgroup.freeze(false, FREEZE_LIMIT)?;
        container.set_freezer(Freezer::Thawed);
        Ok(())
    }

    /// Changes the limits of a container: an OCI `linux.resources` object. What it leaves out
    /// stays. Gives warnings.
    ///
    /// # Errors
    /// When a limit is not valid, below what is in use, or refused by the kernel; then every limit
    /// is as it was.
    pub fn update(&self, id: &str, resources_json: &[u8]) -> Result<Vec<String>> {
        let container = self.find(id)?;
        let mut warnings = Vec::new();
        let mut resources = spec::parse_resources(resources_json, &mut warnings)?;
        container.numbers.stand_in(&mut resources, &mut warnings);
        if resources
            .devices()
            .as_ref()
            .is_some_and(|rules| !rules.is_empty())
        {
            warnings.push("resources: devices cannot be changed, ignored".to_owned());
        }
        let before = Before::of_made(&resources, &self.roots.cgroup, &container.cgroup)?;
        let writes = cgroup::lower_limits(&resources, &before, &mut warnings)?;
        container.cgroup.change(&writes)?;
        Ok(warnings)
    }

    /// What the kernel counts of a container, by the names of cgroup2's files.
    ///
    /// # Errors
    /// When there is no such container, or its numbers cannot be read.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        self.find(id)?
            .cgroup
            .stats()
            .doing(|| format!("read the numbers of container {id:?}"))
    }

    /// How often the kernel killed a process of the container for want of memory. It only rises.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn oom_kills(&self, id: &str) -> Result<u64> {
        self.find(id)?.cgroup.oom_kills()
    }

    /// The container's memory.events: POLLPRI on it says that `oom_kills` may have changed.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn oom_watch(&self, id: &str) -> Result<OwnedFd> {
        self.find(id)?.cgroup.open_memory_events()
    }

    /// A file of the container's cgroup, such as cpu.stat.
    ///
    /// # Errors
    /// When there is no such container or file.
    pub fn cgroup_file(&self, id: &str, file: &str) -> Result<String> {
        self.find(id)?
            .cgroup
            .read(file)
            .doing(|| format!("read {file} of container {id:?}"))
    }
}
