//! cgroups of a story's own: in every hierarchy a folder that whoever lives in it takes for the whole.
//!
//! So stories run side by side without seeing each other's cgroups, and what one leaves is found and cleared by its folder.

use crate::wait::wait_until;
use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A killed process leaves its cgroup when it is reaped.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Where the processes of the harness itself are: in cgroup v2 a group that delegates controllers holds none.
const HARNESS: &str = "harness";

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    point: PathBuf,
    kind: String,
    options: String,
    /// The cgroup of the process that asked, below `point`.
    own: PathBuf,
}

/// A folder of the same name in every hierarchy, below our own cgroup: whatever limits us limits what is in it.
pub struct Subtree {
    name: String,
    folders: Vec<PathBuf>,
}

impl Subtree {
    pub fn make(name: &str) -> Result<Self> {
        let mut subtree = Self {
            name: name.to_owned(),
            folders: Vec::new(),
        };
        for hierarchy in hierarchies()? {
            let above = hierarchy.folder();
            let folder = above.join(name);
            fs::create_dir(&folder).with_context(|| format!("make cgroup {}", folder.display()))?;
            subtree.folders.push(folder.clone());
            inherit_cpuset(&above, &folder)?;
        }
        Ok(subtree)
    }

    /// The one of this name that is there, or what there is of it.
    pub fn found(name: &str) -> Result<Self> {
        let folders = hierarchies()?
            .into_iter()
            .map(|hierarchy| hierarchy.folder().join(name));
        Ok(Self {
            name: name.to_owned(),
            folders: folders.filter(|folder| folder.exists()).collect(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends what is still in it, and removes it.
    pub fn clear(self) -> Result<()> {
        let living = || -> Vec<Pid> {
            self.folders
                .iter()
                .flat_map(|folder| members(folder))
                .collect()
        };
        let is_empty = || {
            let living = living();
            for pid in &living {
                // One that is gone meanwhile is what is wanted.
                let _ = kill(*pid, Signal::SIGKILL);
            }
            living.is_empty()
        };
        if !wait_until(is_empty, END_LIMIT) {
            bail!("cgroup {}: {:?} cannot be ended", self.name, living());
        }
        for folder in &self.folders {
            remove(folder).with_context(|| format!("remove cgroup {}", folder.display()))?;
        }
        Ok(())
    }
}

/// Moves this process into a subtree, and shows this thread and what it starts nothing but that. The thread's mounts must
/// be its own already.
pub fn enter(name: &str) -> Result<()> {
    let hierarchies = hierarchies()?;
    let join = |folder: &Path| {
        let procs = folder.join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| format!("join {}", procs.display()))
    };
    for hierarchy in &hierarchies {
        join(&hierarchy.folder().join(name))?;
    }
    unshare(CloneFlags::CLONE_NEWCGROUP).context("enter a cgroup namespace")?;
    for hierarchy in &hierarchies {
        let Hierarchy {
            point,
            kind,
            options,
            ..
        } = hierarchy;
        let about = || format!("mount {kind} on {} anew", point.display());
        umount2(point, MntFlags::MNT_DETACH).with_context(about)?;
        let (kind, options) = (Some(kind.as_str()), Some(options.as_str()));
        mount(Some("none"), point, kind, MsFlags::empty(), options).with_context(about)?;
        if hierarchy.kind == "cgroup2" {
            let harness = point.join(HARNESS);
            fs::create_dir(&harness).with_context(|| format!("make {}", harness.display()))?;
            join(&harness)?;
        }
    }
    Ok(())
}

impl Hierarchy {
    fn folder(&self) -> PathBuf {
        self.point.join(&self.own)
    }
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    Ok(parse(
        &read("/proc/thread-self/mountinfo")?,
        &read("/proc/self/cgroup")?,
    ))
}

/// `… POINT … - TYPE SOURCE OPTIONS`, and `NUMBER:CONTROLLERS:PATH` per hierarchy.
fn parse(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let own_in = |options: &str| {
        cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let is_it = match controllers {
                "" => !options.split(',').any(|option| option.starts_with("name=")),
                controllers => controllers
                    .split(',')
                    .all(|wanted| options.split(',').any(|option| option == wanted)),
            };
            is_it.then(|| PathBuf::from(path.trim_start_matches('/')))
        })
    };
    let hierarchy = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let point = head.split(' ').nth(4)?;
        let mut tail = tail.split(' ');
        let (kind, options) = (tail.next()?, tail.nth(1)?);
        let options = match kind {
            "cgroup" => options.trim_start_matches("rw").trim_start_matches(','),
            "cgroup2" => "",
            _ => return None,
        };
        Some(Hierarchy {
            point: point.into(),
            kind: kind.to_owned(),
            options: options.to_owned(),
            own: own_in(options)?,
        })
    };
    mountinfo.lines().filter_map(hierarchy).collect()
}

