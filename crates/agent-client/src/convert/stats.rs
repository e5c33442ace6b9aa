//! From the files of a guest's cgroup to numbers. The files are the guest's words: bounded, and what
//! does not read is an error that names its file.

use crate::error::Malformed;
use protocols::asynchronous::hutch_agent as wire;
use runtime_core::{
    agent::{ContainerStats, CpuStats, HugetlbStats, IoStats, MemoryStats, PidsStats},
    ids::EpochMs,
};
use std::collections::{BTreeMap, HashMap};

/// A guest has some dozens of such files.
const FILES_MAX: usize = 256;
/// The protocol promises it; a kernel gives one page for most.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// memory.stat has some fifty lines.
const LINES_MAX: usize = 512;
/// The kernel's own names are far shorter.
const NAME_BYTES_MAX: usize = 64;

/// The files, by name.
struct Files(HashMap<String, String>);

fn range(field: &'static str) -> Malformed {
    Malformed::Text { field }
}

impl Files {
    /// `None`: this guest's kernel does not have it.
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|text| text.trim_end())
    }

    /// A file of one number; `max` reads as `unlimited`.
    fn number(&self, name: &'static str, unlimited: u64) -> Result<u64, Malformed> {
        match self.text(name) {
            None => Ok(0),
            Some("max") => Ok(unlimited),
            Some(text) => text.parse().map_err(|_| range(name)),
        }
    }

    /// A file of lines `name number`.
    fn table(&self, name: &'static str) -> Result<BTreeMap<String, u64>, Malformed> {
        let mut table = BTreeMap::new();
        for line in self.text(name).unwrap_or_default().lines().take(LINES_MAX) {
            let (key, value) = line.split_once(' ').ok_or(range(name))?;
            if key.len() > NAME_BYTES_MAX || !is_name(key) {
                return Err(range(name));
            }
            let value = value.trim().parse().map_err(|_| range(name))?;
            table.insert(key.to_owned(), value);
        }
        Ok(table)
    }

    fn io(&self) -> Result<Vec<IoStats>, Malformed> {
        let lines = self.text("io.stat").unwrap_or_default().lines();
        lines.take(LINES_MAX).map(io_line).collect()
    }

    fn hugetlb(&self) -> Result<Vec<HugetlbStats>, Malformed> {
        let mut all = Vec::new();
        let current = |name: &str| {
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
            let plain = !size.contains('.') && is_name(size) && size.len() <= NAME_BYTES_MAX;
            plain.then(|| size.to_owned())
        };
        let sizes: Vec<String> = self.0.keys().filter_map(|name| current(name)).collect();
        for page_size in sizes {
            let number = |part: &str| {
                let text = self.text(&format!("hugetlb.{page_size}.{part}"));
                text.map_or(Ok(0), |text| text.parse().map_err(|_| range("hugetlb")))
            };
            let events = self.text(&format!("hugetlb.{page_size}.events"));
            let events_max = match events.and_then(|text| text.strip_prefix("max ")) {
                None => 0,
                Some(text) => text.trim().parse().map_err(|_| range("hugetlb"))?,
            };
            all.push(HugetlbStats {
                current: number("current")?,
                events_max,
                page_size,
            });
        }
        all.sort_by(|a, b| a.page_size.cmp(&b.page_size));
        Ok(all)
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`; what we do not count is passed over.
fn io_line(line: &str) -> Result<IoStats, Malformed> {
    let wrong = || range("io.stat");
    let mut words = line.split(' ');
    let device = words.next().and_then(|device| device.split_once(':'));
    let (major, minor) = device.ok_or_else(wrong)?;
    let mut io = IoStats {
        major: major.parse().map_err(|_| wrong())?,
        minor: minor.parse().map_err(|_| wrong())?,
        ..IoStats::default()
    };
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(wrong)?;
        let place = match name {
            "rbytes" => &mut io.rbytes,
            "wbytes" => &mut io.wbytes,
            "rios" => &mut io.rios,
            "wios" => &mut io.wios,
            _ => continue,
        };
        *place = value.parse().map_err(|_| wrong())?;
    }
    Ok(io)
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty() && text.chars().all(plain)
}

/// # Errors
/// Too much, or a file that does not read as the kernel writes it.
pub fn stats(answer: wire::StatsResponse) -> Result<ContainerStats, Malformed> {
    super::bounded("statistics", answer.files.len(), FILES_MAX)?;
    let longest = answer.files.values().map(String::len).max();
    super::bounded(
        "bytes of a statistics file",
        longest.unwrap_or(0),
        FILE_BYTES_MAX,
    )?;
    let files = Files(answer.files);
    let cpu = files.table("cpu.stat")?;
    let counted = |name: &str| cpu.get(name).copied().unwrap_or(0);
    let events = files.table("memory.events")?;
    let event = |name: &str| events.get(name).copied().unwrap_or(0);
    Ok(ContainerStats {
        cpu: CpuStats {
            usage_usec: counted("usage_usec"),
            user_usec: counted("user_usec"),
            system_usec: counted("system_usec"),
            nr_periods: counted("nr_periods"),
            nr_throttled: counted("nr_throttled"),
            throttled_usec: counted("throttled_usec"),
        },
        memory: MemoryStats {
            current: files.number("memory.current", u64::MAX)?,
            peak: files.number("memory.peak", u64::MAX)?,
            max: files.number("memory.max", u64::MAX)?,
            swap_current: files.number("memory.swap.current", u64::MAX)?,
            swap_max: files.number("memory.swap.max", u64::MAX)?,
            stat: files.table("memory.stat")?,
            events_max: event("max"),
            events_oom_kill: event("oom_kill"),
        },
        pids: PidsStats {
            current: files.number("pids.current", u64::MAX)?,
            max: files.number("pids.max", 0)?,
        },
        io: files.io()?,
        hugetlb: files.hugetlb()?,
        at: EpochMs(answer.at_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(files: &[(&str, &str)]) -> wire::StatsResponse {
        let mut answer = wire::StatsResponse::new();
        let entry = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        answer.files = files.iter().map(entry).collect();
        answer.at_ms = 5;
        answer
    }

    #[test]
    fn the_files_of_a_cgroup_read_as_the_kernel_writes_them() {
        let stats = stats(answer(&[
            (
                "cpu.stat",
                "usage_usec 9\nuser_usec 4\nsystem_usec 5\nnr_periods 1\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 1\nfile 2\n"),
            ("memory.events", "low 0\nmax 3\noom 2\noom_kill 1\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            (
                "io.stat",
                "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
            ),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.events", "max 7\n"),
            (
                "cpu.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
        ]))
        .unwrap();

        assert_eq!((stats.cpu.usage_usec, stats.cpu.nr_periods), (9, 1));
        assert_eq!((stats.memory.current, stats.memory.max), (4096, u64::MAX));
        assert_eq!(stats.memory.stat["file"], 2);
        assert_eq!(
            (stats.memory.events_max, stats.memory.events_oom_kill),
            (3, 1)
        );
        assert_eq!((stats.pids.current, stats.pids.max), (2, 0));
        assert_eq!((stats.io[0].major, stats.io[0].wios), (254, 4));
        assert_eq!(stats.hugetlb[0].page_size, "2MB");
        assert_eq!(stats.hugetlb[0].events_max, 7);
        assert_eq!(stats.at, EpochMs(5));
    }

    #[test]
    fn what_a_kernel_would_not_write_is_an_error_that_names_its_file() {
        for (name, text) in [
            ("memory.current", "-1"),
            ("memory.stat", "anon"),
            ("memory.stat", "an\u{1b}on 1"),
            ("cpu.stat", "usage_usec x"),
            ("io.stat", "sda rbytes=1"),
            ("io.stat", "8:0 rbytes"),
            ("hugetlb.2MB.current", "many"),
        ] {
            let error = stats(answer(&[(name, text)])).unwrap_err();
            let field = match error {
                Malformed::Text { field } => field,
                other => panic!("{name}: {other}"),
            };
            assert!(name.starts_with(field), "{name}: {field}");
        }
    }

    #[test]
    fn a_guest_that_says_too_much_is_refused() {
        let long = "x".repeat(FILE_BYTES_MAX + 1);
        assert!(stats(answer(&[("memory.stat", &long)])).is_err());
        let mut many = wire::StatsResponse::new();
        many.files = (0..=FILES_MAX)
            .map(|n| (n.to_string(), String::new()))
            .collect();
        assert!(stats(many).is_err());
    }
}
