//! The cgroup of a VMM: joining it before exec, and who is in it. Makes and removes none.

use crate::error::Error;
use runtime_core::premises::Cgroup;
use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// `cgroup.procs` of the cgroup, in every hierarchy that has it.
///
/// # Errors
/// No hierarchy has it.
pub fn members_files(cgroup: &Cgroup) -> Result<Vec<PathBuf>, Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|source| Error::Open {
        what: "mounts",
        path: "/proc/self/mountinfo".into(),
        source,
    })?;
    let below = cgroup.0.trim_start_matches('/');
    let files: Vec<PathBuf> = hierarchies(&mounts)
        .map(|root| root.join(below).join("cgroup.procs"))
        .filter(|file| file.exists())
        .collect();
    match files.is_empty() {
        true => Err(Error::NoCgroup {
            cgroup: cgroup.0.clone(),
        }),
        false => Ok(files),
    }
}

/// Mount points of all hierarchies, v1 and v2. Fields: id, parent, device, root, mount point,
/// options, optional fields, `-`, type, source, options. proc(5).
fn hierarchies(mountinfo: &str) -> impl Iterator<Item = &Path> {
    mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let point = mount.split(' ').nth(4)?;
        matches!(kind, "cgroup" | "cgroup2").then_some(Path::new(point))
    })
}

/// The files that a process writes itself into; opened before the fork, so that a cgroup that
/// does not exist is named.
///
/// # Errors
/// As [`members_files`], or one cannot be opened.
pub fn open(cgroup: &Cgroup) -> Result<Vec<File>, Error> {
    let open = |path: PathBuf| {
        let file = OpenOptions::new().write(true).open(&path);
        file.map_err(|source| Error::Open {
            what: "cgroup",
            path,
            source,
        })
    };
    members_files(cgroup)?.into_iter().map(open).collect()
}

/// The pids of its members; empty when it does not exist any more.
///
/// # Errors
/// One of its files cannot be read.
pub fn members(cgroup: &Cgroup) -> Result<Vec<u32>, Error> {
    let files = match members_files(cgroup) {
        Ok(files) => files,
        Err(Error::NoCgroup { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut pids = Vec::new();
    for path in files {
        match fs::read_to_string(&path) {
            Ok(text) => pids.extend(text.lines().filter_map(|pid| pid.parse::<u32>().ok())),
            Err(gone) if is_gone(&gone) => {}
            Err(source) => {
                let what = "cgroup";
                return Err(Error::Open { what, path, source });
            }
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// A cgroup that is removed while it is read answers ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hierarchy_is_found_v1_and_v2() {
        let mountinfo = "\
            30 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
            32 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

        let found: Vec<&Path> = hierarchies(mountinfo).collect();

        assert_eq!(
            found,
            [
                Path::new("/sys/fs/cgroup/cpu"),
                Path::new("/sys/fs/cgroup/unified")
            ]
        );
    }

    #[test]
    fn a_cgroup_that_is_nowhere_is_named_and_has_no_members() {
        let nowhere = Cgroup("/hutch-test-nowhere/vmm".into());

        assert!(matches!(open(&nowhere), Err(Error::NoCgroup { .. })));
        assert!(members(&nowhere).unwrap().is_empty());
    }
}
