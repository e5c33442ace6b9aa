//! exec --cgroup: where below the container's cgroup the program is to be.
//!
//! Only its top can be asked for, in which every exec is: the cgroups of a container are the guest's, and what its
//! programs have made below is not known to the host. Words that make no sense are refused as runc refuses them.

use anyhow::{Result, bail};
use std::path::{Component, Path};

/// runc's names for what a hierarchy of the first version is for. The guest has one for all of them.
const CONTROLLERS: &[&str] = &[
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "name=systemd",
    "rdma",
    "misc",
];

/// What needs no guest to be found wrong, or impossible: all but the container's own cgroup.
pub fn check(asked: &[String]) -> Result<()> {
    for one in asked {
        let parts: Vec<&str> = one.split(':').collect();
        let path = match parts[..] {
            [path] if asked.len() == 1 => path,
            [_] => bail!("invalid --cgroup argument: {one} (missing <controller>: prefix)"),
            [controllers, path] => {
                check_controllers(one, controllers)?;
                path
            }
            _ => bail!("invalid --cgroup argument: {one}"),
        };
        check_path(one, path)?;
    }
    Ok(())
}

fn check_controllers(one: &str, controllers: &str) -> Result<()> {
    // Nothing before the colon is every controller, as with runc.
    for controller in controllers.split(',').filter(|name| !name.is_empty()) {
        if !CONTROLLERS.contains(&controller) {
            bail!("--cgroup {one:?}: unknown controller {controller}");
        }
    }
    Ok(())
}

fn check_path(one: &str, path: &str) -> Result<()> {
    let mut depth = 0_usize;
    for part in Path::new(path).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth == 0 => {
                bail!("--cgroup {one:?}: {path} is not a sub cgroup path")
            }
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if depth > 0 {
        bail!(
            "--cgroup {one:?} is not supported: an exec is in its container's own cgroup, and only the guest knows what is below it"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(asked: &[&str]) -> Option<String> {
        let asked: Vec<String> = asked.iter().map(|&one| one.to_owned()).collect();
        check(&asked).err().map(|why| why.to_string())
    }

    #[test]
    fn the_containers_own_cgroup_may_be_named() {
        for asked in [
            &["/"][..],
            &["."],
            &[""],
            &["a/.."],
            &["memory:"],
            &["cpu,memory:/"],
            &["cpu:/", "memory:/"],
            &[],
        ] {
            assert_eq!(said(asked), None, "{asked:?}");
        }
    }

    #[test]
    fn a_cgroup_below_it_is_refused_by_name_and_what_makes_no_sense_in_runcs_words() {
        for (asked, words) in [
            (&["sub"][..], "--cgroup \"sub\" is not supported"),
            (&["memory:sub"], "--cgroup \"memory:sub\" is not supported"),
            (&[":sub"], "--cgroup \":sub\" is not supported"),
            (&["../x"], "../x is not a sub cgroup path"),
            (&["/../x"], "/../x is not a sub cgroup path"),
            (&["a:b:c"], "invalid --cgroup argument: a:b:c"),
            (&["nosuch:x"], "unknown controller nosuch"),
            (&["memory:/", "/"], "missing <controller>: prefix"),
        ] {
            let said = said(asked).unwrap_or_default();
            assert!(said.contains(words), "{asked:?}: {said}");
        }
    }
}
