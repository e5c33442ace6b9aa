//! What a cgroup uses, in the same units whatever the version. A number that no hierarchy keeps
//! is absent, not zero.

use super::{CgroupPath, Hierarchies, Hierarchy, Version};
use std::{fs, path::Path};

/// USER_HZ, in which cpuacct.stat counts, is 100 on every architecture that we run on.
const USEC_PER_TICK: u64 = 10_000;
const NSEC_PER_USEC: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupStats {
    pub cpu_usage_us: Option<u64>,
    pub cpu_user_us: Option<u64>,
    pub cpu_system_us: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    /// `None` also where there is no limit.
    pub memory_limit_bytes: Option<u64>,
    pub pids: Option<u64>,
}

impl Hierarchies {
    /// All numbers that any hierarchy has; none of a cgroup that is not there.
    pub fn stats(&self, cgroup: &CgroupPath) -> CgroupStats {
        let each = self.0.iter().map(|hierarchy| hierarchy.stats(cgroup));
        each.fold(CgroupStats::default(), CgroupStats::or)
    }
}

impl CgroupStats {
    /// In a hybrid each number is kept by one of the hierarchies.
    fn or(self, other: Self) -> Self {
        Self {
            cpu_usage_us: self.cpu_usage_us.or(other.cpu_usage_us),
            cpu_user_us: self.cpu_user_us.or(other.cpu_user_us),
            cpu_system_us: self.cpu_system_us.or(other.cpu_system_us),
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
            memory_peak_bytes: self.memory_peak_bytes.or(other.memory_peak_bytes),
            memory_limit_bytes: self.memory_limit_bytes.or(other.memory_limit_bytes),
            pids: self.pids.or(other.pids),
        }
    }
}

impl Hierarchy {
    fn stats(&self, cgroup: &CgroupPath) -> CgroupStats {
        let folder = self.folder(cgroup);
        match self.version {
            Version::V1 { .. } => v1(&folder),
            Version::V2 => v2(&folder),
        }
    }
}

/// Each file exists in the hierarchy of its controller only.
fn v1(folder: &Path) -> CgroupStats {
    let ticks = |key| value_of(folder, "cpuacct.stat", key).map(|ticks| ticks * USEC_PER_TICK);
    // Without a limit the file holds the largest number of whole pages.
    let is_limit = |&bytes: &u64| bytes < i64::MAX as u64 / 2;
    CgroupStats {
        cpu_usage_us: number(folder, "cpuacct.usage").map(|ns| ns / NSEC_PER_USEC),
        cpu_user_us: ticks("user"),
        cpu_system_us: ticks("system"),
        memory_bytes: number(folder, "memory.usage_in_bytes"),
        memory_peak_bytes: number(folder, "memory.max_usage_in_bytes"),
        memory_limit_bytes: number(folder, "memory.limit_in_bytes").filter(is_limit),
        pids: number(folder, "pids.current"),
    }
}

fn v2(folder: &Path) -> CgroupStats {
    CgroupStats {
        cpu_usage_us: value_of(folder, "cpu.stat", "usage_usec"),
        cpu_user_us: value_of(folder, "cpu.stat", "user_usec"),
        cpu_system_us: value_of(folder, "cpu.stat", "system_usec"),
        memory_bytes: number(folder, "memory.current"),
        memory_peak_bytes: number(folder, "memory.peak"),
        // `max` is no number.
        memory_limit_bytes: number(folder, "memory.max"),
        pids: number(folder, "pids.current"),
    }
}

fn number(folder: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(folder.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// From a file of lines `key value`.
fn value_of(folder: &Path, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .find(|(found, _)| *found == key)?
        .1
        .trim()
        .parse()
        .ok()
}
