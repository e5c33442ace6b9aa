//! What a sandbox is said to cost, beside what the kernel counts of the processes that it is made of.

use super::lifecycle::succeeds;
use crate::e2e::world::World;
use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::Value;
use std::{fs, ops::RangeInclusive};

const USEC_PER_TICK: u64 = 10_000;
/// A process is counted in whole ticks, those of the user and those of the system, and a cgroup more finely.
const PROCESS_SLACK_USEC: u64 = 2 * USEC_PER_TICK;
/// What passes while the kernel is asked.
const CPU_SLACK_USEC: u64 = USEC_PER_TICK;
/// A cgroup is charged for the files that its processes read, and for what the kernel keeps for them.
const MEMORY_SLACK_BYTES: u64 = 64 << 20;
/// The kernel sums the pages of a process up now and then.
const RESIDENT_SLACK_BYTES: u64 = 1 << 20;

/// The processes of each part of a sandbox, by the part's name.
pub type Parts<'a> = [(&'a str, Vec<Pid>)];

/// What the kernel counts of some processes.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    processes: u64,
    cpu_usec: u64,
    /// Pages that nobody shares.
    own_bytes: u64,
    /// Pages of memory that several may have: the guest's.
    shared_bytes: u64,
    resident_bytes: u64,
}

impl Counted {
    fn of(pids: &[Pid]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.with_context(|| format!("look at {pid}"))?;
            let bytes = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                let kib =
                    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
                kib.map(|kib| kib << 10)
                    .with_context(|| format!("{pid} has no {name}"))
            };
            sum.processes += 1;
            sum.cpu_usec += cpu_usec(*pid)?;
            sum.own_bytes += bytes("RssAnon:")?;
            sum.shared_bytes += bytes("RssShmem:")?;
            sum.resident_bytes += bytes("VmRSS:")?;
        }
        Ok(sum)
    }
}

/// proc(5): fields 14 and 15; the command before them ends with the last bracket.
fn cpu_usec(pid: Pid) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.with_context(|| format!("look at {pid}"))?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let mut ticks = fields.into_iter().flat_map(str::split_whitespace).skip(11);
    let mut next = || ticks.next()?.parse::<u64>().ok();
    let (user, system) = next().zip(next()).with_context(|| stat.clone())?;
    Ok((user + system) * USEC_PER_TICK)
}

/// What was counted before it was told is not more than what is told, and that not more than what is counted afterwards.
pub fn is_what_its_host_spends(world: &World<'_>, sandbox: &str, parts: &Parts<'_>) -> Result<()> {
    let count = || -> Result<Vec<Counted>> {
        let each = parts.iter();
        each.map(|(_, pids)| Counted::of(pids)).collect()
    };
    let before = count()?;
    let told = world.verb(&["sandbox", "stats", "--format", "json", sandbox])?;
    succeeds(&told)?;
    let after = count()?;

    let stats: Value = serde_json::from_str(&told.stdout).context("read statistics")?;
    let names = stats["parts"].as_array().map(Vec::len);
    ensure!(names == Some(parts.len()), "other parts: {stats}");
    for (((name, pids), before), after) in parts.iter().zip(&before).zip(&after) {
        let part = stats["parts"].as_array().into_iter().flatten();
        let part = part.clone().find(|part| part["name"] == *name);
        let part = part.with_context(|| format!("no {name} in {stats}"))?;
        ensure!(part["processes"] == pids.len(), "{pids:?}, and {part}");
        lies_within(part, "cpuUsec", cpu(before, after))?;
        let memory = before.own_bytes.saturating_sub(RESIDENT_SLACK_BYTES)
            ..=after.resident_bytes + MEMORY_SLACK_BYTES;
        lies_within(part, "memoryBytes", memory)?;
    }
    for name in ["cpuUsec", "memoryBytes"] {
        let each = stats["parts"].as_array().into_iter().flatten();
        let sum = each.filter_map(|part| part[name].as_u64()).sum::<u64>();
        ensure!(stats[name] == sum, "{name} is not the sum: {stats}");
    }
    lies_within(&stats, "cpuUsec", cpu(&sum(&before), &sum(&after)))?;
    // What several have of the guest's memory is charged to one of them.
    let guests = before.iter().map(|one| one.shared_bytes).max();
    let least = sum(&before).own_bytes + guests.unwrap_or(0) - RESIDENT_SLACK_BYTES;
    let most = sum(&after).resident_bytes + MEMORY_SLACK_BYTES;
    lies_within(&stats, "memoryBytes", least..=most)
}

fn cpu(before: &Counted, after: &Counted) -> RangeInclusive<u64> {
    let slack = before.processes * PROCESS_SLACK_USEC + CPU_SLACK_USEC;
    before.cpu_usec.saturating_sub(slack)..=after.cpu_usec + slack
}

fn sum(all: &[Counted]) -> Counted {
    all.iter().fold(Counted::default(), |sum, one| Counted {
        processes: sum.processes + one.processes,
        cpu_usec: sum.cpu_usec + one.cpu_usec,
        own_bytes: sum.own_bytes + one.own_bytes,
        shared_bytes: sum.shared_bytes + one.shared_bytes,
        resident_bytes: sum.resident_bytes + one.resident_bytes,
    })
}

fn lies_within(told: &Value, name: &str, counted: RangeInclusive<u64>) -> Result<()> {
    let is_it = told[name]
        .as_u64()
        .is_some_and(|told| counted.contains(&told));
    ensure!(is_it, "{name} of {told}, and the kernel counts {counted:?}");
    Ok(())
}

/// The processes of a program that belong to this world.
pub fn pids(world: &World<'_>, program: &str) -> Result<Vec<Pid>> {
    let found = world.processes(program)?;
    Ok(found.iter().map(|process| process.pid()).collect())
}
