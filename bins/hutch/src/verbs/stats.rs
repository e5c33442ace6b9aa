//! What a container uses, asked of the daemon, in the JSON that runc prints where cgroups are of version 2.

use super::Place;
use crate::daemon::{Daemon, Refused, soon};
use anyhow::Result;
use protocols::asynchronous::hutch::{IoStats, StatsRequest, StatsResponse};
use serde_json::{Map, Value, json};

fn asked(at: &Place, daemon: &mut Daemon, id: &str) -> Result<StatsResponse> {
    let request = request(&at.namespace, id);
    daemon.ask(async |client| client.stats(soon(), &request).await)
}

pub fn request(namespace: &str, id: &str) -> StatsRequest {
    StatsRequest {
        namespace: namespace.to_owned(),
        container_id: id.to_owned(),
        ..Default::default()
    }
}

pub fn of(at: &Place, daemon: &mut Daemon, id: &str) -> Result<Value> {
    Ok(as_json(&asked(at, daemon, id)?))
}

/// There is no such container, or no more.
pub fn is_gone(why: &anyhow::Error) -> bool {
    let refused = why.downcast_ref::<Refused>();
    refused.is_some_and(|refused| refused.code == ttrpc::Code::NOT_FOUND)
}

const NANOS_PER_MICRO: u64 = 1_000;

fn as_json(stats: &StatsResponse) -> Value {
    let (cpu, memory, pids) = (
        stats.cpu.get_or_default(),
        stats.memory.get_or_default(),
        stats.pids.get_or_default(),
    );
    let nanos = |micros: u64| micros.saturating_mul(NANOS_PER_MICRO);
    let hugetlb: Map<String, Value> = stats
        .hugetlb
        .iter()
        .map(|size| {
            (
                size.page_size.clone(),
                json!({"usage": size.current, "failcnt": size.events_max}),
            )
        })
        .collect();
    json!({
        "cpu": {
            "usage": {
                "total": nanos(cpu.usage_usec),
                "kernel": nanos(cpu.system_usec),
                "user": nanos(cpu.user_usec),
            },
            "throttling": present([
                ("periods", cpu.nr_periods),
                ("throttledPeriods", cpu.nr_throttled),
                ("throttledTime", nanos(cpu.throttled_usec)),
            ]),
        },
        "cpuset": {},
        "memory": {
            "usage": {
                "limit": memory.max,
                "usage": memory.current,
                "max": memory.peak,
                "failcnt": memory.events_max,
            },
            "swap": {"limit": memory.swap_max, "usage": memory.swap_current, "failcnt": 0},
            "raw": memory.stat,
        },
        "pids": present([("current", pids.current), ("limit", pids.max)]),
        "blkio": blkio(&stats.io),
        "hugetlb": hugetlb,
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// As runc has it: what is 0 is left out.
fn present<const N: usize>(figures: [(&str, u64); N]) -> Value {
    let figures = figures.into_iter().filter(|(_, value)| *value > 0);
    Value::Object(
        figures
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect(),
    )
}

fn blkio(devices: &[IoStats]) -> Value {
    let entries = |pick: fn(&IoStats) -> [(&'static str, u64); 2]| {
        let of_device = |device: &IoStats| {
            pick(device).map(|(op, value)| {
                json!({"major": device.major, "minor": device.minor, "op": op, "value": value})
            })
        };
        devices.iter().flat_map(of_device).collect::<Vec<Value>>()
    };
    if devices.is_empty() {
        return json!({});
    }
    json!({
        "ioServiceBytesRecursive": entries(|device| [("Read", device.rbytes), ("Write", device.wbytes)]),
        "ioServicedRecursive": entries(|device| [("Read", device.rios), ("Write", device.wios)]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocols::asynchronous::hutch::{CpuStats, MemoryStats, PidsStats};

    #[test]
    fn figures_have_runcs_names_and_units() {
        let stats = StatsResponse {
            cpu: Some(CpuStats {
                usage_usec: 7,
                ..Default::default()
            })
            .into(),
            memory: Some(MemoryStats {
                current: 5,
                max: u64::MAX,
                ..Default::default()
            })
            .into(),
            pids: Some(PidsStats {
                current: 2,
                ..Default::default()
            })
            .into(),
            io: vec![IoStats {
                major: 254,
                wbytes: 9,
                ..Default::default()
            }],
            ..Default::default()
        };

        let json = as_json(&stats);

        assert_eq!(json["cpu"]["usage"]["total"], 7_000);
        assert_eq!(json["cpu"]["throttling"], json!({}));
        assert_eq!(json["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(json["pids"], json!({"current": 2}), "no limit is left out");
        let written = &json["blkio"]["ioServiceBytesRecursive"][1];
        assert_eq!(
            *written,
            json!({"major": 254, "minor": 0, "op": "Write", "value": 9})
        );
    }
}
