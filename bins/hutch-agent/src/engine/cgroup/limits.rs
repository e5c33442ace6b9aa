//! OCI resources as files of cgroup2: pure.
//!
//! OCI has the words of the first version. Where the second has no such thing, the caller is
//! told, and where it has another scale, the value is converted.

use super::{Before, list};
use crate::engine::{
    error::{Error, Result},
    spec::Warnings,
};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxRdma, LinuxResources,
    LinuxThrottleDevice,
};
use std::collections::BTreeSet;

const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
/// What the kernel takes for a period that is not given, in microseconds.
const PERIOD_DEFAULT: u64 = 100_000;
const BLKIO_WEIGHT_MIN: u16 = 10;
const BLKIO_WEIGHT_MAX: u16 = 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub file: String,
    pub value: String,
    /// Where the file is not there, there is nothing to limit.
    pub if_present: bool,
}

/// # Errors
/// A limit that makes no sense, or one for what the guest does not have.
pub fn lower_limits(
    resources: &LinuxResources,
    before: &Before,
    warnings: &mut Warnings,
) -> Result<Vec<Write>> {
    let mut writes = Writes::default();
    if let Some(memory) = resources.memory() {
        writes.memory(memory, before, warnings)?;
    }
    if let Some(cpu) = resources.cpu() {
        writes.cpu(cpu, before, warnings)?;
    }
    if let Some(pids) = resources.pids() {
        writes.pids(pids);
    }
    if let Some(block_io) = resources.block_io() {
        writes.block_io(block_io, warnings)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        writes.huge_pages(limit)?;
    }
    if let Some(rdma) = resources.rdma() {
        let mut devices: Vec<_> = rdma.iter().collect();
        devices.sort_by_key(|(name, _)| *name);
        for (name, limit) in devices {
            writes.rdma(name, limit)?;
        }
    }
    if resources.network().is_some() {
        warnings.push("linux.resources.network: cgroup2 has no such thing, ignored".to_owned());
    }
    if let Some(unified) = resources.unified() {
        let mut files: Vec<_> = unified.iter().collect();
        files.sort();
        for (file, value) in files {
            writes.unified(file, value)?;
        }
    }
    // Last: a set that was empty cannot be empty again, so nothing should fail after it.
    writes.0.sort_by_key(|one| one.file.starts_with("cpuset."));
    Ok(writes.0)
}

#[derive(Debug, Default)]
struct Writes(Vec<Write>);

impl Writes {
    fn set(&mut self, file: impl Into<String>, value: impl ToString) {
        self.0.push(Write {
            file: file.into(),
            value: value.to_string(),
            if_present: false,
        });
    }

    fn set_if_present(&mut self, file: &str, value: impl ToString) {
        self.0.push(Write {
            file: file.to_owned(),
            value: value.to_string(),
            if_present: true,
        });
    }

    fn memory(
        &mut self,
        memory: &LinuxMemory,
        before: &Before,
        warnings: &mut Warnings,
    ) -> Result<()> {
        let limit = memory.limit().filter(|limit| *limit != 0);
        let swap = match memory.swap().filter(|swap| *swap != 0) {
            // Whoever lifts the one limit, of old lifts the other.
            None if limit == Some(-1) => Some(-1),
            swap => swap,
        };
        let beside = limit.or_else(|| before.memory.and_then(|bytes| i64::try_from(bytes).ok()));
        // OCI counts memory and swap together, the kernel swap alone. Swap goes first when both
        // rise and last when both fall; the kernel accepts either order, since they are apart.
        if let Some(swap) = swap {
            let alone = match (swap, beside) {
                (-1, _) => "max".to_owned(),
                (_, None | Some(-1)) => {
                    return invalid("memory.swap", "needs a limit of memory");
                }
                (swap, Some(limit)) if swap < limit => {
                    return invalid("memory.swap", format!("{swap} is below the limit {limit}"));
                }
                (swap, Some(limit)) => (swap - limit).to_string(),
            };
            self.set_if_present("memory.swap.max", alone);
        }
        if let Some(limit) = limit {
            self.set("memory.max", or_max(limit));
        }
        if let Some(reservation) = memory.reservation().filter(|bytes| *bytes != 0) {
            self.set("memory.low", or_max(reservation));
        }
        for (name, given) in [
            ("swappiness", memory.swappiness().is_some()),
            ("kernel", memory.kernel().is_some_and(|bytes| bytes > 0)),
            (
                "kernelTCP",
                memory.kernel_tcp().is_some_and(|bytes| bytes > 0),
            ),
            (
                "disableOOMKiller",
                memory.disable_oom_killer() == Some(true),
            ),
        ] {
            if given {
                warnings.push(format!(
                    "linux.resources.memory.{name}: cgroup2 has no such thing, ignored"
                ));
            }
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &LinuxCpu, before: &Before, warnings: &mut Warnings) -> Result<()> {
        // Before the weight: a group that is idle has none.
        if let Some(idle) = cpu.idle() {
            self.set("cpu.idle", idle);
        }
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            self.set("cpu.weight", weight_of_shares(shares));
        }
        self.bandwidth(cpu, before);
        for (file, name, list, known) in [
            ("cpuset.cpus", "cpu", cpu.cpus(), &before.cpus),
            ("cpuset.mems", "memory node", cpu.mems(), &before.mems),
        ] {
            if let Some(list) = list
                && !list.is_empty()
            {
                check_list(&file.replace("cpuset", "cpu"), name, list, known.as_ref())?;
                self.set(file, list);
            }
        }
        if cpu.realtime_runtime().is_some_and(|us| us != 0)
            || cpu.realtime_period().is_some_and(|us| us != 0)
        {
            warnings.push(
                "linux.resources.cpu.realtime*: cgroup2 has no such thing, ignored".to_owned(),
            );
        }
        Ok(())
    }

