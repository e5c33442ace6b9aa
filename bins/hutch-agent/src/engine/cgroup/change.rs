//! Limits of a container that runs: changed all together, or not at all.

use super::{Cgroup, Write};
use crate::engine::error::{Doing, Error, Result};
use rustix::{
    fs::{AtFlags, statat},
    io::Errno,
};

/// Files that hold a line for each device: its number, then keys and values.
const BY_DEVICE: [(&str, &str); 2] = [
    ("io.max", "rbps=max wbps=max riops=max wiops=max"),
    ("rdma.max", "hca_handle=max hca_object=max"),
];

/// Each may give back a part. A container that takes as fast as is given does not get further.
const RECLAIM_ROUNDS_MAX: u32 = 16;

impl Cgroup {
    /// # Errors
    /// The first limit that is below what is in use or that the kernel refuses; what was set before
    /// it is set back.
    pub fn change(&self, writes: &[Write]) -> Result<()> {
        for one in writes {
            self.make_room(one)?;
        }
        let mut done: Vec<Write> = Vec::new();
        for one in writes {
            let before = self.setting(&one.file);
            match self.write(&one.file, &one.value) {
                Ok(()) => done.extend(before.and_then(|before| undo(one, &before))),
                // Nothing to limit, nothing lost: a guest without swap has no file for it.
                Err(Errno::NOENT) if one.if_present => {}
                Err(errno) => {
                    let left = self.set_back(&done);
                    return Err(errno)
                        .doing(|| format!("set {} to {:?}{left}", one.file, one.value));
                }
            }
        }
        Ok(())
    }

    /// None: a file that cannot be read holds no setting.
    fn setting(&self, file: &str) -> Option<String> {
        let text = self.read(file).ok()?;
        // An empty set cannot be had again while there are processes: what it stood for can.
        if text.trim().is_empty() && matches!(file, "cpuset.cpus" | "cpuset.mems") {
            return self.read(&format!("{file}.effective")).ok();
        }
        Some(text)
    }

    /// The kernel takes a limit of memory below what is in use, and kills until it holds. What can
    /// be given back without a kill is, before it is asked whether it fits.
    fn make_room(&self, wanted: &Write) -> Result<()> {
        let Some(limit) = bytes(wanted) else {
            return Ok(());
        };
        let mut in_use = self.memory_in_use()?;
        for round in 0..RECLAIM_ROUNDS_MAX {
            if in_use <= limit {
                return Ok(());
            }
            // An error when not all could be given back, which the next look tells.
            let _ = self.write("memory.reclaim", &(in_use - limit).to_string());
            let left = self.memory_in_use()?;
            // What was used of late gets a second chance: a first round may only take that away.
            if round > 0 && left >= in_use {
                break;
            }
            in_use = left;
        }
        if in_use <= limit {
            return Ok(());
        }
        Err(Error::Busy {
            what: "linux.resources.memory.limit",
            limit,
            in_use,
        })
    }

    fn memory_in_use(&self) -> Result<u64> {
        let text = self.read("memory.current");
        let text = text.doing(|| "read memory.current".to_owned())?;
        Ok(text.trim().parse().unwrap_or(0))
    }

    /// Says what could not be set back.
    fn set_back(&self, done: &[Write]) -> String {
        let mut left = String::new();
        for one in done.iter().rev() {
            if let Err(errno) = self.write(&one.file, &one.value) {
                left += &format!(", and back {} to {:?} ({errno})", one.file, one.value);
            }
        }
        left
    }

    pub fn has(&self, file: &str) -> bool {
        statat(self.fd(), file, AtFlags::empty()).is_ok()
    }
}

/// The limit of memory that is written, if it is one.
fn bytes(write: &Write) -> Option<u64> {
    if write.file != "memory.max" {
        return None;
    }
    write.value.trim().parse().ok()
}

/// What puts a file back to what it said before. Pure.
fn undo(write: &Write, before: &str) -> Option<Write> {
    let by_device = BY_DEVICE.iter().find(|(file, _)| *file == write.file);
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let value = if let Some((_, unlimited)) = by_device {
        let device = first(&write.value)?;
        let line = before
            .lines()
            .find(|line| first(line).as_ref() == Some(&device));
        line.map_or_else(|| format!("{device} {unlimited}"), str::to_owned)
    } else if write.file == "io.weight" {
        let device = first(&write.value)?;
        let line = before
            .lines()
            .find(|line| first(line).as_ref() == Some(&device));
        line.map_or_else(|| format!("{device} default"), str::to_owned)
    } else {
        // Never nothing at all, which would not be written.
        format!("{}\n", before.trim_end())
    };
    Some(Write {
        file: write.file.clone(),
        value,
        if_present: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(file: &str, value: &str, before: &str) -> String {
        let write = Write {
            file: file.to_owned(),
            value: value.to_owned(),
            if_present: false,
        };
        undo(&write, before).unwrap().value
    }

    #[test]
    fn a_file_is_put_back_to_what_it_said() {
        assert_eq!(back("pids.max", "3", "max\n"), "max\n");
        assert_eq!(back("cpu.max", "5 10", "max 100000\n"), "max 100000\n");
        assert_eq!(back("cpuset.cpus", "0", "\n"), "\n");
    }

    #[test]
    fn a_device_is_put_back_alone() {
        let before = "8:0 rbps=5 wbps=max riops=max wiops=max\n9:1 rbps=1 wbps=1 riops=1 wiops=1\n";

        assert_eq!(
            back("io.max", "8:0 wbps=7", before),
            "8:0 rbps=5 wbps=max riops=max wiops=max"
        );
        assert_eq!(
            back("io.max", "8:16 wbps=7", before),
            "8:16 rbps=max wbps=max riops=max wiops=max"
        );
        assert_eq!(back("io.weight", "8:0 5", "default 100\n"), "8:0 default");
        assert_eq!(
            back("io.weight", "default 5", "default 100\n"),
            "default 100"
        );
    }
}
