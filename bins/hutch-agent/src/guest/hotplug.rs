//! Processors and memory that came while the guest ran.

use crate::{
    error::{Doing, Error},
    ports::uevents,
};
use std::{fs, path::Path, time::Duration};

const CPUS: &str = "/sys/devices/system/cpu";
const MEMORY: &str = "/sys/devices/system/memory";
/// A processor that the host has plugged appears at once; a loaded host may need a while.
const PLUG_LIMIT: Duration = Duration::from_secs(10);

/// Bytes in the smallest piece of memory that can be plugged; zero where none can.
pub fn memory_block_bytes() -> u64 {
    let text = fs::read_to_string(format!("{MEMORY}/block_size_bytes")).unwrap_or_default();
    u64::from_str_radix(text.trim_end(), 16).unwrap_or(0)
}

pub fn can_probe_memory() -> bool {
    Path::new(MEMORY).join("probe").exists()
}

/// Tells the kernel of memory at that address.
///
/// # Errors
/// There is none, or the kernel cannot be told.
pub fn probe_memory(address: u64) -> Result<(), Error> {
    fs::write(format!("{MEMORY}/probe"), format!("{address:#x}"))
        .doing(|| format!("probe memory at {address:#x}"))
}

/// Waits until at least that many processors can be brought online, or are.
///
/// # Errors
/// They do not come in time.
pub async fn await_cpus(more: u32) -> Result<(), Error> {
    let wanted = online_now() + more as usize;
    let there = || (numbered(CPUS, "cpu").len() >= wanted).then_some(());
    uevents::until("processors", PLUG_LIMIT, there).await
}

/// Brings every processor online.
///
/// # Errors
/// The kernel refuses one.
pub fn online_cpus() -> Result<(), Error> {
    for cpu in numbered(CPUS, "cpu") {
        switch(&format!("{CPUS}/{cpu}/online"), "0", "1")?;
    }
    Ok(())
}

/// Brings every block of memory online.
///
/// # Errors
/// The kernel refuses one.
pub fn online_memory() -> Result<(), Error> {
    for block in numbered(MEMORY, "memory") {
        switch(&format!("{MEMORY}/{block}/state"), "offline", "online")?;
    }
    Ok(())
}

/// Writes `to` where the file says `from`. A device without the file needs no switching.
fn switch(path: &str, from: &str, to: &str) -> Result<(), Error> {
    match fs::read_to_string(path) {
        Ok(now) if now.trim_end() == from => {
            fs::write(path, to).doing(|| format!("write {to:?} to {path}"))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

fn online_now() -> usize {
    let cpus = numbered(CPUS, "cpu");
    let offline = |cpu: &&String| {
        fs::read_to_string(format!("{CPUS}/{cpu}/online")).is_ok_and(|now| now.trim_end() == "0")
    };
    cpus.len() - cpus.iter().filter(offline).count()
}

/// Entries of a folder that are a prefix and a number.
fn numbered(folder: &str, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix(prefix)
                .is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_entries_are_devices() {
        let sys = tempfile::tempdir().unwrap();
        for name in ["cpu0", "cpu12", "cpufreq", "cpu", "possible"] {
            fs::create_dir(sys.path().join(name)).unwrap();
        }

        let mut found = numbered(sys.path().to_str().unwrap(), "cpu");

        found.sort();
        assert_eq!(found, ["cpu0", "cpu12"]);
    }

    #[test]
    fn only_what_is_off_is_switched_on() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        for (before, after) in [("0\n", "1"), ("1\n", "1\n"), ("x", "x")] {
            fs::write(path, before).unwrap();

            switch(path, "0", "1").unwrap();

            assert_eq!(fs::read_to_string(path).unwrap(), after);
        }
    }
}