    fn bandwidth(&mut self, cpu: &LinuxCpu, before: &Before) {
        let quota = cpu.quota().filter(|quota| *quota != 0);
        let period = cpu.period().filter(|period| *period != 0);
        // It may not exceed the quota, neither the old one nor the new.
        if quota.is_some() && cpu.burst().is_some() && before.burst > 0 {
            self.set("cpu.max.burst", 0);
        }
        if quota.is_some() || period.is_some() {
            let held = before.quota.map_or("max".to_owned(), |us| us.to_string());
            let quota = quota.map_or(held, or_max);
            let period = period.or(before.period).unwrap_or(PERIOD_DEFAULT);
            self.set("cpu.max", format!("{quota} {period}"));
        }
        if let Some(burst) = cpu.burst() {
            self.set("cpu.max.burst", burst);
        }
    }

    fn pids(&mut self, pids: &LinuxPids) {
        match pids.limit() {
            0 => {}
            limit => self.set("pids.max", or_max(limit)),
        }
    }

    fn block_io(&mut self, io: &LinuxBlockIo, warnings: &mut Warnings) -> Result<()> {
        if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
            self.set("io.weight", format!("default {}", io_weight(weight)?));
        }
        // Weights are those of the model of costs (io.cost.qos), which is asked of no disk of a guest: the kernel takes
        // the default alone.
        let mut weighs_one = false;
        for device in io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
                io_weight(weight)?;
                weighs_one = true;
            }
        }
        if weighs_one {
            warnings.push(
                "linux.resources.blockIO.weightDevice: the guest's kernel weighs no device apart, ignored"
                    .to_owned(),
            );
        }
        let leaves = io.leaf_weight().is_some_and(|weight| weight != 0)
            || io
                .weight_device()
                .iter()
                .flatten()
                .any(|device| device.leaf_weight().is_some_and(|weight| weight != 0));
        if leaves {
            warnings.push(
                "linux.resources.blockIO.leafWeight: cgroup2 has no such thing, ignored".to_owned(),
            );
        }
        for (key, devices) in [
            ("rbps", io.throttle_read_bps_device()),
            ("wbps", io.throttle_write_bps_device()),
            ("riops", io.throttle_read_iops_device()),
            ("wiops", io.throttle_write_iops_device()),
        ] {
            for device in devices.iter().flatten() {
                self.throttle(key, device);
            }
        }
        Ok(())
    }

    fn throttle(&mut self, key: &str, device: &LinuxThrottleDevice) {
        // No rate is no limit, as in the first version.
        let rate = match device.rate() {
            0 => "max".to_owned(),
            rate => rate.to_string(),
        };
        let (major, minor) = (device.major(), device.minor());
        self.set("io.max", format!("{major}:{minor} {key}={rate}"));
    }

    fn huge_pages(&mut self, limit: &LinuxHugepageLimit) -> Result<()> {
        let size = limit.page_size();
        if !size.chars().all(|one| one.is_ascii_alphanumeric()) {
            return invalid("hugepageLimits", format!("{size:?} is no size of a page"));
        }
        self.set(format!("hugetlb.{size}.max"), or_max(limit.limit()));
        // Reserved pages count too, on kernels that tell them apart.
        self.set_if_present(&format!("hugetlb.{size}.rsvd.max"), or_max(limit.limit()));
        Ok(())
    }

    fn rdma(&mut self, device: &str, limit: &LinuxRdma) -> Result<()> {
        if device.contains(char::is_whitespace) {
            return invalid("rdma", format!("{device:?} is no device"));
        }
        let word = |name: &str, value: Option<u32>| match value {
            Some(value) => format!(" {name}={value}"),
            None => String::new(),
        };
        let handles = word("hca_handle", limit.hca_handles());
        let objects = word("hca_object", limit.hca_objects());
        self.set("rdma.max", format!("{device}{handles}{objects}"));
        Ok(())
    }

    fn unified(&mut self, file: &str, value: &str) -> Result<()> {
        // Every controller's file has a dot in its name; cgroup's own are not limits.
        if file.contains(['/', '\0']) || !file.contains('.') || file.starts_with("cgroup.") {
            return invalid("unified", format!("{file:?} is no file of a controller"));
        }
        // A file that takes one line for each device gets them one at a time.
        for line in value.lines() {
            self.set(file, line);
        }
        Ok(())
    }
}

