//! What a process uses: processor time and memory, as the kernel counts them.

use anyhow::{Context, Result};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use std::{fs, time::Duration};

/// User and system time of a living process, threads that ended included.
pub fn cpu_time(pid: Pid) -> Result<Duration> {
    let clock = clock_getcpuclockid(pid).with_context(|| format!("find the clock of {pid}"))?;
    let time = clock_gettime(clock).with_context(|| format!("read the clock of {pid}"))?;
    Ok(time.into())
}

/// Processor time of its children that have ended and were waited for.
pub fn children_time(pid: Pid) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = children_ticks(&stat).with_context(|| format!("{path} is cut short"))?;
    Ok(Duration::from_millis(ticks * MS_PER_TICK))
}

/// USER_HZ is 100 on every Linux of x86-64.
const MS_PER_TICK: u64 = 10;

/// A name may hold blanks and parentheses, so fields count from the last one.
fn children_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Memory that a process has to itself, and its part of what it shares.
pub fn pss_kib(pid: Pid) -> Result<f64> {
    sized_line(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

pub fn rss_kib(pid: Pid) -> Result<f64> {
    sized_line(&format!("/proc/{pid}/smaps_rollup"), "Rss:")
}

/// What the host could still give.
pub fn available_kib() -> Result<f64> {
    sized_line("/proc/meminfo", "MemAvailable:")
}

fn sized_line(path: &str, label: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let size = text.lines().find_map(|line| {
        let size = line.strip_prefix(label)?.trim().strip_suffix("kB")?;
        size.trim().parse().ok()
    });
    size.with_context(|| format!("{path} has no line {label}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_children_is_field_sixteen_and_seventeen() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 100 200 3 4 20 0 1 0 99 0 0";

        assert_eq!(children_ticks(stat), Some(7));
        assert_eq!(children_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let us = Pid::this();

        let before = cpu_time(us).unwrap();
        let sum: u64 = (0..1_000_000).fold(0, |sum, n| sum ^ std::hint::black_box(n));
        std::hint::black_box(sum);

        assert!(cpu_time(us).unwrap() > before);
        assert!(pss_kib(us).unwrap() > 0.0);
        assert!(rss_kib(us).unwrap() >= pss_kib(us).unwrap());
        assert!(available_kib().unwrap() > 0.0);
        children_time(us).unwrap();
    }
}