/// A new v1 cpuset has no processors, and takes no process until it has.
fn inherit_cpuset(above: &Path, folder: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (above.join(name), folder.join(name));
        // In v2 an empty one inherits.
        if !from.exists() || folder.join("cgroup.controllers").exists() {
            continue;
        }
        fs::read(&from)
            .and_then(|value| fs::write(&to, value))
            .with_context(|| format!("fill {}", to.display()))?;
    }
    Ok(())
}

fn inner(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

fn members(folder: &Path) -> Vec<Pid> {
    let own = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let own = own.lines().filter_map(|line| line.parse().ok());
    let mut found: Vec<Pid> = own.map(Pid::from_raw).collect();
    found.extend(inner(folder).iter().flat_map(|inner| members(inner)));
    found
}

fn remove(folder: &Path) -> std::io::Result<()> {
    inner(folder).iter().try_for_each(|inner| remove(inner))?;
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2e::{apart, in_own_process};
    use nix::unistd::geteuid;
    use std::process::Command;

    #[test]
    fn hierarchies_of_both_versions_are_found_with_our_place_in_them() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let own = "9:name=systemd:/s\n1:cpu,cpuacct:/a/b\n0::/\n";

        let found = parse(mounts, own);

        let found: Vec<_> = found
            .iter()
            .map(|found| (found.kind.as_str(), found.options.as_str(), found.folder()))
            .collect();
        assert_eq!(
            found,
            [
                ("cgroup", "cpu,cpuacct", "/sys/fs/cgroup/cpu/a/b".into()),
                ("cgroup", "name=systemd", "/sys/fs/cgroup/systemd/s".into()),
                ("cgroup2", "", "/sys/fs/cgroup/unified".into()),
            ]
        );
    }

    #[test]
    fn a_subtree_is_all_that_is_seen_from_within_and_takes_everything_along_when_it_goes() {
        if !geteuid().is_root() {
            return;
        }
        const NAME: &str = "e2e::cgroups::tests::a_subtree_is_all_that_is_seen_from_within_and_takes_everything_along_when_it_goes";
        if in_own_process(NAME) {
            return;
        }
        let name = format!("hutch-xtask-{}", std::process::id());
        let outside: Vec<PathBuf> = hierarchies()
            .unwrap()
            .iter()
            .map(Hierarchy::folder)
            .collect();
        let subtree = Subtree::make(&name).unwrap();
        let sleeper = std::thread::spawn(move || {
            apart::enter().unwrap();
            enter(&name).unwrap();
            let inside = hierarchies().unwrap();
            for hierarchy in inside {
                let seen = inner(&hierarchy.point);
                let expected: &[&str] = match hierarchy.kind.as_str() {
                    "cgroup2" => &[HARNESS],
                    _ => &[],
                };
                let seen: Vec<_> = seen.iter().filter_map(|path| path.file_name()).collect();
                assert_eq!(seen, expected, "{}", hierarchy.point.display());
                fs::create_dir(hierarchy.point.join("left")).unwrap();
            }
            Command::new("sleep").arg("4711").spawn().unwrap()
        });
        let mut sleeper = sleeper.join().unwrap();
        for folder in &outside {
            // Or we would end ourselves.
            fs::write(folder.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        }

        let cleared = std::thread::spawn(|| subtree.clear());
        sleeper.wait().unwrap();
        cleared.join().unwrap().unwrap();

        for folder in &outside {
            let name = format!("hutch-xtask-{}", std::process::id());
            assert!(!folder.join(name).exists(), "{}", folder.display());
        }
    }
}