/// What the kernel would refuse with a bare number, or take and never use.
fn check_list(file: &str, name: &str, wanted: &str, known: Option<&BTreeSet<u32>>) -> Result<()> {
    if wanted.contains(['\n', '\0']) {
        return invalid(file, format!("{wanted:?} is no list"));
    }
    let (Some(all), Some(known)) = (list::parse(wanted), known) else {
        return Ok(());
    };
    let unknown: BTreeSet<u32> = all.difference(known).copied().collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let (unknown, known) = (list::show(&unknown), list::show(known));
    invalid(
        file,
        format!("{wanted:?}: the guest has no {name} {unknown}, only {known}"),
    )
}

fn or_max(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

/// Shares 2 to 262,144 with 1,024 in the middle become weights 1 to 10,000 with 100: a parabola
/// through the three, over logarithms, so that a container that says nothing special and one that
/// says nothing at all weigh the same.
fn weight_of_shares(shares: u64) -> u64 {
    let log = (shares.clamp(SHARES_MIN, SHARES_MAX) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // A hair below a whole number is that number: the three fixed points must come out exactly.
    (10_f64.powf(exponent) - 1e-9).ceil() as u64
}

/// 10 to 1,000 becomes 1 to 10,000.
fn io_weight(weight: u16) -> Result<u64> {
    if !(BLKIO_WEIGHT_MIN..=BLKIO_WEIGHT_MAX).contains(&weight) {
        return invalid(
            "blockIO.weight",
            format!("{weight} is not one of 10 to 1000"),
        );
    }
    let above = u64::from(weight - BLKIO_WEIGHT_MIN);
    Ok(1 + above * 9_999 / u64::from(BLKIO_WEIGHT_MAX - BLKIO_WEIGHT_MIN))
}

fn invalid<T>(name: &str, why: impl Into<String>) -> Result<T> {
    Err(Error::Invalid {
        what: format!("linux.resources.{name}"),
        why: why.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(json: &str) -> (Result<Vec<(String, String)>>, Warnings) {
        lower_after(json, &Before::default())
    }

    fn lower_after(json: &str, before: &Before) -> (Result<Vec<(String, String)>>, Warnings) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let mut warnings = Warnings::new();
        let writes = lower_limits(&resources, before, &mut warnings);
        let pairs = |writes: Vec<Write>| {
            writes
                .into_iter()
                .map(|one| (one.file, one.value))
                .collect()
        };
        (writes.map(pairs), warnings)
    }

    fn writes(json: &str) -> Vec<(String, String)> {
        let (writes, warnings) = lower(json);
        assert_eq!(warnings, Vec::<String>::new());
        writes.unwrap()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(file, value)| ((*file).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn shares_keep_their_fixed_points() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1_024), 100);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!(weight_of_shares(0), 1);
        assert_eq!(weight_of_shares(u64::MAX), 10_000);
        assert!((2..2_000).all(|shares| weight_of_shares(shares) <= weight_of_shares(shares + 1)));
    }

    #[test]
    fn swap_is_counted_alone() {
        assert_eq!(
            writes(r#"{"memory":{"limit":1000,"swap":1500,"reservation":600}}"#),
            pairs(&[
                ("memory.swap.max", "500"),
                ("memory.max", "1000"),
                ("memory.low", "600")
            ])
        );
        assert_eq!(
            writes(r#"{"memory":{"limit":-1,"swap":-1}}"#),
            pairs(&[("memory.swap.max", "max"), ("memory.max", "max")])
        );
    }

    #[test]
    fn swap_below_memory_makes_no_sense() {
        let (refused, _) = lower(r#"{"memory":{"limit":1000,"swap":900}}"#);

        assert_eq!(
            refused.unwrap_err().to_string(),
            "linux.resources.memory.swap: 900 is below the limit 1000"
        );
    }

    #[test]
    fn cpu_limits_come_in_the_order_that_the_kernel_takes() {
        assert_eq!(
            writes(r#"{"cpu":{"shares":1024,"quota":50000,"burst":1000,"cpus":"0-1","mems":"0"}}"#),
            pairs(&[
                ("cpu.weight", "100"),
                ("cpu.max", "50000 100000"),
                ("cpu.max.burst", "1000"),
                ("cpuset.cpus", "0-1"),
                ("cpuset.mems", "0"),
            ])
        );
        assert_eq!(
            writes(r#"{"cpu":{"quota":-1,"period":20000}}"#),
            pairs(&[("cpu.max", "max 20000")])
        );
    }

    #[test]
    fn what_an_update_leaves_out_stays() {
        let before = Before {
            memory: Some(1000),
            quota: Some(30_000),
            period: Some(50_000),
            burst: 500,
            ..Before::default()
        };
        let after = |json| lower_after(json, &before).0.unwrap();

        assert_eq!(
            after(r#"{"cpu":{"period":60000}}"#),
            pairs(&[("cpu.max", "30000 60000")])
        );
        assert_eq!(
            after(r#"{"cpu":{"quota":10000,"burst":200}}"#),
            pairs(&[
                ("cpu.max.burst", "0"),
                ("cpu.max", "10000 50000"),
                ("cpu.max.burst", "200"),
            ])
        );
        assert_eq!(
            after(r#"{"memory":{"swap":1500}}"#),
            pairs(&[("memory.swap.max", "500")])
        );
        assert_eq!(after(r#"{"cpu":{"shares":0}}"#), pairs(&[]));
    }

    #[test]
    fn who_lifts_the_limit_of_memory_lifts_that_of_swap() {
        assert_eq!(
            writes(r#"{"memory":{"limit":-1}}"#),
            pairs(&[("memory.swap.max", "max"), ("memory.max", "max")])
        );
        let (refused, _) = lower(r#"{"memory":{"swap":5}}"#);
        assert!(refused.is_err(), "there is no limit to count it from");
    }

    #[test]
    fn cpus_that_the_guest_does_not_have_are_named() {
        let before = Before {
            cpus: list::parse("0-1"),
            mems: list::parse("0"),
            ..Before::default()
        };
        let refusal = |json| lower_after(json, &before).0.unwrap_err().to_string();

        assert_eq!(
            refusal(r#"{"cpu":{"cpus":"0-3,7"}}"#),
            r#"linux.resources.cpu.cpus: "0-3,7": the guest has no cpu 2-3,7, only 0-1"#
        );
        assert_eq!(
            refusal(r#"{"cpu":{"mems":"1"}}"#),
            r#"linux.resources.cpu.mems: "1": the guest has no memory node 1, only 0"#
        );
        assert!(lower_after(r#"{"cpu":{"cpus":"1"}}"#, &before).0.is_ok());
    }

    #[test]
    fn devices_are_limited_one_by_one() {
        assert_eq!(
            writes(
                r#"{"blockIO":{"weight":10,
                    "weightDevice":[{"major":8,"minor":32,"weight":0}],
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#
            ),
            pairs(&[
                ("io.weight", "default 1"),
                ("io.max", "8:0 rbps=5"),
                ("io.max", "8:16 wiops=max"),
            ])
        );
    }

    #[test]
    fn who_is_idle_has_no_weight_and_has_one_again_when_no_longer() {
        assert_eq!(writes(r#"{"cpu":{"idle":1}}"#), pairs(&[("cpu.idle", "1")]));
        assert_eq!(
            writes(r#"{"cpu":{"shares":1024,"idle":0}}"#),
            pairs(&[("cpu.idle", "0"), ("cpu.weight", "100")])
        );
    }

    #[test]
    fn remote_memory_is_limited_by_device() {
        assert_eq!(
            writes(r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10},"b":{"hcaObjects":1}}}"#),
            pairs(&[
                ("rdma.max", "b hca_object=1"),
                ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10"),
            ])
        );
    }

    #[test]
    fn what_the_second_version_has_not_is_told() {
        let (writes, warnings) =
            lower(r#"{"memory":{"swappiness":60,"kernel":5},"blockIO":{"leafWeight":50}}"#);

        assert_eq!(writes.unwrap(), pairs(&[]));
        assert_eq!(warnings.len(), 3);
    }

    #[test]
    fn a_unified_setting_may_not_leave_the_folder() {
        for file in ["../memory.max", "cgroup.kill", "procs"] {
            let (refused, _) = lower(&format!(r#"{{"unified":{{"{file}":"1"}}}}"#));

            assert!(refused.is_err(), "{file}");
        }
        assert_eq!(
            writes(r#"{"unified":{"memory.high":"99"},"pids":{"limit":-1}}"#),
            pairs(&[("pids.max", "max"), ("memory.high", "99")])
        );
    }
}
