//! What new limits are seen against: what the guest has, and what holds now.

use super::{Cgroup, list};
use crate::engine::error::{Doing, Result};
use oci_spec::runtime::LinuxResources;
use std::{collections::BTreeSet, fs, path::Path};

/// What is not needed for the limits that are asked for is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// What the guest has; None: not looked at, or it does not say.
    pub cpus: Option<BTreeSet<u32>>,
    pub mems: Option<BTreeSet<u32>>,
    /// None: unlimited.
    pub memory: Option<u64>,
    /// As in cpu.max; None: unlimited.
    pub quota: Option<u64>,
    pub period: Option<u64>,
    pub burst: u64,
}

impl Before {
    /// For a container that is about to be made.
    ///
    /// # Errors
    /// When the guest does not say what it has.
    pub fn of_new(resources: &LinuxResources, root: &Path) -> Result<Self> {
        let mut before = Self::default();
        let Some(cpu) = resources.cpu() else {
            return Ok(before);
        };
        let asked = |list: &Option<String>| list.as_ref().is_some_and(|list| !list.is_empty());
        if asked(cpu.cpus()) {
            before.cpus = effective(root, "cpuset.cpus.effective")?;
        }
        if asked(cpu.mems()) {
            before.mems = effective(root, "cpuset.mems.effective")?;
        }
        Ok(before)
    }

    /// For one that has limits.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn of_made(resources: &LinuxResources, root: &Path, cgroup: &Cgroup) -> Result<Self> {
        let mut before = Self::of_new(resources, root)?;
        let read = |file: &str| cgroup.read(file).doing(|| format!("read {file}"));
        if resources.cpu().is_some() && cgroup.has("cpu.max") {
            let text = read("cpu.max")?;
            let mut words = text.split_whitespace();
            before.quota = words.next().and_then(|word| word.parse().ok());
            before.period = words.next().and_then(|word| word.parse().ok());
            // A kernel before 5.14 has none to be in the way.
            let burst = cgroup.read("cpu.max.burst").unwrap_or_default();
            before.burst = burst.trim().parse().unwrap_or(0);
        }
        if resources.memory().is_some() && cgroup.has("memory.max") {
            before.memory = read("memory.max")?.trim().parse().ok();
        }
        Ok(before)
    }
}

/// None: there is no such controller, which the kernel will say of the limit.
fn effective(root: &Path, file: &str) -> Result<Option<BTreeSet<u32>>> {
    match fs::read_to_string(root.join(file)) {
        Ok(text) => Ok(list::parse(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read {file}")),
    }
}
