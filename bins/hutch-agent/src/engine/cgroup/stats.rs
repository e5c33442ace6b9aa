//! What a cgroup counts, file by file.

use super::Cgroup;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Dir, OFlags},
    io::{Errno, read},
};
use std::collections::BTreeMap;

/// Contents by the names of the files.
pub type Stats = BTreeMap<String, String>;

/// A file of numbers is a page or two; one of a guest with many devices may be longer, and what is
/// behind this is cut off at the end of a line.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// As many as there are kinds of pages, twice, and the rest. More the kernel does not have.
const FILES_MAX: usize = 64;

const FILES: [&str; 11] = [
    "cpu.stat",
    "io.stat",
    "memory.current",
    "memory.events",
    "memory.max",
    "memory.peak",
    "memory.stat",
    "memory.swap.current",
    "memory.swap.max",
    "pids.current",
    "pids.max",
];

impl Cgroup {
    /// A file that the kernel does not have, or does not want to be read, is left out.
    ///
    /// # Errors
    /// What the kernel says of the folder or of a file.
    pub fn stats(&self) -> Result<Stats, Errno> {
        let mut stats = Stats::new();
        for entry in Dir::read_from(self.fd())? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if !counts(name) || stats.len() == FILES_MAX {
                continue;
            }
            match self
                .open(name, OFlags::RDONLY)
                .and_then(|file| beginning(&file))
            {
                Ok(text) => {
                    stats.insert(name.to_owned(), text);
                }
                // Numbers of stalls are there and switched off where the kernel does not take them.
                Err(Errno::NOENT | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(stats)
    }
}

/// Whether this is a file of numbers that somebody may want to see.
fn counts(name: &str) -> bool {
    let huge = name.starts_with("hugetlb.")
        && !name.contains(".rsvd.")
        && (name.ends_with(".current") || name.ends_with(".events"));
    huge || name.ends_with(".pressure") && name != "cgroup.pressure" || FILES.contains(&name)
}

fn beginning(file: &OwnedFd) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while bytes.len() <= FILE_BYTES_MAX {
        match read(file.as_fd(), &mut piece) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)?;
    Ok(cut(text))
}

fn cut(mut text: String) -> String {
    if text.len() > FILE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(FILE_BYTES_MAX));
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_limits_and_switches() {
        for yes in [
            "cpu.stat",
            "memory.events",
            "hugetlb.2MB.current",
            "hugetlb.2MB.events",
            "io.pressure",
        ] {
            assert!(counts(yes), "{yes}");
        }
        for no in [
            "cgroup.procs",
            "cgroup.pressure",
            "memory.events.local",
            "hugetlb.2MB.max",
            "hugetlb.2MB.rsvd.current",
            "hugetlb.2MB.events.local",
        ] {
            assert!(!counts(no), "{no}");
        }
    }

    #[test]
    fn a_long_file_ends_with_a_whole_line() {
        let line = "8:0 rbytes=1 wbytes=2\n";
        let long = line.repeat(2 * FILE_BYTES_MAX / line.len());

        let text = cut(long);

        assert!(text.len() <= FILE_BYTES_MAX && text.len() > FILE_BYTES_MAX - line.len());
        assert!(text.ends_with(line));
    }
}
