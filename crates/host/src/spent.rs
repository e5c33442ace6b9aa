//! What a sandbox costs this host: by cgroup where that is counted, else by process.

use crate::{Error, cgroup::CgroupPath, premises::House};
use runtime_core::{ids::HostProcess, premises::Spent};
use std::fs;

/// USER_HZ, in which /proc counts, is 100 on every architecture that we run on.
pub(crate) const USEC_PER_TICK: u64 = 10_000;
/// As on every architecture that we run on.
const PAGE_BYTES: u64 = 4096;

impl House {
    /// # Errors
    /// A hierarchy does not read.
    pub fn spent(&self, cgroup: &CgroupPath) -> Result<Spent, Error> {
        let members = self.hierarchies.members(cgroup)?;
        let counted = self.hierarchies.stats(cgroup);
        // Not every host counts memory by cgroup.
        let living = sum(members
            .iter()
            .filter_map(|pid| usage(*pid))
            .map(|u| u.spent));
        Ok(Spent {
            cpu_usec: counted.cpu_usage_us.unwrap_or(living.cpu_usec),
            memory_bytes: counted.memory_bytes.unwrap_or(living.memory_bytes),
            processes: living.processes,
        })
    }
}

/// Of exactly these processes.
pub fn spent_by(processes: &[HostProcess]) -> Spent {
    let usages = processes.iter().filter_map(|process| {
        let usage = usage(process.pid)?;
        (usage.start_time == process.start_time).then_some(usage.spent)
    });
    sum(usages)
}

fn sum(parts: impl Iterator<Item = Spent>) -> Spent {
    parts.fold(Spent::default(), |sum, part| Spent {
        cpu_usec: sum.cpu_usec + part.cpu_usec,
        memory_bytes: sum.memory_bytes + part.memory_bytes,
        processes: sum.processes + part.processes,
    })
}

struct Usage {
    start_time: u64,
    spent: Spent,
}

/// `None`: it is gone, or was never there.
fn usage(pid: u32) -> Option<Usage> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// proc(5): after the command, which ends with the last bracket, follow the fields from 3 on; 14 and 15
/// are the processor time, 22 is the start, 24 the resident pages.
fn parse(stat: &[u8]) -> Option<Usage> {
    let command_end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(command_end + 1..)?).ok()?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    Some(Usage {
        start_time: field(22)?,
        spent: Spent {
            cpu_usec: ticks * USEC_PER_TICK,
            memory_bytes: field(24)? * PAGE_BYTES,
            processes: 1,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_and_memory_of_a_process_are_read_whatever_its_name_is() {
        let stat = b"7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 1 0 9000 1000000 300 0";

        let usage = parse(stat).expect("it reads");

        assert_eq!(usage.start_time, 9000);
        let expected = Spent {
            cpu_usec: 3_000_000,
            memory_bytes: 300 * PAGE_BYTES,
            processes: 1,
        };
        assert_eq!(usage.spent, expected);
    }

    #[test]
    fn this_process_costs_something_and_another_with_its_pid_does_not() {
        let pid = std::process::id();
        let start_time = proc::start_time(pid)
            .expect("it reads")
            .expect("it is there");
        let me = HostProcess { pid, start_time };
        let other = HostProcess {
            pid,
            start_time: start_time + 1,
        };

        assert!(spent_by(&[me]).memory_bytes > 0);
        assert_eq!(spent_by(&[other]), Spent::default());
    }
}
