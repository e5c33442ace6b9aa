//! What a stock agent counts, in the names of cgroup v2.

use protocols::asynchronous::agent as wire;
use runtime_core::{
    agent::{ContainerStats, CpuStats, HugetlbStats, IoStats, MemoryStats, PidsStats},
    ids::EpochMs,
};
use std::collections::BTreeMap;

/// Of a table, so much is taken: a guest may say anything, and a kernel has some fifty lines.
const LINES_MAX: usize = 512;
const NANOS_PER_MICRO: u64 = 1000;

/// `at`: when the answer arrived; it bears no time.
pub fn stats(answer: wire::StatsContainerResponse, at: EpochMs) -> ContainerStats {
    let stats = answer.cgroup_stats.unwrap_or_default();
    ContainerStats {
        cpu: cpu(&stats.cpu_stats),
        memory: memory(stats.memory_stats.unwrap_or_default()),
        pids: PidsStats {
            current: stats.pids_stats.current,
            max: stats.pids_stats.limit,
        },
        io: io(&stats.blkio_stats),
        hugetlb: hugetlb(stats.hugetlb_stats),
        at,
    }
}

fn cpu(stats: &wire::CpuStats) -> CpuStats {
    let (usage, throttling) = (&stats.cpu_usage, &stats.throttling_data);
    CpuStats {
        usage_usec: usage.total_usage / NANOS_PER_MICRO,
        user_usec: usage.usage_in_usermode / NANOS_PER_MICRO,
        system_usec: usage.usage_in_kernelmode / NANOS_PER_MICRO,
        nr_periods: throttling.periods,
        nr_throttled: throttling.throttled_periods,
        throttled_usec: throttling.throttled_time / NANOS_PER_MICRO,
    }
}

fn memory(stats: wire::MemoryStats) -> MemoryStats {
    let (usage, swap) = (&stats.usage, &stats.swap_usage);
    let known = |name: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        name.len() <= 64 && name.chars().all(plain)
    };
    // Sorted before it is cut: a map of an answer has another order each time.
    let lines: BTreeMap<_, _> = stats.stats.into_iter().collect();
    let known = lines.into_iter().filter(|(name, _)| known(name));
    let stat = known.take(LINES_MAX).collect();
    MemoryStats {
        current: usage.usage,
        peak: usage.max_usage,
        max: usage.limit,
        swap_current: swap.usage,
        swap_max: swap.limit,
        stat,
        events_max: usage.failcnt,
        // This agent tells kills by an event alone.
        events_oom_kill: 0,
    }
}

/// One entry for each device, put together from one line for each kind of transfer.
fn io(stats: &wire::BlkioStats) -> Vec<IoStats> {
    let mut devices: BTreeMap<(u64, u64), IoStats> = BTreeMap::new();
    let bytes = stats.io_service_bytes_recursive.iter().map(|e| (e, true));
    let counts = stats.io_serviced_recursive.iter().map(|e| (e, false));
    for (entry, in_bytes) in bytes.chain(counts).take(LINES_MAX) {
        let device = devices.entry((entry.major, entry.minor)).or_default();
        (device.major, device.minor) = (entry.major, entry.minor);
        match (entry.op.to_ascii_lowercase().as_str(), in_bytes) {
            ("read", true) => device.rbytes = entry.value,
            ("write", true) => device.wbytes = entry.value,
            ("read", false) => device.rios = entry.value,
            ("write", false) => device.wios = entry.value,
            _ => {}
        }
    }
    devices.into_values().collect()
}

fn hugetlb(stats: std::collections::HashMap<String, wire::HugetlbStats>) -> Vec<HugetlbStats> {
    let known = |size: &String| size.len() <= 64 && size.chars().all(|c| c.is_ascii_alphanumeric());
    let sizes: BTreeMap<_, _> = stats.into_iter().filter(|(size, _)| known(size)).collect();
    let entries = sizes.into_iter().take(LINES_MAX);
    entries
        .map(|(page_size, stats)| HugetlbStats {
            page_size,
            current: stats.usage,
            events_max: stats.failcnt,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stock_agent_counts_is_told_in_the_names_of_cgroup_v2() {
        let mut answer = wire::StatsContainerResponse::new();
        let stats = answer.cgroup_stats.mut_or_insert_default();
        let cpu = stats.cpu_stats.mut_or_insert_default();
        cpu.cpu_usage.mut_or_insert_default().total_usage = 7_000;
        let memory = stats.memory_stats.mut_or_insert_default();
        memory.usage.mut_or_insert_default().usage = 4096;
        memory.stats.insert("anon".to_owned(), 1);
        memory.stats.insert("a\u{7}n".to_owned(), 1);
        let blkio = stats.blkio_stats.mut_or_insert_default();
        for (op, value) in [("Read", 10), ("write", 20), ("discard", 30)] {
            let mut entry = wire::BlkioStatsEntry::new();
            (entry.major, entry.op, entry.value) = (8, op.to_owned(), value);
            blkio.io_service_bytes_recursive.push(entry);
        }

        let told = super::stats(answer, EpochMs(3));

        assert_eq!(told.cpu.usage_usec, 7);
        assert_eq!(told.memory.current, 4096);
        assert_eq!(told.memory.stat, BTreeMap::from([("anon".to_owned(), 1)]));
        assert_eq!((told.io[0].rbytes, told.io[0].wbytes), (10, 20));
        assert_eq!(told.at, EpochMs(3));
    }
}
