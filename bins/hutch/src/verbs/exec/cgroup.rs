//! exec --cgroup: where below the container's cgroup the program is to be.
//!
//! runc takes one for each hierarchy of the first version. The guest has a single one of the second: what is asked for one
//! controller is so for all, and what names several of them must name the same place. Whether it is there only the guest
//! knows. Words that make no sense are refused as runc refuses them.

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

/// The container's own, where it is named.
const OWN: &str = ".";

/// What is asked for, as names with slashes between them. Empty: nothing is.
pub fn below(asked: &[String]) -> Result<String> {
    let mut found: Option<(&str, String)> = None;
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
        let path = plain(one, path)?;
        match &found {
            Some((other, before)) if *before != path => bail!(
                "--cgroup {other:?} and {one:?}: a process is in one cgroup, since the guest has a single hierarchy"
            ),
            Some(_) => {}
            None => found = Some((one, path)),
        }
    }
    Ok(found.map(|(_, path)| path).unwrap_or_default())
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

fn plain(one: &str, path: &str) -> Result<String> {
    let mut names = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => names.extend(name.to_str()),
            Component::ParentDir if names.is_empty() => {
                bail!("--cgroup {one:?}: {path} is not a sub cgroup path")
            }
            Component::ParentDir => drop(names.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    match names.is_empty() {
        true => Ok(OWN.to_owned()),
        false => Ok(names.join("/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(asked: &[&str]) -> Result<String> {
        let asked: Vec<String> = asked.iter().map(|&one| one.to_owned()).collect();
        below(&asked)
    }

    #[test]
    fn the_containers_own_cgroup_and_those_below_may_be_named() {
        for (asked, path) in [
            (&["/"][..], "."),
            (&["."], "."),
            (&[""], "."),
            (&["a/.."], "."),
            (&["memory:"], "."),
            (&["cpu,memory:/"], "."),
            (&["cpu:/", "memory:/"], "."),
            (&[], ""),
            (&["/part"], "part"),
            (&["a/./b//c/../d"], "a/b/d"),
            (&["memory:part"], "part"),
            (&[":part"], "part"),
            (&["cpu:part", "memory:/part"], "part"),
        ] {
            assert_eq!(found(asked).unwrap(), path, "{asked:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_runcs_words_and_two_places_at_once_by_name() {
        for (asked, words) in [
            (&["../x"][..], "../x is not a sub cgroup path"),
            (&["/../x"], "/../x is not a sub cgroup path"),
            (&["a:b:c"], "invalid --cgroup argument: a:b:c"),
            (&["nosuch:x"], "unknown controller nosuch"),
            (&["memory:/", "/"], "missing <controller>: prefix"),
            (
                &["cpu:a", "memory:b"],
                "--cgroup \"cpu:a\" and \"memory:b\"",
            ),
        ] {
            let said = found(asked).unwrap_err().to_string();
            assert!(said.contains(words), "{asked:?}: {said}");
        }
    }
}
